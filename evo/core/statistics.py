"""The announcement: is the champion better than the seed genome, judged by final draws alone?

Welch's unequal-variances t interval on fresh draws, none of which took part in choosing the champion. The Student-t quantile is our
own (scipy is not a dependency): incomplete beta by continued fraction, Numerical Recipes 3rd ed., section 6.4.
A run that is extended looks again, with fresh draws: the m-th look may be wrong by chance in FALSE_SHARE / m(m + 1) of runs, so that all
looks together announce a gain that is not there in at most FALSE_SHARE of them. A look has two stages, which share that evenly (finals.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from evaluator.outcome import SELF_REPORTED, Failed, Scored
from evo.core.records import Record

CONFIDENCE = 0.95
FALSE_SHARE = 0.05  # largest share of the runs without any gain that may ever announce one
BROKEN_ROW = 3  # draws of a slot after which it is broken if none gave a score


@dataclass(frozen=True)
class Heldout:
    """What the same draws say on the held-out text, which chose nothing, so that a gain there is not flattered by how many programs were
    tried."""

    seed_mean: float
    champion_mean: float
    gain: float
    low: float  # interval of the gain, at the announcement's confidence
    high: float

    def sentence(self) -> str:
        """One line for people."""
        said = f"a gain of {self.gain:.4f}" if self.gain >= 0 else f"{-self.gain:.4f} worse"
        means = f"{self.champion_mean:.4f} against the seed's {self.seed_mean:.4f}"
        return f"on the held-out text, which chose nothing: {means}, {said} ({self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True)
class Announcement:
    """What the final draws say. Values in bits per byte; a positive gain is an improvement."""

    champion: str
    seed_mean: float
    champion_mean: float
    gain: float  # seed_mean - champion_mean
    low: float  # interval of the gain, at `confidence`
    high: float
    p: float  # two-sided
    n_seed: int
    n_champion: int
    self_reported: bool  # the draws are the programs' own word
    failed_seed: int  # draws that gave no score, where their slot is not to blame
    failed_champion: int
    confidence: float  # of the intervals; greater the more often the run has looked
    heldout: Heldout | None = None  # None where draws have no score there
    to_come: int = 0  # further draws that will decide it

    @property
    def proven(self) -> bool:
        """Whether a gain is announced: only if the interval lies above 0, the champion fails no more often than the seed, and it gains on
        the held-out text. Draws that fail are the worst ones, so an interval over the others flatters whoever has more of them."""
        return self.low > 0 and self.failed_champion <= self.failed_seed and not self._of_this_text_alone

    @property
    def _of_this_text_alone(self) -> bool:
        return self.heldout is not None and self.heldout.gain <= 0

    def sentence(self) -> str:
        """One line for people."""
        val_bpb = f"val_bpb ({SELF_REPORTED})" if self.self_reported else "val_bpb"
        interval = (
            f"{100 * self.confidence:.4g} % interval {self.low:+.4f} to {self.high:+.4f}, {self.n_champion} + {self.n_seed} fresh draws"
        )
        means = f"{self.champion_mean:.4f} against the seed's {self.seed_mean:.4f}"
        failed = f"; besides, {self.failed_champion} of its draws failed, and {self.failed_seed} of the seed's"
        means += failed if self.failed_champion or self.failed_seed else ""
        if self.to_come:
            return f"not decided yet, {self.to_come} more draws are to come: {self.champion} has {val_bpb} {means} ({interval})"
        if self.proven:
            return f"{self.champion} gains {self.gain:.4f} {val_bpb}: {means} ({interval})"
        if self.low > 0:
            verdict = "and it fails more often" if self.failed_champion > self.failed_seed else "but does not gain on the held-out text"
        else:
            verdict = "which is worse" if self.high < 0 else "which noise explains"
        return f"no gain to announce: {self.champion} has {val_bpb} {means}, {verdict} ({interval})"


def announce(finals: Sequence[Record], champion: str, share: float = FALSE_SHARE / 2) -> Announcement | None:
    """The verdict of final draws; None until each arm has two scores.

    Args:
        share: of runs in which a gain may be announced by chance: one end of the interval.
    """
    of: dict[bool, list[Record]] = {True: [], False: []}
    for record in finals:
        of[record.candidate.proposal.parents[0] == champion].append(record)
    broken = _broken_slots(finals)
    ours, seeds = ([r.outcome for r in of[arm] if isinstance(r.outcome, Scored)] for arm in (True, False))
    failed, failed_seed = (sum(isinstance(r.outcome, Failed) and r.slot not in broken for r in of[arm]) for arm in (True, False))
    if len(ours) < 2 or len(seeds) < 2:
        return None
    confidence = 1 - 2 * share
    a, b = [draw.val_bpb for draw in seeds], [draw.val_bpb for draw in ours]
    low, high, p = welch(a, b, confidence)
    gain, own_word = fmean(a) - fmean(b), any(draw.self_reported for draw in (*seeds, *ours))
    counts = len(seeds), len(ours), own_word, failed_seed, failed
    return Announcement(champion, fmean(a), fmean(b), gain, low, high, p, *counts, confidence, _heldout(seeds, ours, confidence))


def _broken_slots(finals: Sequence[Record]) -> set[str]:
    """Slots that had several of the draws and scored none: they are to blame, not a program. A slot that fails at once is free at once, and
    gets most of the replacements."""
    scored: dict[str, list[bool]] = {}
    for record in finals:
        scored.setdefault(record.slot, []).append(isinstance(record.outcome, Scored))
    return {slot for slot, found in scored.items() if slot and len(found) >= BROKEN_ROW and not any(found)}


def _heldout(seeds: Sequence[Scored], ours: Sequence[Scored], confidence: float) -> Heldout | None:
    a, b = ([draw.heldout_bpb for draw in arm if draw.heldout_bpb is not None] for arm in (seeds, ours))
    if len(a) < 2 or len(b) < 2:
        return None
    low, high, _ = welch(a, b, confidence)
    return Heldout(fmean(a), fmean(b), fmean(a) - fmean(b), low, high)


def welch(a: Sequence[float], b: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """(low, high, two-sided p) of mean(a) - mean(b); degrees of freedom by Welch-Satterthwaite.

    Raises:
        ValueError: an arm has fewer than two values.
    """
    if len(a) < 2 or len(b) < 2:
        raise ValueError(f"Welch needs at least two values per arm, got {len(a)} and {len(b)}")
    difference = fmean(a) - fmean(b)
    va, vb = variance(a) / len(a), variance(b) / len(b)
    if va + vb == 0:
        return difference, difference, 0.0 if difference else 1.0
    error = math.sqrt(va + vb)
    freedom = 1 / ((va / (va + vb)) ** 2 / (len(a) - 1) + (vb / (va + vb)) ** 2 / (len(b) - 1))
    reach = t_quantile((1 + confidence) / 2, freedom) * error
    return difference - reach, difference + reach, 2 * (1 - t_cdf(abs(difference) / error, freedom))


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) of Student's t."""
    tail = 0.5 * _incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1 - tail if t >= 0 else tail


def f_cdf(ratio: float, above: float, below: float) -> float:
    """P(F <= ratio) of the ratio of two variances with these degrees of freedom."""
    return _incomplete_beta(above / 2, below / 2, above * ratio / (above * ratio + below))


def t_quantile(probability: float, freedom: float) -> float:
    """The t with `t_cdf(t, freedom) == probability`, by bisection.

    Raises:
        ValueError: the probability is not inside (0, 1) or the degrees of freedom are not positive.
    """
    if not 0 < probability < 1 or freedom <= 0:
        raise ValueError(f"needs 0 < probability < 1 and freedom > 0, got {probability} and {freedom}")
    if probability < 0.5:
        return -t_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1 - front * _beta_fraction(b, a, 1 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """Lentz's continued fraction for the incomplete beta function."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 500):
        for numerator in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / _away_from_zero(1 + numerator * d)
            c = _away_from_zero(1 + numerator / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
