"""Does a program that seeds, times and scores itself take the seed it is given? If not, its noise cannot be measured and no gain trusted.

Two signs that it does not, each over the scored repeats of the seed genome under different seeds: their scores agree to the last digit, or
their losses do, over the first steps that all of them printed. The second is needed because a clock makes scores differ by itself: a busy
machine takes fewer steps. Programs that the harness trains and scores need no such proof (evaluator/inside/trainee.py seeds them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from evaluator.outcome import CurvePoint, Scored
from evo.core.records import CALIBRATE, Record
from evo.errors import SeedIgnoredError

STEPS = 8  # equal losses that say it; fewer could be a head of zeros, whose loss is ln(vocabulary) whatever the seed

Curve = Iterable[CurvePoint]


def refuse_ignored_seed(records: Iterable[Record], calibrations: int, curve: Callable[[int], Curve]) -> None:
    """Looks at the calibration once it is over.

    Args:
        calibrations: repeats of the seed genome that it takes.
        curve: index of a record -> its learning curve.
    Raises:
        SeedIgnoredError: the program ignores its seed; the message says by which sign.
    """
    told = [r for r in records if r.operator == CALIBRATE]
    scored = [(r, r.outcome) for r in told if isinstance(r.outcome, Scored) and r.outcome.self_reported]
    if len(told) < calibrations or len(scored) < 2:
        return
    sign = ""
    if len({outcome.val_bpb for _, outcome in scored}) == 1:
        sign = f"gave val_bpb {scored[0][1].val_bpb:.6f}"
    elif losses_agree([curve(r.index) for r, _ in scored]):
        sign = f"had the same losses over their first {STEPS} steps"
    if sign:
        raise SeedIgnoredError(
            f"the lab's train.py ignores its seed: {len(scored)} runs under different seeds all {sign}, so noise cannot be measured; "
            "let everything random in it follow from its manual_seed(…) calls"
        )


def losses_agree(curves: Sequence[Curve]) -> bool:
    """Whether all curves have the same losses, as printed, at the first `STEPS` steps that they share."""
    traces = [{point.step: point.loss for point in curve if point.loss is not None} for curve in curves]
    shared = sorted(set.intersection(*(set(trace) for trace in traces)))[:STEPS]
    return len(shared) == STEPS and all(len({trace[step] for trace in traces}) == 1 for step in shared)
