"""How much of the noise of repeats comes from the machine's pace.

Under a budget of seconds a score depends on how many tokens the program got through, and on a machine that others use too, that varies:
this is noise as well, and often most of it. Least squares of scores on log tokens within the repeats of one genome show how much. Of first
draws only the seed's counts: any other genome is drawn again because it was lucky in its first.

Shown to people and used nowhere. To take it off the scores that are compared, one would have to know what a program costs on a quiet
machine. With one draw each, that is a guess from similar programs, and a program that became faster, which is what a budget of seconds
rewards, would pass for one that met a quiet machine (docs/log.md). Besides, tokens are the program's own word. Pure: a function of the
draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LEAST_FREEDOM = 3  # degrees of freedom of the repeats; with fewer nothing is said
STEEPEST = 1.0  # exponent of a power law of scores in tokens, beyond which something else has moved both: curves have less than a half
Z = 2.33  # quantile of a normal, exceeded at one end by chance in 1 of 100 cases


@dataclass(frozen=True, slots=True)
class Repeat:
    """One score of a genome that has several."""

    val_bpb: float
    tokens: int  # how many it was trained on


@dataclass(frozen=True)
class Pace:
    """The noise of one draw, and what is in it."""

    noise_sd: float  # of val_bpb
    tokens_sd: float  # of log tokens
    slope: float | None  # val_bpb per unit of log tokens; None unless certainly below 0, and no steeper than learning can be
    rest_sd: float  # of val_bpb at equal tokens; the whole noise where there is no slope


def pace(repeats: Sequence[Sequence[Repeat]]) -> Pace | None:
    """The noise of repeats and what is in it; None if there are too few draws.

    Args:
        repeats: of each genome, the draws that count, in any order.
    """
    left = [(math.log(d.tokens) - x, d.val_bpb - y) for draws in repeats if len(draws) > 1 for x, y in (_mean(draws),) for d in draws]
    freedom = len(left) - sum(len(draws) > 1 for draws in repeats)
    if freedom < LEAST_FREEDOM:
        return None
    xx, xy, yy = (math.fsum(products) for products in zip(*((x * x, x * y, y * y) for x, y in left), strict=True))
    noise, tokens = math.sqrt(yy / freedom), math.sqrt(xx / freedom)
    if not xx or not yy:
        return Pace(noise, tokens, None, noise)
    unexplained = max(yy - xy * xy / xx, 1e-12 * yy)
    level = fmean(d.val_bpb for draws in repeats for d in draws)
    if not 0 < -xy / xx <= STEEPEST * level or _z(xy * xy / xx / unexplained, freedom - 1) < Z:
        return Pace(noise, tokens, None, noise)
    return Pace(noise, tokens, xy / xx, math.sqrt(unexplained / (freedom - 1)))


def _mean(draws: Sequence[Repeat]) -> tuple[float, float]:
    """Means of log tokens and of scores."""
    return fmean(math.log(d.tokens) for d in draws), fmean(d.val_bpb for d in draws)


def _z(ratio: float, freedom: int) -> float:
    """The normal quantile of a t with t² = ratio * freedom: Wallace, Annals of Mathematical Statistics 30 (1959)."""
    return (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(ratio))
