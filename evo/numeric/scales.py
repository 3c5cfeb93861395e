"""Scales on which numbers of programs are compared and moved, and how a number is written into a program."""

from __future__ import annotations

import math

LOG, COMPLEMENT, LINEAR = "log", "complement", "linear"
DIGITS = 3  # significant digits of a float, so that programs stay readable


def coordinate(value: float, scale: str) -> float:
    """Where a number lies; nan where the scale has no such number."""
    if scale == LINEAR:
        return value
    if scale == COMPLEMENT:
        return math.log1p(-value) if value < 1 else math.nan
    return math.log(value) if value > 0 else math.nan


def number(place: float, scale: str) -> float:
    """What lies at a coordinate."""
    return math.exp(place) if scale == LOG else -math.expm1(place) if scale == COMPLEMENT else place


def readable(raw: float, scale: str) -> float:
    """A number rounded: near 1, on the scale of its distance from 1, digits count from the first that is not 9."""
    digits = DIGITS if scale != COMPLEMENT else DIGITS - 1 + max(0, math.ceil(-math.log10(max(1 - raw, 1e-9))))
    return float(f"{raw:.{digits}g}")
