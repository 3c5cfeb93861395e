"""What a policy asks for next."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from evo.core.belief import Belief, Estimate
from evo.core.history import Genome, History
from evo.core.policies import EDITS_FROM, POLICIES, YOUNG_TRIES, SearchConfig, View, untuned
from evo.core.records import ABLATE, RECOMBINE, TUNE


def view(members: dict[str, tuple[str, float]], tries: dict[str, int] | None = None, **config: float) -> View:
    """`members`: genome -> its structure and posterior mean, best first; each sd is 0.001."""
    genomes = {
        id_: Genome(id=id_, index=index, species=species, size=10, operator="mutate", parents=(), scores=(mean,), failures=0)
        for index, (id_, (species, mean)) in enumerate(members.items())
    }
    history = History(genomes, tries or {}, frozenset(), (), len(members), 0, (4, 4), 0, len(members))
    belief = Belief({id_: Estimate(mean, 0.001, 1) for id_, (_, mean) in members.items()}, 0.001, 20)
    settings = SearchConfig(**config)  # type: ignore[arg-type]
    none: frozenset[str] = frozenset()
    return View(
        settings,
        next(iter(members)),
        history,
        belief,
        tuple(members),
        tuple(members)[:2],
        tries or {},
        frozenset(),
        none,
        {},
        len(members),
        0,
    )


TWO = {"old": ("s", 1.0), "older": ("s", 1.001), "new": ("t", 1.001)}


def test_a_new_structure_is_tuned_first_until_it_has_had_its_tries() -> None:
    tried = {"old": 3, "older": YOUNG_TRIES}
    assert [untuned(view(TWO, {**tried, "new": n})) for n in range(YOUNG_TRIES + 1)] == ["new"] * YOUNG_TRIES + [None]


def test_one_that_is_clearly_behind_is_not() -> None:
    behind = {**TWO, "new": ("t", 1.01)}
    assert untuned(view(behind, {"old": YOUNG_TRIES})) is None


def test_the_tries_of_a_structure_are_those_of_all_its_members() -> None:
    assert untuned(view({"a": ("s", 1.0), "b": ("s", 1.0)}, {"a": YOUNG_TRIES - 1, "b": 1})) is None


def test_only_what_goes_to_tuning_anyway_goes_to_a_new_structure() -> None:
    asked = view(TWO, {"old": YOUNG_TRIES}, confirm_share=0.0, crossover_share=0.0, tune_share=0.5)
    moves = Counter(POLICIES["evo"].explore(asked, Random(seed)) for seed in range(400))
    tuned = {move.parents: count for move, count in moves.items() if move.operator == TUNE}
    assert set(tuned) == {("new",)}
    assert sum(tuned.values()) == pytest.approx(200, abs=50)


def parents_by_operator(structures: str) -> dict[str, set[str]]:
    """Operator -> first parents, over many draws of a run whose genomes a, b, c … have these structures, the seed's first."""
    members = {chr(ord("a") + i): (structure, 1.0 + i / 1e5) for i, structure in enumerate(structures)}
    found: dict[str, set[str]] = {}
    for seed in range(600):
        move = POLICIES["evo"].explore(view(members, confirm_share=0.0, recombine_share=0.3, ablate_share=0.3), Random(seed))
        found.setdefault(move.operator, set()).add(move.parents[0])
    return found


def test_edits_are_taken_out_of_genomes_that_have_some_and_brought_to_those_that_may_lack_some() -> None:
    seeds = "s" * (EDITS_FROM - 2)
    found = parents_by_operator(seeds + "tu")
    assert found[ABLATE] == {"k", "l"}
    assert found[RECOMBINE] >= {"a", "k", "l"}
    found = parents_by_operator(seeds + "tt")
    assert found[ABLATE] == {"k", "l"}
    assert not found[RECOMBINE] & {"k", "l"}


@pytest.mark.parametrize("structures", ["s" * (EDITS_FROM - 3) + "tu", "s" * EDITS_FROM])
def test_nothing_goes_by_edits_where_too_little_is_known_of_them_or_there_are_none(structures: str) -> None:
    assert not {ABLATE, RECOMBINE} & set(parents_by_operator(structures))


@pytest.mark.parametrize("share", [1e-20, -0.1, 0.5])
def test_a_share_of_false_stops_that_no_rule_can_keep_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="early_stopping is"):
        SearchConfig(early_stopping=share)
    assert SearchConfig(early_stopping=0.0).early_stopping == 0.0
