"""Loads a genome's saved weights and answers rows of tokens with logits, inside the sandbox. It knows no targets beyond the rows it is
sent, no text, no metric. The judge, on the other side, checks all that it gets.

The shared memory holds the tokens of a chunk, (rows, T) int64, and is overwritten by its logits, (rows, T, V).
"""

from __future__ import annotations

import importlib
import mmap
import os
import socket
import sys
from typing import Any

import wire
from trainee import explain, seed_everything

SENT_AS = ("float32", "bfloat16", "float16")  # other types are converted to float32


def load(weights: str) -> Any:
    """The model as the program builds it, with the saved weights, ready to predict."""
    import torch

    program = importlib.import_module("train")
    model = program.build_model()
    state = torch.load(weights, map_location="cpu", weights_only=True)
    model.load_state_dict(state, strict=True)
    return model.eval()


def device_of(model: Any) -> Any:
    """Where the model's first parameter is."""
    return next(iter(model.parameters())).device


def answer(model: Any, memory: mmap.mmap, rows: int, length: int) -> dict[str, Any]:
    """Runs the model on the chunk in memory and leaves its logits there."""
    import torch

    tokens = torch.frombuffer(memory, dtype=torch.int64, count=rows * length).view(rows, length)
    with torch.no_grad():
        logits = model(tokens.to(device_of(model), copy=True))
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3:
        return {"op": "bad", "message": f"model(tokens) gave {_shape(logits)}, expected logits of shape (rows, T, V)"}
    name = str(logits.dtype).removeprefix("torch.")
    if name not in SENT_AS:
        logits, name = logits.float(), "float32"
    if logits.numel() * logits.element_size() > len(memory):
        return {"op": "bad", "message": f"logits of shape {tuple(logits.shape)} are larger than a vocabulary of this size needs"}
    out = torch.frombuffer(memory, dtype=logits.dtype, count=logits.numel()).view(logits.shape)
    out.copy_(logits)
    return {"op": "logits", "shape": list(logits.shape), "dtype": name}


def _shape(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"a {type(value).__name__}"


def main() -> None:
    """Serves chunks until the judge closes the channel."""
    channel = socket.socket(fileno=os.dup(int(os.environ["EVO_CHANNEL"])))
    memory = mmap.mmap(int(os.environ["EVO_MEMORY"]), 0)
    sys.path[:0] = [os.environ["EVO_LAB"]]
    try:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        seed_everything(int(os.environ["EVO_SEED"]))
        model = load(os.environ["EVO_WEIGHTS"])
        wire.send(channel, {"op": "ready", "parameters": sum(p.numel() for p in model.parameters())})
        while (request := wire.receive(channel)) is not None:
            wire.send(channel, answer(model, memory, request[0]["rows"], request[0]["length"]))
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  every end of an untrusted program is data
        wire.send(channel, explain(error))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
