"""How much of the noise of repeats is the machine's pace.

Under a budget of seconds a score goes by the tokens that the program got through, and on a machine that others use too these vary: that is
noise as well, and often most of it. Least squares of scores on log tokens within the repeats of one genome tell how much. Only the seed's
first draw counts: whoever else is drawn again was lucky in it.

Shown to people and used nowhere. To take it off the scores that are compared, one has to know what a program costs on a quiet machine; with
one draw each that is guessed from its like, and then a program that became faster, which is what a budget of seconds rewards, passes for
one that met a quiet machine (docs/log.md). Tokens are the program's word besides. Pure: a function of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LEAST_FREEDOM = 3  # of repeats
Z = 2.33  # of a normal, exceeded at one end by chance in 1 of 100


@dataclass(frozen=True, slots=True)
class Repeat:
    """One score of a genome that has several."""

    val_bpb: float
    tokens: int  # that it was trained on


@dataclass(frozen=True)
class Pace:
    """The noise of one draw, and what is in it."""

    noise_sd: float  # of val_bpb
    tokens_sd: float  # of log tokens
    slope: float | None  # val_bpb per unit of log tokens; None unless certainly below 0
    rest_sd: float  # of val_bpb at equal tokens; the whole noise where there is no slope


def pace(repeats: Sequence[Sequence[Repeat]]) -> Pace | None:
    """None where too few draws tell.

    Args:
        repeats: the draws that count of each genome, in any order.
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
    if xy >= 0 or _z(xy * xy / xx / unexplained, freedom - 1) < Z:
        return Pace(noise, tokens, None, noise)
    return Pace(noise, tokens, xy / xx, math.sqrt(unexplained / (freedom - 1)))


def _mean(draws: Sequence[Repeat]) -> tuple[float, float]:
    """(log tokens, score)."""
    return fmean(math.log(d.tokens) for d in draws), fmean(d.val_bpb for d in draws)


def _z(ratio: float, freedom: int) -> float:
    """Of a t with t² = ratio * freedom: Wallace, Annals of Mathematical Statistics 30 (1959)."""
    return (8 * freedom + 1) / (8 * freedom + 3) * math.sqrt(freedom * math.log1p(ratio))
