"""Whose GPU it is: if two drivers of one user evaluated on the same GPU of this machine, both would get worse scores unnoticed.

A GPU is claimed by a lock on a file of its name in a folder that all jobs of a machine share; the lock dies with its holder. This is a
courtesy: where no such file can be made or locked, or one job names a GPU by its number and another by its UUID, nothing is noticed. GPUs
of a cluster are Ray's to give out, and cores are shared: when others use them, it shows in the records (health.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from evo.errors import UserError

FOLDER = Path("/tmp")  # not TMPDIR, which may be a job's own


@contextlib.contextmanager
def claimed(gpus: Iterable[str], purpose: str) -> Iterator[None]:
    """Claims these GPUs for this process while the block runs.

    Args:
        gpus: values of CUDA_VISIBLE_DEVICES, one for each.
        purpose: what for, as shown to others.
    Raises:
        UserError: another process works on one of them.
    """
    with contextlib.ExitStack() as held:
        for gpu in sorted({_name(gpu) for gpu in gpus}):
            try:
                claim = os.open(FOLDER / f"evo-{os.getuid()}-gpu-{re.sub('[^0-9A-Za-z-]', '_', gpu)}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            except OSError:
                continue
            held.callback(os.close, claim)
            try:
                fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(claim, 1000, 0).decode(errors="replace") or "another process"
                raise UserError(
                    f"GPU {gpu} is taken by {holder}, and evaluations must not share one: "
                    "stop that process, or choose another GPU with CUDA_VISIBLE_DEVICES"
                ) from error
            except OSError:  # no locks on that file system
                continue
            os.ftruncate(claim, 0)
            os.pwrite(claim, f"process {os.getpid()} ({purpose})".encode(errors="replace"), 0)
        yield


def _name(gpu: str) -> str:
    stripped = gpu.strip()
    return str(int(stripped)) if stripped.isdecimal() else stripped
