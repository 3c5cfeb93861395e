"""Loads a genome's saved weights and answers rows of tokens with logits, inside the sandbox. It knows no targets beyond the rows it is
sent, no text, no metric. The judge, on the other side, checks all that it gets.

It may be started even before there is a genome: until it is told to build the model it imports libraries, holds no CUDA context, has seen
nothing of the genome, and waits. It may build long before there are weights: it compiles, on random tokens, what it will run, and waits
again. The slot keeps it from running at all while a training is timed.

A chunk has a place in the shared host memory: there are its tokens, (rows, T) int64. Its logits, (rows, T, V), go to the same place of the
GPU memory that the judge shares, or overwrite the tokens where there is none.
"""

from __future__ import annotations

import importlib
import mmap
import os
import socket
from typing import Any

import wire
from devicememory import DeviceMemory
from hostmemory import pinned
from trainee import on_word, open_lab

_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_LEAST_VOCABULARY = 256  # tokens that every model knows
SENT_AS = ("float32", "bfloat16", "float16")  # other types are converted to float32


def build() -> Any:
    """The model as the program builds it, ready to predict."""
    return importlib.import_module("train").build_model().eval()


def load(model: Any, weights: str) -> None:
    """Puts the saved weights into the model."""
    import torch

    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)


def device_of(model: Any) -> Any:
    """Where the model's first parameter is."""
    return next(iter(model.parameters())).device


def rehearsed(model: Any, rows: int, length: int) -> Any:
    """What to call with (rows, length) tokens: the model compiled as a whole, and tried; itself where it cannot be, or runs on no GPU."""
    import torch

    tokens = torch.randint(_LEAST_VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0)).to(device_of(model))
    with torch.no_grad(), torch.random.fork_rng():
        if tokens.device.type != "cpu":
            compiled: Any = torch.compile(model, dynamic=False)
            try:
                compiled(tokens)
            except Exception as error:  # noqa: BLE001  what is wrong with the model itself shows below
                print(f"not compiled: {type(error).__name__}: {error}"[:500], flush=True)
            else:
                return compiled
        model(tokens)
    return model


def give_back_memory() -> None:
    """What the rehearsal took of a GPU is for the program that is timed."""
    import torch

    if os.environ["EVO_DEVICE"] == "cuda":
        torch.cuda.empty_cache()


def leave_shared_cache() -> None:
    """What is compiled from here on stays in the working folder: whoever sees validation rows can write to nothing that others read."""
    for name in _CACHES:
        if name in os.environ:
            os.environ[name] = os.path.abspath(name.lower())


def answer(model: Any, device: Any, memory: mmap.mmap, logits_memory: DeviceMemory | None, request: dict[str, Any]) -> dict[str, Any]:
    """Runs the model on the chunk at the request's place and leaves its logits there."""
    import torch

    rows, length, offset = request["rows"], request["length"], request["offset"]
    tokens = torch.frombuffer(memory, dtype=torch.int64, count=rows * length, offset=offset).view(rows, length)
    with torch.no_grad():
        logits = model(tokens.to(device, copy=True))
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
        return {"op": "bad", "message": f"model(tokens) gave {_shape(logits)}, expected logits of shape (rows, T, V)"}
    name = str(logits.dtype).removeprefix("torch.")
    if name not in SENT_AS:
        logits, name = logits.float(), "float32"
    if logits.numel() * logits.element_size() > request["bytes"]:
        return {"op": "bad", "message": f"logits of shape {tuple(logits.shape)} are larger than a vocabulary of this size needs"}
    if logits_memory is None:
        out = torch.frombuffer(memory, dtype=logits.dtype, count=logits.numel(), offset=offset)
    else:
        out = logits_memory.flat(logits.dtype, logits.numel(), offset)
    out.view(logits.shape).copy_(logits)
    if logits_memory is not None:
        torch.cuda.synchronize()  # the judge reads them in a stream of its own
    return {"op": "logits", "shape": list(logits.shape), "dtype": name}


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def serve(channel: socket.socket, told: dict[str, Any], _: list[int]) -> None:
    """Builds the genome's model, from here on untrusted; loads its weights when the shared memory comes; serves chunks until the judge
    closes the channel."""
    open_lab(told["seed"])
    if not told["rehearse"]:
        leave_shared_cache()
    model = build()
    call = rehearsed(model, told["rows"], told["length"]) if told["rehearse"] else model
    leave_shared_cache()
    give_back_memory()
    wire.send(channel, {"op": "built"})
    received = wire.receive(channel, max_fds=1)
    if received is None:
        return
    (descriptor,) = received[1]
    memory = mmap.mmap(descriptor, 0)
    os.close(descriptor)
    load(model, os.environ["EVO_WEIGHTS"])
    wire.send(channel, {"op": "ready", "parameters": sum(p.numel() for p in model.parameters())})
    share = wire.receive(channel)
    if share is None:
        return
    handle, size = share[0]["handle"], share[0]["bytes"]
    logits_memory = DeviceMemory.open(handle, size) if handle else None
    device = device_of(model)
    with pinned(memory, "" if logits_memory else os.environ["EVO_DEVICE"]) as is_pinned:
        wire.send(channel, {"op": "shared", "mapped": logits_memory is not None, "pinned": is_pinned})
        while (request := wire.receive(channel)) is not None:
            wire.send(channel, answer(call, device, memory, logits_memory, request[0]))


if __name__ == "__main__":
    on_word(serve)
