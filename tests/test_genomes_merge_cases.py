"""What the three-way merge makes of small programs: united as a person would, or a conflict that makes sense."""

from __future__ import annotations

import pytest

import genomes

UNITED = {  # base, a, b, merged
    "knobs in nested calls": (
        "y = f(g(0.1, 0.1), h(0.1))\n",
        "f(g(0.1, 0.1)→f(g(0.2, 0.1)",
        "0.1), h(0.1)→0.3), h(0.4)",
        "y = f(g(0.2, 0.3), h(0.4))\n",
    ),
    "a name wrapped, and another in its place": ("y = f(x)\n", "(x)→(norm(x))", "(x)→(z)", "y = f(norm(z))\n"),
    "an expression in parentheses wrapped": ("y = x * z\n", "x * z→(x * z) ** 2", "*→+", "y = (x + z) ** 2\n"),
    "an operator that binds tighter, and a sum under it": ("y = x * z\n", "*→**", "x→(x + 1)", "y = (x + 1) ** z\n"),
    "an operator that binds tighter, and a sign": ("y = x * z\n", "*→**", "x→-x", "y = (-x) ** z\n"),
    "terms added by both": ("y = a + b\n", "b→b + c", "a→2 * a", "y = 2 * a + b + c\n"),
    "a term added by each": ("y = a + b\n", "b→b + c", "b→b + d", "y = a + b + c + d\n"),
    "a term dropped and one changed": ("y = a + b + c\n", " + b→", "a→2 * a", "y = 2 * a + c\n"),
    "a keyword added by each": ("f(x)\n", "x→x, a=1", "x→x, b=2", "f(x, a=1, b=2)\n"),
    "a key added by each": ("d = {'a': 1}\n", "1→1, 'b': 2", "1→1, 'c': 3", "d = {'a': 1, 'b': 2, 'c': 3}\n"),
    "another function, and its argument changed": ("y = F.relu(x)\n", "relu→gelu", "x→norm(x)", "y = F.gelu(norm(x))\n"),
    "a value and its comment": ("x = 1  # one\n", "1→2", "one→uno", "x = 2  # uno\n"),
    "a line above and one below": ("a = 1\nb = 2\n", "a = 1→z = 0\na = 1", "b = 2→b = 2\nc = 3", "z = 0\na = 1\nb = 2\nc = 3\n"),
    "new things of different names at one place": ("a = 1\nb = 2\n", "b→q = 1\nb", "b→r = 1\nb", "a = 1\nq = 1\nr = 1\nb = 2\n"),
    "the same import at two places": ("a = 1\nb = 2\n", "a→import gc\na", "b→import gc\nb", "import gc\na = 1\nb = 2\n"),
    "a statement moved and changed": ("a = 1\nb = 2\nc = 3\n", "a = 1\nb = 2\n→b = 2\na = 1\n", "1→4", "b = 2\na = 4\nc = 3\n"),
    "a branch changed and another below it": ("if x:\n    y = 1\nz = 2\n", "y = 1→y = 3", "x:→x and w:", "if x and w:\n    y = 3\nz = 2\n"),
    "a branch added and another changed": ("if x:\n    y = 1\n", "1→1\nelse:\n    y = 2", "1→3", "if x:\n    y = 3\nelse:\n    y = 2\n"),
    "a handler added and the body changed": (
        "try:\n    f()\nfinally:\n    g()\n",
        "f()→f()\nexcept OSError:\n    h()",
        "f()→f(1)",
        "try:\n    f(1)\nexcept OSError:\n    h()\nfinally:\n    g()\n",
    ),
    "groups appended to a list of many lines": (
        "g = [\n    {'a': 1},\n    {'b': 2},\n]\n",
        "{'b': 2},→{'b': 2},\n    {'c': 3},",
        "{'b': 2},→{'b': 3},\n    {'d': 4},",
        "g = [\n    {'a': 1},\n    {'b': 3},\n    {'c': 3},\n    {'d': 4},\n]\n",
    ),
}
CONFLICTS = {  # base, a, b, what the conflict says of the three
    "one number": ("x = 1\n", "1→2", "1→3", ("1", "2", "3")),
    "wrapped by both": ("y = f(x)\n", "(x)→(norm(x))", "(x)→(2 * x)", ("x", "norm(x)", "2 * x")),
    "another function, and an argument that it may not know": (
        "y = F.relu(x)\n",
        "relu→gelu",
        "x→x, inplace=True",
        ("F.relu(x)", "F.gelu(x)", "F.relu(x, inplace=True)"),
    ),
    "what is called, and on what": (
        "y = F.relu(x).square()\n",
        "F.relu(x).square()→F.gelu(x)",
        "relu(x)→relu(norm(x))",
        ("F.relu(x).square()", "F.gelu(x)", "F.relu(norm(x)).square()"),
    ),
    "a statement doubled and changed": (
        "x = 1\ny = f(x)\nz = 2\n",
        "y = f(x)→y = f(x)\ny = f(x)",
        "f(x)→f(x, 2)",
        ("y = f(x)\n", "y = f(x)\ny = f(x)\n", "y = f(x, 2)\n"),
    ),
    "statements at one place whose order matters": ("a = 1\nb = 2\n", "b→a = -a\nb", "b→a = 2 * a\nb", ("", "a = -a\n", "a = 2 * a\n")),
    "numbers appended to one list": ("c = [1, 2]\n", "2→2, 3", "2→2, 4", ("", "3", "4")),
    "arguments by place appended to one call": ("f(x)\n", "x→x, a", "x→x, b", ("", "a", "b")),
    "a statement dropped and changed": ("a = 1\nb = 2\nc = 3\n", "b = 2\n→", "2→4", ("b = 2\n", "", "b = 4\n")),
}


def changed(base: str, change: str) -> str:
    old, new = change.split("→")
    assert old in base
    return base.replace(old, new, 1)


@pytest.mark.parametrize("case", UNITED)
def test_what_goes_together_is_united(case: str) -> None:
    base, left, right, expected = UNITED[case]
    a, b = changed(base, left), changed(base, right)
    for one, other in ((a, b), (b, a)):
        assert genomes.merge(base, one, other, genomes.prefer("a")) == genomes.Merge(expected, ())


@pytest.mark.parametrize("case", CONFLICTS)
def test_what_does_not_go_together_is_a_conflict_with_both_sides(case: str) -> None:
    base, left, right, said = CONFLICTS[case]
    a, b = changed(base, left), changed(base, right)
    for side, whole in (("a", a), ("b", b)):
        found = genomes.merge(base, a, b, genomes.prefer(side))
        assert [(c.base, c.a, c.b, c.taken) for c in found.conflicts] == [(*said, side)]
        assert found.text == whole


@pytest.mark.parametrize(
    ("base", "where"),
    [
        ("RATE = 1\n", "RATE"),
        ("BETAS: tuple = (1, 0.9)\n", "BETAS"),
        ("def f():\n    rate = 1\n", "f.rate"),
        ("def f():\n    g(1)\n", "f"),
        ("x.y = 1\n", ""),
    ],
)
def test_a_conflict_names_the_constant_or_the_definition_that_it_is_in(base: str, where: str) -> None:
    found = genomes.merge(base, base.replace("1", "2"), base.replace("1", "3"), genomes.prefer("a"))
    assert [(c.where, c.base, c.a, c.b) for c in found.conflicts] == [(where, "1", "2", "3")]


def test_a_side_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'c'"):
        genomes.prefer("c")
