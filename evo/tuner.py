"""Optuna proposes values for the knobs of a species: a seeded pure function of what was seen, with no study kept between calls.

    matter      draws the few knobs that one proposal moves: rates and sizes first, and what has been seen to matter
    Axis        one knob in a narrow box around the incumbent's value, on the scale that suits it
    propose     a fresh in-memory study is fed with all samples and asked once: multivariate TPE, pending samples as running trials

The incumbent is among the samples, so no search starts cold; the box keeps it near. On the public table of autoresearch trials
(arXiv 2603.24647) a cold TPE gains nothing in its first 25. A sample without a score is infeasible: it repels, but is
never turned into a number. Left out: memory constraints and the choice between samplers (issue 7).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from evo.numeric import scales
from evo.numeric.scales import COMPLEMENT, LINEAR, LOG
from evo.numeric.space import Sample
from genomes import Knob, Value

optuna.logging.set_verbosity(optuna.logging.WARNING)

MOST_AXES = 6  # knobs that one proposal moves, at most
FACTOR = 3.0  # on a log scale the box reaches from value / FACTOR to value * FACTOR
REACH = 0.25  # on a linear scale: this share of the knob's range either way
ROUNDING = 0.49  # how far the box reaches beyond the last whole coordinate, so that its ends are drawn as often as its middle
STARTUP_TRIALS = 2  # samples before TPE models anything
NEGLIGIBLE = 1e-5  # floors under roots and the like
CANDIDATES = 24  # candidates that TPE weighs before it proposes one
POWER, CATEGORY = "power", "category"  # beside the scales of numbers: exponents of two, and choices


@dataclass(frozen=True)
class Axis:
    """One knob while it is tuned: `low` and `high` are coordinates on `scale`; choices have none."""

    knob: Knob
    scale: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Value, ...] = ()

    @property
    def distribution(self) -> BaseDistribution:
        return CategoricalDistribution(self.choices) if self.scale == CATEGORY else FloatDistribution(self.low, self.high)

    def coordinate(self, value: Value) -> float | Value | None:
        """Where the value lies; None outside the box."""
        if self.scale == CATEGORY:
            return value if value in self.choices else None
        place = _place(float(value), self.scale) if not isinstance(value, str) else math.nan
        return place if self.low <= place <= self.high else None

    def value(self, coordinate: float | Value) -> Value:
        """The value of the knob there, in its own type."""
        knob = self.knob
        if self.scale == CATEGORY:
            return coordinate
        place = float(coordinate)
        if self.scale == POWER:
            return int(2 ** round(place))
        raw = scales.number(place, self.scale)
        if isinstance(knob.value, int):
            return int(min(max(round(raw), knob.low), knob.high))
        return min(max(scales.readable(raw, self.scale), knob.low), knob.high)


def axis(knob: Knob) -> Axis:
    """The knob in a narrow box around its value."""
    if knob.kind in ("choice", "bool"):
        return Axis(knob, CATEGORY, choices=(False, True) if knob.kind == "bool" else knob.choices)
    value = float(knob.value)
    if knob.kind == "power_of_two":
        exponent = round(math.log2(value))
        least, most = math.ceil(math.log2(max(knob.low, 1))), math.floor(math.log2(max(knob.high, 1)))
        low, high = min(max(exponent - 1, least), exponent), max(min(exponent + 1, most), exponent)
        return Axis(knob, POWER, low - ROUNDING, high + ROUNDING)
    decay = knob.kind == "float" and 0.5 <= value < 1 and knob.high < 1  # 0.99 and 0.9 are as far apart as 0.9 and 0
    if decay or (knob.log and value > 0):
        scale, reach = COMPLEMENT if decay else LOG, math.log(FACTOR)
        place, *ends = (scales.coordinate(number, scale) for number in (value, knob.low, knob.high))
        return Axis(knob, scale, max(place - reach, min(ends)), min(place + reach, max(ends)))
    if knob.kind == "int":
        reach = max(1.0, abs(value) / 2)
        return Axis(knob, LINEAR, max(value - reach, knob.low) - ROUNDING, min(value + reach, knob.high) + ROUNDING)
    reach = REACH * (knob.high - knob.low)
    return Axis(knob, LINEAR, max(value - reach, knob.low), min(value + reach, knob.high))


def matter(knobs: Sequence[Knob], samples: Sequence[Sample], rng: Random) -> list[Knob]:
    """The knobs that this proposal moves: some of the tunable ones, drawn by weight without replacement, in their own order.

    The weight is what the field knows (rates, then sizes, then the rest of the knob block, then literals inside expressions) plus what
    this species has shown: how far its better samples moved the knob from the incumbent's value, against all of its samples.
    """
    tunable = [knob for knob in knobs if knob.tunable and (knob.kind in ("choice", "bool") or knob.low < knob.high)]
    count = min(len(tunable), rng.randint(2, MOST_AXES))
    shown = _shown(tunable, samples)
    keys = {knob.name: rng.random() ** (1 / (_prior(knob) + shown.get(knob.name, 0.0))) for knob in tunable}  # Efraimidis and Spirakis 2006
    drawn = sorted(tunable, key=lambda knob: -keys[knob.name])[:count]
    return [knob for knob in tunable if knob in drawn]


def propose(knobs: Sequence[Knob], samples: Sequence[Sample], rng: Random) -> dict[str, Value]:
    """New values of a few knobs; those that keep their value are left out.

    Args:
        knobs: of the incumbent, around whose values the boxes lie.
        samples: of its species, the incumbent among them; in an order that does not depend on when they arrived.
    """
    axes = [axis(knob) for knob in matter(knobs, samples, rng)]
    if not axes:
        return {}
    space = {a.knob.name: a.distribution for a in axes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=rng.randrange(2**32),
            multivariate=True,
            constant_liar=True,
            n_startup_trials=STARTUP_TRIALS,
            n_ei_candidates=CANDIDATES,
        )
        study = optuna.create_study(sampler=sampler)
        study.add_trials([trial for sample in samples if (trial := _trial(sample, axes, space)) is not None])
        asked = study.ask(space).params
    values = {a.knob.name: a.value(asked[a.knob.name]) for a in axes}
    return {a.knob.name: values[a.knob.name] for a in axes if values[a.knob.name] != a.knob.value}


def _trial(sample: Sample, axes: Sequence[Axis], space: dict[str, BaseDistribution]) -> FrozenTrial | None:
    """The sample as Optuna wants it; None where a knob is missing or outside its box."""
    places = {a.knob.name: a.coordinate(sample.values[a.knob.name]) if a.knob.name in sample.values else None for a in axes}
    if any(place is None for place in places.values()):
        return None
    # A pruned trial without a value ranks behind every scored one, which is what infeasible means to TPE.
    value = sample.val_bpb if sample.draws >= 1 else None
    state = TrialState.RUNNING if sample.pending else TrialState.PRUNED if value is None else TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=value, params=places, distributions=space)


def _place(value: float, scale: str) -> float:
    """Where a value lies on a scale; nan if the scale has no such value."""
    if scale == POWER:
        return math.log2(value) if value > 0 else math.nan
    return scales.coordinate(value, scale)


def _prior(knob: Knob) -> float:
    constant = knob.name.partition("[")[0].isupper()
    if not constant or (isinstance(knob.value, float) and 0 < abs(knob.value) < NEGLIGIBLE):
        return 0.15
    return 1.0 if knob.kind == "float" and knob.log else 0.7 if knob.kind == "power_of_two" else 0.5


def _shown(knobs: Sequence[Knob], samples: Sequence[Sample]) -> dict[str, float]:
    """Knob -> how much more often it moved among the better quarter than among all, between 0 and 1; nothing from a handful of samples."""
    scored = sorted((s for s in samples if s.val_bpb is not None), key=lambda s: s.val_bpb or 0.0)
    if len(scored) < 8:
        return {}
    better = scored[: len(scored) // 4]

    def moved(knob: Knob, among: Sequence[Sample]) -> float:
        return sum(s.values.get(knob.name, knob.value) != knob.value for s in among) / len(among)

    return {knob.name: max(0.0, moved(knob, better) - moved(knob, scored)) for knob in knobs}
