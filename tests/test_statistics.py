"""Student's t against tables, Welch against a worked example, announcements against their rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import scored

from evaluator.outcome import Failed, Phase, Reason
from evo.core.records import FINAL, Candidate, Proposal, Record
from evo.core.statistics import announce, f_cdf, t_cdf, t_quantile, welch

# NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2: critical values of Student's t
TABLE = [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 5, 2.571), (0.975, 10, 2.228), (0.975, 30, 2.042), (0.975, 100, 1.984)]
TABLE += [(0.90, 4, 1.533), (0.95, 6, 1.943), (0.99, 8, 2.896), (0.999, 20, 3.552)]


@pytest.mark.parametrize(("probability", "freedom", "expected"), TABLE)
def test_quantiles_agree_with_the_table(probability: float, freedom: float, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=6e-4)


@given(st.floats(0.001, 0.999), st.floats(1, 500))
def test_quantile_inverts_the_distribution_and_is_odd(probability: float, freedom: float) -> None:
    quantile = t_quantile(probability, freedom)
    assert t_cdf(quantile, freedom) == pytest.approx(probability, abs=1e-7)
    assert t_quantile(1 - probability, freedom) == pytest.approx(-quantile, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("ratio", "above", "below"), [(10.128, 1, 3), (4.459, 2, 8), (3.687, 5, 8), (2.978, 10, 10)])
def test_the_ratio_of_two_variances_agrees_with_the_table(ratio: float, above: float, below: float) -> None:
    """The same handbook, 1.3.6.7.3: upper critical values of F at 5 %."""
    assert f_cdf(ratio, above, below) == pytest.approx(0.95, abs=2e-4)
    assert f_cdf(1 / ratio, below, above) == pytest.approx(0.05, abs=2e-4)


def test_one_degree_of_freedom_is_the_cauchy_distribution() -> None:
    assert t_cdf(1.0, 1) == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize(("probability", "freedom"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_quantile_refuses_what_has_no_answer(probability: float, freedom: float) -> None:
    with pytest.raises(ValueError, match="0 < probability < 1"):
        t_quantile(probability, freedom)


def test_welch_agrees_with_a_worked_example() -> None:
    """Example 1 of https://en.wikipedia.org/wiki/Welch%27s_t-test: t = -2.46, 25.0 degrees of freedom, p = 0.021."""
    a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4]
    b = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4]
    low, high, p = welch(a, b)
    assert p == pytest.approx(0.021, abs=5e-4)
    assert low < -2.17 < high < 0


def test_welch_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    rng, covered = Random(1), 0
    for _ in range(2000):
        low, high, _ = welch([rng.gauss(1, 1) for _ in range(4)], [rng.gauss(0, 3) for _ in range(4)])
        covered += low <= 1 <= high
    assert 0.935 <= covered / 2000 <= 0.97


def test_welch_of_exact_repeats_is_a_point() -> None:
    assert welch([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0, 0.0)
    assert welch([1.0, 1.0], [1.0, 1.0]) == (0.0, 0.0, 1.0)


def test_welch_refuses_an_arm_without_spread() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        welch([1.0], [1.0, 2.0])


def draws(
    champion: list[float], seed: list[float], elsewhere: Callable[[float, str], float | None] = lambda value, arm: None
) -> list[Record]:
    """Final draws; `elsewhere` says from a draw and its arm what the held-out text gives."""
    arms = [("best", v) for v in champion] + [("seed", v) for v in seed]
    return [
        Record(
            Candidate(Proposal(10 + i, FINAL, (arm,), i, 10), arm, "s", 1, ""),
            replace(scored(value), heldout_bpb=elsewhere(value, arm)),
        )
        for i, (arm, value) in enumerate(arms)
    ]


def test_a_gain_is_announced_when_the_interval_excludes_zero() -> None:
    said = announce(draws([0.90, 0.91, 0.90, 0.91], [1.00, 1.01, 1.00, 1.01]), "best")
    assert said is not None
    assert said.proven
    assert said.gain == pytest.approx(0.1)
    assert said.low < said.gain < said.high
    assert "gains 0.1000" in said.sentence()


def test_noise_is_called_noise() -> None:
    said = announce(draws([0.99, 1.03, 0.98, 1.00], [1.00, 1.01, 0.97, 1.03]), "best")
    assert said is not None
    assert not said.proven
    assert "no gain to announce" in said.sentence()
    assert "noise explains" in said.sentence()


def test_a_loss_is_never_announced_as_a_gain() -> None:
    said = announce(draws([1.10, 1.11, 1.10, 1.11], [1.00, 1.01, 1.00, 1.01]), "best")
    assert said is not None
    assert not said.proven
    assert "which is worse" in said.sentence()


def test_a_champion_that_fails_more_often_than_the_seed_is_no_gain_and_its_failures_are_told() -> None:
    """The draws that fail are its worst ones."""
    good = draws([0.90, 0.91, 0.90, 0.91], [1.00, 1.01, 1.00, 1.01])
    broken = Failed(Reason.NOT_FINITE, Phase.TRAIN, "nan")
    best, seed = (Record(record.candidate, broken) for record in (good[0], good[-1]))
    for more, proven in (([], True), ([best], False), ([seed], True), ([best, seed], True)):
        said = announce([*good, *more], "best")
        assert said is not None
        assert said.proven == proven
        assert ("draws failed" in said.sentence()) == bool(more)
        assert said.sentence().startswith("best gains" if proven else "no gain to announce: best has")


@pytest.mark.parametrize(
    ("shift", "proven", "words"), [(0.05, True, "a gain of 0.0500"), (0.1, False, "0.0000 (-"), (0.13, False, "0.0300 worse")]
)
def test_what_gains_on_the_text_that_it_was_chosen_by_alone_is_no_gain(shift: float, proven: bool, words: str) -> None:
    """On the held-out text the champion has lost so much of its gain of .1."""
    finals = draws([0.90, 0.91, 0.90, 0.91], [1.00, 1.01, 1.00, 1.01], lambda value, arm: value + (shift if arm == "best" else 0.0))
    said = announce(finals, "best")
    assert said is not None
    assert said.heldout is not None
    assert said.heldout.gain == pytest.approx(0.1 - shift, abs=1e-9)
    assert said.heldout.low < said.heldout.gain < said.heldout.high
    assert said.proven == proven
    assert ("does not gain on the held-out text" in said.sentence()) != proven
    assert words in said.heldout.sentence()


def test_one_draw_on_the_held_out_text_says_nothing() -> None:
    finals = draws([0.90, 0.91], [1.00, 1.01], lambda value, arm: 2.0 if value == 0.90 else None)
    said = announce(finals, "best")
    assert said is not None
    assert said.heldout is None


def test_nothing_is_announced_from_fewer_than_two_draws_per_arm() -> None:
    assert announce(draws([0.9], [1.0, 1.0, 1.0]), "best") is None
    assert announce([], "best") is None


def test_the_less_often_it_may_be_wrong_the_wider_is_the_interval() -> None:
    finals = draws([0.990, 0.995, 0.985, 0.992], [1.00, 1.01, 0.99, 1.003])
    first, second, third = (announce(finals, "best", share) for share in (0.025, 0.0125, 0.005))
    assert first.confidence == pytest.approx(0.95)
    assert first.low > second.low > third.low
    assert "97.5 % interval" in second.sentence()


def test_failures_on_a_slot_that_scores_nothing_are_the_slots() -> None:
    """One that fails at once is free at once: it would take most of the replacements, and decide who fails more often."""
    good = [replace(record, slot="cuda0") for record in draws([0.90, 0.91, 0.90, 0.91], [1.00, 1.01, 1.00, 1.01])]
    broken = Failed(Reason.CRASH, Phase.TRAIN, "CUDA error")
    failures = [Record(good[0].candidate, broken, slot="cuda1") for _ in range(3)]
    assert announce([*good, *failures], "best").proven
    assert announce([*good, *failures], "best").failed_champion == 0
    for other in (failures[:2], [replace(record, slot="cuda0") for record in failures], [*failures, replace(good[0], slot="cuda1")]):
        assert not announce([*good, *other], "best").proven
