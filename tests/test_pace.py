"""What the machine's pace did to a score is taken off where the run's own data show it, and nothing else is."""

from __future__ import annotations

import dataclasses
import math
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import PACE_SLOPE, World, drive, improving, search

from evaluator.outcome import Scored
from evo.history import Genome, History, fold
from evo.numeric.pace import Leveller, fit
from evo.records import Record
from evo.standing import assess

COST = (50, 10)  # parameters, tokens per step


def run(salt: int, **settings: float) -> tuple[World, list[Record]]:
    world = World(improving, noise_sd=0.002, salt=salt, **settings)
    return world, drive(search(evals=100, seed=salt), world, stop_after=100)


def family(drawn: list[float], noise: float = 0.002, slope: float = PACE_SLOPE) -> dict[str, Genome]:
    """A seed genome with six draws and its children, one draw each; all cost alike and are as good."""
    rng = Random(0)

    def genome(index: int, paces: list[float]) -> Genome:
        scores = tuple(2.0 + slope * pace + rng.gauss(0, noise) for pace in paces)
        parents = ("0",) if index else ()
        return Genome(str(index), index, "s", 10, "tune", parents, scores, 0, amounts=tuple(11 + p for p in paces), cost=COST)

    return {"0": genome(0, drawn[:6]), **{str(i): genome(i, [pace]) for i, pace in enumerate(drawn[6:], start=1)}}


def history(genomes: dict[str, Genome]) -> History:
    return dataclasses.replace(fold(()), genomes=genomes)


def levelled(genomes: dict[str, Genome]) -> dict[str, Genome]:
    return Leveller()(history(genomes)).genomes


def paces(seed: int) -> list[float]:
    rng = Random(seed)
    return [rng.gauss(0, 0.1) for _ in range(46)]


PACES = paces(1)


def error(world: World, found: History) -> float:
    """Root mean square of how far the mean scores of all but the seed genome lie from the truth."""
    return math.sqrt(fmean((g.mean - world.truth[g.id]) ** 2 for g in found.genomes.values() if g.parents and g.scores))


def test_on_a_busy_machine_levelled_scores_lie_nearer_to_the_truth_than_raw_ones() -> None:
    raw, level = [], []
    for salt in range(6):
        world, records = run(salt, busy_sd=0.1)
        raw.append(error(world, fold(records)))
        level.append(error(world, Leveller()(fold(records))))
    assert fmean(level) < 0.6 * fmean(raw), (raw, level)


def test_on_a_quiet_machine_nothing_is_taken_off() -> None:
    _, records = run(0)
    found = fold(records)
    assert Leveller()(found) is found


def test_pace_that_moves_no_score_is_left_alone() -> None:
    """Chance alone shows a slope in 1 of 100."""
    shown = sum(fit(family(paces(seed), slope=0.0)) is not None for seed in range(100))
    assert shown <= 5


def test_the_slope_and_the_pace_are_found() -> None:
    pace = fit(family(PACES))
    assert pace is not None
    assert pace.slope == pytest.approx(PACE_SLOPE, rel=0.15)
    assert 0.05 < pace.sd < 0.2


def test_ruinous_edits_do_not_bend_the_slope() -> None:
    genomes = family(PACES)
    for index in range(1, 41, 4):
        spoilt = genomes[str(index)]
        genomes[str(index)] = dataclasses.replace(spoilt, scores=(spoilt.scores[0] + Random(index).uniform(0.5, 3),))
    pace = fit(genomes)
    assert pace is not None
    assert pace.slope == pytest.approx(PACE_SLOPE, rel=0.25)


def with_child(amounts: tuple[float, ...], cost: tuple[int, int] = COST) -> Genome:
    """A family and one more child, whose draws all score 2.1: as it is levelled."""
    child = Genome("new", 99, "s", 10, "tune", ("0",), (2.1,) * len(amounts), 0, amounts=amounts, cost=cost)
    return levelled({**family(PACES), "new": child})["new"]


def test_a_program_that_is_slow_is_not_praised_for_it() -> None:
    """Forty per cent fewer tokens are its own doing, and so is a tenth fewer each time that it is drawn."""
    praise = 2.1 - with_child((11 + math.log(0.6),)).mean
    assert abs(praise) < 0.3 * abs(PACE_SLOPE * math.log(0.6))
    once, often = (2.1 - with_child((11 - 0.3,) * n).mean for n in (1, 8))
    assert 0 <= often < 0.5 * once + 1e-9 or often < 0.01


def test_a_lie_about_tokens_gains_no_more_than_a_slow_machine_would_explain() -> None:
    gains = [2.1 - with_child((11 + math.log(share),)).mean for share in (0.99, 0.9, 0.8, 0.7, 0.5, 0.1, 0.001)]
    assert max(gains) < 3 * abs(PACE_SLOPE) * 0.12
    assert gains[-1] < 0.01


def test_a_genome_alone_in_its_class_keeps_its_score_and_is_trusted_less() -> None:
    alone, usual = with_child((11.0,), (70, 10)), with_child((11.0,))
    assert alone.mean == pytest.approx(2.1)
    assert alone.draws < 0.5 * usual.draws <= 0.5


def test_draws_whose_tokens_are_not_told_stay_as_they_are() -> None:
    untold = Genome("new", 99, "s", 10, "tune", ("0",), (2.1,), 0)
    assert levelled({**family(PACES), "new": untold})["new"] is untold


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.randoms(use_true_random=False))
def test_a_resumed_search_believes_and_asks_the_same_on_a_busy_machine(cut: int, shuffle: Random) -> None:
    _, records = run(3, busy_sd=0.1)
    kept = sorted(records, key=lambda r: r.candidate.proposal.index)[: cut + 1]
    one, other = search(evals=100, seed=3), search(evals=100, seed=3)
    one.resume(kept)
    other.resume(shuffle.sample(kept, len(kept)))
    assert one.belief == other.belief
    assert one.ask(3) == other.ask(3)


def test_a_leveller_that_has_seen_less_gives_what_a_new_one_gives() -> None:
    _, records = run(4, busy_sd=0.1)
    old = Leveller()
    for count in range(0, len(records), 7):
        old(fold(records[:count]))
    assert old(fold(records)).genomes == Leveller()(fold(records)).genomes


def test_announcements_compare_scores_as_they_were_drawn() -> None:
    world = World(improving, noise_sd=0.002, busy_sd=0.1, salt=5)
    records = drive(search(evals=60, seed=5), world)
    standing = assess(records)
    assert standing.announcement is not None
    drawn = [r.outcome.val_bpb for r in records if r.candidate.proposal.operator == "final" and isinstance(r.outcome, Scored)]
    arms = (
        standing.announcement.seed_mean * standing.announcement.n_seed
        + standing.announcement.champion_mean * standing.announcement.n_champion
    )
    assert arms == pytest.approx(sum(drawn))
    assert any(genome.excess for genome in standing.history.genomes.values())
