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
import math
import mmap
import os
import select
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import wire
from devicememory import DeviceMemory
from hostmemory import on_its_way, pinned
from trainee import on_word, open_lab

_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_LEAST_VOCABULARY = 256  # tokens that every model knows
_POLL_SECONDS = 1e-4  # a chunk takes a GPU some milliseconds

Predict = Callable[[Any, Any, Any], tuple[int, ...]]
"""(model, (rows, T) tokens, where their logits go) -> the logits' shape."""


class Answer(NamedTuple):
    """The reply about a chunk, and the event after which it holds; None: at once."""

    reply: dict[str, Any]
    done: Any


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


class BadLogits(Exception):  # noqa: N818  what the program predicts, not an error of ours
    """What the model returned is not logits."""


def predict(model: Any, tokens: Any, out: Any) -> tuple[int, ...]:
    """Leaves the logits of (rows, T) tokens in `out`, flat float32, and gives their shape, (rows, T, V).

    Raises:
        BadLogits: they are not logits, or more than `out` holds.
    """
    import torch

    logits = model(tokens)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
        raise BadLogits(f"model(tokens) gave {_shape(logits)}, expected logits of shape (rows, T, V)")
    if logits.numel() > out.numel():
        raise BadLogits(f"logits of shape {tuple(logits.shape)} are larger than a vocabulary of this size needs")
    out[: logits.numel()].view(logits.shape).copy_(logits)
    return tuple(logits.shape)


def rehearsed(model: Any, rows: int, length: int, floats: int, whole: bool) -> Predict:
    """`predict`, tried on (rows, length) random tokens; if `whole`, compiled together with the model, unless that fails or it is on a CPU.
    Compiled, the last kernel writes the logits where they are to go."""
    import torch

    tokens = torch.randint(_LEAST_VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0)).to(device_of(model))
    out = torch.empty(floats, device=tokens.device)
    on = [tokens.device.index] if tokens.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(on):
        if whole and tokens.device.type != "cpu" and "EVO_UNCOMPILED" not in os.environ:
            compiled: Any = torch.compile(predict, dynamic=False)
            try:
                compiled(model, tokens, out)
            except Exception as error:  # noqa: BLE001  what is wrong with the model itself shows below
                print(f"not compiled: {type(error).__name__}: {error}"[:500], flush=True)
            else:
                return compiled  # type: ignore[no-any-return]
        predict(model, tokens, out)
    return predict


def tried(model: Any, told: dict[str, Any]) -> Predict:
    """What predicts, after a first try: what takes long only once is done before there are weights. A forwarder that is not to rehearse may
    replace one that failed at it: if this fails too, so will the first real chunk, and that is what reports it."""
    try:
        return rehearsed(model, told["rows"], told["length"], told["floats"], whole=told["rehearse"])
    except Exception:
        if told["rehearse"]:
            raise
        return predict


def give_back_memory() -> None:
    """Gives back the GPU memory that the rehearsal took, for the program that is timed."""
    import torch

    if os.environ["EVO_DEVICE"] == "cuda":
        torch.cuda.empty_cache()


def leave_shared_cache() -> None:
    """Keeps what is compiled from here on in the working folder: whoever sees validation rows can write to nothing that others read."""
    for name in _CACHES:
        if name in os.environ:
            os.environ[name] = os.path.abspath(name.lower())


class Answers:
    """Runs the model on chunks, each at its place of the memory, and leaves its logits there."""

    def __init__(self, call: Predict, model: Any, memory: mmap.mmap, logits_memory: DeviceMemory | None, floats: int) -> None:
        """
        Args:
            floats: how many a place can hold.
        """
        self._call, self._model, self._memory, self._logits_memory, self._floats = call, model, memory, logits_memory, floats
        self._device = device_of(model)

    def begin(self, request: dict[str, Any]) -> Answer:
        """Starts the work on one chunk; returns the reply, which holds when the GPU is done with it."""
        import torch

        rows, length, offset = request["rows"], request["length"], request["offset"]
        tokens = torch.frombuffer(self._memory, dtype=torch.int64, count=rows * length, offset=offset).view(rows, length)
        try:
            with torch.no_grad():
                shape = self._predict(on_its_way(tokens, self._device), offset)
        except BadLogits as bad:
            return Answer({"op": "bad", "message": str(bad)}, None)
        done = torch.cuda.current_stream().record_event() if self._logits_memory else None
        return Answer({"op": "logits", "shape": list(shape)}, done)

    def _predict(self, tokens: Any, offset: int) -> tuple[int, ...]:
        import torch

        if self._logits_memory is not None:
            return self._call(self._model, tokens, self._logits_memory.flat(torch.float32, self._floats, offset))
        out = torch.frombuffer(self._memory, dtype=torch.float32, count=self._floats, offset=offset)
        if self._device.type == "cpu":
            return self._call(self._model, tokens, out)
        own = torch.empty(self._floats, device=self._device)
        shape = self._call(self._model, tokens, own)
        count = math.prod(shape)
        out[:count].copy_(own[:count])
        return shape


def serve_chunks(channel: socket.socket, answers: Answers) -> None:
    """Answers in the order of the requests, until the judge closes the channel. A GPU gets the next chunk before it is done with the last,
    so that it always has something to do."""
    under_way: Answer | None = None
    while True:
        if under_way is not None and not select.select([channel], [], [], _POLL_SECONDS)[0]:
            if under_way.done.query():
                _tell(channel, under_way)
                under_way = None
            continue
        received = wire.receive(channel)
        if received is None:
            return
        begun = answers.begin(received[0])
        if under_way is not None:
            _tell(channel, under_way)
        under_way = begun
        if begun.done is None:
            _tell(channel, begun)
            under_way = None


def _tell(channel: socket.socket, answer: Answer) -> None:
    """Waits until the work is done, and says so."""
    if answer.done is not None:
        answer.done.synchronize()
    wire.send(channel, answer.reply)


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def serve(channel: socket.socket, told: dict[str, Any], _: list[int]) -> None:
    """Builds the genome's model, from here on untrusted; loads its weights when the shared memory comes; serves chunks until the judge
    closes the channel."""
    open_lab(told["seed"])
    if not told["rehearse"]:
        leave_shared_cache()
    model = build()
    call = tried(model, told)
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
    with pinned(memory, "" if logits_memory else os.environ["EVO_DEVICE"]) as is_pinned:
        wire.send(channel, {"op": "shared", "mapped": logits_memory is not None, "pinned": is_pinned})
        serve_chunks(channel, Answers(call, model, memory, logits_memory, told["floats"]))


if __name__ == "__main__":
    on_word(serve)
