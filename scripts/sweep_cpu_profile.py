"""The recorded sweep behind configs/cpu.toml: depth, width, batch, rates and vocabulary of the seed genome at the CPU profile's budget.

    python scripts/sweep_cpu_profile.py [--out docs/data/cpu_sweep.tsv] [--random 24] [--steps 2] [--budget S] [--seed N]

Three stages, all through the real evaluator on all CPU slots: random settings; coordinate moves around the best so far, each knob one
value up and one down, repeated `--steps` times; fresh seeds for the best four. Rows are appended as they come; the same command goes on
where it was interrupted. The last lines name the best setting by the mean of its seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import queue
import random
import statistics
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import genomes
from evaluator.evaluate import Evaluate
from evaluator.outcome import Failed, Outcome, Scored
from evo import assembly
from evo.config import load

SPACE: dict[str, tuple[float, ...]] = {
    "depth": (1, 2, 3),
    "width": (32, 64, 96, 128),
    "vocabulary": (1024, 2048, 4096),
    "rows": (2, 4, 8, 16),  # per step, of 256 tokens
    "matrix_rate": (0.01, 0.02, 0.04, 0.08),
    "embedding_rate": (0.3, 0.6, 1.2, 2.4, 4.8),
    "head_rate": (0.002, 0.004, 0.008, 0.016),
    "warmdown": (0.3, 0.5, 0.7, 0.9),
    "ramp": (20, 60, 300),
}
Setting = dict[str, float]
COLUMNS = ("stage", *SPACE, "seed", "val_bpb", "steps", "tokens", "total_seconds", "failure")


def knobs(setting: Setting, length: int) -> dict[str, Any]:
    """The seed's knobs for a setting; heads of 32 or 64 channels, no accumulation."""
    width = int(setting["width"])
    return {
        "DEPTH": int(setting["depth"]),
        "ASPECT_RATIO": -(-width // int(setting["depth"])),
        "HEAD_DIM": 64 if width % 64 == 0 else 32,
        "VOCAB_SIZE": int(setting["vocabulary"]),
        "DEVICE_BATCH_SIZE": int(setting["rows"]),
        "TOTAL_BATCH_SIZE": int(setting["rows"]) * length,
        "MATRIX_LR": setting["matrix_rate"],
        "EMBEDDING_LR": setting["embedding_rate"],
        "UNEMBEDDING_LR": setting["head_rate"],
        "WARMDOWN_RATIO": setting["warmdown"],
        "MUON_RAMP_STEPS": int(setting["ramp"]),
    }


class Sweep:
    """Settings in, rows out; a row that the file has already is not run again."""

    def __init__(self, out: Path, assembled: assembly.Assembly) -> None:
        self.out = out
        self.assembled = assembled
        self.rows: list[dict[str, str]] = []
        if out.exists():
            with out.open(newline="") as file:
                self.rows = list(csv.DictReader(file, delimiter="\t"))
        self._slots: queue.Queue[Evaluate] = queue.Queue()
        for spec in assembled.specs(Path()):
            self._slots.put(spec.make())
        self._count = self._slots.qsize()

    def run(self, stage: str, jobs: Iterable[tuple[Setting, int]]) -> None:
        """Evaluates each (setting, seed) that is not in the file."""
        done = {self._key(row) for row in self.rows}
        due = [job for job in jobs if self._key(self._row(stage, *job)) not in done]
        with ThreadPoolExecutor(self._count) as pool:
            for row in pool.map(lambda job: self._evaluate(stage, *job), due):
                self._append(row)

    def means(self, least: int = 1) -> list[tuple[float, int, Setting]]:
        """(mean val_bpb, seeds, setting) of settings with at least so many scores, best first."""
        scores: dict[str, list[float]] = {}
        for row in self.rows:
            if row["val_bpb"]:
                scores.setdefault(json.dumps({name: float(row[name]) for name in SPACE}), []).append(float(row["val_bpb"]))
        found = [(statistics.fmean(values), len(values), json.loads(key)) for key, values in scores.items() if len(values) >= least]
        return sorted(found, key=lambda item: item[0])

    def close(self) -> None:
        for _ in range(self._count):
            self._slots.get().close()

    def _evaluate(self, stage: str, setting: Setting, seed: int) -> dict[str, str]:
        text = genomes.set_knobs(self.assembled.rendered.seed, knobs(setting, 256))
        slot = self._slots.get()
        try:
            outcome = slot(text, seed, self.assembled.rendered.budget_seconds)
        finally:
            self._slots.put(slot)
        return self._row(stage, setting, seed, outcome)

    def _row(self, stage: str, setting: Setting, seed: int, outcome: Outcome | None = None) -> dict[str, str]:
        row = {"stage": stage, **{name: f"{setting[name]:g}" for name in SPACE}, "seed": str(seed)}
        if isinstance(outcome, Scored):
            row |= {"val_bpb": f"{outcome.val_bpb:.6f}", "steps": str(outcome.steps), "tokens": str(outcome.tokens)}
            row |= {"total_seconds": f"{outcome.total_seconds:.1f}", "failure": ""}
        elif isinstance(outcome, Failed):
            row |= {"val_bpb": "", "steps": "", "tokens": "", "total_seconds": "", "failure": f"{outcome.reason}: {outcome.message}"}
        return row

    def _key(self, row: dict[str, str]) -> tuple[str, ...]:
        return tuple(row[name] for name in (*SPACE, "seed"))

    def _append(self, row: dict[str, str]) -> None:
        self.rows.append(row)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self.out.exists()
        with self.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        print("\t".join(row.values()), flush=True)


def neighbours(setting: Setting) -> Iterator[Setting]:
    """Each knob one value up and one down."""
    for name, values in SPACE.items():
        at = values.index(setting[name])
        for other in (at - 1, at + 1):
            if 0 <= other < len(values):
                yield {**setting, name: values[other]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/data/cpu_sweep.tsv"))
    parser.add_argument("--random", type=int, default=24)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--budget", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = load(None, [], {"run.profile": "cpu", "run.budget_seconds": options.budget})
    sweep = Sweep(options.out, assembly.build(assembly.plan(config), lambda line: print(line, file=sys.stderr)))
    rng = random.Random(options.seed)
    settings = [{name: rng.choice(values) for name, values in SPACE.items()} for _ in range(options.random)]
    try:
        sweep.run("random", [(setting, 1) for setting in settings])
        for step in range(options.steps):
            sweep.run(f"coordinate {step + 1}", [(near, 1) for near in neighbours(sweep.means()[0][2])])
        sweep.run("repeat", [(setting, seed) for _, _, setting in sweep.means()[:4] for seed in (2, 3, 4)])
    finally:
        sweep.close()
    print(f"{len(sweep.rows)} runs; the best by the mean of at least 4 seeds:")
    for mean, count, setting in sweep.means(least=4)[:4]:
        print(f"{mean:.4f} ({count} seeds) {json.dumps(setting)}")


if __name__ == "__main__":
    main()
