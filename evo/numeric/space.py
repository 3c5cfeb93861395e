"""Knobs as coordinates: each in [0, 1] over the knob's range, on the scale that suits it; choices are numbered.

A point is a row of places, one a dimension. `features` is what models see of points: numbers as they are, choices one-hot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evo.numeric import scales
from evo.numeric.scales import COMPLEMENT, LINEAR, LOG
from genomes import Knob, Value

Array: TypeAlias = NDArray[Any]  # floats, or truth values where the docstring says so
ONE_HOT = 0.7  # coordinate of a choice: two different ones are then about as far apart as the ends of a range
CHOICE = "choice"  # beside the scales of numbers


@dataclass(frozen=True)
class Sample:
    """A member of the species as tuners see it. Neither a score nor pending: it failed."""

    values: Mapping[str, Value]  # knob -> value
    val_bpb: float | None = None
    pending: bool = False
    draws: float = 1  # behind the score; less than one: it was only predicted
    memory_gib: float = 0.0  # peak; 0 if it was not reported
    out_of_memory: bool = False


@dataclass(frozen=True)
class Dimension:
    """One knob. `low` and `high` are coordinates on `scale`."""

    knob: Knob
    scale: str
    low: float
    high: float
    choices: tuple[Value, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers: the places between them mean nothing."""
        return self.scale != CHOICE and isinstance(self.knob.value, int)

    @property
    def whole_range(self) -> tuple[int, int]:
        """Lowest and highest whole number: a factor written as 2 may range from a quarter."""
        return math.ceil(self.knob.low), math.floor(self.knob.high)

    def place(self, value: Value) -> float:
        """Where a value lies; values beyond the range lie at its ends."""
        if self.scale == CHOICE:
            return float(self.choices.index(value)) if value in self.choices else 0.0
        assert not isinstance(value, str)
        within = min(max(float(value), self.knob.low), self.knob.high)
        return min(max((scales.coordinate(within, self.scale) - self.low) / (self.high - self.low), 0.0), 1.0)

    def value(self, place: float) -> Value:
        """The value there, in the knob's own type."""
        if self.scale == CHOICE:
            return self.choices[round(place)]
        at = self.low + min(max(place, 0.0), 1.0) * (self.high - self.low)
        raw = scales.number(at, self.scale)
        low, high = self.knob.low, self.knob.high
        if self.knob.kind == "power_of_two":
            return int(min(max(2 ** round(math.log2(raw)), low), high))
        if self.whole:
            least, most = self.whole_range
            return min(max(round(raw), least), most)
        return min(max(scales.readable(raw, self.scale), low), high)


class Space:
    """The tunable knobs of one program, in their order."""

    def __init__(self, knobs: Sequence[Knob]) -> None:
        self.dimensions = tuple(d for d in (_dimension(knob) for knob in knobs if knob.tunable) if d is not None)
        self.here = self.point({})  # the program's own place
        columns = [[i] * (len(d.choices) if d.scale == CHOICE else 1) for i, d in enumerate(self.dimensions)]
        self.groups = np.array([i for column in columns for i in column], dtype=int)  # feature -> dimension

    def __len__(self) -> int:
        return len(self.dimensions)

    def point(self, values: Mapping[str, Value]) -> Array:
        """(d,) places; knobs that are not named stay where the program has them."""
        return np.array([d.place(values.get(d.knob.name, d.knob.value)) for d in self.dimensions])

    def points(self, values: Sequence[Mapping[str, Value]]) -> Array:
        """(m, d): `point` of each."""
        columns = []
        for dimension, here in zip(self.dimensions, self.here, strict=True):
            name, known = dimension.knob.name, {dimension.knob.value: here}
            column = []
            for one in values:
                value = one.get(name, dimension.knob.value)
                if value not in known:
                    known[value] = dimension.place(value)
                column.append(known[value])
            columns.append(column)
        return np.array(columns, dtype=float).reshape(len(self), len(values)).T

    def values(self, point: Array) -> dict[str, Value]:
        """Knob -> value, where it differs from the program's."""
        found = {}
        for dimension, here, place in zip(self.dimensions, self.here, point, strict=True):
            value = dimension.value(float(place))
            if place != here and value != dimension.knob.value:
                found[dimension.knob.name] = value
        return found

    def snapped(self, points: Array) -> Array:
        """(m, d) -> (m, d): whole numbers and choices at the places that stand for one."""
        points = np.clip(points, 0.0, None)
        for i, dimension in enumerate(self.dimensions):
            if dimension.scale == CHOICE:
                points[:, i] = np.round(np.minimum(points[:, i], len(dimension.choices) - 1))
            else:
                points[:, i] = np.minimum(points[:, i], 1.0)
                if dimension.whole:
                    points[:, i] = _snap(dimension, points[:, i])
        return points

    def features(self, points: Array) -> Array:
        """(m, d) -> (m, f)."""
        columns = []
        for i, dimension in enumerate(self.dimensions):
            if dimension.scale == CHOICE:
                columns += [ONE_HOT * (points[:, i] == k) for k in range(len(dimension.choices))]
            else:
                columns.append(points[:, i])
        return np.column_stack(columns) if columns else np.zeros((len(points), 0))


def _dimension(knob: Knob) -> Dimension | None:
    """None for a knob that has nowhere to go."""
    if knob.kind in ("choice", "bool"):
        choices = (False, True) if knob.kind == "bool" else knob.choices
        return Dimension(knob, CHOICE, 0.0, len(choices) - 1.0, choices) if len(choices) > 1 else None
    if not knob.low < knob.high or isinstance(knob.value, str):
        return None
    value = float(knob.value)
    if knob.kind == "float" and 0.5 <= value < 1 and knob.low >= 0 and 0.99 < knob.high < 1:  # 0.99 and 0.9 are as far apart as 0.9 and 0
        scale = COMPLEMENT
    else:
        scale = LOG if (knob.log or knob.kind == "power_of_two") and value > 0 and knob.low > 0 else LINEAR
    return Dimension(knob, scale, scales.coordinate(knob.low, scale), scales.coordinate(knob.high, scale))


def _snap(dimension: Dimension, places: Array) -> Array:
    at = dimension.low + places * (dimension.high - dimension.low)
    raw = np.exp(at) if dimension.scale == LOG else at
    whole = 2.0 ** np.round(np.log2(raw)) if dimension.knob.kind == "power_of_two" else np.round(raw)
    whole = np.clip(whole, *dimension.whole_range)
    at = np.log(np.maximum(whole, 1e-300)) if dimension.scale == LOG else whole
    return np.asarray(np.clip((at - dimension.low) / (dimension.high - dimension.low), 0.0, 1.0))
