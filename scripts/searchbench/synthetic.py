"""Made-up landscapes with planted structure: each asks one question of a policy. All values are in bits per byte around 1.

interactions  ten numbers whose optimum lies along rotated axes, pairs of which matter only together
irrelevant    six numbers that matter among thirty-six
deceptive     the seed lies in a wide basin; a better one is reached only by moving a batch size and three rates together
structure     another activation is worth something, but only with another learning rate
catalogue     the default program and all that mutations can make of it: every statement is worth something, and every number in it has an
              optimum of its own (the instant lab)
null          nothing matters: whatever is announced is noise
planted       one knob, in a third of its range, gains three sds of the noise; nothing else matters
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import genomes
from evaluator import instant
from searchbench.problem import Dial, Problem, Truth, Value, constants, seed_program

NOISE_SD = 0.0005
CATALOGUE_NOISE_SD = 0.002  # about what one statement is worth
MLP = """

class MLP(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, width, bias=False)

    def forward(self, x):
        return F.relu(self.up(x)).square()


def build_model():
    return MLP(WIDTH)


def main():
    model = build_model()
    for batch in prepare.batches({rows}):
        model.learn(batch, {rates})
    prepare.save(model)
"""


@dataclass(frozen=True)
class Synthetic:
    """`Problem` by formula: `value` takes each dial's place in its range, in [0, 1], and the program's text."""

    name: str
    dials: Sequence[Dial]
    value: Callable[[dict[str, float], str], float]
    text: str
    noise_sd: float = NOISE_SD

    def truth(self, text: str) -> Truth:
        found = constants(text)
        return Truth(self.value({dial.name: place(dial, found[dial.name]) for dial in self.dials}, text))


def place(dial: Dial, value: Value) -> float:
    """Where a value lies in the dial's range, from 0 to 1 on its scale."""
    if dial.kind == "choice":
        return dial.options.index(value) / max(1, len(dial.options) - 1)
    here = float(value)
    if dial.log or dial.kind == "power":
        return math.log(here / dial.low) / math.log(dial.high / dial.low)
    return (here - dial.low) / (dial.high - dial.low)


def _numbers(count: int) -> tuple[Dial, ...]:
    """So many dials, half of them on a log scale; the seed's values lie at three tenths of the range."""
    dials = []
    for i in range(count):
        log = i % 2 == 0
        default = 1e-3 * 100**0.3 if log else 0.3
        dials.append(Dial(f"NUMBER_{i}", float(f"{default:.3g}"), 1e-3 if log else 0.0, 1e-1 if log else 1.0, log=log))
    return tuple(dials)


def interactions() -> Synthetic:
    dials = _numbers(10)
    rng = Random("interactions")
    centre = [rng.uniform(0.2, 0.8) for _ in dials]

    def value(at: dict[str, float], text: str) -> float:
        d = [at[dial.name] - c for dial, c in zip(dials, centre, strict=True)]
        pairs = sum(0.05 * (d[i] + d[i + 1]) ** 2 + 0.003 * abs(d[i] - d[i + 1]) for i in range(0, 10, 2))
        return 0.97 + pairs

    return Synthetic("interactions", dials, value, seed_program(dials))


def irrelevant() -> Synthetic:
    dials = _numbers(36)
    rng = Random("irrelevant")
    live = {dial.name: rng.uniform(0.2, 0.9) for dial in rng.sample(dials, 6)}

    def value(at: dict[str, float], text: str) -> float:
        return 0.97 + sum(0.03 * (at[name] - centre) ** 2 for name, centre in live.items())

    return Synthetic("irrelevant", dials, value, seed_program(dials))


def deceptive() -> Synthetic:
    rates = tuple(Dial(f"{name}_LR", 0.02, 0.001, 0.4, log=True, meaning="learning rate") for name in ("MATRIX", "EMBEDDING", "HEAD"))
    dials = (*rates, Dial("BATCH_SIZE", 2**18, 2**14, 2**20, "power", meaning="tokens per step"), *_numbers(4))

    def value(at: dict[str, float], text: str) -> float:
        batch, lrs = at["BATCH_SIZE"], [at[dial.name] for dial in rates]
        others = sum(0.01 * (at[f"NUMBER_{i}"] - 0.6) ** 2 for i in range(4))
        wide = 0.1 * (batch - 0.7) ** 2 + 0.1 * sum((r - 0.5) ** 2 for r in lrs)
        deep = 0.5 * (batch - 0.33) ** 2 + 0.5 * sum((r - 0.3) ** 2 for r in lrs) - 0.012
        return 0.98 + min(wide, deep) + others

    return Synthetic("deceptive", dials, value, seed_program(dials))


def structure() -> Synthetic:
    dials = (
        Dial("LEARNING_RATE", 0.01, 0.001, 0.4, log=True, meaning="learning rate"),
        Dial("BATCH_SIZE", 64, 8, 512, "power", meaning="rows per step"),
        Dial("WIDTH", 128, 32, 512, "power", meaning="channels"),
        *_numbers(3),
    )

    def value(at: dict[str, float], text: str) -> float:
        changed = ".square()" not in text
        best_rate, worth = (0.62, -0.008) if changed else (0.4, 0.0)
        others = sum(0.01 * (at[f"NUMBER_{i}"] - 0.6) ** 2 for i in range(3))
        return 0.98 + worth + 0.15 * (at["LEARNING_RATE"] - best_rate) ** 2 + 0.02 * (at["BATCH_SIZE"] - 0.3) ** 2 + others

    extra = ", ".join(f"NUMBER_{i}" for i in range(3))
    body = MLP.replace("{rows}", "BATCH_SIZE").replace("{rates}", f"LEARNING_RATE, {extra}")
    head = seed_program(dials, "").replace(
        "import prepare\n", "import prepare\nimport torch.nn as nn\nimport torch.nn.functional as F\n", 1
    )
    return Synthetic("structure", dials, value, head + body)


@dataclass(frozen=True)
class Catalogue:
    """`Problem` of the default program on the instant lab. Its dials are its constants; the rest of it only our policies change."""

    name: str
    dials: Sequence[Dial]
    text: str
    noise_sd: float = CATALOGUE_NOISE_SD

    def truth(self, text: str) -> Truth:
        return Truth(instant.true_bpb(text))


def catalogue() -> Catalogue:
    text = (Path(__file__).parents[2] / "trainer" / "train.py").read_text(encoding="utf-8")
    plain = {name for name, value in constants(text).items() if not isinstance(value, str | bool)}
    return Catalogue("catalogue", [_dial(knob) for knob in genomes.knobs(text) if knob.tunable and knob.name in plain], text)


def _dial(knob: genomes.Knob) -> Dial:
    assert not isinstance(knob.value, str)
    if knob.kind == "choice":
        return Dial(knob.name, knob.value, kind="choice", options=knob.choices)
    kind = {"power_of_two": "power"}.get(knob.kind, knob.kind)
    return Dial(knob.name, knob.value, knob.low, knob.high, kind, knob.log)


def null() -> Synthetic:
    dials = _numbers(8)
    return Synthetic("null", dials, lambda at, text: 1.0, seed_program(dials))


def planted() -> Synthetic:
    dials = _numbers(8)
    return Synthetic("planted", dials, lambda at, text: 1.0 - 3 * NOISE_SD * (at["NUMBER_3"] > 2 / 3), seed_program(dials))


LANDSCAPES: dict[str, Callable[[], Problem]] = {
    "interactions": interactions,
    "irrelevant": irrelevant,
    "deceptive": deceptive,
    "structure": structure,
    "catalogue": catalogue,
    "null": null,
    "planted": planted,
}
