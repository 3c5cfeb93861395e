"""Laws of the three-way merge, on real programs that were edited at random."""

from __future__ import annotations

import ast
import difflib
import random
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_edits import edited, insert_argument, parses, remark, swap_expression, wrap

import genomes

PROGRAMS = {path.name: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "programs").glob("*.*"))}
PROGRAMS["seed"] = (Path(__file__).parent.parent / "trainer" / "train.py").read_text(encoding="utf-8")
for module in ("bisect", "colorsys", "heapq", "shlex"):
    PROGRAMS[module] = (Path(ast.__file__).parent / f"{module}.py").read_text(encoding="utf-8")
FUNCTIONS = [textwrap.dedent(code) for code in genomes.definitions(PROGRAMS["seed"])]
NAMES = st.sampled_from(sorted(PROGRAMS))
SEEDS = st.integers(0, 10**6)
INSIDE = (wrap, swap_expression, insert_argument, remark)
APART = 4  # lines: more than any blank lines between statements


def child(base: str, rng: random.Random) -> str:
    """By the catalogue, or by crude edits, up to three."""
    if rng.random() < 0.3:
        try:
            return genomes.mutate(base, rng).text
        except genomes.MutationError:  # not every program has something to move
            pass
    return edited(base, rng, rng.choice([1, 2, 3]))


def mirrored(found: genomes.Merge) -> genomes.Merge:
    """The merge of the same two sides in the other order."""
    other = {"a": "b", "b": "a"}
    return genomes.Merge(found.text, tuple(genomes.Conflict(c.where, c.base, c.b, c.a, other[c.taken]) for c in found.conflicts))


@settings(deadline=None, max_examples=25)
@given(name=NAMES, seed=SEEDS)
def test_a_side_that_changed_nothing_or_the_same_leaves_the_other_as_it_is(name: str, seed: int) -> None:
    base = PROGRAMS[name]
    a = child(base, random.Random(seed))
    refuse = genomes.prefer("b")
    assert genomes.merge(base, a, base, refuse) == genomes.merge(base, a, a, refuse) == genomes.Merge(a, ())
    assert genomes.merge(base, base, a, genomes.prefer("a")) == genomes.Merge(a, ())


@settings(deadline=None, max_examples=15)
@given(name=NAMES, seed=SEEDS)
def test_the_order_of_the_sides_does_not_matter(name: str, seed: int) -> None:
    base, rng = PROGRAMS[name], random.Random(seed)
    the_order_does_not_matter(base, child(base, rng), child(base, rng))


@settings(deadline=None, max_examples=80)
@given(base=st.sampled_from(FUNCTIONS), seed=SEEDS)
def test_the_order_does_not_matter_where_edits_meet_in_one_function(base: str, seed: int) -> None:
    rng = random.Random(seed)
    the_order_does_not_matter(base, edited(base, rng, 2), edited(base, rng, 2))


def the_order_does_not_matter(base: str, a: str, b: str) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        found = genomes.merge(base, a, b, genomes.prefer(one))
        assert genomes.merge(base, b, a, genomes.prefer(other)) == mirrored(found)
        assert parses(found.text)
        assert {conflict.taken for conflict in found.conflicts} <= {one}


@settings(deadline=None, max_examples=25)
@given(name=NAMES, seed=SEEDS)
def test_edits_that_are_apart_are_both_made_and_nothing_else_is_changed(name: str, seed: int) -> None:
    """To the character: comments, blank lines and layout included."""
    base, rng = PROGRAMS[name], random.Random(seed)
    a, b = (edited(base, rng, 2, INSIDE) for _ in range(2))
    expected = both(base, a, b)
    if expected is not None:
        found = genomes.merge(base, a, b, genomes.prefer("a"))
        if not found.conflicts:
            assert found.text == expected
        elif parses(expected) and not mistakes(expected) - mistakes(a) - mistakes(b):
            assert all(len(conflict.base.splitlines()) > APART for conflict in found.conflicts)  # one long string


def both(base: str, a: str, b: str) -> str | None:
    """The lines of the base with the changed lines of both; None where they come near to each other."""
    old = base.splitlines(keepends=True)
    hunks = []
    for text in (a, b):
        new = text.splitlines(keepends=True)
        opcodes = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        hunks.append([(i1, i2, new[j1:j2]) for tag, i1, i2, j1, j2 in opcodes if tag != "equal"])
    if any(i1 - APART <= j2 and j1 - APART <= i2 for i1, i2, _ in hunks[0] for j1, j2, _ in hunks[1]):
        return None
    for i1, i2, new in sorted([*hunks[0], *hunks[1]], reverse=True):
        old[i1:i2] = new
    return "".join(old)


def mistakes(text: str) -> set[str]:
    return {problem.message for problem in genomes.check(text, genomes.Contract.SCRIPT)}


@settings(deadline=None, max_examples=25)
@given(name=NAMES, seed=SEEDS)
def test_comments_that_both_sides_have_stay_and_none_is_doubled(name: str, seed: int) -> None:
    base, rng = PROGRAMS[name], random.Random(seed)
    a, b = child(base, rng), child(base, rng)
    found = genomes.merge(base, a, b, genomes.seeded(rng))
    if not found.conflicts:
        merged, left, right = (Counter(re.findall(r"#[^\n]*", text)) for text in (found.text, a, b))
        assert left & right <= merged <= left | right | (left + right - Counter(re.findall(r"#[^\n]*", base)))


LOOSE = {
    "a function that the other side begins to call": (
        "def g():\n    return 1\n\n\ndef h():\n    return 2\n",
        ("def g():\n    return 1\n\n\n", ""),
        ("    return 2\n", "    return 2 * g()\n"),
    ),
    "a local that the other side begins to read": (
        "def f(x):\n    h = x + 1\n    y = x\n    return y\n",
        ("    h = x + 1\n", ""),
        ("return y", "return y * h"),
    ),
    "a local that the other side renames": (
        "def f(x):\n    h = x + 1\n    y = 2 * h\n    return y\n",
        ("    return y\n", "    z = h * y\n    return z\n"),
        ("    h = x + 1\n    y = 2 * h\n", "    hidden = x + 1\n    y = 2 * hidden\n"),
    ),
    "an attribute that another function reads": (
        "class M:\n    def __init__(self):\n        self.gate = 1\n        self.head = 2\n\n\ndef f(model):\n    return model.head\n",
        ("        self.gate = 1\n", ""),
        ("return model.head", "return model.head + model.gate"),
    ),
    "a parameter that the other side begins to hand over": (
        "def g(x, scale=1):\n    return x\n\n\ndef h():\n    return g(2)\n",
        ("x, scale=1", "x"),
        ("g(2)", "g(2, scale=3)"),
    ),
}


@pytest.mark.parametrize("case", LOOSE)
def test_what_one_side_needs_and_the_other_takes_away_is_a_conflict_and_no_broken_program(case: str) -> None:
    base, left, right = LOOSE[case]
    a, b = base.replace(*left), base.replace(*right)
    assert base not in (a, b)
    for side, whole in (("a", a), ("b", b)):
        found = genomes.merge(base, a, b, genomes.prefer(side))
        assert {conflict.taken for conflict in found.conflicts} == {side}
        assert found.conflicts[0].a
        assert found.conflicts[0].b
        assert not mistakes(found.text) - mistakes(a) - mistakes(b)
        assert genomes.identity(found.text) == genomes.identity(whole)


def test_a_loose_end_costs_the_other_side_nothing_but_the_change_at_fault() -> None:
    base = PROGRAMS["seed"]
    a = base.replace("    seen = prepare.report(total)", "    heard = prepare.report(total)").replace("DEPTH = 8", "DEPTH = 9")
    a = a.replace("if seen is not None and not seen <", "if heard is not None and not heard <").replace("{seen:g}", "{heard:g}")
    b = base.replace("        total.zero_()\n", "        print(seen)\n        total.zero_()\n").replace("HEAD_DIM = 128", "HEAD_DIM = 64")
    for side in "ab":
        found = genomes.merge(base, a, b, genomes.prefer(side))
        assert found.conflicts
        assert "DEPTH = 9" in found.text
        assert "HEAD_DIM = 64" in found.text
        assert genomes.check(found.text) == ()
