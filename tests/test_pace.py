"""What of the noise of repeats is the machine's pace is found where there is some, and nothing is claimed where there is none."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo.lineage.pace import Pace, Repeat, pace

SLOPE, REST, BUSY = -0.25, 0.002, 0.1


def repeats(seed: int, sizes: tuple[int, ...] = (8, 5, 4), slope: float = SLOPE, busy: float = BUSY) -> list[list[Repeat]]:
    """Draws of genomes that differ in value and in cost."""
    rng = Random(seed)
    found = []
    for genome, size in enumerate(sizes):
        paces = [rng.gauss(0, busy) for _ in range(size)]
        found.append([Repeat(2 + genome + slope * p + rng.gauss(0, REST), round(math.exp(13 + genome / 2 + p))) for p in paces])
    return found


def told(groups: list[list[Repeat]]) -> Pace:
    found = pace(groups)
    assert found is not None
    return found


def test_the_noise_is_split_into_pace_and_the_rest() -> None:
    for seed in range(20):
        found = told(repeats(seed))
        assert found.slope == pytest.approx(SLOPE, rel=0.1)
        assert 0.5 * BUSY < found.tokens_sd < 1.7 * BUSY
        assert 0.4 * REST < found.rest_sd < 1.8 * REST
        assert found.noise_sd == pytest.approx(math.hypot(SLOPE * found.tokens_sd, REST), rel=0.25)


def test_where_pace_moves_no_score_none_is_claimed() -> None:
    """By chance in 1 of 100."""
    claimed = [told(repeats(seed, slope=0.0)).slope for seed in range(300)]
    assert sum(slope is not None for slope in claimed) <= 9


def test_a_score_that_falls_faster_than_any_learning_curve_is_not_pace() -> None:
    """Seeds that diverge lose a tenth where tokens differ by two thousandths: chance, or something that moved both."""
    steep = [[Repeat(1.30 - 11 * p, round(1e7 * math.exp(p))) for p in (-0.003, -0.001, 0.0, 0.001, 0.003)] for _ in range(3)]
    found = pace(steep)
    assert found is not None
    assert found.slope is None
    assert found.rest_sd == found.noise_sd


def test_more_tokens_that_go_with_higher_scores_are_not_pace() -> None:
    assert told(repeats(0, slope=0.25)).slope is None


@pytest.mark.parametrize("sizes", [(), (1, 1, 1, 1, 1), (3,), (2, 2)])
def test_too_few_repeats_tell_nothing(sizes: tuple[int, ...]) -> None:
    assert pace(repeats(0, sizes)) is None


def test_equal_tokens_or_equal_scores_leave_the_noise_whole() -> None:
    still = told(repeats(0, busy=0.0))
    assert (still.tokens_sd, still.slope, still.rest_sd) == (0.0, None, still.noise_sd)
    alike = told([[Repeat(2.0, tokens) for tokens in (100, 110, 120, 130)]])
    assert (alike.noise_sd, alike.slope) == (0.0, None)


@given(st.randoms(use_true_random=False))
def test_the_order_of_draws_does_not_matter(rng: Random) -> None:
    groups = repeats(1)
    shuffled = [rng.sample(draws, len(draws)) for draws in rng.sample(groups, len(groups))]
    one, other = told(groups), told(shuffled)
    assert other.slope == pytest.approx(one.slope)
    assert other.rest_sd == pytest.approx(one.rest_sd)
