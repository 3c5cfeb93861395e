"""GPU memory that two processes share: the judge allocates it and hands out its name, the forwarder maps it. So logits never leave the GPU.

It is an allocation of its own, made past torch's allocator: a mapping covers a whole allocation, and the other side must see nothing but
this memory. The driver's own interface is used (CUDA driver API, sections 6.13 and 6.14), since torch shares memory only between processes
that trust each other. This file is also seen inside the sandbox and imports nothing of the harness.
"""

from __future__ import annotations

import ctypes
from typing import Any

_HANDLE_BYTES = 64  # CU_IPC_HANDLE_SIZE
_LAZY_PEER_ACCESS = 1  # CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is


class _Handle(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_char * _HANDLE_BYTES)]


class DeviceMemory:
    """Bytes on the GPU of the current context. `handle` names them to another process; `close` gives them back."""

    def __init__(self, address: int, size: int, handle: str, owned: bool) -> None:
        self.handle = handle  # hexadecimal
        self._address, self._size, self._owned = address, size, owned

    @classmethod
    def allocate(cls, size: int) -> DeviceMemory | None:
        """New memory, or None where the driver refuses it or cannot share it."""
        driver = _driver()
        address, handle = ctypes.c_uint64(), _Handle()
        if driver is None or driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)):
            return None
        if driver.cuIpcGetMemHandle(ctypes.byref(handle), address):
            driver.cuMemFree_v2(address)
            return None
        return cls(address.value, size, bytes(handle).hex(), owned=True)

    @classmethod
    def open(cls, handle: str, size: int) -> DeviceMemory | None:
        """The memory that another process allocated, or None where this process cannot map it."""
        driver = _driver()
        address, named = ctypes.c_uint64(), _Handle.from_buffer_copy(bytes.fromhex(handle))
        if driver is None or driver.cuIpcOpenMemHandle_v2(ctypes.byref(address), named, ctypes.c_uint(_LAZY_PEER_ACCESS)):
            return None
        return cls(address.value, size, handle, owned=False)

    def flat(self, dtype: Any, count: int, offset: int) -> Any:
        """(count,) numbers from byte `offset` on: a view, to be dropped before `close`."""
        import torch

        if offset + count * dtype.itemsize > self._size:
            raise ValueError(f"{count} numbers of {dtype} from byte {offset} on do not fit into {self._size} bytes")
        return torch.as_tensor(_Bytes(self._address + offset, count * dtype.itemsize), device="cuda").view(dtype)

    def close(self) -> None:
        """Unmaps it, or frees it where it was allocated. Idempotent."""
        driver, address, self._address = _driver(), ctypes.c_uint64(self._address), 0
        if driver is not None and address.value:
            (driver.cuMemFree_v2 if self._owned else driver.cuIpcCloseMemHandle)(address)


class _Bytes:
    """Tells torch of an address, in the protocol of numba's CUDA array interface, version 3."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


def _driver() -> Any:
    """The driver's library, with torch's context current; None where there is none."""
    import torch

    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    torch.cuda.synchronize()  # makes the context, if this is the first use of the GPU
    return driver
