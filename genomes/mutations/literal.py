"""Moves of knobs, each on the scale of its kind. They found every one of the 22 improvements of the flagship autoresearch run.

Which knob moves is drawn by how much such knobs have been worth: module constants gave 80 % of that run's gain, inline literals 20 %.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable

from genomes import ranges
from genomes.knobs import Knob, Spot, set_knobs
from genomes.literals import Value
from genomes.mutations.mutation import LITERAL, Mutation, Program, Rewrite, pick, significant, weighted

_STEP_SD = 0.35  # sd of the logarithm: two thirds of the moves stay within a factor of 1.4
_LOGIT_SD = 0.5
_MOST_ODDS = 700.0  # largest number whose exponential a float can hold
_TRIES = 8
_RATE = re.compile(r"(^|_)(lr|lrs|learning_rate)s?($|_(?!frac|factor|ratio|decay|min|warm))", re.IGNORECASE)
_BATCH = re.compile(r"batch", re.IGNORECASE)
_DEVICE_BATCH = re.compile(r"(device|micro|mini).*batch|batch.*(device|micro|rows)", re.IGNORECASE)
_RATE_WORDS = re.compile(r"lr|rate|decay|momentum|beta|init|std|scale|warm|ratio|base|cap", re.IGNORECASE)


def importance(parent: Program, pool: Iterable[Spot]) -> list[float]:
    """How often each knob is drawn: constants before named values before inline ones; the elements of one line share its weight."""
    siblings = Counter(_stem(spot) for spot in parent.tunable)
    return [_weight(spot) / siblings[_stem(spot)] for spot in pool]


def _weight(spot: Spot) -> float:
    base = 8.0 if spot.constant else 3.0 if spot.named else 1.5 if isinstance(spot.knob.value, float) else 0.6
    return base * 1.5 if _RATE_WORDS.search(spot.knob.name.rsplit(".", 1)[-1]) else base


def _stem(spot: Spot) -> str:
    return spot.knob.name.split("[")[0]


def moved(knob: Knob, rng: random.Random, sd: float = _STEP_SD) -> Value | None:
    """Another value of the knob on its own scale and within its bounds, or None if there is none."""
    step: dict[str, Callable[[], Value | None]] = {
        ranges.BOOL: lambda: not knob.value,
        ranges.CHOICE: lambda: pick((choice for choice in knob.choices if choice != knob.value), rng),
        ranges.POWER_OF_TWO: lambda: _doubled(knob, rng),
        ranges.INT: lambda: _counted(knob, rng),
        ranges.FLOAT: lambda: _scaled(knob, rng, sd),
    }
    return step[knob.kind]()


def number(knob: Knob) -> float:
    """The value of a knob that is not a string."""
    assert not isinstance(knob.value, str)
    return float(knob.value)


def _bounded(knob: Knob, value: float) -> float:
    """Inside the bounds; a knob that starts outside may move outside."""
    here = number(knob)
    return min(max(value, min(knob.low, here)), max(knob.high, here))


def _scaled(knob: Knob, rng: random.Random, sd: float) -> float | None:
    here = number(knob)
    share, margin = not knob.log and knob.low >= 0.0 and knob.high <= 1.0, 1.0 < knob.low < here
    for attempt in range(_TRIES):
        if here == 0.0:
            new = knob.high * rng.uniform(0.02, 0.3)
        elif share and 0.0 < here < 1.0:
            odds = math.log(here / (1.0 - here)) + rng.gauss(0.0, _LOGIT_SD)
            new = 1.0 / (1.0 + math.exp(min(-odds, _MOST_ODDS)))
        elif share:
            new = here - rng.uniform(0.02, 0.3)
        elif margin:  # 1.02: what exceeds 1 is what moves
            new = 1.0 + (here - 1.0) * math.exp(rng.gauss(0.0, sd))
        else:
            new = here * math.exp(rng.gauss(0.0, sd))
        new = significant(_bounded(knob, new), 2 if attempt < _TRIES // 2 and not margin and not (share and here > 0.9) else 4)
        if new != here:
            return new
    return None


def _counted(knob: Knob, rng: random.Random) -> int | None:
    here = int(number(knob))
    for _ in range(_TRIES):
        new = here + rng.choice((-2, -1, -1, 1, 1, 2)) if abs(here) < 16 else round(here * math.exp(rng.gauss(0.0, _STEP_SD)))
        new = int(_bounded(knob, int(significant(new, 3))))
        if new != here:
            return new
    return None


def _doubled(knob: Knob, rng: random.Random) -> int | None:
    """Twice or half. A device batch only shrinks and a total batch only grows here, so that one still divides the other."""
    here = int(number(knob))
    options = [here * 2, here // 2]
    if _BATCH.search(knob.name):
        options = [here // 2] if _DEVICE_BATCH.search(knob.name) else [here * 2]
    return pick((new for new in options if knob.low <= new <= knob.high and new != here), rng)


def _move(kind: str) -> Callable[[Program, random.Random], Rewrite | None]:
    def apply(parent: Program, rng: random.Random) -> Rewrite | None:
        pool = [spot for spot in parent.tunable if spot.knob.kind == kind and not _is_share(spot.knob)]
        return _move_one(parent, pool, rng)

    return apply


def _move_share(parent: Program, rng: random.Random) -> Rewrite | None:
    return _move_one(parent, [spot for spot in parent.tunable if _is_share(spot.knob)], rng)


def _is_share(knob: Knob) -> bool:
    return knob.kind == ranges.FLOAT and not knob.log and knob.low >= 0.0 and knob.high <= 1.0


def _move_one(parent: Program, pool: list[Spot], rng: random.Random) -> Rewrite | None:
    spot = weighted(pool, importance(parent, pool), rng)
    value = moved(spot.knob, rng) if spot else None
    return None if spot is None or value is None else set_values(parent, {spot.knob.name: value})


def _move_two(parent: Program, rng: random.Random) -> Rewrite | None:
    """Two numbers at once, in smaller steps: interactions are real, and a ridge is climbed along neither axis."""
    pool = [spot for spot in parent.tunable if spot.knob.kind in (ranges.FLOAT, ranges.INT)]
    weights = importance(parent, pool)
    first, second = weighted(pool, weights, rng), weighted(pool, weights, rng)
    if first is None or second is None or first is second:
        return None
    new = {spot.knob.name: moved(spot.knob, rng, _STEP_SD / 2) for spot in (first, second)}
    values = {name: value for name, value in new.items() if value is not None}
    return set_values(parent, values) if len(values) == 2 else None


def _move_rates(parent: Program, rng: random.Random) -> Rewrite | None:
    rates = rates_of(parent)
    factor = math.exp(rng.gauss(0.0, _STEP_SD))
    return set_values(parent, times(rates, factor)) if len(rates) > 1 else None


def _move_batch(parent: Program, rng: random.Random) -> Rewrite | None:
    """Batch and learning rates together, these by the root or in proportion; the device batch follows downwards, to keep dividing."""
    batches = [spot.knob for spot in parent.tunable if spot.knob.kind == ranges.POWER_OF_TWO and _BATCH.search(spot.knob.name)]
    rates = rates_of(parent)
    total = [knob for knob in batches if not _DEVICE_BATCH.search(knob.name)] or batches
    if not total or not rates:
        return None
    up = rng.random() < 0.5
    moving = total if up else batches
    values: dict[str, Value] = {knob.name: int(number(knob)) * 2 if up else int(number(knob)) // 2 for knob in moving}
    if any(value < 1 for value in values.values() if isinstance(value, int)):
        return None
    power = rng.choice((0.5, 0.5, 1.0))
    return set_values(parent, {**values, **times(rates, (2.0 if up else 0.5) ** power)})


def is_rate(name: str) -> bool:
    """Whether a name is that of a learning rate, not of a share of one."""
    return _RATE.search(name) is not None


def rates_of(parent: Program) -> list[Knob]:
    """The learning rates among the constants."""
    return [spot.knob for spot in parent.tunable if spot.constant and spot.knob.kind == ranges.FLOAT and is_rate(spot.knob.name)]


def times(rates: list[Knob], factor: float) -> dict[str, Value]:
    """The rates, each times the same factor."""
    return {knob.name: significant(number(knob) * factor, 2) for knob in rates}


def set_values(parent: Program, values: dict[str, Value]) -> Rewrite:
    """Write the values; the twins of a knob move with it, since the two `4 * width` of an MLP must agree."""
    by_twin = {spot.twin: values[spot.knob.name] for spot in parent.spots if spot.twin and spot.knob.name in values}
    values = {**{spot.knob.name: by_twin[spot.twin] for spot in parent.tunable if spot.twin in by_twin}, **values}
    old = {spot.knob.name: spot.knob.value for spot in parent.spots}
    note = ", ".join(f"{name} {show(old[name])} → {show(value)}" for name, value in values.items())
    return Rewrite(set_knobs(parent.text, values), note)


def show(value: Value) -> str:
    """A value as people write it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


_FLAGSHIP = "karpathy/autoresearch, flagship run of 125 experiments"
LITERAL_MUTATIONS = (
    Mutation("scale-float", "multiply a real number by a log-normal factor", _FLAGSHIP, LITERAL, 34, _move(ranges.FLOAT)),
    Mutation("shift-share", "move a ratio or decay on the logit scale", "Snoek et al. 2014, input warping", LITERAL, 18, _move_share),
    Mutation("double-or-halve", "one power of two up or down", _FLAGSHIP, LITERAL, 8, _move(ranges.POWER_OF_TWO)),
    Mutation("step-count", "a few up or down on a whole number", _FLAGSHIP, LITERAL, 10, _move(ranges.INT)),
    Mutation(
        "switch-choice", "another of the choices in the comment", "karpathy/nanochat, window patterns", LITERAL, 6, _move(ranges.CHOICE)
    ),
    Mutation("flip-flag", "a boolean the other way", _FLAGSHIP, LITERAL, 3, _move(ranges.BOOL)),
    Mutation("move-two", "two numbers in one smaller step each", f"{_FLAGSHIP}: embedding rate × weight decay", LITERAL, 13, _move_two),
    Mutation("scale-rates", "all learning rates by one factor", "karpathy/nanochat, width scaling of rates", LITERAL, 4, _move_rates),
    Mutation(
        "batch-with-rates",
        "batch ×2 or ÷2, rates by the square root of that or by as much",
        "Malladi et al. 2022, arXiv 2205.10287; Goyal et al. 2017, arXiv 1706.02677",
        LITERAL,
        4,
        _move_batch,
    ),
)
