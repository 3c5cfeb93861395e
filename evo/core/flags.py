"""What was unusual about an evaluation, for whoever reads its record: signs of a busy machine, and of time used off the clock.

A flag is no verdict: the score stands, and the search does not read it. Pure functions of the records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evaluator.outcome import Scored
from evo.core.records import CALIBRATE, Record

WAITED_SHARE = 0.1  # share of the time in which the training thread could run: beyond it, others had its core
SLOW_SHARE = 0.9  # share of the usual steps a second of the same genome, below which it was slow
LATE_SHARE, LATE_SECONDS = 0.03, 0.5  # how much later than usual weights may come: a share of the training time, and at least so much
UNUSED_SHARE = 0.1  # share of the usual training time that may go unused
# A set-up or scoring is long if it takes so many times as long as usual, and at least so much longer: 10 s, or less where these are much of
# the training time, to which they may have been added.
LONG_TIMES, LONG_SECONDS, LONG_SHARE = 3.0, 10.0, 0.3


@dataclass(frozen=True)
class Usual:
    """What a run's evaluations are like; None where there are too few to say."""

    rates: Mapping[str, tuple[float, ...]]  # genome -> steps a second of its evaluations
    training_seconds: float | None  # medians of the calibration
    setup_seconds: float | None
    score_seconds: float | None


def usual(records: Iterable[Record]) -> Usual:
    """What is usual in the records of a run."""
    scored = [(r, r.outcome) for r in records if isinstance(r.outcome, Scored) and not r.outcome.self_reported]
    rates: dict[str, list[float]] = {}
    for record, outcome in scored:
        rates.setdefault(record.candidate.genome, []).append(_rate(outcome))
    seed = [outcome for record, outcome in scored if record.operator == CALIBRATE]
    times = (
        [outcome.training_seconds for outcome in seed],
        [outcome.setup_seconds for outcome in seed if outcome.setup_seconds],
        [outcome.score_seconds for outcome in seed if outcome.score_seconds],
    )
    training, setup, score = (median(seconds) if len(seconds) > 1 else None for seconds in times)
    return Usual({genome: tuple(found) for genome, found in rates.items()}, training, setup, score)


def of(record: Record, usual: Usual) -> list[str]:
    """What was unusual about an evaluation, one line each; nothing if it has no score."""
    outcome, found = record.outcome, list[str]()
    if not isinstance(outcome, Scored):
        return found
    if outcome.waited_share > WAITED_SHARE:
        found.append(f"its training waited for a core in {outcome.waited_share:.0%} of the time that it could have run")
    rates = usual.rates.get(record.candidate.genome, ())
    if len(rates) > 1 and (rate := _rate(outcome)) < SLOW_SHARE * median(rates):
        found.append(f"{rate:.2f} steps a second, but {median(rates):.2f} is the median of {len(rates)} evaluations of this genome")
    if (late := _beyond(outcome.training_seconds, usual.training_seconds)) > max(LATE_SECONDS, LATE_SHARE * outcome.training_seconds):
        found.append(f"its weights came {late:.1f} s later than the seed genome's usually do")
    if usual.training_seconds is not None and outcome.training_seconds < (1 - UNUSED_SHARE) * usual.training_seconds:
        found.append(f"it trained for only {outcome.training_seconds:.1f} s, the seed genome for {usual.training_seconds:.1f} s")
    for seconds, seed, what in (
        (outcome.setup_seconds, usual.setup_seconds, "from its start to the first real batch"),
        (outcome.score_seconds, usual.score_seconds, "to be scored"),
    ):
        extra = _beyond(seconds, seed)
        if extra > max(min(LONG_SECONDS, LONG_SHARE * outcome.training_seconds), (LONG_TIMES - 1) * (seconds - extra)):
            found.append(f"it took {seconds:.0f} s {what}, {extra:.0f} s more than the seed genome")
    return found


def latest(records: Sequence[Record], genome: str) -> list[str]:
    """What was unusual about the latest evaluation of a genome that has a score."""
    found = [r for r in records if r.candidate.genome == genome and isinstance(r.outcome, Scored)]
    return of(found[-1], usual(records)) if found else []


def _rate(outcome: Scored) -> float:
    """Steps a second."""
    return outcome.steps / outcome.training_seconds if outcome.training_seconds else 0.0


def _beyond(seconds: float, usual: float | None) -> float:
    return seconds - usual if usual is not None else 0.0
