"""Runs a genome's main() inside the sandbox and tells the harness how far it got. Untrusted code shares this process: nothing said
here is believed, it only helps to explain failures. What counts (clock, data, metric) happens on the other side."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import wire  # this folder is on the path, and is all of the harness that exists in here
from eager import spare_the_compiler

_CACHEABLE = (
    "torch.amp.autocast_mode._enter_autocast",
    "torch.amp.autocast_mode._exit_autocast",
    "torch.nn.attention._backend_from_string",
    "torch.nn.attention._sdpa_kernel",
)
FRAMES_KEPT = 6
PART_KEPT = 1500  # characters of a frame, and of the message below, which must not push the frames out


class ContractError(Exception):
    """The program lacks what every genome has."""


def explain(error: BaseException) -> dict[str, Any]:
    """The exception as a message: class, text and the last frames."""
    kept = traceback.TracebackException.from_exception(error)
    kept.stack = traceback.StackSummary.from_list(list(kept.stack)[-FRAMES_KEPT:])
    return {
        "op": "error",
        "type": type(error).__name__,
        "message": str(error)[:2000],
        "trace": "".join(part[:PART_KEPT] for part in kept.format())[-6000:],
    }


def seed_everything(seed: int) -> None:
    """The seed belongs to the harness; a program that seeds nothing is seeded all the same."""
    import numpy as np
    import torch

    os.environ["EVO_SEED"] = str(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def import_libraries(device: str) -> None:
    """Imports what most genomes need: it is slow, and the same for all. On a GPU also the compiler, since the time is free there. The
    garbage collector, which would take a fifth of the time to find nothing, rests meanwhile, and never looks at these libraries again."""
    gc.disable()
    for name in ("numpy", "torch"):
        importlib.import_module(name)
    if device == "cuda":
        with without_the_driver():
            importlib.import_module("torch._inductor.compile_fx")
        remember_more()
    else:
        spare_the_compiler()
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def without_the_driver() -> Iterator[None]:
    """Tells a compiler that asks while it is imported that there is a GPU, so that it does not start the driver to find out: a process
    with a driver cannot be forked (template.py), and takes memory of the card."""
    import torch

    ask = torch.cuda.is_available
    torch.cuda.is_available = lambda: True
    try:
        yield
    finally:
        torch.cuda.is_available = ask


def remember_more() -> None:
    """Lets torch keep what it compiled of programs that use autocast or choose an attention kernel: by itself it traces those anew each
    time, since AOTAutogradCache takes only functions that it knows. All that these do follows from arguments, which are in the key."""
    import torch._inductor.config as config

    config.unsafe_marked_cacheable_functions = {**config.unsafe_marked_cacheable_functions, **dict.fromkeys(_CACHEABLE, "1")}


def on_word(work: Callable[[socket.socket, dict[str, Any], list[int]], None], max_fds: int = 0) -> None:
    """The life of a process in here: imports libraries, says that it waits, does its work when the word comes; does nothing if none comes.

    An exception that ends the work is reported: every end of an untrusted program is data.

    Args:
        work: gets the channel, the word, and the descriptors that came with it, at most `max_fds`.
    """
    channel = socket.socket(fileno=os.dup(int(os.environ["EVO_CHANNEL"])))
    try:
        if "torch" not in sys.modules:  # else a template has imported them
            import_libraries(os.environ["EVO_DEVICE"])
        wire.send(channel, {"op": "waiting"})
        received = wire.receive(channel, max_fds)
        if received is not None:
            work(channel, *received)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  whatever it is, it is reported
        wire.send(channel, explain(error))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def leave_memory(spare_bytes: int) -> None:
    """Makes torch say that it is out of memory where a program wants more of the card than it may have. Whoever gets round this is ended
    from outside."""
    import torch

    if spare_bytes:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, 1 - spare_bytes / total))


def open_lab(seed: int) -> None:
    """Lets the genome be imported from here on, as `train`."""
    import torch

    sys.path[:0] = [os.environ["EVO_LAB"]]
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    leave_memory(int(os.environ.get("EVO_GPU_SPARE_BYTES", "0")))
    seed_everything(seed)


def train(channel: socket.socket, told: dict[str, Any], _: list[int]) -> None:
    """Imports the genome, runs it, reports phases."""
    open_lab(told["seed"])
    wire.send(channel, {"op": "phase", "phase": "import"})
    program = importlib.import_module("train")
    missing = [name for name in ("build_model", "main") if not callable(getattr(program, name, None))]
    if missing:
        raise ContractError(f"defines no {' and no '.join(missing)}()")
    wire.send(channel, {"op": "phase", "phase": "setup"})
    program.main()
    wire.send(channel, {"op": "returned"})


if __name__ == "__main__":
    on_word(train)
