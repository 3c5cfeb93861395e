"""Which knobs of two programs are the same, and how far apart programs are."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from corpus import SCRIPTS as PROGRAMS
from corpus import SEED as TEXT
from hypothesis import given, settings
from hypothesis import strategies as st

import genomes

TABLE = "orthogonalisation-coefficients"  # puts other numbers in the same places
STRUCTURAL = [name for name in genomes.STRUCTURAL_MUTATIONS if name != TABLE]
NAMES = [knob.name for knob in genomes.knobs(TEXT)]


def values(text: str) -> dict[str, genomes.Value]:
    return {knob.name: knob.value for knob in genomes.knobs(text)}


def moved(text: str, definition: str, before: str) -> str:
    start = text.index(definition)
    end = text.index("\n\n\n", start) + 3
    rest = text[:start] + text[end:]
    place = rest.index(before)
    return rest[:place] + text[start:end] + rest[place:]


RENAMED: dict[str, Callable[[str], str]] = {
    "a constant": lambda text: text.replace("MATRIX_LR", "BLOCK_LR"),
    "functions and classes": lambda text: text.replace("rate_factor", "multiplier").replace("MLP(", "FeedForward("),
    "a moved function": lambda text: moved(text, "def norm(", "class MLP"),
    "a moved class, renamed": lambda text: moved(text, "class MLP(", "class GPT").replace("MLP(", "FeedForward("),
    "a wrapped expression": lambda text: text.replace("2 * torch.sigmoid(", "torch.clamp(2 * torch.sigmoid(").replace(
        ":GATE_CHANNELS]))  #", ":GATE_CHANNELS])), None)  #"
    ),
    "a statement before it": lambda text: text.replace(
        "    ramp = min(1.0, step", "    late = min(1.0, 7 * progress)\n    ramp = min(1.0, step"
    ),
}


@pytest.mark.parametrize("change", RENAMED)
def test_knobs_are_the_same_after(change: str) -> None:
    other = RENAMED[change](TEXT)
    assert other != TEXT
    found, here, there = genomes.match(TEXT, other), values(TEXT), values(other)
    assert set(found) == set(NAMES)
    assert all(here[name] == there[partner] for name, partner in found.items())


def test_what_was_rewritten_is_left_out() -> None:
    other = TEXT.replace("1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6", "normaliser(x, 3)")
    line = TEXT[: TEXT.index("1.02 * x.norm")].count("\n") + 1
    rewritten = {knob.name for knob in genomes.knobs(TEXT) if knob.line == line}
    assert len(rewritten) == 5
    assert set(genomes.match(TEXT, other)) == set(NAMES) - rewritten


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**9))
def test_every_knob_that_a_mutation_left_alone_is_matched_to_itself(number: int) -> None:
    child = genomes.mutate(TEXT, random.Random(number), STRUCTURAL)
    found, here, there = genomes.match(TEXT, child.text), values(TEXT), values(child.text)
    assert genomes.match(child.text, TEXT) == {partner: name for name, partner in found.items()}
    assert sum(here[name] != there[partner] for name, partner in found.items()) <= 2, child.note


def test_values_set_through_the_match_are_the_same_place() -> None:
    other = RENAMED["a moved class, renamed"](TEXT)
    found = genomes.match(TEXT, other)
    for knob in genomes.knobs(TEXT):
        if isinstance(knob.value, float):
            value = knob.value * 1.25 + 0.5
            here = genomes.set_knobs(TEXT, {knob.name: value})
            assert RENAMED["a moved class, renamed"](here) == genomes.set_knobs(other, {found[knob.name]: value})


# ---- distance


def test_the_distance_is_zero_for_equal_genomes_alone_and_one_for_strangers() -> None:
    respelt = TEXT.replace("0.04 ", "4e-2 ").replace('"SSSL"', "'SSSL'")
    assert genomes.distance(TEXT, respelt) == 0.0
    assert genomes.distance(TEXT, genomes.set_knobs(TEXT, {"MATRIX_LR": 0.05})) > 0
    assert genomes.distance("a = 1\nb = 2\n", "b = 2\na = 1\n") > 0
    assert genomes.distance("x = f(1)\n", "import os\n") == 1.0
    assert genomes.distance("", "x = 1\n") == 1.0


def test_a_literal_is_less_than_a_statement_is_less_than_a_class_is_less_than_another_program() -> None:
    literal = genomes.set_knobs(TEXT, {"MATRIX_LR": 0.05})
    statement = TEXT.replace("        x = x + self.attention", "        x = norm(x)\n        x = x + self.attention")
    whole = TEXT.replace(
        "class MLP(", "class Gated(nn.Module):\n    def forward(self, x):\n        return x * torch.sigmoid(x) + 1\n\n\nclass MLP("
    )
    apart = [genomes.distance(TEXT, other) for other in (literal, statement, whole, PROGRAMS["llama.py"])]
    assert apart == sorted(apart)
    assert len(set(apart)) == 4


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**9), st.sampled_from(sorted(PROGRAMS)))
def test_the_distance_is_symmetric_and_between_zero_and_one(number: int, name: str) -> None:
    a, b = PROGRAMS[name], genomes.mutate(TEXT, random.Random(number)).text
    assert genomes.distance(a, b) == genomes.distance(b, a)
    assert 0.0 <= genomes.distance(a, b) <= 1.0


def test_a_renamed_function_is_nearer_than_a_lost_one() -> None:
    renamed = TEXT.replace("def orthogonalise(", "def polar(").replace("orthogonalise(", "polar(")
    start = TEXT.index("def orthogonalise(")
    lost = TEXT[:start] + TEXT[TEXT.index("\n\n\n", start) + 3 :]
    assert 0 < genomes.distance(TEXT, renamed) < genomes.distance(TEXT, lost)
