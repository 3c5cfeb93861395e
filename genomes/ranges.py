"""Kind, bounds and scale of a knob, read off its label, its value and the remark beside it.

The bounds are wide on purpose, about a factor of eight either way: they keep a tuner out of nonsense; beliefs narrow them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from genomes.literals import Value
from genomes.nodes import words
from genomes.remarks import Remark

FLOAT, INT, POWER_OF_TWO, CHOICE, BOOL = "float", "int", "power_of_two", "choice", "bool"
_RATES = words("lr lrs rate rates")
_EPSILONS = words("eps epsilon tol")
_DECAYS = words("beta beta1 beta2 betas momentum ema smoothing mu")
_SHARES = words("ratio ratios frac fraction share warmup warmdown cooldown warm cool dropout prob p probability percent keep smoothing mix")
_WAVELENGTHS = words("base theta freq freqs frequencies")
_SIZES = words("batch width dim dims embd embed channels size seq length len hidden block chunk tokens heads head vocab")
_WINDOWS = ("L", "SL", "SSL", "SSSL", "SSSSSL", "SSLL")
_PROPORTIONS = words("ratio aspect factor depth layer layers")  # proportions and counts: a power of two is a coincidence
_POWER_FLOOR = 16
_HUGE = 1e100
_NEAR_ONE = 0.1


@dataclass(frozen=True)
class Shape:
    """How a knob may move. A log scale implies low > 0. Choices are the values of a choice, of its own type."""

    kind: str
    low: float
    high: float
    log: bool
    choices: tuple[Value, ...] = ()


def infer(label: str, value: Value, remark: Remark, real: bool = False) -> Shape:
    """The remark where it says something, else the best guess; the value itself always lies inside.

    `real`: a whole number here need not be one.
    """
    if isinstance(value, bool):
        return Shape(BOOL, 0.0, 1.0, False)
    choices = _options(value, remark)
    if choices or isinstance(value, str):
        choices = choices or _window_patterns(label, str(value))
        return Shape(CHOICE, 0.0, float(max(len(choices) - 1, 0)), False, choices)
    if not is_number(value):
        return Shape(INT if isinstance(value, int) else FLOAT, 0.0, 0.0, False)  # no scale fits it
    parts = frozenset(re.findall(r"[a-z]+\d*", label.lower()))
    shape = _integer(parts, value, remark) if isinstance(value, int) and not (real or remark.real) else _real(parts, float(value))
    if remark.low is not None and remark.high is not None:
        log = shape.log if not remark.scale else remark.scale == "log"
        least = 1.0 if shape.kind == POWER_OF_TWO else -math.inf
        shape = Shape(shape.kind, max(remark.low, least), max(remark.high, least), log)
    low, high = min(shape.low, value), max(shape.high, value)
    return Shape(shape.kind, low, high, shape.log and low > 0)


def is_number(value: float) -> bool:
    """Whether its size can be tuned: neither infinite nor close to the most that a float can hold."""
    return abs(value) < _HUGE  # false for nan, too


def _options(value: Value, remark: Remark) -> tuple[Value, ...]:
    """The options of the remark in the type of the value, with the value itself; none if they do not read as that type."""
    try:
        options: list[Value] = [type(value)(option) for option in remark.options]
    except ValueError:
        return ()
    return tuple(dict.fromkeys([*options, value])) if options else ()


def _window_patterns(label: str, value: str) -> tuple[Value, ...]:
    """S(hort) and L(ong) attention windows, repeated over the layers, as nanochat writes them."""
    if "pattern" in label.lower() and value and set(value) <= {"S", "L"}:
        return tuple(dict.fromkeys([*_WINDOWS, value]))
    return ()


def _integer(parts: frozenset[str], value: int, remark: Remark) -> Shape:
    size = abs(value)
    is_power = size > 1 and size & (size - 1) == 0 and value > 0
    by_chance = parts & _PROPORTIONS  # 57 would do as well as 64
    if is_power and (remark.power_of_two or (not by_chance and (size >= _POWER_FLOOR or parts & _SIZES))):
        return Shape(POWER_OF_TWO, max(1.0, value / 8), value * 8.0, True)
    if value < 0:
        return Shape(INT, value * 4.0, -1.0, False)
    if value == 0:
        return Shape(INT, 0.0, 4.0, False)
    factor = 4.0 if value < 1000 else 64.0 if parts & _WAVELENGTHS else 16.0
    return Shape(INT, float(max(1, math.floor(value / factor))), value * factor, value >= 32)


def _real(parts: frozenset[str], value: float) -> Shape:
    if value == 0.0 and not parts & (_SHARES | _DECAYS):
        return Shape(FLOAT, 0.0, 0.1 if parts & _RATES else 0.5 if "decay" in parts else 1.0, False)
    if value < 0:
        return Shape(FLOAT, value * 4, 0.0, False)
    if parts & _RATES and not parts & _SHARES:
        return Shape(FLOAT, value / 16, value * 16, True)
    if parts & _EPSILONS or 0.0 < value < 1e-5:
        return Shape(FLOAT, value / 10, value * 10, True)
    if parts & _DECAYS and (0.5 <= value < 1.0 or (value == 0.0 and not parts & _SHARES)):
        return Shape(FLOAT, min(value, 0.5), 0.9999, False)
    if parts & _SHARES and value <= 1.0:
        return Shape(FLOAT, 0.0, 1.0, False)
    if parts & _WAVELENGTHS and value >= 1000.0:
        return Shape(FLOAT, value / 64, value * 64, True)
    if 1.0 - _NEAR_ONE <= value < 1.0:  # a decay or a margin by whatever name: it stays on its side of 1
        return Shape(FLOAT, 0.5, 0.9999, False)
    if 1.0 < value <= 1.0 + _NEAR_ONE:
        return Shape(FLOAT, 1.0 + (value - 1.0) / 8, 1.0 + (value - 1.0) * 8, True)
    return Shape(FLOAT, value / 8, value * 8, True)
