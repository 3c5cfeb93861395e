"""Early stopping: what the rule promises, on drawn curves; what it saves of recorded ones."""

from __future__ import annotations

import math
import pickle
from dataclasses import asdict, dataclass, replace
from random import Random

import pytest

from evaluator.outcome import CurvePoint
from evaluator.training import add_point
from evo.core.rule import Rule, Watching, level_at, rule_from_dict, tokens_at
from evo.core.stopping import CHECKPOINTS, LEAST, WINDOW, Trace, learn, trace

BUDGET, POPULATION = 10.0, 16


@dataclass(frozen=True)
class Drawn:
    """A full run as it might have been."""

    val_bpb: float
    curve: tuple[CurvePoint, ...]

    def trace(self, index: int, loss_code: str = "usual") -> Trace:
        return trace(index, loss_code, self.val_bpb, self.curve, BUDGET)


def drawn(rng: Random, worth: float | None = None) -> Drawn:
    """Half of all do about as the seed, the others worse. Nats per token fall towards the final value; each run has a way of its own."""
    off = worth if worth is not None else abs(rng.gauss(0.0, 0.1)) if rng.random() < 0.5 else rng.gauss(0.0, 0.01)
    final, own, noise = 2.6 * math.exp(off), rng.gauss(0.0, 0.01), rng.gauss(0.0, 0.005)
    points = []
    for k in range(1, 51):
        loss = 1.6 * final * (1 + math.exp(-5 * k / 50)) * math.exp(own) + rng.gauss(0.0, 0.1)
        points.append(CurvePoint(BUDGET * k / 50, 3 * k, 3000 * k, loss))
    return Drawn(final * math.exp(noise), tuple(points))


def traces(count: int, seed: int = 0) -> list[Trace]:
    rng = Random(f"traces/{seed}")
    return [drawn(rng).trace(index) for index in range(count)]


def ended(rule: Rule | None, run: Drawn) -> CurvePoint | None:
    """The point at which a run is stopped."""
    watch = Watching(rule) if rule else None
    return next((point for point in run.curve if watch and watch(point) is not None), None)


def test_hardly_a_survivor_is_lost_the_best_never_and_slow_learners_cost_little() -> None:
    survivors = lost = 0
    saved, slow = list[float](), list[float]()
    for seed in range(4):
        rng, known, best = Random(f"order/{seed}"), list[Trace](), list[float]()
        for index in range(120):
            run = drawn(rng)
            rule = learn(known, "usual", best[-1], 0.02, BUDGET) if len(best) == POPULATION else None
            end = ended(rule, run)
            if rule:
                survivors, lost = survivors + (run.val_bpb < best[-1]), lost + (end is not None and run.val_bpb < best[-1])
                at = ended(rule, drawn(rng, worth=0.3))
                slow.append(at.seconds if at else BUDGET)
            saved.append(1 - end.seconds / BUDGET if end else 0.0)
            if end is not None:
                assert run.val_bpb > best[0]
                continue
            known.append(run.trace(index))
            best = sorted([*best, run.val_bpb])[:POPULATION]
    assert survivors > 80
    assert lost <= 0.03 * survivors
    assert sum(saved) / len(saved) > 0.2
    assert max(slow) <= 0.35 * BUDGET


def test_a_curve_too_high_for_a_float_says_nothing_and_harms_nobody() -> None:
    """Losses that were recorded before they were bounded: their sum overflows."""
    wild = tuple(CurvePoint(BUDGET * k / 50, k, k, 1e308) for k in range(1, 51))
    assert level_at(wild, 0.5, WINDOW, BUDGET) is None
    known = [*traces(40), trace(40, "usual", 2.5, wild, BUDGET)]
    rule = learn(known, "usual", sorted(t.val_bpb for t in known)[POPULATION], 0.02, BUDGET)
    assert rule is not None
    foretold = [limit.foretold(level, tokens) for limit in rule.limits for level in (1e4, 700.0) for tokens in (0.0, 43.0)]
    assert all(math.isfinite(value) and 0 < sd < math.inf for value, sd in foretold)


def test_who_has_fewer_tokens_for_now_is_not_taken_for_worse_than_it_will_be() -> None:
    """Half of all runs are slow from the beginning, by a busy machine: what they are behind by in loss they are behind by in the end too,
    but no more. Without their tokens the same loss would mean a worse program."""
    rng, known = Random("paces"), list[Trace]()
    for index in range(80):
        pace = rng.choice((0.5, 1.0))
        known.append(paced(drawn(rng), pace).trace(index))
    bar = sorted(t.val_bpb for t in known)[len(known) // 2]
    rule = learn(known, "usual", bar, 0.02, BUDGET)
    assert rule is not None
    slow, fast = paced(drawn(Random(5), worth=0.0), 0.5), paced(drawn(Random(5), worth=0.0), 1.0)
    same_loss = Drawn(fast.val_bpb, tuple(replace(p, loss=q.loss) for p, q in zip(fast.curve, slow.curve, strict=True)))
    late = rule.limits[5]
    values = []
    for run in (slow, same_loss):
        level, tokens = level_at(run.curve, late.share, rule.window, BUDGET), tokens_at(run.curve, late.share, BUDGET)
        assert level is not None
        assert tokens is not None
        values.append(late.foretold(level, tokens)[0])
    assert values[0] < values[1]


def paced(run: Drawn, pace: float) -> Drawn:
    """The run at a share of its steps: behind in loss at first, and by less in the end."""
    points = tuple(replace(p, tokens=int(p.tokens * pace), loss=(p.loss or 0.0) * (1 + 0.1 * (1 - pace))) for p in run.curve)
    return Drawn(run.val_bpb * (1 + 0.02 * (1 - pace)), points)


def warming(run: Drawn, until: float) -> tuple[CurvePoint, ...]:
    """A run that falls behind others more and more until a share of the budget, and is as they are from then on."""
    behind = (p.seconds / (until * BUDGET) if p.seconds <= until * BUDGET else 0.0 for p in run.curve)
    return tuple(replace(p, loss=(p.loss or 0.0) * (1 + 0.5 * share)) for p, share in zip(run.curve, behind, strict=True))


def test_a_program_whose_rates_rise_first_is_judged_from_then_on_alone() -> None:
    """Of 583 recorded runs, two with a warm-up of a quarter were among the best and were stopped at a fifth."""
    known = traces(80)
    bar = sorted(t.val_bpb for t in known)[POPULATION]
    without, told = (learn(known, "usual", bar, 0.02, BUDGET, warmup) for warmup in (0.0, 0.3))
    assert without is not None
    assert told is not None
    assert [limit for limit in without.limits if limit.share >= 0.6] == list(told.limits)
    for seed in range(10):
        run, hopeless = drawn(Random(f"rising/{seed}"), worth=-0.03), drawn(Random(f"rising/{seed}"), worth=0.3)
        late = [Drawn(each.val_bpb, warming(each, 0.3)) for each in (run, hopeless)]
        assert ended(without, late[0]) is not None
        assert ended(told, late[0]) is None
        assert ended(told, late[1]) is not None


def test_levels_of_a_warm_up_teach_nothing_about_programs_without() -> None:
    known = traces(80)
    rising = [drawn(Random(f"rising/{k}")) for k in range(10)]
    late = [trace(80 + k, "usual", run.val_bpb, warming(run, 0.3), BUDGET, warmup=0.3) for k, run in enumerate(rising)]
    rules = [learn([*known, *more], "usual", 2.6, 0.02, BUDGET) for more in ([], late)]
    early = [[limit.level_mean for limit in rule.limits if limit.share < 0.5] for rule in rules if rule]
    assert early[1] == pytest.approx(early[0], abs=0.02)


def test_too_few_runs_teach_nothing() -> None:
    assert learn(traces(LEAST - 1), "usual", 2.6, 0.02, BUDGET) is None
    assert learn(traces(LEAST + 8), "usual", 2.6, 0.02, BUDGET) is not None


def test_runs_with_other_loss_code_are_never_compared() -> None:
    others = [replace(t, loss_code="smoothed", levels=tuple(1.3 * level for level in t.levels if level)) for t in traces(60, seed=1)]
    usual = [replace(t, index=t.index + 60) for t in traces(60)]
    assert learn([*others, *usual], "usual", 2.6, 0.02, BUDGET) == learn(usual, "usual", 2.6, 0.02, BUDGET)
    assert learn([*others, *usual], "of its own", 2.6, 0.02, BUDGET) is None
    silent = [replace(t, loss_code="") for t in usual]
    assert learn(silent, "", 2.6, 0.02, BUDGET) is None, "programs that report no loss have none in common"


def test_the_rule_is_the_same_in_whichever_order_runs_finished() -> None:
    known = traces(80)
    assert learn(Random(1).sample(known, len(known)), "usual", 2.6, 0.02, BUDGET) == learn(known, "usual", 2.6, 0.02, BUDGET)


def test_a_higher_bar_and_a_smaller_risk_stop_later() -> None:
    known, slow = traces(80), [drawn(Random(f"slow/{k}"), worth=0.05) for k in range(20)]
    times = {
        (bar, risk): sum(end.seconds if (end := ended(learn(known, "usual", bar, risk, BUDGET), run)) else BUDGET for run in slow)
        for bar, risk in ((2.6, 0.02), (2.8, 0.02), (2.6, 1e-6))
    }
    assert times[2.6, 0.02] < min(times[2.8, 0.02], times[2.6, 1e-6])


@pytest.mark.parametrize("loss", [None, 1e9])
def test_a_curve_without_losses_is_never_stopped_and_an_exploding_one_is_at_once(loss: float | None) -> None:
    rule = learn(traces(60), "usual", 2.6, 0.02, BUDGET)
    points = tuple(CurvePoint(point.seconds, point.step, point.tokens, loss) for point in drawn(Random(1)).curve)
    end = ended(rule, Drawn(0.0, points))
    assert end is None if loss is None else end and end.seconds <= 0.2 * BUDGET


def test_losses_that_say_nothing_of_the_value_stop_nobody() -> None:
    """Not because of any test for it: their spread is as wide as they are."""
    rng, known = Random(3), traces(100)
    shuffled = [replace(t, val_bpb=other.val_bpb) for t, other in zip(known, rng.sample(known, 100), strict=True)]
    rule = learn(shuffled, "usual", 2.6, 0.02, BUDGET)
    assert sum(ended(rule, drawn(rng)) is not None for _ in range(100)) <= 25


@pytest.mark.parametrize("every", [0.1, 0.2, 0.35])
def test_a_curve_that_was_thinned_out_tells_the_same_as_the_whole(every: float) -> None:
    """Runs are judged while they run, by all points, and learned from by those that were kept."""
    whole = [CurvePoint(every * k, k, k, 3 + k % 2 + 4 * (every * k) ** -0.3) for k in range(1, int(300 / every) + 1)]
    kept = list[CurvePoint]()
    for point in whole:
        add_point(kept, point)
    assert len(kept) <= 400
    for share in CHECKPOINTS:
        told, exact = level_at(kept, share, WINDOW, 300.0), level_at(whole, share, WINDOW, 300.0)
        assert told == pytest.approx(exact, abs=2e-3)


def test_limits_of_former_kinds_stop_nobody() -> None:
    rule = learn(traces(60), "usual", 2.6, 0.02, BUDGET)
    assert rule is not None
    stored = asdict(rule)
    assert rule_from_dict(stored) == rule
    for limit in stored["limits"]:
        for name in ("by_level", "by_tokens", "level_mean"):
            del limit[name]
        limit["level"] = 1.5
    older, hopeless = rule_from_dict(stored), drawn(Random(2), worth=0.3)
    assert ended(rule, hopeless) is not None
    assert ended(older, hopeless) is None


def test_a_rule_is_gone_by_with_the_window_that_it_was_learned_with() -> None:
    """Also in a session of a later version, whose window may be another."""
    rule = learn(traces(60), "usual", 2.6, 0.02, BUDGET)
    assert rule is not None
    falling = tuple(CurvePoint(BUDGET * k / 40, k, 3000 * k, math.exp(2.5 - k / 40)) for k in range(1, 41))
    heights = {}
    for window in (0.2, 0.5):
        watch = Watching(replace(rule, limits=(rule.limits[5],), window=window, bar=0.1))
        notes = [said for point in falling if (said := watch(point))]
        heights[window] = float(notes[0].split("its loss of ")[1].split()[0])
    assert heights[0.2] < heights[0.5]


def test_a_rule_is_plain_data_and_says_why() -> None:
    rule = learn(traces(60), "usual", 2.6, 0.02, BUDGET)
    assert rule is not None
    assert pickle.loads(pickle.dumps(rule)) == rule
    watch = Watching(rule)
    note = next(said for point in drawn(Random(2), worth=0.3).curve if (said := watch(point)))
    assert "of the budget" in note
    assert "above the 2.6000 that it must beat" in note
