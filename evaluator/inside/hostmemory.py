"""Host memory for copies to and from a GPU: pinned where that works. The judge uses it, and so does what it judges: this file is also seen
inside the sandbox and imports nothing of the harness."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every context of the process


@contextlib.contextmanager
def pinned(memory: mmap.mmap, device: str) -> Iterator[bool]:
    """Registers the mapping with CUDA while the block lasts, so that copies run at the speed of the bus.

    Yields:
        Whether it is pinned. False on devices other than "cuda", and where the driver refuses: copies are then slower, nothing else.
    """
    if device != "cuda":
        yield False
        return
    import torch

    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    done = int(runtime.cudaHostRegister(address, len(memory), _PORTABLE)) == 0
    if not done:
        _take_pending_error()
    try:
        yield done
    finally:
        if done and int(runtime.cudaHostUnregister(address)) != 0:
            _take_pending_error()


def on_its_way(tensor: Any, device: Any) -> Any:
    """A copy on that device. On a GPU the copy is only queued, from pinned memory of its own: from pageable memory it would wait for all
    that the GPU has to do before."""
    import torch

    if torch.device(device).type != "cuda":
        return tensor.to(device, copy=True)
    return tensor.pin_memory().to(device, non_blocking=True)


def _take_pending_error() -> None:
    """CUDA keeps the error of a refused call and blames the next kernel for it: let that be this one. Torch binds no cudaGetLastError."""
    import torch

    with contextlib.suppress(RuntimeError):
        torch.ones(1, device="cuda").add_(1)
