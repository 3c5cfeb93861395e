"""The belief is calibrated, shrinks luck, trusts large gains, and never sees a failure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import FOUNDER, World, drive, improving, search

from evo.core.belief import FEW, believe, doubted
from evo.core.history import Genome, fold


def genome(id_: str, index: int, parents: tuple[str, ...], *scores: float) -> Genome:
    return Genome(id=id_, index=index, species="s", size=10, operator="mutate", parents=parents, scores=scores, failures=0)


def family(children: dict[str, float], repeats: tuple[float, ...] = (1.00, 1.01, 0.99, 1.00)) -> dict[str, Genome]:
    found = {"seed": genome("seed", 0, (), *repeats)}
    for index, (id_, score) in enumerate(children.items(), start=1):
        found[id_] = genome(id_, index, ("seed",), score)
    return found


def noise(genomes: Iterable[Genome]) -> float:
    """What one draw is believed to scatter by."""
    return believe({g.id: g for g in genomes}).noise_sd


def test_noise_is_pooled_over_repeated_genomes() -> None:
    a, b = genome("a", 0, (), 1.0, 1.2), genome("b", 1, (), 2.0, 2.2, 2.1)
    assert noise([a, b]) == pytest.approx(math.sqrt((0.02 + 0.02) / 3))


def test_the_lucky_first_draw_of_a_contender_does_not_count_as_noise() -> None:
    seed = genome("seed", 0, (), 1.00, 1.01, 0.99)
    contender = genome("c", 5, ("seed",), 0.90, 0.99, 0.99)
    assert noise([seed, contender]) == pytest.approx(math.sqrt(0.0002 / 3))


def test_a_seed_at_the_edge_of_stability_does_not_speak_for_its_children() -> None:
    """Four draws of a real one, on a GPU, of which one diverged and came back, and the repeats of its children."""
    seed = genome("seed", 0, (), 1.3376, 1.3087, 1.4352, 1.3133)
    pairs = [(1.2379, 1.2378), (1.2396, 1.2396), (1.2393, 1.2419), (1.2337, 1.2419), (1.2335, 1.2437)]
    children = [genome(f"c{i}", i + 1, ("seed",), *pair) for i, pair in enumerate(pairs)]
    assert noise([seed]) == pytest.approx(0.059, abs=0.001)
    known = [noise([seed, *children[:n]]) for n in range(len(children) + 1)]
    assert known[1] < 0.4 * known[0], "one repeat is another program's word"
    assert 0.004 < known[-1] < 0.01


@given(st.lists(st.floats(-1, 1), max_size=8), st.floats(0.001, 0.1))
def test_gaps_never_raise_the_noise(gaps: list[float], width: float) -> None:
    seed = genome("seed", 0, (), 1.0, 1.0 + width, 1.0 - width)
    children = [genome(f"c{i}", i + 1, ("seed",), 1.0, 1.0 + gap) for i, gap in enumerate(gaps)]
    assert noise([seed, *children]) <= noise([seed])


@pytest.mark.parametrize("repeats", [1, 2, 6, 20])
def test_where_all_programs_are_alike_the_noise_is_not_taken_for_much_less(repeats: int) -> None:
    """The gaps of a few can be narrow by chance."""
    found = []
    for run in range(200):
        rng = Random(f"{run}/{repeats}")
        seed = genome("seed", 0, (), *(1 + rng.gauss(0, 0.01) for _ in range(8)))
        children = [genome(f"c{i}", i + 1, ("seed",), *(1 + rng.gauss(0, 0.01) for _ in range(2))) for i in range(repeats)]
        found.append(noise([seed, *children]))
    assert 0.008 < sorted(found)[100] < 0.0105
    assert sorted(found)[10] > 0.0045
    assert min(found) > 0.0015


def test_one_repeat_that_agrees_by_chance_takes_no_more_than_two_thirds_off_the_noise() -> None:
    rng = Random(1)
    seed = genome("seed", 0, (), *(1 + rng.gauss(0, 0.01) for _ in range(40)))
    assert noise([seed, genome("c", 1, ("seed",), 1.0, 1.0 + 1e-9)]) > 0.3 * noise([seed])
    assert noise([seed, genome("c", 1, ("seed",), 1.0, 1.0, 1.0)]) > 0.9 * noise([seed]), "it may ignore its seed"


def test_any_number_of_gaps_of_any_width_gives_a_noise() -> None:
    seed = genome("seed", 0, (), 1.0, 1.1)
    for width in (1e-300, 1e-9, 1e-3, 1.0):
        children = [genome(f"c{i}", i + 1, ("seed",), 1.0 + width, 1.0) for i in range(3000)]
        assert 1e-6 < noise([seed, *children]) < 0.2


def test_a_score_that_diverged_does_not_drown_the_noise() -> None:
    found = family({"good": 0.99, "wild": 1e20, "bad": 1.2})
    assert noise(found.values()) == noise(family({"good": 0.99, "fair": 1.01, "bad": 1.2}).values())


def test_noise_has_a_floor_and_a_guess_without_repeats() -> None:
    assert noise([genome("a", 0, (), 2.0, 2.0, 2.0)]) == pytest.approx(2e-5)
    assert noise([genome("a", 0, (), 2.0)]) == pytest.approx(0.01)
    assert noise([]) > 0


def test_a_genome_without_scores_has_no_estimate() -> None:
    found = {**family({"a": 0.99}), "dead": genome("dead", 9, ("seed",))}
    assert set(believe(found).of) == {"seed", "a"}


def test_a_child_of_a_genome_that_only_failed_stands_on_its_own_scores() -> None:
    found = {**family({}), "dead": genome("dead", 1, ("seed",)), "child": genome("child", 2, ("dead",), 0.9)}
    assert believe(found).of["child"].mean == 0.9


def test_luck_inside_the_noise_is_shrunk_towards_the_parent() -> None:
    rng = Random(3)
    children = {f"c{i}": 1.0 + rng.gauss(0, 0.01) for i in range(30)}
    belief = believe(family(children))
    lucky = min(children, key=lambda id_: children[id_])
    assert children[lucky] < belief.of[lucky].mean < 1.0
    assert 1.0 - belief.of[lucky].mean < 0.5 * (1.0 - children[lucky])


def test_a_gain_of_many_sd_is_believed() -> None:
    rng = Random(4)
    children = {f"c{i}": 1.0 + rng.gauss(0, 0.01) for i in range(30)} | {"giant": 0.80}
    assert believe(family(children)).of["giant"].mean < 0.83


def test_repeats_narrow_the_estimate() -> None:
    few, many = family({"a": 0.97}), family({"a": 0.97})
    many["a"] = genome("a", 1, ("seed",), *[0.97] * 5)
    assert believe(many).of["a"].sd < believe(few).of["a"].sd
    assert believe(many).of["a"].n == 5


def test_a_crossover_is_expected_between_its_parents() -> None:
    found = family({f"c{i}": 1.0 for i in range(10)})
    found["low"], found["high"] = genome("low", 20, ("seed",), *[0.99] * 3), genome("high", 21, ("seed",), *[1.01] * 3)
    found["cross"] = genome("cross", 22, ("low", "high"), 1.0)
    alone = {**found, "cross": genome("cross", 22, ("high",), 1.0)}
    assert believe(found).of["cross"].mean < believe(alone).of["cross"].mean


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.5, 3.0), min_size=0, max_size=40), st.floats(0, 0.1))
def test_estimates_lie_between_own_scores_and_prior_with_finite_sd(scores: list[float], spread: float) -> None:
    found = family({f"c{i}": s for i, s in enumerate(scores)}, (1.0, 1.0 + spread, 1.0 - spread, 1.0))
    belief = believe(found)
    shift = max(median(scores) - found["seed"].mean, 0.0) if len(scores) >= FEW else 0.0
    prior = belief.of["seed"].mean + shift
    for id_, estimate in belief.of.items():
        if id_ != "seed":
            own = found[id_].mean
            assert min(own, prior) - 1e-9 <= estimate.mean <= max(own, prior) + 1e-9
        assert 0 < estimate.sd < math.inf


def test_the_posterior_is_calibrated_on_simulated_runs() -> None:
    """The truth lies within two posterior sds nearly always, and the champion's claim is not far below its truth."""
    inside, total, flattery = 0, 0, []
    for salt in range(12):
        world = World(improving, noise_sd=0.003, salt=salt)
        found = search(evals=80, seed=salt)
        drive(found, world, stop_after=80)
        for id_, estimate in found.belief.of.items():
            inside += abs(world.truth[id_] - estimate.mean) <= 2 * estimate.sd
            total += 1
        champion = found.champion or FOUNDER
        flattery.append(world.truth[champion] - found.belief.of[champion].mean)
    assert inside / total > 0.88
    assert sum(flattery) / len(flattery) < 0.003


def test_where_four_draws_tell_the_noise_estimates_are_as_wide_as_that_asks_for() -> None:
    """In no run is much outside of two sds, though the noise may have been taken for half of what it is."""
    outside = []
    for salt in range(20):
        world = World(improving, noise_sd=0.003, salt=salt)
        found = search(evals=40, seed=salt)
        drive(found, world, stop_after=40)
        wrong = [abs(world.truth[id_] - estimate.mean) > 2 * estimate.sd for id_, estimate in found.belief.of.items()]
        outside.append(sum(wrong) / len(wrong))
    assert max(outside) < 0.25, outside
    assert sum(outside) / len(outside) < 0.05


@pytest.mark.parametrize(("draws", "factor"), [(1, 1.0), (2, 2.0), (4, 3**0.5), (8, (7 / 5) ** 0.5), (400, 1.0025)])
def test_doubt_about_the_noise_widens_estimates_and_goes_with_the_draws(draws: int, factor: float) -> None:
    belief = believe({"seed": genome("seed", 0, (), *(1 + 0.01 * (-1) ** i for i in range(draws)))})
    assert doubted(belief).of["seed"].sd == pytest.approx(factor * belief.of["seed"].sd, rel=1e-3)
    assert doubted(belief).of["seed"].mean == belief.of["seed"].mean


def test_failures_leave_every_estimate_as_it_was() -> None:
    records = drive(search(evals=40), World(improving, failures=0.3), stop_after=40)
    alive = [r for r in records if hasattr(r.outcome, "val_bpb")]
    assert len(alive) < len(records)
    assert believe(fold(records).genomes).of == believe(fold(alive).genomes).of
