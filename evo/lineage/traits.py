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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import genomes
from evo.core.history import Genome
from evo.numeric.attribution import Observed
from evo.numeric.space import CHOICE, Dimension, Space

_COMMENT = re.compile(r"#[^\n]*")
_NUMBER = re.compile(r"(?<![\w.])\.?\d(?:[\w.]|(?<=[eE])[+-])*")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Traits:
    """Scored genomes as edits of the seed genome, in the order of their introduction."""

    observed: tuple[Observed, ...]
    edits: Mapping[tuple[str, float], genomes.Edit]  # (name, amount) -> the edit as the first genome had it


def traits(founder: str, history: Mapping[str, Genome], texts: Callable[[str], str]) -> Traits:
    """The edits of all scored genomes.

    Args:
        founder: the seed genome.
        texts: genome id -> program; read once per genome.
    """
    scored = [g for g in history.values() if g.scores]
    if not scored:
        return Traits((), {})
    seed = _Seed(texts(founder))
    members: dict[str, _Member] = {}
    edits: dict[tuple[str, float], genomes.Edit] = {}
    observed = []
    for genome in scored:
        text = texts(genome.id)
        if genome.species not in members:
            members[genome.species] = _Member(seed, text)
        own = members[genome.species].edits(text)
        for key, edit in own.items():
            edits.setdefault(key, edit)
        observed.append(Observed(genome.id, genome.mean, len(genome.scores), dict(own.keys())))
    return Traits(tuple(observed), edits)


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
        self._structure = dict(_structural(e for e in genomes.diff(seed.text, text) if e.kind != "set" or e.where not in numbers))

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


def _structural(edits: Iterable[genomes.Edit]) -> Iterable[tuple[tuple[str, float], genomes.Edit]]:
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
