"""Slots that score higher or lower than the others: a hotter GPU, a busier host.

Every evaluation is a canary. A draw is compared with the mean of its genome's parents, or with the other draws of its genome; over a run
each slot gets programs as good as any other slot's, so if its differences lie higher than the others', the slot is to blame. The effects of
edits have no nice distribution, since many ruin a program: so whether slots differ at all is decided by ranks alone (Kruskal and Wallis,
Use of Ranks in One-Criterion Variance Analysis, 1952), strictly, since people look again and again. Only then do the slots' medians go
through a random-effects model (DerSimonian and Laird, Controlled Clinical Trials 7, 1986), which shrinks them by how well they are known.

Shown to people and used nowhere: subtracting offsets before programs are compared brought nothing in simulated runs (docs/log.md), and a
score that was evaluated stays what it was. Pure: a function of the draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

LEAST = 8  # differences that a slot needs to be judged
Z = 3.09  # quantile of a normal, exceeded by chance in 1 of 1,000 cases


@dataclass(frozen=True, slots=True)
class Draw:
    """One score, bits per byte, and where it comes from."""

    genome: str
    parents: tuple[str, ...]
    slot: str
    val_bpb: float


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the scores of a slot lie above the usual slot's, in bits per byte."""

    mean: float
    sd: float


def offsets(draws: Sequence[Draw]) -> dict[str, Offset]:
    """Slot -> its offset; none where the slots do not differ by more than noise explains."""
    judged = {slot: sorted(found) for slot, found in sorted(_differences(draws).items()) if len(found) >= LEAST}
    if len(judged) < 2 or not _differ(list(judged.values())):
        return {}
    medians = [median(found) for found in judged.values()]
    variances = [_variance_of_median(found) for found in judged.values()]
    between = _between(medians, variances)
    usual = _weighted(medians, [1 / (v + between) for v in variances])
    return {
        slot: Offset((m - usual) * between / (between + v), math.sqrt(between * v / (between + v)))
        for slot, m, v in zip(judged, medians, variances, strict=True)
        if between
    }


def _differences(draws: Sequence[Draw]) -> dict[str, list[float]]:
    """Slot -> each of its draws less what was to be expected of its genome."""
    scores: dict[str, list[float]] = {}
    for draw in draws:
        scores.setdefault(draw.genome, []).append(draw.val_bpb)
    means = {genome: fmean(found) for genome, found in scores.items()}
    differences: dict[str, list[float]] = {}
    for draw in draws:
        parents, count = [means[p] for p in draw.parents if p in means], len(scores[draw.genome])
        if parents:
            expected = fmean(parents)
        elif count >= 2:
            expected = (count * means[draw.genome] - draw.val_bpb) / (count - 1)  # mean of its other draws
        else:
            continue
        differences.setdefault(draw.slot, []).append(draw.val_bpb - expected)
    return differences


def _differ(groups: Sequence[Sequence[float]]) -> bool:
    """Whether the ranks of the groups differ by more than chance explains. Equal values share their mean rank."""
    everything = sorted(value for group in groups for value in group)
    count, ranks = len(everything), dict[float, float]()
    first, ties = 0, 0.0
    while first < count:
        last = first
        while last + 1 < count and everything[last + 1] == everything[first]:
            last += 1
        ranks[everything[first]] = 1 + (first + last) / 2
        ties += (last - first + 1) ** 3 - (last - first + 1)
        first = last + 1
    told = 1 - ties / (count**3 - count)
    if told <= 0:
        return False
    between = math.fsum(len(group) * (fmean(ranks[v] for v in group) - (count + 1) / 2) ** 2 for group in groups)
    freedom = len(groups) - 1
    by_chance = freedom * (1 - 2 / (9 * freedom) + Z * math.sqrt(2 / (9 * freedom))) ** 3  # quantile of χ², after Wilson and Hilferty, 1931
    return 12 * between / (count * (count + 1)) / told > by_chance


def _variance_of_median(values: Sequence[float]) -> float:
    """Variance of the median of sorted values: half the distance, squared, between those that lie a standard deviation of a binomial count
    either side of the middle."""
    count = len(values)
    away = math.sqrt(count) / 2
    low, high = math.floor((count - 1) / 2 - away), math.ceil((count - 1) / 2 + away)
    return max(((values[min(high, count - 1)] - values[max(low, 0)]) / 2) ** 2, 1e-18)


def _between(means: Sequence[float], variances: Sequence[float]) -> float:
    """Variance of the slots' true offsets."""
    weights = [1 / v for v in variances]
    usual = _weighted(means, weights)
    excess = math.fsum(w * (m - usual) ** 2 for m, w in zip(means, weights, strict=True)) - (len(means) - 1)
    room = sum(weights) - math.fsum(w * w for w in weights) / sum(weights)
    return max(0.0, excess / room) if room > 0 else 0.0


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)
