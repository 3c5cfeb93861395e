"""Replies of models as edits: what they say is done exactly, what is unclear is told, and garbage is cheap."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import genomes
from genomes import GenomeError, ParseError, patch
from genomes.replies.page import MOST_PASSAGES
from genomes.replies.parts import MOST_CHARACTERS
from genomes.replies.snippets import MOST_DEPTH

TRAIN = (Path(__file__).resolve().parent.parent / "trainer" / "train.py").read_text()
LINES = TRAIN.splitlines()
SMALL = """\
import torch

RATE = 0.04  # of matrices
DEPTH = 4


def build_model():
    layers = [torch.nn.Linear(8, 8) for _ in range(DEPTH)]
    return torch.nn.Sequential(*layers)


def main():
    model = build_model()
    for step in range(3):
        print(step)
    return model
"""
NEW_LINES = st.lists(st.sampled_from(["", "    pass", "    x = 1  # added", "    y = RATE * 2", "    if y:", "        y += 1"]), max_size=5)


def block(search: str, replace: str) -> str:
    """Texts without a final line end; an empty `replace` deletes."""
    return "\n".join(["<<<<<<< SEARCH", search, "=======", *([replace] if replace else []), ">>>>>>> REPLACE"])


def message(text: str, reply: str) -> str:
    with pytest.raises(GenomeError) as raised:
        patch(text, reply)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def outcome(text: str, reply: str) -> str:
    """The program, or the kind of error."""
    try:
        return patch(text, reply)
    except GenomeError as error:
        return type(error).__name__


def is_new_program(text: str, parent: str) -> bool:
    try:
        return genomes.identity(text) != genomes.identity(parent)
    except ParseError:
        return False


# ---- what matches is replaced, exactly


@settings(suppress_health_check=[HealthCheck.filter_too_much], deadline=None, max_examples=60)
@given(st.integers(0, len(LINES) - 1), st.integers(1, 12), NEW_LINES)
def test_any_lines_of_a_program_can_be_replaced_and_nothing_else_changes(start: int, count: int, new: list[str]) -> None:
    old = LINES[start : start + count]
    assume(sum(LINES[i : i + len(old)] == old for i in range(len(LINES))) == 1 and any(line.strip() for line in old))
    wanted = "".join(f"{line}\n" for line in [*LINES[:start], *new, *LINES[start + len(old) :]])
    assume(is_new_program(wanted, TRAIN))
    assert patch(TRAIN, "\n".join(["Sure:", "<<<<<<< SEARCH", *old, "=======", *new, ">>>>>>> REPLACE", "Done."])) == wanted


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(4)))
def test_the_order_of_blocks_does_not_matter(order: list[int]) -> None:
    changes = [("RATE = 0.04  # of matrices", "RATE = 0.05"), ("DEPTH = 4", "DEPTH = 5"), ("        print(step)", "        print(step, 1)")]
    parts = [block(*change) for change in [*changes, ("    model = build_model()", "    model = build_model()\n    model.train()")]]
    reply = "\nand\n".join(parts[i] for i in order)
    wanted = SMALL.replace("0.04  # of matrices", "0.05").replace("= 4", "= 5").replace("(step)\n", "(step, 1)\n")
    assert patch(SMALL, reply) == wanted.replace("    model = build_model()\n", "    model = build_model()\n    model.train()\n")


def test_prose_and_code_fences_around_blocks_are_ignored() -> None:
    reply = f"NOTE: deeper\n\n```python\n{block('DEPTH = 4', 'DEPTH = 6')}\n```\nThat is all: a < b == c > d.\n=======\n"
    assert patch(SMALL, reply) == SMALL.replace("DEPTH = 4", "DEPTH = 6")


def test_an_empty_replacement_deletes_the_lines() -> None:
    assert patch(SMALL, block("    for step in range(3):\n        print(step)", "")) == SMALL.replace(
        "    for step in range(3):\n        print(step)\n", ""
    )


def test_a_last_line_without_an_end_stays_without_one() -> None:
    assert patch("x = 1\ny = 2", block("y = 2", "y = 3\nz = 4")) == "x = 1\ny = 3\nz = 4"


def test_line_ends_of_the_program_are_kept() -> None:
    windows = SMALL.replace("\n", "\r\n")
    reply = block("DEPTH = 4", "DEPTH = 6\nWIDTH = 2")
    assert patch(windows, reply) == windows.replace("DEPTH = 4", "DEPTH = 6\r\nWIDTH = 2")
    assert patch(SMALL, reply.replace("\n", "\r\n")) == SMALL.replace("DEPTH = 4", "DEPTH = 6\nWIDTH = 2")


# ---- repairs that are not guesses


def test_trailing_white_space_is_forgiven() -> None:
    assert patch(SMALL, block("DEPTH = 4  \n\n  ", "DEPTH = 6\n\n")) == SMALL.replace("DEPTH = 4", "DEPTH = 6")


@pytest.mark.parametrize("shift", ["", "  ", "    "])
def test_lines_that_are_shifted_as_a_whole_are_shifted_back(shift: str) -> None:
    search = ["for step in range(3):", "", "    print(step)"]
    new = ["for step in range(4):", "", "    print(step)", "    print()"]
    text = SMALL.replace("3):\n", "3):\n\n")
    reply = block("\n".join(shift + line if line else line for line in search), "\n".join(shift + line if line else line for line in new))
    assert patch(text, reply) == text.replace("range(3)", "range(4)").replace("print(step)\n", "print(step)\n        print()\n")


def test_lines_that_are_shifted_too_far_are_shifted_back() -> None:
    reply = block("            print(step)", "            print(step + 1)\n            print()")
    assert patch(SMALL, reply) == SMALL.replace("        print(step)\n", "        print(step + 1)\n        print()\n")


def test_a_replacement_that_cannot_follow_the_shift_is_told() -> None:
    assert "cannot be moved as far" in message(SMALL, block("            print(step)", "            x = 1\nprint(x)"))


def test_a_shift_that_differs_between_lines_is_no_match() -> None:
    said = message(SMALL, block("for step in range(3):\n  print(step)", "pass"))
    assert "stand from line 14 on" in said
    assert "indentation" in said


def test_an_exact_match_is_taken_though_others_are_near() -> None:
    text = SMALL + "\n\ndef other():\n        print(step)  \n"
    assert patch(text, block("        print(step)", "        print(9)")) == text.replace("print(step)\n", "print(9)\n")


KNOBS = 'A = 1  # rows; range 1..4\nTEXT = "a # b"  # said\nB = 2  # of it\n\n\ndef f():\n    return A  # the rows\n'


@pytest.mark.parametrize(
    ("search", "replace", "line"),
    [
        ("A = 1", "A = 2", "A = 2  # rows; range 1..4"),
        ("A = 1  # rows", "A = 2", "A = 2  # rows; range 1..4"),  # a comment that is shortened
        ("A = 1", "A = 2  # rows", "A = 2  # rows"),
        ("A = 1", "A = 2\nC = 3", "A = 2\nC = 3"),  # what was said of one line need not hold of two
        ("A = 1", "A2 = 2", "A2 = 2"),
        ('TEXT = "a # b"', 'TEXT = "a # c"', 'TEXT = "a # c"  # said'),
        ('A = 1\nTEXT = "a # b"\nB = 2', 'A = 1\nTEXT = "a"\nB = 2', 'TEXT = "a"  # said\nB = 2  # of it'),
        ("    return A", "    return A + 1", "    return A + 1"),
        ('TEXT = "a # b"\nB = 2', 'TEXT = """a\nB = 2"""', 'TEXT = """a\nB = 2"""'),
    ],
)
def test_comments_behind_code_may_be_left_out_and_stay_with_what_they_are_about(search: str, replace: str, line: str) -> None:
    assert f"{line}\n" in patch(KNOBS, block(search, replace)) + "\n"


@pytest.mark.parametrize("search", ["A = 3", 'TEXT = "a', "# rows; range 1..4", "# of it", "return A"])
def test_but_code_must_be_the_program_s(search: str) -> None:
    text = KNOBS.replace("def f():", "def f():\n    return A  # twice")
    assert "block 1" in message(text, block(search, "A = 2"))


# ---- what is unclear is told


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("", "no block"),
        ("```python\ndepth = 6\n```", "no block"),
        (block("", "DEPTH = 6"), "block 1 has an empty SEARCH"),
        (block("  \n", "DEPTH = 6"), "block 1 has an empty SEARCH"),
        ("<<<<<<< SEARCH\nDEPTH = 4\n=======\nDEPTH = (6", "block 1 is cut off"),
        ("<<<<<<< SEARCH\nDEPTH = 4\n=======\n", "block 1 is cut off"),
        ("<<<<<<< SEARCH\nDEPTH = 4", "block 1 is cut off"),
        (block("DEPTH = 4", "DEPTH = 6") + "\n<<<<<<< SEARCH\nRATE", "block 2 is cut off"),
        ("<<<<<<< SEARCH\nDEPTH = 4\n>>>>>>> REPLACE", "block 1 has no ======="),
        ("DEPTH = 4\n=======\nDEPTH = 6\n>>>>>>> REPLACE", "block 1 has no <<<<<<< SEARCH"),
        ("<<<<<<< SEARCH\nDEPTH = 4\n=======\nDEPTH = 6\n<<<<<<< SEARCH", "block 1 is not closed"),
        (block("DEPHT = 4", "DEPTH = 6"), "block 1: no line of the program is 'DEPHT = 4'; did you mean line 4, 'DEPTH = 4'"),
        (block("DEPTH = 4", "DEPTH = 6") + "\n" + block("zzz", ""), "block 2: no line of the program is 'zzz'; nothing is near"),
        (block("    model = build_model()\n    return x", ""), "from line 13 on, then its line 2 is '    return x' where line 14 is"),
        (block("    return model\nx", ""), "then its line 2 is 'x' where the program ends"),
        (block("\n", "") + block("\n", "x = 1"), "empty SEARCH"),
        (block("DEPTH = 4", "DEPTH = 6") + "\n" + block("DEPTH = 4\n", "DEPTH = 7\n"), "blocks 1 and 2 both change line 4"),
        (block("DEPTH = 4", "DEPTH = (6"), "does not parse: line"),
        (block("DEPTH = 4", "DEPTH = 4  # deep"), "leave the program as it was"),
        (block("DEPTH = 4", "DEPTH = 4"), "leave the program as it was"),
        (block("DEPTH = 4", f"DEPTH = {'-' * MOST_DEPTH}4"), "levels deep"),
        ("\n".join([block("DEPTH = 4", "DEPTH = 6")] * (MOST_PASSAGES + 1)), f"more than {MOST_PASSAGES} blocks"),
        ("x" * (MOST_CHARACTERS + 1), "characters"),
    ],
)
def test_what_does_not_fit_is_told_so_that_a_model_can_act_on_it(reply: str, said: str) -> None:
    assert said in message(SMALL, reply)


def test_all_blocks_that_match_nothing_are_told_at_once() -> None:
    said = message(SMALL, block("DEPHT = 4", "x") + "\n" + block("DEPTH = 4", "DEPTH = 5") + "\n" + block("RTAE", "y"))
    assert "block 1" in said
    assert "block 3" in said


def test_lines_that_occur_several_times_are_told_with_their_places() -> None:
    said = message(SMALL + "\n\ndef other():\n    return model\n", block("    return model", "    return 1"))
    assert "occurs 2 times, at lines 16, 20" in said


# ---- garbage

FRAGMENTS = [
    "<<<<<<< SEARCH",
    "=======",
    ">>>>>>> REPLACE",
    "<<<<<",
    "DEPTH = 4",
    "DEPTH = 5",
    "  DEPTH = 4",
    "",
    "def main():",
    "\x00",
    "(",
    "é",
]


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(max_size=200), st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=8)), max_size=16).map("\n".join)))
def test_no_reply_raises_anything_else_or_gives_the_parent_back(reply: str) -> None:
    result = outcome(SMALL, reply)
    assert result in ("EditError", "ParseError") or genomes.identity(result) != genomes.identity(SMALL)


@pytest.mark.parametrize(
    "replace", ["a" + "+a" * 5000, "[" * 5000, "not " * 3000 + "a", "f" + "()" * 3000, "9" * 6000, "'\ud800'", "1e999999"]
)
def test_monstrous_expressions_are_refused_or_harmless(replace: str) -> None:
    result = outcome(SMALL, block("DEPTH = 4", f"DEPTH = {replace}"))
    assert result in ("EditError", "ParseError") or genomes.size(result)


@pytest.mark.parametrize(
    "reply",
    [
        "<" * 2_000_000,
        "<<<<<<< SEARCH\n" * 200_000,
        ("<<<<<<< SEARCH\n" + "a\n" * 90_000 + "=======\n>>>>>>> REPLACE\n"),
        "\n".join(block("    x = foo(aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, b)" * 20, "x")[:3000] for _ in range(60)),
        "\n".join(block("    x = 1\n" * 300 + f"q{i}", "x") for i in range(40)),
    ],
    ids=["one-line", "opened-only", "long-search", "near-misses", "repeats"],
)
def test_megabytes_of_garbage_are_refused_cheaply(reply: str) -> None:
    """Counted in processor time, with room for a slow machine: quadratic searching would take minutes."""
    text = "def f():\n" + "    x = 1\n" * 20_000
    began = time.process_time()
    assert outcome(text, reply) == "EditError"
    assert time.process_time() - began < 10


def test_edits_stay_exact_over_a_long_chain() -> None:
    """Forty replies in a row, each made from the program that the last one gave."""
    rng, text = random.Random(5), TRAIN
    for step in range(40):
        lines = text.splitlines()
        at = rng.choice([i for i, line in enumerate(lines) if line.startswith("    return") and lines.count(line) == 1])
        new = f"    step_{step} = {step}\n{lines[at]}"
        changed = patch(text, block(lines[at], new))
        assert changed == text.replace(f"{lines[at]}\n", f"{new}\n", 1)
        text = changed
