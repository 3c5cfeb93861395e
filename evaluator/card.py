"""A GPU's free memory, asked of the driver's management library (NVML), which needs no CUDA context. Standard library only."""

from __future__ import annotations

import ctypes


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Card:
    """One card."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: as in CUDA_VISIBLE_DEVICES, a number or a UUID.
        Raises:
            OSError: no such library, or no such card.
        """
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._card = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        if name.isdigit():
            self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(int(name)), ctypes.byref(self._card))
        else:
            self._call("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(self._card))

    def free_bytes(self) -> int:
        """Memory that no process has.

        Raises:
            OSError: the driver does not say.
        """
        return int(self._memory().free)

    def used_bytes(self) -> int:
        """Memory that processes have.

        Raises:
            OSError: the driver does not say.
        """
        return int(self._memory().used)

    def _memory(self) -> _Memory:
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", self._card, ctypes.byref(memory))
        return memory

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise OSError(f"{name}: NVML error {code}")
