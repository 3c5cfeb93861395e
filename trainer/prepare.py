"""The constitution of the lab: constants, batches, the clock, and saving a model. The search never edits this file.

    python prepare.py                       builds the data folder once, checks it afterwards
    python prepare.py --from PATH ...       the same from your text: Parquet (column `text`), JSONL ({"text": …}), .txt, .md, or folders
    python prepare.py --download 10         the same from ten shards of karpathy/climbmix-400b-shuffle, for GPUs
    python prepare.py --json                prints {"data": folder, "manifest": …} as the last line

The default text comes from installed Python packages and suits small models. The preparation itself is in data_*.py beside this file,
which a genome never needs: this file alone is what it imports.

What a genome may use: the constants, `device`, `seed`, `warmup_batches`, `batches`, `progress`, `report`, `save`. Under the harness
(EVO_CHANNEL is set) the training rows arrive with the first real batch and the harness keeps the clock and the score; alone, this file
opens the data folder, keeps its own clock and prints a summary whose `val_bpb:` is only the program's own word.

Descends from karpathy/autoresearch and karpathy/nanochat (MIT).
"""

from __future__ import annotations

import argparse
import collections
import io
import itertools
import json
import math
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # functions import it: the preparation does without
    import torch

MAX_SEQ_LEN = 2048  # tokens of context, and targets per row
TIME_BUDGET = 300  # seconds of training, first real batch to saved weights
EVAL_TOKENS = 40 * 524288  # targets of the validation text at DEFAULT_VOCAB, or all there is
VOCAB_SIZES = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)  # what a genome may choose, special token included; 256 means raw bytes
READY_SIZES = (8192,)  # those that are packed beforehand; others are when a program first asks for them, while no clock runs
DEFAULT_VOCAB = 8192  # the one whose tokens EVAL_TOKENS counts
TRAIN_BYTES = 2_500_000_000  # most text that is packed for training
MERGE_BYTES = 200_000_000  # most text that the merges are learnt from
SLICE_BYTES = 500_000  # least embedded text for validation and for the held-out slice
TOTAL_BYTES = 2_000_000  # least embedded text overall

_LOADED_AT = time.monotonic()


# ---- What a genome may use -------------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """The one training run of this process."""

    asked: bool = False  # batches() was called
    saved: bool = False
    vocab_size: int = 0
    budget: float = TIME_BUDGET
    started: float | None = None  # monotonic seconds at the first real batch
    channel: _Channel | None = None
    batches: int = 0
    tokens: int = 0
    reports: int = 0
    reporting: bool = False  # report() was called, in the rehearsal at the latest: steps are reports, else batches
    newest: _Point | None = None
    announced: int = 0  # last step that was sent or printed
    announced_at: float = 0.0
    loss: float | None = None  # newest one that was read
    data: Path = field(default_factory=Path)


@dataclass
class _Point:
    step: int
    tokens: int
    total: torch.Tensor | float | None  # of the losses of `steps` steps
    steps: int = 1
    copy: torch.Tensor | float | None = None  # of the total, on the host
    ready: Any = None  # CUDA event after which the copy is whole


_run = _Run()


def device() -> torch.device:
    """EVO_DEVICE, or the best there is."""
    import torch

    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(os.environ.get("EVO_DEVICE") or best)


def seed() -> int:
    """The harness owns it."""
    return int(os.environ.get("EVO_SEED") or 42)


def progress() -> float:
    """Share of the budget that is spent, 0 to 1; 0 before the first real batch."""
    return 0.0 if _run.started is None else min(1.0, (time.monotonic() - _run.started) / _run.budget)


def warmup_batches(batch_size: int, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless pairs of random tokens, shaped and placed like the real ones; touches no global random state."""
    import torch

    _check_sizes(batch_size, vocab_size)
    rng = np.random.default_rng(seed())
    blocks = (torch.from_numpy(rng.integers(0, vocab_size, (batch_size, MAX_SEQ_LEN + 1), np.int16)) for _ in itertools.count())
    return (_pair(block.to(device())) for block in blocks)


def batches(batch_size: int, vocab_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (x, y) of real text, each (batch_size, MAX_SEQ_LEN) int64, until the budget is spent; the clock starts with the first."""
    _check_sizes(batch_size, vocab_size)
    if _run.asked:
        raise RuntimeError("batches() may be called once: a run has one budget")
    _run.asked, _run.vocab_size = True, vocab_size
    return _real_batches(batch_size)


def report(loss: torch.Tensor | float | None = None) -> float | None:
    """Marks the end of an optimiser step. Optional; without it each batch counts as a step.

    What is sent is the mean loss of all steps since the last that was sent: with one batch in four alone, a curve is twice as noisy.
    Returns the newest mean that has been read, some steps old, or None: reading the current one would stall the device.
    """
    if not _run.reporting:
        _run.reporting, _run.newest, _run.announced = True, None, 0
    if _run.started is None:  # rehearsing
        return None
    _announce(_run.newest)
    _run.reports += 1
    _run.newest = _point(_run.reports, loss)
    return _run.loss


def save(model: torch.nn.Module) -> None:
    """Hands the trained model over and ends the run; the clock stops when its last byte has arrived."""
    import torch

    if _run.started is None or _run.saved:
        raise RuntimeError("save() takes one model, after the first batch of batches()")
    _run.saved = True
    _announce(_run.newest, last=True)
    model = getattr(model, "_orig_mod", model)  # a compiled module wraps the one that has the names
    content = io.BytesIO()
    torch.save({name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, content)
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": _run.reports if _run.reporting else _run.batches,
        "tokens": _run.tokens,
    }
    if _run.channel:
        header = {"op": "weights", "bytes": content.getbuffer().nbytes, **facts, "peak_memory_gib": _peak_memory_gib()}
        _run.channel.send(header, content.getbuffer())
        _run.channel.receive("done")
    else:
        trained = time.monotonic() - _run.started
        Path("model.pt").write_bytes(content.getbuffer())
        _print_summary(model, trained, facts)


def _real_batches(batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    import torch

    place = device()
    on_gpu = place.type == "cuda"
    # Pinned there, so that copies need no waiting: one buffer per batch in flight, and one to fill while two are.
    buffers = [torch.empty((batch_size, MAX_SEQ_LEN + 1), dtype=torch.int16, pin_memory=on_gpu) for _ in range(3 if on_gpu else 1)]
    filled = [buffer.numpy().view("<u2") for buffer in buffers]
    new_event = {"cuda": torch.cuda.Event, "mps": torch.mps.event.Event}.get(place.type)
    in_flight: collections.deque[Any] = collections.deque()  # an event behind the work on each batch that may still run
    rows = _start(batch_size)
    for chosen in row_order(len(rows), batch_size, seed()):
        turn = _run.batches % len(buffers)
        np.take(rows, chosen, axis=0, out=filled[turn], mode="clip")  # the default mode would copy twice
        if new_event and _run.batches:
            in_flight.append(new_event())
            in_flight[-1].record()
            if len(in_flight) == 2:  # so at most two steps are in flight, and the clock below is not far ahead of the device
                in_flight.popleft().synchronize()
        if not _run.reporting and _run.batches:
            _announce(_run.newest)
            _run.newest = _point(_run.batches, None)
        if time.monotonic() - _run.started >= _run.budget:
            break
        _run.batches += 1
        _run.tokens += batch_size * MAX_SEQ_LEN
        yield _pair(buffers[turn].to(place, non_blocking=on_gpu))
    _announce(_run.newest, last=True)


def row_order(rows: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of each batch's rows: a permutation by seed, another one in each epoch."""
    order = np.empty(0, np.int64)
    for epoch in itertools.count():
        order = np.concatenate([order, np.random.default_rng((seed, epoch)).permutation(rows)])
        while len(order) >= batch_size:
            yield order[:batch_size]
            order = order[batch_size:]


def _start(batch_size: int) -> np.ndarray:
    """The training rows, (N, T + 1) uint16, memory-mapped; from here on the clock runs."""
    if "EVO_CHANNEL" in os.environ:
        _run.channel = _Channel(int(os.environ["EVO_CHANNEL"]))
        _run.channel.send({"op": "start", "batch_size": batch_size, "vocab_size": _run.vocab_size})
        answer = _run.channel.receive("go")
        _run.budget, shape = float(answer["budget_seconds"]), (answer["rows"], answer["row_tokens"])
        file: Any = os.fdopen(_run.channel.descriptors.pop(), "rb")
    else:
        _run.data, entry = _own_data(_run.vocab_size)
        file, shape = _run.data / entry["train"]["file"], (entry["train"]["rows"], MAX_SEQ_LEN + 1)
    _run.started = _run.announced_at = time.monotonic()
    if shape[1] != MAX_SEQ_LEN + 1:
        raise RuntimeError(f"the harness offers rows of {shape[1]} tokens, this prepare.py wants {MAX_SEQ_LEN + 1}")
    return np.asarray(np.memmap(file, "<u2", mode="r", shape=shape))


def _check_sizes(batch_size: int, vocab_size: int) -> None:
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive int, got {batch_size!r}")
    if vocab_size not in VOCAB_SIZES:
        raise ValueError(f"vocab_size {vocab_size!r} is none of prepare.VOCAB_SIZES: {', '.join(map(str, VOCAB_SIZES))}")


def _pair(block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) int64 inputs and targets of (B, T + 1) tokens, widened where they are: half a megabyte crosses the bus, not two."""
    return block[:, :-1].long(), block[:, 1:].long()


def _point(step: int, loss: torch.Tensor | float | None) -> _Point:
    """Adds a loss to those that have not been announced, and keeps their sum without waiting for it."""
    import torch

    before = _run.newest
    value = loss.detach() if isinstance(loss, torch.Tensor) else loss
    if before is None or before.step <= _run.announced or before.total is None or value is None:
        total, steps = value.clone() if isinstance(value, torch.Tensor) else value, 1
    else:
        total, steps = before.total + value, before.steps + 1
    if not isinstance(total, torch.Tensor) or total.device.type != "cuda":
        return _Point(step, _run.tokens, total, steps, total)
    host, copied = total.to("cpu", non_blocking=True), torch.cuda.Event()
    copied.record()
    return _Point(step, _run.tokens, total, steps, host, copied)


def _announce(point: _Point | None, last: bool = False) -> None:
    """Sends a step, at most five a second (alone: prints it, more rarely); the last always, waiting for its loss."""
    now, interval = time.monotonic(), 0.2 if _run.channel else min(1.0, _run.budget / 20)
    if point is None or point.step <= _run.announced or (not last and now - _run.announced_at < interval):
        return
    if point.ready is not None:
        if not last and not point.ready.query():
            return
        point.ready.synchronize()
    _run.announced, _run.announced_at = point.step, now
    _run.loss = None if point.copy is None else float(point.copy) / point.steps
    if _run.channel:
        finite = _run.loss if _run.loss is not None and math.isfinite(_run.loss) else None  # JSON has no NaN
        _run.channel.send({"op": "step", "step": point.step, "tokens": point.tokens, "loss": finite})
    else:
        print(f"step {point.step:5d}  {100 * progress():5.1f} %  loss {_run.loss}", flush=True)


def _peak_memory_gib() -> float:
    if device().type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB on Linux


class _Channel:
    """Messages to and from the harness: a 4-byte big-endian length and JSON, then raw bytes where the message says so."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)
        self.descriptors: list[int] = []  # received and not yet used

    def send(self, message: dict[str, Any], payload: bytes | memoryview = b"") -> None:
        text = json.dumps(message).encode()
        self.socket.sendall(struct.pack(">I", len(text)) + text)
        self.socket.sendall(payload)

    def receive(self, op: str) -> dict[str, Any]:
        """The next message, which must be `op`; a refusal is raised with its words."""
        message: dict[str, Any] = json.loads(self._exactly(struct.unpack(">I", self._exactly(4))[0]))
        if message.get("op") != op:
            raise RuntimeError(f"the harness answers: {message.get('message', message)}")
        return message

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            part, descriptors, _, _ = socket.recv_fds(self.socket, count - len(content), 1)
            self.descriptors += descriptors
            if not part:
                raise ConnectionError("the harness closed the channel")
            content += part
        return content


# ---- Alone, without the harness --------------------------------------------------------------------------------------------------------


def _settings() -> Any:
    from data_texts import Settings

    return Settings(
        MAX_SEQ_LEN, EVAL_TOKENS, VOCAB_SIZES, READY_SIZES, DEFAULT_VOCAB, TRAIN_BYTES, MERGE_BYTES, SLICE_BYTES, TOTAL_BYTES
    )  # fmt: skip


def _own_data(vocab_size: int) -> tuple[Path, dict[str, Any]]:
    """The newest data folder for these constants, and its vocabulary, packed if it was not."""
    import data_folder
    from data_texts import DataError

    try:
        folder = data_folder.newest(_settings(), data_folder.data_root())
        return folder, data_folder.add_vocabulary(folder, vocab_size, _settings())["vocabularies"][str(vocab_size)]
    except DataError as error:
        raise SystemExit(str(error)) from error


def evaluate(model: torch.nn.Module, folder: Path, vocab_size: int) -> float:
    """Bits per byte on the validation text: the nats of all tokens that stand for bytes, over those bytes."""
    import torch

    entry = json.loads((folder / "manifest.json").read_text())["vocabularies"][str(vocab_size)]
    rows = np.fromfile(folder / entry["val"]["file"], "<i2").reshape(-1, MAX_SEQ_LEN + 1)
    token_bytes = torch.from_numpy(np.fromfile(folder / entry["token_bytes"]["file"], "<i4")).to(device())
    nats, total = 0.0, 0
    chunk = max(1, (2**27 if device().type == "cuda" else 2**22) // (MAX_SEQ_LEN * vocab_size))  # 512 or 16 MiB of float32 logits
    for start in range(0, len(rows), chunk):
        x, y = _pair(torch.from_numpy(rows[start : start + chunk]).to(device()))
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(x).float().flatten(0, 1), y.flatten(), reduction="none")
        sizes = token_bytes[y.flatten()]
        nats += float(losses[sizes > 0].cpu().double().sum())
        total += int(sizes.sum())
    return nats / (math.log(2) * total)


def _print_summary(model: torch.nn.Module, trained: float, facts: dict[str, int]) -> None:
    """Upstream's block of `name: value` lines."""
    lines = {
        "val_bpb": f"{evaluate(model.eval(), _run.data, _run.vocab_size):.6f}",
        "training_seconds": f"{trained:.1f}",
        "total_seconds": f"{time.monotonic() - _LOADED_AT:.1f}",
        "peak_vram_mb": f"{1024 * _peak_memory_gib():.1f}",
        "total_tokens_M": f"{facts['tokens'] / 1e6:.1f}",
        "num_steps": str(facts["steps"]),
        "num_params_M": f"{facts['parameters'] / 1e6:.1f}",
    }
    print("---\n(measured by the program itself; `python -m evo.evaluate` gives a number to trust)")
    print("\n".join(f"{name + ':':17s} {value}" for name, value in lines.items()))


def main(arguments: list[str] | None = None) -> int:
    import data_folder
    import data_shards
    from data_texts import DataError

    parser = argparse.ArgumentParser(description="Builds the data folder once and checks it afterwards.")
    parser.add_argument("--from", dest="paths", type=Path, nargs="+", default=[], metavar="PATH", help="your text instead of the embedded")
    parser.add_argument("--download", type=int, metavar="N", help="N shards of climbmix-400b-shuffle; ten last 300 s on an H100")
    parser.add_argument("--url", default=data_shards.URL, help="where shards are (%(default)s)")
    parser.add_argument("--out", type=Path, default=data_folder.data_root(), metavar="DIR", help="where data folders live (%(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a data folder that is there, to complete with --vocabulary")
    parser.add_argument("--vocabulary", type=int, metavar="N", help="pack this one of VOCAB_SIZES too")
    parser.add_argument("--check", action="store_true", help="hash every file, also those whose size and time are as they were")
    parser.add_argument("--json", action="store_true", help="print folder and manifest as the last line")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    try:
        folder, manifest = data_folder.prepared(options, _settings())
    except (DataError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    for line in (*data_folder.outdated(options.out), *data_folder.summary(manifest)):
        print(line)
    print(f"data: {folder} ({time.monotonic() - started:.1f} s)")
    if options.json:
        print(json.dumps({"data": str(folder.resolve()), "manifest": manifest}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
