"""What of a program can run: a hash that never says of two programs that they do the same when they do not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genomes
from genomes import effective, folded, set_knobs

SEED = (Path(__file__).resolve().parent.parent / "trainer" / "train.py").read_text()
NAMES = ("A", "B", "C")
NUMBERS = st.integers(-3, 9)


def branches(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Expressions made of others, tests among them."""
    compared = st.tuples(inner, st.sampled_from(["<", "==", ">="]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
    return st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})"),
        st.tuples(inner, compared, inner).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})"),
        st.tuples(st.sampled_from(["max", "min"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        compared,
        inner.map(lambda e: f"(not {e})"),
        inner.map(lambda e: f"(-{e})"),
    )


EXPRESSIONS = st.recursive(st.one_of(NUMBERS.map(str), st.sampled_from((*NAMES, "x"))), branches, max_leaves=6)
BODY = """
def unread(x):
    return {0}


class Kept:
    factor = {1}

    def times(self, x):
        return self.factor * {2}


def helper(x):
    if {3}:
        y = {4}
    else:
        z = {5}
    return y if {6} else {7}


def main(x):
    y = {8}
    if {9}:
        return helper(x)
    elif {10}:
        return unread(y)
    while {11}:
        return Kept().times(y)
    return {12}
"""


def program(constants: tuple[int, ...], parts: list[str]) -> str:
    assigned = "".join(f"{name} = {value}\n" for name, value in zip(NAMES, constants, strict=True))
    return assigned + BODY.format(*parts)


def behaviour(text: str) -> list[object]:
    """What `main` gives, or how it fails, for some inputs."""
    found = dict[str, object]()
    try:
        exec(compile(text, "program", "exec", dont_inherit=True), found)
    except Exception as error:  # noqa: BLE001  how it fails is what is compared
        return [type(error)]
    said: list[object] = []
    for x in (-2, 0, 1, 5):
        try:
            value = found["main"](x)  # type: ignore[operator]
            said.append((type(value), value))
        except Exception as error:  # noqa: BLE001
            said.append(type(error))
    return said


@settings(max_examples=300, deadline=None)
@given(st.lists(EXPRESSIONS, min_size=13, max_size=13), st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=2, max_size=6))
def test_programs_of_one_hash_do_the_same(parts: list[str], constants: list[tuple[int, ...]]) -> None:
    first = dict[str, list[object]]()
    for some in constants:
        text = program(some, parts)
        done = behaviour(text)
        assert first.setdefault(folded(text), done) == done


def test_among_random_changes_those_without_effect_are_found() -> None:
    parts = ["x", "B", "x", "A < 4", "x", "C", "A < 9", "x", "A * 10 // 16 * 16", "x > 1", "False", "x < B", "x + 64 // C"]
    rng, same = random.Random(0), 0
    base = program((3, 4, 5), parts)
    for _ in range(300):
        other = program((rng.randint(1, 8), 4, rng.randint(1, 9)), parts)
        same += folded(other) == folded(base)
        assert (folded(other) == folded(base)) <= (behaviour(other) == behaviour(base))
    assert same > 5


# ---- the seed program


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ({"ASPECT_RATIO": 60}, {}),  # 480 channels are rounded up to 512, as 512 are
        ({"ASPECT_RATIO": 65}, {"ASPECT_RATIO": 65}),
        ({"ASPECT_RATIO": 60, "MATRIX_LR": 0.05}, {"MATRIX_LR": 0.05}),
        ({"ASPECT_RATIO": 50, "DEPTH": 10}, {"ASPECT_RATIO": 50, "DEPTH": 10}),  # 500 channels, where 640 would be
        ({"ASPECT_RATIO": 64}, {}),
        ({}, {}),
    ],
)
def test_values_that_change_nothing_are_left_out(values: dict[str, int], left: dict[str, int]) -> None:
    assert effective(SEED, values) == left
    assert (folded(set_knobs(SEED, values)) == folded(SEED)) is (not left)


def test_every_knob_of_the_seed_changes_what_it_does_somewhere_in_its_range() -> None:
    for knob in genomes.knobs(SEED):
        if knob.tunable and knob.kind != "choice":
            ends = {end: type(knob.value)(end) for end in (knob.low, knob.high) if end != knob.value}
            assert any(effective(SEED, {knob.name: value}) for value in ends.values()), knob


# ---- what is seen


PROGRAM = """import torch
WIDTH = 64
SWITCH = False
FACTOR = 0.5
NAMES = ("a", "b")


def scaled(x):
    return x * FACTOR


def build_model():
    model = torch.nn.Linear(WIDTH, WIDTH)
    if SWITCH:
        model = scaled(model)
    return model


def main():
    model = build_model()
    print(NAMES[0] if not SWITCH or WIDTH > 1000 else NAMES[1])
"""


def changed(old: str, new: str, text: str = PROGRAM) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 0.5", "FACTOR = 0.7"),  # behind a switch that is off
        ("return x * FACTOR", "return x * FACTOR + 1"),
        ("WIDTH, WIDTH", "32 * 2, WIDTH + 0"),
        ("WIDTH > 1000", "WIDTH > 2"),  # `not SWITCH` has settled it
        ('("a", "b")', '("a", "c")'),
        ("SWITCH = False", "SWITCH = 0"),
        ("def build_model():", "def helper(x):\n    return x\n\n\ndef build_model():"),
        ("import torch\n", 'import torch\n"""A program."""\n'),
        ("FACTOR", "SCALE"),
    ],
)
def test_what_cannot_matter_changes_nothing(old: str, new: str) -> None:
    assert folded(changed(old, new)) == folded(PROGRAM)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SWITCH = False", "SWITCH = True"),
        ("WIDTH = 64", "WIDTH = 65"),
        ("WIDTH = 64", "WIDTH = 64.0"),
        ('("a", "b")', '("c", "b")'),
        ("        model = scaled(model)", "        other = scaled(model)"),  # which names are local
        ("import torch\n", "import torch\nimport math\n"),
        ("def main():", "@torch.compile\ndef main():"),
        ("model = build_model()", "model = build_model().float()"),
    ],
)
def test_what_may_matter_is_a_change(old: str, new: str) -> None:
    assert folded(changed(old, new)) != folded(PROGRAM)


@pytest.mark.parametrize(
    "reader",
    [
        "print(globals())",
        "exec('x = FACTOR')",
        "import sys",
        "import inspect as i",
        "from importlib import import_module",
        "print(open(__file__).read())",
        "print(build_model.__globals__)",
        "from torch import *",
    ],
)
def test_a_program_that_may_read_its_own_text_is_compared_as_it_stands(reader: str) -> None:
    text = changed("import torch\n", f"import torch\n{reader}\n")
    assert folded(changed("FACTOR = 0.5", "FACTOR = 0.7", text)) != folded(text)
    assert folded(changed("WIDTH = 64\n", "WIDTH = 64  # channels\n", text)) == folded(text)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("X = 3\ndef main():\n    global X\n    X += 1\n    return X\n", "X = 4\ndef main():\n    global X\n    X += 1\n    return X\n"),
        ("def main():\n    for X in range(3): pass\n    return X\n", "def main():\n    for X in range(4): pass\n    return X\n"),
        ("X = [1]\ndef main():\n    X.append(2)\n    return len(X)\n", "X = [1, 1]\ndef main():\n    X.append(2)\n    return len(X)\n"),
        ("def main(x=1):\n    return x\n", "def main(x=2):\n    return x\n"),
        ("class A:\n    X = 3\ndef main():\n    return A.X\n", "class A:\n    X = 4\ndef main():\n    return A.X\n"),
        ("X = None\ndef main():\n    return X or 3\n", "X = None\ndef main():\n    return X or 4\n"),
        ("def main():\n    if 0:\n        yield\n    return 1\n", "def main():\n    return 1\n"),
    ],
)
def test_what_the_text_does_not_fix_is_a_change(text: str, other: str) -> None:
    assert folded(text) != folded(other)


# Pairs that were once taken for the same: each differs in what it does, or in whether it fails.
DIFFERENT = {
    "constant moved above its use (NameError repaired)": (
        "def main(x):\n    return W\nY = print(main(0))\nW = 3\n",
        "W = 3\ndef main(x):\n    return W\nY = print(main(0))\n",
    ),
    "local read before assigned": (
        "def main(x):\n    y = n + x\n    n = 3\n    return y\n",
        "def main(x):\n    y = 3 + x\n    n = 3\n    return y\n",
    ),
    "ifexp side effect": (
        "LOG = []\nD = False\ndef main(x):\n    y = 1 if LOG.append(x) and D else 2\n    return y + len(LOG)\n",
        "LOG = []\nD = False\ndef main(x):\n    y = 2\n    return y + len(LOG)\n",
    ),
    "list ifexp": (
        "A = True\ndef main(x):\n    b = [1, 2] if A else [3, 4]\n    b[0] = x\n    return b[0]\n",
        "A = True\ndef main(x):\n    b = [1, 2] if A else [3, 4]\n    b[0] = x\n    return 1\n",
    ),
    "list in tuple": (
        "C = ([1, 2], 3)\ndef main(x):\n    C[0].append(x)\n    return len(C[0])\n",
        "C = ([1, 2], 3)\ndef main(x):\n    C[0].append(x)\n    return 2\n",
    ),
    "set() grows": (
        "S = set((1, 2))\ndef main(x):\n    S.add(x)\n    return len(S)\n",
        "S = set((1, 2))\ndef main(x):\n    S.add(x)\n    return 2\n",
    ),
    "int * list": (
        "def main(x):\n    s = 4 * [0]\n    s[0] = x\n    return s[0]\n",
        "def main(x):\n    s = 4 * [0]\n    s[0] = x\n    return 0\n",
    ),
    "tuple == list": (
        "A = (1, 2)\ndef main(x):\n    return 1 if A == [1, 2] else 2\n",
        "A = (1, 2)\ndef main(x):\n    return 1\n",
    ),
    "set ==": (
        "def main(x):\n    return {1, 2} == {2, 1}\n",
        "def main(x):\n    return False\n",
    ),
    "len set": (
        "def main(x):\n    return len({1, 1})\n",
        "def main(x):\n    return 2\n",
    ),
    "tuple(set)": (
        "def main(x):\n    return tuple({3, 1})[0]\n",
        "def main(x):\n    return 3\n",
    ),
    "walrus after settled": (
        "y = [5]\ndef main(x):\n    if False and (y := 1):\n        pass\n    return y\n",
        "y = [5]\ndef main(x):\n    if False:\n        pass\n    return y\n",
    ),
    "yield folded away": (
        "def main(x):\n    x = 0 and (yield)\n    return x\n",
        "def main(x):\n    x = 0\n    return x\n",
    ),
    "init_subclass": (
        "R = []\nclass B:\n    def __init_subclass__(cls):\n        R.append(1)\nclass A(B):\n    pass\ndef main(x):\n    return B, R\n",
        "R = []\nclass B:\n    def __init_subclass__(cls):\n        R.append(1)\ndef main(x):\n    return B, R\n",
    ),
    "subclasses": (
        "class B:\n    pass\nclass A(B):\n    pass\ndef main(x):\n    return len(B.__subclasses__())\n",
        "class B:\n    pass\ndef main(x):\n    return len(B.__subclasses__())\n",
    ),
    "unread: undefined name": (
        "X = undefined\ndef main(x):\n    return 1\n",
        "def main(x):\n    return 1\n",
    ),
    "unread: hint": (
        "def f(x: Tensr):\n    return x\ndef main(x):\n    return 1\n",
        "def main(x):\n    return 1\n",
    ),
    "unread: base": (
        "class A(Modul):\n    pass\ndef main(x):\n    return 1\n",
        "def main(x):\n    return 1\n",
    ),
    "annotation of a constant": (
        "X: Fnal = 3\ndef main(x):\n    return X\n",
        "X: int = 3\ndef main(x):\n    return X\n",
    ),
    "1/0 unread": (
        "X = 1 / 0\ndef main(x):\n    return 1\n",
        "def main(x):\n    return 1\n",
    ),
    "private name in class": (
        "__A = 3\nclass C:\n    def f(self):\n        return __A\ndef main(x):\n    return C().f()\n",
        "__A = 3\nclass C:\n    def f(self):\n        return 3\ndef main(x):\n    return C().f()\n",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_programs_that_differ_have_hashes_that_differ(name: str) -> None:
    one, other = DIFFERENT[name]
    assert [str(said) for said in behaviour(one)] != [str(said) for said in behaviour(other)]
    assert folded(one) != folded(other)


def test_a_function_that_a_compiler_reads_is_compared_as_it_stands() -> None:
    text = "import torch\nW = 3\n@torch.jit.script\ndef main(x):\n    return x * W\n"
    assert folded(text) != folded(text.replace("x * W", "x * 3"))


@pytest.mark.parametrize("value", ["9000000000 * (0,)", "9000000000 * 'ab'", "round(7, -9000000000)"])
def test_no_value_takes_more_than_it_is_worth(value: str) -> None:
    assert folded(f"X = {value}\ndef main():\n    return X\n") != folded("X = 1\ndef main():\n    return X\n")


def test_a_text_that_is_too_deep_is_refused_as_by_its_identity() -> None:
    with pytest.raises(genomes.ParseError):
        folded("def main(x):\n    return " + "+".join(["x"] * 900) + "\n")
