"""What the field knows about training small language models: which knobs belong together, and which way they go together.

Knobs are recognised by the words of their names alone, so that this holds for any program that names its knobs as people do. A coupled
move changes all knobs of a role at once: by a factor (sizes, rates), or by a shift (shares of the budget). Directions that theory or
published runs favour at short budgets are drawn more often; the run's own results decide what stays.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from genomes import Knob

BATCH, ROWS, DEPTH, WIDTH, HEAD, OTHER = "batch", "rows", "depth", "width", "head", "other"
RATE, DECAY, WARMUP, WARMDOWN, FINAL = "rate", "decay", "warmup", "warmdown", "final"
_ROLES = (  # in this order: the first that fits
    (FINAL, re.compile(r"(final|min|end)_?(lr|rate)|(lr|rate)_?(min|floor)")),
    (WARMDOWN, re.compile(r"warm_?down|cool_?down|(decay|anneal)_(ratio|frac|share|steps|iters)")),
    (WARMUP, re.compile(r"warm_?up")),
    (DECAY, re.compile(r"weight_?decay|(^|_)wd($|_)")),
    (RATE, re.compile(r"(^|_)(lr|lrs|learning_?rate)($|_(?!factor|ratio|scale))|(^|_)rate$")),
    (ROWS, re.compile(r"(device|micro|mini|local).*batch|batch.*(device|micro|rows)")),
    (BATCH, re.compile(r"batch")),
    (HEAD, re.compile(r"head")),
    (DEPTH, re.compile(r"depth|(^|n_|num_)(layers?|blocks)$")),
    (WIDTH, re.compile(r"width|aspect|embd|(model|hidden|embed(ding)?)_?(dim|size)|channels|(^|_)dim$")),
)
HALF, ROOT = math.log(0.5), math.log(math.sqrt(0.5))


@dataclass(frozen=True)
class Coupled:
    """One move: role -> logarithm of a factor, or a shift for the shares WARMUP, WARMDOWN and FINAL."""

    name: str
    weight: float  # how often it is drawn at first
    changes: Mapping[str, float]


COUPLED = (
    # In a fixed time, smaller batches make more steps of the same tokens: below the critical batch size that is nearly free, and short
    # runs are below it (McCandlish et al. 2018, arXiv 1812.06162; Shallue et al. 2019, arXiv 1811.03600). Rates of adaptive optimisers
    # go with the square root of the batch (Malladi et al. 2022, arXiv 2205.10287).
    Coupled("half the batch, rates by its root", 3.0, {BATCH: HALF, RATE: ROOT}),
    Coupled("half the batch", 3.0, {BATCH: HALF}),
    Coupled("a quarter of the batch, rates by its root", 2.0, {BATCH: 2 * HALF, RATE: 2 * ROOT}),
    # Rows that fill the batch at once need no accumulation; with half of them, memory is free for a larger model.
    Coupled("half the batch and its rows, rates by its root", 1.0, {BATCH: HALF, ROWS: HALF, RATE: ROOT}),
    Coupled("half the batch and its rows, larger model", 1.0, {BATCH: HALF, ROWS: HALF, DEPTH: 0.22}),
    Coupled("twice the batch, rates by its root", 1.0, {BATCH: -HALF, RATE: -ROOT}),
    # Loss depends weakly on shape at equal size (Kaplan et al. 2020, arXiv 2001.08361; Levine et al. 2020, arXiv 2006.12467), but speed
    # does not; the best size at a budget balances size and steps (Hoffmann et al. 2022, arXiv 2203.15556), and rates fall with width
    # (Yang et al. 2022, arXiv 2203.03466).
    Coupled("deeper and narrower", 1.5, {DEPTH: 0.22, WIDTH: -0.22}),
    Coupled("shallower and wider", 1.5, {DEPTH: -0.22, WIDTH: 0.22}),
    Coupled("larger model, lower rates", 1.5, {DEPTH: 0.22, RATE: -0.15}),
    Coupled("smaller model, higher rates", 1.5, {DEPTH: -0.22, RATE: 0.15}),
    Coupled("shallower and much wider", 1.0, {DEPTH: -0.15, WIDTH: 0.4}),
    Coupled("deeper and much narrower", 1.0, {DEPTH: 0.4, WIDTH: -0.5}),
    Coupled("larger model and smaller batch", 2.0, {DEPTH: 0.22, BATCH: HALF, RATE: ROOT}),
    Coupled("wider model, lower rates", 1.5, {WIDTH: 0.3, RATE: -0.2}),
    Coupled("narrower model, higher rates", 1.5, {WIDTH: -0.3, RATE: 0.2}),
    Coupled("higher rates", 1.5, {RATE: 0.4}),
    Coupled("lower rates", 1.5, {RATE: -0.4}),
    # Long decays to a small rate beat short ones (Hägele et al. 2024, arXiv 2405.18392; Bergsma et al. 2025, arXiv 2502.15938); warm-up
    # allows for higher rates (Kalra and Barkeshli 2024, arXiv 2406.09405).
    Coupled("longer warmdown", 3.0, {WARMDOWN: 0.2}),
    Coupled("longer warmdown, higher rates", 1.5, {WARMDOWN: 0.2, RATE: 0.25}),
    Coupled("shorter warmdown", 1.0, {WARMDOWN: -0.15}),
    Coupled("warm-up and higher rates", 1.0, {WARMUP: 0.04, RATE: 0.25}),
    Coupled("a floor under the rates", 1.5, {FINAL: 0.04}),
    # What decay does goes with rate times decay (Wang and Aitchison 2024, arXiv 2405.13698).
    Coupled("more decay, lower rates", 1.0, {DECAY: 0.4, RATE: -0.2}),
    Coupled("less decay", 1.5, {DECAY: -0.7}),
    Coupled("more decay", 1.0, {DECAY: 0.4}),
)
SHIFTED = (WARMUP, WARMDOWN, FINAL)  # shares: they move by a shift

# Logarithm of memory over logarithm of size: activations dominate, and grow with rows, depth and width (Korthikanti et al. 2022,
# arXiv 2205.05198). A width that is given per block grows with depth as well. Mean and standard deviation, before anything is seen.
MEMORY = {ROWS: (0.8, 0.3), DEPTH: (1.2, 0.5), WIDTH: (0.9, 0.4), BATCH: (0.0, 0.2), HEAD: (0.0, 0.2), OTHER: (0.0, 0.2)}


def role(knob: Knob) -> str:
    """What a knob is for, by the words of its name."""
    return _role(knob.name)


@lru_cache(maxsize=4096)
def _role(knob: str) -> str:
    name = knob.split("[")[0].rsplit(".", 1)[-1].lower()
    return next((found for found, words in _ROLES if words.search(name)), OTHER)


def warmup_share(knobs: Iterable[Knob]) -> float:
    """Share of the budget: the longest warm-up that a program's knobs give as a share; one in steps says nothing before it has run."""
    values = (knob.value for knob in knobs if role(knob) == WARMUP)
    return max((float(value) for value in values if isinstance(value, int | float) and 0 < value < 1), default=0.0)


def applicable(knobs: Sequence[Knob]) -> tuple[Coupled, ...]:
    """The coupled moves whose roles are all among the knobs."""
    roles = {role(knob) for knob in knobs}
    return tuple(move for move in COUPLED if set(move.changes) <= roles)
