"""Variants of the seed program side by side on one GPU: milliseconds per optimiser step, tokens a second, MFU, peak memory, first losses.

    python scripts/bench_trainer.py [NAME ...] [--rows 64] [--profile NAME] [--list]

Each variant is the seed's text with some passages replaced. All compile at once, each in a process of its own, on random tokens; then each
is timed alone, in turn, over five times two steps: the median counts. Memory limits how many fit at once: with 64 rows a process takes
about 24 GiB. Losses of the first steps on the same tokens show whether the mathematics is the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FLOP_PER_TOKEN = 239e6  # of the seed: 6 x 29.4 M parameters that multiply + 12 x 512 x 10,240 tokens of windows
PEAK_FLOPS = 989.5e12  # H100 and H200 SXM, dense bfloat16
ROUNDS, STEPS = 5, 2

_PROJECTIONS = "        q, k, v = (layer(x).view(B, T, self.heads, HEAD_DIM) for layer in (self.query, self.key, self.value))\n"
_JOINED = (
    "        weights = torch.cat([self.query.weight, self.key.weight, self.value.weight])\n"
    "        q, k, v = F.linear(x, weights).view(B, T, 3, self.heads, HEAD_DIM).unbind(2)\n"
)
_LOOKUP = "            x = x0 = norm(self.embedding(tokens))  # (B, T, C)\n"
_ONE_LOOKUP = (
    "            tables = [self.embedding.weight, *(e.weight for e in self.value_embeddings.values())]\n"
    "            found = iter(F.embedding(tokens, torch.cat(tables, dim=1)).split(self.width, dim=-1))\n"
    "            x = x0 = norm(next(found))\n"
)
_TANH = "LOGIT_SOFTCAP * torch.tanh(logits.float() / LOGIT_SOFTCAP)"

_ROLLED = "    return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin\n"
_HALVES = (
    "    (a, b), cos, sin = x.chunk(2, dim=-1), cos[..., : x.size(-1) // 2], sin[..., : x.size(-1) // 2]\n"
    "    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)\n"
)
_NORMED = "rotate(norm(q), *rotary), rotate(norm(k), *rotary)"

VARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "seed": (),
    "flex-windows": ((" if size >= T else cudnn_window(size)\n", " if size >= T else None\n"),),
    "flex-everywhere": (("HEAD_DIM <= 128 and", "HEAD_DIM <= 0 and"),),
    "cross-entropy": (("return cross_entropy(model", "return F.cross_entropy(model"),),
    "joined-projections": ((_PROJECTIONS, _JOINED),),
    "one-lookup": ((_LOOKUP, _ONE_LOOKUP), ("self.value_embeddings[str(i)](tokens) if has", "next(found) if has")),
    "halves": ((_ROLLED, _HALVES),),
    "norm-last": ((_NORMED, "norm(rotate(q, *rotary)), norm(rotate(k, *rotary))"),),  # a rotation changes no length
    "sigmoid-softcap": ((_TANH, "LOGIT_SOFTCAP * (2 * torch.sigmoid(2 * logits.float() / LOGIT_SOFTCAP) - 1)"),),
}


def text_of(name: str, rows: int) -> str:
    """The program of a variant; several are joined by +."""
    text = (ROOT / "trainer" / "train.py").read_text()
    passages = [passage for part in name.split("+") for passage in VARIANTS[part]]
    for old, new in [*passages, ("DEVICE_BATCH_SIZE = 128 ", f"DEVICE_BATCH_SIZE = {rows} ")]:
        if text.count(old) != 1:
            raise SystemExit(f"{name}: the seed has {text.count(old)} times, not once: {old!r}")
        text = text.replace(old, new)
    return text


class Trial:
    """One variant in this process."""

    def __init__(self, name: str, rows: int) -> None:
        sys.path.insert(0, str(ROOT / "trainer"))
        import prepare
        import torch

        self.torch, self.losses = torch, list[float]()
        self.program = types.ModuleType("train")
        sys.modules["train"] = self.program  # where the compiler looks up what its guards name
        exec(compile(text_of(name, rows), f"<{name}>", "exec"), self.program.__dict__)
        torch.manual_seed(1)
        torch.set_float32_matmul_precision("high")
        self.model = self.program.build_model()
        self.optimisers = self.program.build_optimisers(self.model)
        self.loss_of = torch.compile(self.program.mean_loss, dynamic=False)
        self.batches = list(itertools.islice(prepare.warmup_batches(rows, self.program.VOCAB_SIZE), 4))
        seen: list[Any] = []
        prepare.report = lambda loss=None: seen.append(loss.clone())  # the seed reports each step's loss and reads the answer
        self.steps(2)
        self.losses = [round(float(loss), 5) for loss in seen]

    def steps(self, count: int) -> float:
        """Seconds of so many optimiser steps."""
        started = time.perf_counter()
        batches = itertools.islice(itertools.cycle(self.batches), count * self.program.accumulation())
        self.program.train(self.model, self.optimisers, self.loss_of, batches)
        self.torch.cuda.synchronize()
        return time.perf_counter() - started

    def timed(self) -> dict[str, Any]:
        """Median and spread of milliseconds per step, and what follows from them."""
        self.steps(1)
        rounds = sorted(self.steps(STEPS) / STEPS for _ in range(ROUNDS))
        speed = self.program.TOTAL_BATCH_SIZE / rounds[ROUNDS // 2]
        return {
            "milliseconds": round(1e3 * rounds[ROUNDS // 2], 1),
            "spread": [round(1e3 * rounds[0], 1), round(1e3 * rounds[-1], 1)],
            "tokens_per_second": round(speed),
            "mfu_percent": round(100 * speed * FLOP_PER_TOKEN / PEAK_FLOPS, 2),
            "peak_gib": round(self.torch.cuda.max_memory_allocated() / 2**30, 1),
            "losses": self.losses,
        }

    def profile(self) -> str:
        """Time by kernel of one step."""
        with self.torch.profiler.profile(activities=[self.torch.profiler.ProfilerActivity.CUDA]) as seen:
            self.steps(1)
        return str(seen.key_averages().table(sort_by="cuda_time_total", row_limit=60, max_name_column_width=100))


def child(name: str, rows: int, profile: bool) -> None:
    """Says `ready` when compiled; each line on standard input then asks for the timing, or the profile."""
    trial = Trial(name, rows)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps(trial.timed() | ({"profile": trial.profile()} if profile else {})), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="variants, joined by + where they combine (all)")
    parser.add_argument("--rows", type=int, default=64, help="rows per forward pass (%(default)s)")
    parser.add_argument("--profile", action="append", default=[], metavar="NAME", help="print this variant's kernels too")
    parser.add_argument("--list", action="store_true", help="only name the variants")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print("\n".join(VARIANTS))
        return 0
    if options.child:
        child(options.child, options.rows, options.child in options.profile)
        return 0
    names = options.names or list(VARIANTS)
    for name in names:
        text_of(name, options.rows)  # a wrong name is reported before anything starts
    command = [sys.executable, __file__, "--rows", str(options.rows), *(f"--profile={name}" for name in options.profile)]
    pipe = subprocess.PIPE
    running = {n: subprocess.Popen([*command, "--child", n], stdin=pipe, stdout=pipe, text=True, env=os.environ) for n in names}
    ready = {name: (process.stdout.readline() if process.stdout else "").strip() == "ready" for name, process in running.items()}
    for name, process in running.items():
        said, _ = process.communicate("go\n") if ready[name] else ("", None)
        found = json.loads(said) if said.startswith("{") else {"failed": f"exit {process.wait()}, see standard error"}
        kernels = found.pop("profile", "")
        print(json.dumps({"name": name, **found}), kernels, sep="\n" if kernels else "", flush=True)
    return 0 if all(ready.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
