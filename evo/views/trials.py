"""One evaluation as a trial: what the study says of it, as plain data. evo/views/study.py writes it in Optuna's form.

A failure has a state and no value. Figures of belief are left out: they change with every record, a trial does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from evaluator.outcome import CurvePoint, Failed, Scored, Stopped
from evo.core.records import REPEATS, Record
from genomes import Knob, Value

COMPLETE, PRUNED, FAIL = "COMPLETE", "PRUNED", "FAIL"  # Optuna's names
CURVE_POINTS = 60  # most of one trial: a dashboard draws hundreds of curves
MESSAGE_LENGTH = 500


def verdict(record: Record) -> tuple[str, float | None]:
    """State and val_bpb of an evaluation."""
    if isinstance(record.outcome, Scored):
        return COMPLETE, record.outcome.val_bpb
    return (PRUNED if isinstance(record.outcome, Stopped) else FAIL), None


def attributes(record: Record) -> dict[str, Any]:
    """What the tables of the dashboard show beside value and knobs; `index` is the trial's identity."""
    candidate, proposal, outcome = record.candidate, record.candidate.proposal, record.outcome
    said: dict[str, Any] = {
        "index": proposal.index,
        "operator": proposal.operator,
        "genome": candidate.genome,
        "parents": ", ".join(() if proposal.operator in REPEATS else proposal.parents),
        "species": candidate.species,
        "seed": proposal.seed,
        "slot": record.slot,
    }
    if candidate.writer:
        said["writer"] = candidate.writer
    if isinstance(outcome, Scored):
        names = ("steps", "tokens", "parameters", "peak_memory_gib", "training_seconds", "total_seconds")
        said |= {name: getattr(outcome, name) for name in names}
        if outcome.training_seconds > 0:
            said["tokens_per_second"] = outcome.tokens / outcome.training_seconds
        if outcome.self_reported:
            said["self_reported"] = True
    elif isinstance(outcome, Failed):
        message = outcome.message[:MESSAGE_LENGTH]
        said |= {"reason": str(outcome.reason), "phase": str(outcome.phase), "message": message, "total_seconds": outcome.total_seconds}
    elif isinstance(outcome, Stopped):
        said |= {"message": outcome.note[:MESSAGE_LENGTH], "training_seconds": outcome.training_seconds}
    return said


def points(curve: Iterable[CurvePoint]) -> dict[int, float]:
    """Step -> training loss in nats; thinned evenly, the last point stays, what is not finite is left out."""
    known = [(point.step, point.loss) for point in curve if point.loss is not None and math.isfinite(point.loss)]
    stride = max(1, math.ceil(len(known) / CURVE_POINTS))
    return dict(known[::-1][::stride][::-1])


def room(knob: Knob, value: Value) -> tuple[float, float] | None:
    """(low, high) of a number's parameter; None where the value cannot stand on the knob's scale.

    The knob's own range wherever the value is inside; else widened in large steps, since trials with different ranges are apart
    in the estimate of importances.
    """
    if (
        isinstance(value, bool | str)
        or not math.isfinite(value)
        or (knob.log and value <= 0)
        or (knob.kind != "float" and value != int(value))
    ):
        return None
    low, high = knob.low, knob.high
    step = 8.0 if knob.log else max(high - low, 1.0)
    while value < low:
        low, step = (low / step, step) if knob.log else (low - step, 2 * step)
    while value > high:
        high, step = (high * step, step) if knob.log else (high + step, 2 * step)
    if knob.kind != "float" and knob.log:
        low = max(1.0, low)
    if knob.log and low <= 0:  # a value so small that widening has underflowed
        return None
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None
