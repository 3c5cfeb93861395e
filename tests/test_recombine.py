"""Ablations and recombinations: which edits they take out and bring, by what scored genomes have shown; numbers stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from random import Random

import pytest
from shelves import Shelf

import genomes
from evaluator.outcome import Duplicate, Unwritten
from evo.core.records import ABLATE, RECOMBINE

SEED = '''"""A program of the test."""

import torch.nn as nn
import torch.nn.functional as F

MATRIX_LR = 0.04  # rate of the matrices
DEPTH = 4  # blocks


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 8)
        self.down = nn.Linear(8, 8)

    def forward(self, x):
        x = self.up(x)
        x = F.relu(x)
        return self.down(x)


def build_model():
    return nn.Sequential(*(MLP() for _ in range(DEPTH)))


def main():
    model = build_model()
    rate = MATRIX_LR * DEPTH
    return model, rate
'''
Change = tuple[tuple[str, str], ...]  # (old, new) texts
GOOD: Change = (("F.relu(x)", "F.gelu(x)"),)
HARMFUL: Change = (("return self.down(x)", "return F.tanh(self.down(x))"),)
HELPED: Change = (  # with a function of its own
    ("class MLP", "def halved(x):\n    return x / 2\n\n\nclass MLP"),
    ("        x = self.up(x)\n", "        x = halved(self.up(x))\n"),
)
WORTH = {GOOD: -0.02, HARMFUL: 0.02, HELPED: 0.01}
RATES = (0.02, 0.03, 0.05, 0.06)


def with_changes(changes: Iterable[Change], rate: float = 0.04) -> str:
    text = SEED.replace("MATRIX_LR = 0.04", f"MATRIX_LR = {rate}")
    for old, new in (pair for change in changes for pair in change):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def known_worths(left_out: Iterable[frozenset[Change]] = ()) -> tuple[Shelf, dict[tuple[frozenset[Change], float], str]]:
    """A run that has scored all sets of changes under four rates, but for some sets; (set, rate) -> genome."""
    shelf, ids = Shelf(SEED), {}
    shelf.score(shelf.founder.genome, 1.0005, 0.9995, 1.0005, 0.9995)
    every = [frozenset(c) for size in range(len(WORTH) + 1) for c in combinations(WORTH, size)]
    for i, (changes, rate) in enumerate((c, r) for c in every if c not in set(left_out) for r in RATES):
        id_ = shelf.add(10 + i, with_changes(sorted(changes), rate))
        shelf.score(id_, 1.0 + sum(WORTH[change] for change in changes) + abs(rate - 0.05) / 10)
        ids[changes, rate] = id_
    return shelf, ids


def test_what_does_harm_is_taken_out_and_all_else_stays() -> None:
    shelf, ids = known_worths([frozenset({GOOD})])
    for index in range(100, 120):
        written = shelf.write(index, ABLATE, ids[frozenset({GOOD, HARMFUL}), 0.05])
        assert written.outcome is None
        assert written.text == with_changes([GOOD], 0.05)
        assert written.candidate.note == "without MLP.forward: self.down(x) → F.tanh(self.down(x))"


def test_with_an_edit_goes_what_only_it_used() -> None:
    shelf, ids = known_worths([frozenset({GOOD})])
    assert shelf.write(100, ABLATE, ids[frozenset({GOOD, HELPED}), 0.05]).text == with_changes([GOOD], 0.05)


def test_what_is_known_to_gain_is_never_taken_out() -> None:
    shelf, ids = known_worths([frozenset()])
    for index in range(100, 130):
        assert shelf.write(index, ABLATE, ids[frozenset({GOOD}), 0.05]).outcome == Unwritten("every edit of it is worth something")


def test_a_gain_is_brought_from_programs_that_are_bad_for_other_reasons() -> None:
    alone = [frozenset({GOOD}), frozenset({GOOD, HELPED})]
    shelf, ids = known_worths(alone)
    for index in range(100, 120):
        written = shelf.write(index, RECOMBINE, ids[frozenset(), 0.05])
        assert written.outcome is None
        assert written.text == with_changes([GOOD], 0.05)
        assert written.candidate.note == "with MLP.forward: x = F.relu → F.gelu"


def test_what_is_known_to_harm_is_never_brought() -> None:
    shelf, ids = known_worths([frozenset({GOOD, HARMFUL}), frozenset({GOOD, HELPED})])
    for index in range(100, 130):
        outcome = shelf.write(index, RECOMBINE, ids[frozenset({GOOD}), 0.05]).outcome
        assert outcome == Unwritten("no edit that it lacks is worth anything")


WEIGHT: Change = (  # a weight, and the list of weights that is for it
    ("        self.down = nn.Linear(8, 8)\n", "        self.down = nn.Linear(8, 8)\n        self.share = nn.Parameter(torch.zeros(()))\n"),
    ("return self.down(x)", "return self.share * self.down(x)"),
)
LIST: Change = (("rate = MATRIX_LR * DEPTH", "rate = [MATRIX_LR for p in model.parameters() if p.ndim]"),)


def listed(worth: float) -> tuple[Shelf, str, str]:
    """A run in which a weight came with its list, and another edit with the same list, which then seems to be worth this much.

    Returns: the records, a genome without both, and the one with the weight.
    """
    shelf, ids = known_worths()
    one = shelf.add(90, with_changes([WEIGHT, LIST], 0.05).replace("import torch.nn as nn", "import torch\nimport torch.nn as nn"))
    shelf.score(one, 0.95)
    shelf.score(shelf.add(91, with_changes([GOOD, LIST], 0.05)), 0.98 + worth)
    return shelf, ids[frozenset(), 0.05], one


def test_an_edit_comes_with_what_it_was_never_scored_without_although_others_have_that_too() -> None:
    shelf, plain, _ = listed(0.0)
    brought = [written.text for index in range(100, 140) if (written := shelf.write(index, RECOMBINE, plain)).text]
    with_weight = [text for text in brought if "self.share" in text]
    assert with_weight
    assert all("if p.ndim" in text for text in with_weight)


def test_what_an_edit_was_never_scored_without_goes_only_with_it() -> None:
    shelf, _, one = listed(0.02)  # the list seems to do harm
    written = [text for index in range(100, 140) if (text := shelf.write(index, ABLATE, one).text)]
    assert any("if p.ndim" not in text for text in written)
    assert all("self.share" not in text or "if p.ndim" in text for text in written)


def test_a_program_that_is_known_already_is_a_duplicate() -> None:
    shelf, ids = known_worths()
    without = ids[frozenset({GOOD}), 0.05]
    assert shelf.write(100, ABLATE, ids[frozenset({GOOD, HARMFUL}), 0.05]).outcome == Duplicate(shelf.known[without].index)
    assert shelf.write(100, RECOMBINE, ids[frozenset(), 0.05]).outcome == Duplicate(shelf.known[without].index)


def test_an_edit_that_is_hardly_known_is_tried_now_and_then() -> None:
    shelf, ids = known_worths()
    rare = shelf.add(90, with_changes([GOOD, (("self.down = nn.Linear(8, 8)", "self.down = nn.Linear(8, 8, bias=False)"),)], 0.05))
    shelf.score(rare, 0.981)
    tried = Counter(shelf.write(index, ABLATE, rare).outcome is None for index in range(100, 160))
    assert not tried[True]  # the only program without it is there already
    brought = [shelf.write(index, RECOMBINE, ids[frozenset({GOOD}), 0.03]) for index in range(100, 160)]
    assert {written.outcome is None for written in brought} == {True, False}
    assert all("bias" in written.text for written in brought if written.outcome is None)


@pytest.mark.parametrize("operator", [ABLATE, RECOMBINE])
def test_what_is_written_is_a_function_of_the_records_whatever_their_order(operator: str) -> None:
    shelf, ids = known_worths([frozenset({GOOD})])
    parent = ids[frozenset({GOOD, HARMFUL} if operator == ABLATE else {HARMFUL}), 0.02]
    first = [shelf.write(index, operator, parent) for index in range(100, 110)]
    Random(1).shuffle(shelf.records)
    assert [shelf.write(index, operator, parent) for index in range(100, 110)] == first


@pytest.mark.parametrize("operator", [ABLATE, RECOMBINE])
def test_numbers_alone_give_nothing_to_take_out_or_bring(operator: str) -> None:
    shelf = Shelf(SEED)
    shelf.score(shelf.founder.genome, 1.0)
    for index, rate in enumerate(RATES, start=1):
        shelf.score(shelf.add(index, with_changes([], rate)), 1.0 - index / 100)
    written = shelf.write(9, operator, genomes.identity(with_changes([], RATES[-1])))
    assert isinstance(written.outcome, Unwritten)
