"""Survivors, parents and ancestors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo.core.belief import Belief, Estimate
from evo.core.history import Genome, History
from evo.core.population import ancestors, best, contenders, draw_parent, lowest_common_ancestor, parent_weights, population, ranking


def world(
    values: Mapping[str, float], species: Mapping[str, str] | None = None, sizes: Mapping[str, int] | None = None
) -> tuple[History, Belief]:
    genomes = {
        id_: Genome(
            id=id_,
            index=index,
            species=(species or {}).get(id_, "s"),
            size=(sizes or {}).get(id_, 10),
            operator="mutate",
            parents=(next(iter(values)),) if index else (),
            scores=(value,),
            failures=0,
        )
        for index, (id_, value) in enumerate(values.items())
    }
    history = History(genomes, {}, frozenset(), (), len(genomes), 0, (0, 0), 0, len(genomes) - 1)
    return history, Belief({id_: Estimate(v, 0.001, 1) for id_, v in values.items()}, 0.001, 20)


def survivors(history: History, belief: Belief, size: int, species_share: float) -> tuple[str, ...]:
    return population(history, belief, size, species_share).survivors


def test_survivors_are_the_best_in_order() -> None:
    history, belief = world({"a": 3.0, "b": 1.0, "c": 2.0})
    assert survivors(history, belief, 2, 1.0) == ("b", "c")


def test_inside_the_noise_band_the_smaller_program_ranks_first() -> None:
    history, belief = world({"worse": 1.0006, "large": 1.0, "small": 1.0004}, sizes={"large": 20, "small": 10, "worse": 5})
    assert list(ranking(history.genomes, belief)) == ["small", "large", "worse"]
    assert best(history, belief) == "small"


def test_a_smaller_program_that_is_believed_worse_than_the_seed_is_not_the_best() -> None:
    history, belief = world({"seed": 1.0, "smaller": 1.0004, "better": 0.9999}, sizes={"seed": 20, "smaller": 10, "better": 30})
    assert list(ranking(history.genomes, belief)) == ["smaller", "seed", "better"]
    assert best(history, belief) == "seed"


def test_who_often_fails_neither_leads_nor_is_repeated_but_for_the_seed() -> None:
    history, belief = world({"seed": 1.0, "flaky": 0.8, "sound": 0.9, "worse": 1.1})
    for id_ in ("seed", "flaky"):
        history.genomes[id_] = replace(history.genomes[id_], failures=2)
    assert best(history, belief) == "sound"
    assert contenders(history, belief) == ("sound", "seed")
    history.genomes["flaky"] = replace(history.genomes["flaky"], failures=1)
    assert best(history, belief) == "flaky"


def test_a_species_takes_no_more_than_its_share_while_others_want_places() -> None:
    values = {f"a{i}": 1.0 + 0.01 * i for i in range(8)} | {f"b{i}": 2.0 + 0.01 * i for i in range(8)}
    history, belief = world(values, {id_: id_[0] for id_ in values})
    assert Counter(id_[0] for id_ in survivors(history, belief, 8, 0.5)) == {"a": 4, "b": 4}


def test_places_that_no_other_species_wants_are_filled() -> None:
    history, belief = world({f"a{i}": 1.0 + 0.01 * i for i in range(8)})
    assert survivors(history, belief, 6, 0.5) == ("a0", "a1", "a2", "a3", "a4", "a5")


def test_nobody_survives_an_empty_run() -> None:
    history, belief = world({})
    assert survivors(history, belief, 4, 0.5) == ()
    assert best(history, belief) is None


@pytest.mark.parametrize("seed", range(40))
def test_who_beats_the_bar_of_its_species_survives_and_who_does_not_does_not(seed: int) -> None:
    rng = Random(seed)
    values = {f"{rng.choice('aaab')}{i}": 1.0 + 0.01 * place for i, place in enumerate(rng.sample(range(200), rng.randint(0, 30)))}
    size, share = rng.randint(1, 16), rng.choice([0.1, 0.5, 1.0])
    for species in "abc":

        def lives(value: float, species: str = species) -> bool:
            added = values | {f"{species}-new": value}
            return f"{species}-new" in survivors(*world(added, {id_: id_[0] for id_ in added}), size, share)

        history, belief = world(values, {id_: id_[0] for id_ in values})
        bar = population(history, belief, size, share).bar(species)
        if bar is None:
            assert lives(100.0)
        else:
            assert lives(bar - 0.002)
            assert not lives(bar + 0.002)


def test_better_and_less_tried_parents_are_likelier() -> None:
    _, belief = world({"good": 1.0, "fair": 1.01, "poor": 1.02})
    weights = parent_weights(("good", "fair", "poor"), belief, {})
    assert weights == sorted(weights, reverse=True)
    assert parent_weights(("good",), belief, {"good": 3})[0] * 4 == parent_weights(("good",), belief, {})[0]


def test_an_outlier_does_not_make_the_others_equal() -> None:
    _, belief = world({"good": 1.0, "fair": 1.01, "poor": 1.02, "ruin": 9.0})
    good, fair, poor, ruin = parent_weights(("good", "fair", "poor", "ruin"), belief, {})
    assert good > 2 * fair > 4 * poor
    assert ruin > 0


def test_a_drawn_parent_depends_on_the_rng_alone() -> None:
    _, belief = world({"a": 1.0, "b": 1.1, "c": 1.2})
    drawn = [draw_parent(("a", "b", "c"), belief, {}, Random(7)) for _ in range(5)]
    assert len(set(drawn)) == 1


PARENTS = {"seed": (), "a": ("seed",), "b": ("a",), "c": ("a",), "d": ("b", "c"), "e": ("c",), "stranger": ()}
BORN = {id_: index for index, id_ in enumerate(PARENTS)}


def test_lowest_common_ancestor_through_crossovers() -> None:
    assert lowest_common_ancestor(PARENTS, BORN, "b", "c") == "a"
    assert lowest_common_ancestor(PARENTS, BORN, "d", "e") == "c"
    assert lowest_common_ancestor(PARENTS, BORN, "d", "b") == "b"
    assert lowest_common_ancestor(PARENTS, BORN, "seed", "e") == "seed"
    assert lowest_common_ancestor(PARENTS, BORN, "d", "stranger") is None


@given(st.data())
def test_no_child_of_the_lowest_common_ancestor_is_common_too(data: st.DataObject) -> None:
    parents: dict[str, tuple[str, ...]] = {"0": ()}
    for i in range(1, data.draw(st.integers(2, 25))):
        count = data.draw(st.integers(1, 2))
        parents[str(i)] = tuple(str(data.draw(st.integers(0, i - 1))) for _ in range(count))
    born = {id_: int(id_) for id_ in parents}
    a, b = (data.draw(st.sampled_from(sorted(parents))) for _ in range(2))
    base = lowest_common_ancestor(parents, born, a, b)
    common = ancestors(parents, a) & ancestors(parents, b)
    assert base in common
    assert not any(base in parents[other] for other in common)
