"""Which edits of the seed genome each genome carries, by names under which the same edit is found again in other genomes.

    a number   the seed's knob that stands in the same place (genomes.match), by its name in the seed, with the distance between its value
               and the seed's on the knob's own scale (logarithmic for rates): one edit with many values, not one for each
    a choice   the seed's knob in the same place, and its value
    the rest   a place in the tree of the seed genome (genomes.diff) and what stands there now, in tokens: comments, layout and quotes do
               not count, nor do numbers, which are tuned after a structure has come. Other edits above or below do not change its name

Members of one species differ in numbers alone: one of them is compared with the seed, and only values are read of the others, which takes a
fiftieth of the time. Left out: edits of imports or docstrings alone; numbers inside new code, which belong to the edit that brought it. A
statement that was rewritten twice carries a different edit from one that was rewritten once.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import genomes
from evo.core.history import Genome
from evo.numeric.attribution import Observed
from evo.numeric.space import CHOICE, Dimension, Space

SPECIES = 512  # remembered, some 50 kB each
_COMMENT = re.compile(r"#[^\n]*")
_NUMBER = re.compile(r"(?<![\w.])\.?\d(?:[\w.]|(?<=[eE])[+-])*")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Traits:
    """Scored genomes as edits of the seed genome, in the order of their introduction."""

    observed: tuple[Observed, ...]
    edits: Mapping[tuple[str, float], genomes.Edit]  # (name, amount) -> the edit as the first genome had it


class Edits:
    """Programs as edits of one seed genome. The species asked for last are remembered."""

    def __init__(self, founder: str, texts: Callable[[str], str]) -> None:
        """
        Args:
            founder: the seed genome.
            texts: genome id -> program.
        """
        self.founder = founder
        self.texts = texts
        self._member = lru_cache(maxsize=SPECIES)(lambda first: _Member(self._seed, texts(first)))

    def of(self, genome: str, first: str) -> dict[tuple[str, float], genomes.Edit]:
        """The edits of a genome by (name, amount). `first`: the member that its species is known by."""
        return self._member(first).edits(self.texts(genome))

    @cached_property
    def _seed(self) -> _Seed:
        return _Seed(self.texts(self.founder))


def traits(edits: Edits, history: Mapping[str, Genome], among: Container[str] | None = None) -> Traits:
    """The edits of all scored genomes, or of those among some."""
    scored, firsts = [g for g in history.values() if g.scores], first_members(history)
    found: dict[tuple[str, float], genomes.Edit] = {}
    observed = []
    for genome in scored:
        if among is None or genome.id in among:
            own = edits.of(genome.id, firsts[genome.species])
            for key, edit in own.items():
                found.setdefault(key, edit)
            observed.append(Observed(genome.id, genome.mean, len(genome.scores), dict(own.keys())))
    return Traits(tuple(observed), found)


def first_members(history: Mapping[str, Genome]) -> dict[str, str]:
    """Species -> its first scored member."""
    firsts: dict[str, str] = {}
    for genome in history.values():
        if genome.scores:
            firsts.setdefault(genome.species, genome.id)
    return firsts


class _Seed:
    """The seed genome: its text and the knobs whose values are compared."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.dimensions: Mapping[str, Dimension] = {d.knob.name: d for d in Space(genomes.knobs(text)).dimensions}


class _Member:
    """One species, known by its first member: which of the seed's knobs it has, how else its structure differs, and how to read its
    members' values."""

    def __init__(self, seed: _Seed, text: str) -> None:
        self._reader = genomes.Reader(text)
        matched = genomes.match(seed.text, text)
        self._dimensions = {matched[name]: d for name, d in seed.dimensions.items() if matched.get(name) in self._reader.knobs}
        numbers = {d.knob.name for d in self._dimensions.values()}
        self._structure = dict(structural(e for e in genomes.diff(seed.text, text) if e.kind != "set" or e.where not in numbers))

    def edits(self, text: str) -> dict[tuple[str, float], genomes.Edit]:
        """The edits of a member: (name, amount) -> edit."""
        values = self._reader.values(text)
        moved = (_moved(dimension, values[name]) for name, dimension in self._dimensions.items() if name in values)
        return {**self._structure, **{key: edit for key, edit in moved if edit.old != edit.new}}


def _moved(dimension: Dimension, value: genomes.Value) -> tuple[tuple[str, float], genomes.Edit]:
    """A knob set to a value; if its scale shows no distance, as beyond the end of its range, it is one choice of many."""
    knob = dimension.knob
    edit = genomes.Edit("set", knob.name, (), 0, str(knob.value), str(value))
    distance = 0.0 if dimension.scale == CHOICE else dimension.place(value) - dimension.place(knob.value)
    return ((knob.name, distance) if distance else (f"{knob.name} = {value}", 1.0)), edit


def structural(edits: Iterable[genomes.Edit]) -> Iterable[tuple[tuple[str, float], genomes.Edit]]:
    """Changes of the tree with their names, except those of comments or layout, imports or docstrings alone."""
    for edit in edits:
        if edit.kind != "set" and _is_silent(edit.old) and _is_silent(edit.new):
            continue
        old, new = (_NUMBER.sub("0", text) if edit.kind != "set" else text for text in (edit.old, edit.new))
        if _tokens(old) != _tokens(new):
            yield (f"{edit.kind} {'.'.join(map(str, edit.path))}+{edit.at}: {_tokens(new)}", 1.0), edit


def _is_silent(text: str) -> bool:
    """Whether a text only imports or documents: without a use, which is an edit of its own, this is worth nothing."""
    try:
        body = ast.parse(textwrap.dedent(text)).body
    except (SyntaxError, ValueError):  # a part of a statement
        return False
    return all(
        isinstance(node, ast.Import | ast.ImportFrom | ast.Pass)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str))
        for node in body
    )


def _tokens(text: str) -> str:
    return " ".join(_TOKEN.findall(_COMMENT.sub("", text).replace("'", '"')))
