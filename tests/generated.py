"""Generated programs: grammar without meaning, drawn as tokens, and laid out by choices of their own (`layouts`)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hypothesis import strategies as st
from layouts import Group, Layout, Number, Statement, Text, Token

NAMES = ("x", "y", "width", "self", "lr", "größe", "match", "T", "betas", "step_count")
CONSTANTS = ("DEPTH", "LR", "WINDOW_PATTERN", "ADAM_BETAS", "TOTAL_BATCH_SIZE", "EPS", "WARMUP_RATIO")
CALLS = ("f", "nn.Linear", "x.view", "torch.tanh", "dict", "self.wte.weight.fill_", "norm")
INTEGERS = (0, 1, 2, 3, 7, 15, 64, 300, 1000, 2**19, 10**4, 10**9)
FLOATS = (0.0, 0.1, 1e-3, 0.95, 1.0, 1.02, 1e-10, 1000.0, 1e30, float("inf"))
WORDS = ("SSSL", "tanh", "", "cuda", "naïve café → 日本", "it's", 'a "b"', "two\nlines", "back\\slash", "# no comment", "{x}", "x" * 90)
FORMATTED = ('f"{x:.2f}"', "f'{width!r:>{T}} {1 + 2}'", 'rf"\\d{x}"', 'f"""{x}\n  # not a comment {0.5:g}\n"""', 'f"{{}}" "tail"')
OTHER = ("None", "True", "False", "...", "1j", "0x_ff", "0b101", "1_000.5", "1E5", "b'bytes'", "(not x)", "~ 3", "- 1j")
BINARY = ("+", "-", "*", "/", "//", "%", "@", "&", "|", "<<")
# ---- Grammar


def expression(rng: Random, depth: int = 2) -> tuple[Token, ...]:
    return (Group(rng.choice(_COMPOUND if depth > 0 and rng.random() > 0.4 else _ATOMS)(rng, depth - 1)),)


def _atom(rng: Random, depth: int) -> tuple[Token, ...]:
    made: tuple[Callable[[], Token], ...] = (
        *(lambda: Number(rng.choice(INTEGERS)), lambda: Number(rng.choice(INTEGERS)), lambda: Number(rng.choice(FLOATS))),
        *(lambda: Text(rng.choice(WORDS)), lambda: rng.choice(OTHER), lambda: rng.choice(FORMATTED)),
    )
    return (rng.choice(made)(),)


def _name(rng: Random, depth: int) -> tuple[Token, ...]:
    return (rng.choice(NAMES),)


def _negative(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("(", "-", *expression(rng, depth), ")")


def _binary(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("(", *expression(rng, depth), rng.choice(BINARY), *expression(rng, depth), ")")


def _power(rng: Random, depth: int) -> tuple[Token, ...]:
    left: tuple[Token, ...] = (Number(rng.choice(INTEGERS[1:5])),) if rng.random() < 0.6 else (rng.choice(NAMES),)
    right: tuple[Token, ...] = rng.choice(((Number(2),), ("-", Number(0.5)), ("-", Number(1)), (Number(0.5),), (rng.choice(NAMES),)))
    return (*rng.choice((("(",), ("(", "-"))), *left, "**", *right, ")")


def _call(rng: Random, depth: int) -> tuple[Token, ...]:
    found: list[Token] = [rng.choice(CALLS), "("]
    for _ in range(rng.randrange(3)):
        found += [*expression(rng, depth), ","]
    for name in rng.sample(("lr", "dim", "betas", "kind", "seed", "weight_decay"), rng.randrange(3)):
        found += [name, "=", *expression(rng, depth), ","]
    return (*found, ")")


def _display(rng: Random, depth: int) -> tuple[Token, ...]:
    opening, closing = rng.choice(("()", "[]", "{}"))
    found: list[Token] = [opening]
    for _ in range(rng.randrange(1, 4)):
        found += [*((rng.choice(("'a'", "'lr'", "1", "x")), ":") if opening == "{" else ()), *expression(rng, depth), ","]
    return (*found, closing)


def _subscript(rng: Random, depth: int) -> tuple[Token, ...]:
    inside = rng.choice(((*expression(rng, depth),), (":", Number(2)), ("...", ",", "None"), ("-", Number(1))))
    return (rng.choice(NAMES), "[", *inside, "]", *((".", "real") if rng.random() < 0.3 else ()))


def _attribute(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("(", *expression(rng, depth), ")", ".", "real")


def _compare(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("(", *expression(rng, depth), rng.choice(("<", ">=", "==", "in", "is not", "and", "or")), *expression(rng, depth), ")")


def _choice(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("(", *expression(rng, depth), "if", *expression(rng, depth), "else", *expression(rng, depth), ")")


def _lambda(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("(", "lambda", "x", ",", "y", "=", *expression(rng, depth), ":", *expression(rng, depth), ")")


def _comprehension(rng: Random, depth: int) -> tuple[Token, ...]:
    return ("[", *expression(rng, depth), "for", "x", "in", *expression(rng, depth), "if", *expression(rng, depth), "]")


_ATOMS = (_name, _atom, _atom)
_COMPOUND = (
    *(_binary, _binary, _call, _call, _display, _power, _negative, _subscript, _attribute, _compare, _choice, _lambda, _comprehension),
)


def block(rng: Random, depth: int, most: int = 3) -> tuple[Statement, ...]:
    return tuple(statement(rng, depth) for _ in range(rng.randint(1, most)))


def statement(rng: Random, depth: int) -> Statement:
    if depth > 0 and rng.random() > 0.55:
        return rng.choice((_function, _function, _class, _if, _loop, _try, _with, _match))(rng, depth - 1)
    return _simple(rng)


def _simple(rng: Random) -> Statement:
    e = expression
    target = rng.choice((CONSTANTS, NAMES))
    forms: tuple[Callable[[], tuple[Token, ...]], ...] = (
        lambda: (rng.choice(target), "=", *e(rng)),
        lambda: (rng.choice(target), "=", *e(rng, 0)),
        lambda: (rng.choice(target), "=", "-", Number(rng.choice(INTEGERS + FLOATS))),
        lambda: (rng.choice(NAMES), ",", rng.choice(NAMES), "=", *e(rng, 1), ",", *e(rng, 1)),
        lambda: (rng.choice(NAMES), ":", "int", "=", *e(rng)),
        lambda: (rng.choice(NAMES), rng.choice(("+=", "*=", "//=")), *e(rng)),
        lambda: ("self", ".", rng.choice(NAMES), "[", *e(rng, 0), "]", "=", *e(rng)),
        lambda: ("return", *e(rng)),
        lambda: ("assert", *e(rng), ",", *e(rng, 0)),
        lambda: _call(rng, 2),
        lambda: (rng.choice(("pass", "import torch", "from a import b", "global lr", "del x", "...", "raise x", "x: int")),),
    )
    return Statement((rng.choice(forms)(),))


def _decorators(rng: Random) -> tuple[tuple[Token, ...], ...]:
    return tuple(rng.choice((("nn.no_grad", "(", ")"), _call(rng, 1), ("x",))) for _ in range(rng.choice((0, 0, 0, 1, 2))))


def _function(rng: Random, depth: int) -> Statement:
    word = rng.choice(("def", "def", "def", "async def"))
    head = (
        word,
        rng.choice(NAMES),
        "(",
        "self",
        ",",
        "x",
        "=",
        *expression(rng, 1),
        ",",
        "*",
        ",",
        "lr",
        ":",
        "float",
        "=",
        *expression(rng, 0),
        ")",
    )
    return Statement((head,), (block(rng, depth),), _decorators(rng))


def _class(rng: Random, depth: int) -> Statement:
    return Statement((("class", rng.choice(("GPT", "Block", "MLP")), "(", "Module", ")"),), (block(rng, depth, 4),), _decorators(rng))


def _if(rng: Random, depth: int) -> Statement:
    heads: list[tuple[Token, ...]] = [(word, *expression(rng)) for word in ("if", "elif", "elif")[: rng.randint(1, 3)]]
    heads += [("else",)] * rng.randrange(2)
    return Statement(tuple(heads), tuple(block(rng, depth, 2) for _ in heads))


def _loop(rng: Random, depth: int) -> Statement:
    head: tuple[Token, ...] = ("while", *expression(rng)) if rng.random() < 0.4 else ("for", "x", ",", "y", "in", *expression(rng))
    heads: tuple[tuple[Token, ...], ...] = (head, ("else",)) if rng.random() < 0.3 else (head,)
    return Statement(heads, tuple(block(rng, depth, 2) for _ in heads))


_TRIES: tuple[tuple[tuple[Token, ...], ...], ...] = (
    (("try",), ("except", "x")),
    (("try",), ("finally",)),
    (("try",), ("except", "x", "as", "y"), ("except",), ("else",), ("finally",)),
)


def _try(rng: Random, depth: int) -> Statement:
    heads = rng.choice(_TRIES)
    return Statement(heads, tuple(block(rng, depth, 2) for _ in heads))


def _with(rng: Random, depth: int) -> Statement:
    return Statement((("with", *_call(rng, 1), "as", "x", ",", *_call(rng, 0)),), (block(rng, depth, 2),))


_PATTERNS: tuple[tuple[Token, ...], ...] = (
    ("1", "|", "- 2.5"),
    ("{", "'a'", ":", "3", "}"),
    ("[", "x", ",", "*", "_", "]"),
    ("GPT", "(", "depth", "=", "8", ")"),
)


def _match(rng: Random, depth: int) -> Statement:
    patterns = rng.choice(_PATTERNS)
    bodies = (block(rng, depth, 2), block(rng, depth, 1))
    return Statement((("match", *expression(rng)), ("case", *patterns, "if", *expression(rng, 1)), ("case", "_")), ((), *bodies))


# ---- Strategies. Random draws from a seed are ten times as fast as Hypothesis's own; what it shrinks is the size of the program.


def trees() -> st.SearchStrategy[tuple[Statement, ...]]:
    return st.builds(lambda most, depth, seed: block(Random(seed), depth, most), st.integers(1, 5), st.integers(0, 3), _seeds)


_seeds = st.integers(0, 2**32)


def texts() -> st.SearchStrategy[str]:
    """The text of a program."""
    return st.builds(lambda tree, seed: Layout(Random(seed)).text(tree), trees(), _seeds)


def layouts() -> st.SearchStrategy[tuple[str, str]]:
    """One program in two layouts."""

    def pair(tree: tuple[Statement, ...], plain: bool, seed: int) -> tuple[str, str]:
        return Layout(Random(seed + 1), plain).text(tree), Layout(Random(seed)).text(tree)

    return st.builds(pair, trees(), st.booleans(), _seeds)


def relatives() -> st.SearchStrategy[tuple[str, str]]:
    """Two programs that share statements, some of them in other places or laid out anew."""

    def pair(tree: tuple[Statement, ...], other: tuple[Statement, ...], seed: int) -> tuple[str, str]:
        rng = Random(seed)
        shared = [one for one in rng.sample([*tree, *other], len(tree) + len(other)) if rng.random() < 0.6]
        return Layout(Random(7)).text(tree), Layout(rng if rng.random() < 0.3 else Random(7)).text(tuple(shared))

    return st.builds(pair, trees(), trees(), _seeds)
