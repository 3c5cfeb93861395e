"""Knobs: every literal of a program, addressable by name.

Numbers, booleans and short categorical strings; also the ones inside calls and expressions: 12 of the 22 improvements of the flagship
autoresearch run were such literals. `names` names them, `places` says which may be tuned, `idle` which do nothing, `ranges` how far they
go, `remarks` what comments say.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from genomes import places, ranges, remarks
from genomes.errors import KnobError, nearest
from genomes.idle import idle
from genomes.literals import Literal, Step, Value, find
from genomes.names import assign_names, own_label
from genomes.nodes import is_operation
from genomes.source import Source, Splice, parse, splice

_CATEGORY = re.compile(r"[A-Za-z][A-Za-z0-9_+\-]{0,31}")
_NO_CATEGORY = re.compile(
    r"dtype|device|backend|name|path|file|dir|kind|type|title|label|fix|key|url|fmt|format|encoding|unit|mode|desc|text|help|action"
)
_CACHED_PROGRAMS = 8


@dataclass(frozen=True)
class Knob:
    """One literal. `log` implies low > 0; `choices` are the values of a choice; `comment` is the remark on its line."""

    name: str
    value: Value
    kind: str  # "float" | "int" | "power_of_two" | "choice" | "bool"
    low: float
    high: float
    log: bool
    tunable: bool
    comment: str
    line: int
    choices: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False)
class Spot:
    """A knob, the characters that hold it, and what its place in the tree says about it."""

    knob: Knob
    start: int
    end: int
    node: ast.expr
    blanked: bool  # its place may be tuned: not part of the species
    constant: bool  # value, or element, of a module-level UPPER_CASE constant
    named: bool  # somebody gave it a name: constant, field, keyword, entry or default
    context: str  # "power": a negative number needs parentheses; "attribute": every number does; "" elsewhere
    twin: str  # equal for literals in equal arithmetic of one function, such as the two `4 * width` of an MLP; "" for none


def knobs(text: str) -> tuple[Knob, ...]:
    """Every knob in the order of the tree, tunable or not."""
    return tuple(spot.knob for spot in spots(text))


def set_knobs(text: str, values: Mapping[str, Value]) -> str:
    """Write values; no other character changes, and a knob that has its value already keeps its spelling.

    Raises:
        KnobError: an unknown name (the message has the nearest ones), or a value of the wrong type.
    """
    known = {spot.knob.name: spot for spot in spots(text)}
    cuts = []
    for name, value in values.items():
        if name not in known:
            raise KnobError(f"no knob {name!r} among {len(known)}; {nearest(name, known)}")
        cuts += _write(text, known[name], value)
    return splice(text, cuts)


@dataclass(frozen=True, eq=False)
class Survey:
    """A parsed program with its knobs: the spots' nodes are nodes of this very tree."""

    source: Source
    spots: tuple[Spot, ...]


def spots(text: str) -> tuple[Spot, ...]:
    """The knobs with their places."""
    return survey(text).spots


def in_order(text: str) -> tuple[Spot, ...]:
    """The knobs with their places, as they follow one another in the text."""
    return tuple(sorted(spots(text), key=lambda spot: spot.start))


def within(ordered: Sequence[Spot], span: tuple[int, int]) -> Sequence[Spot]:
    """Those of `in_order` that begin in a span of characters."""
    low, high = (bisect_left(ordered, edge, key=lambda spot: spot.start) for edge in span)
    return ordered[low:high]


@lru_cache(maxsize=_CACHED_PROGRAMS)
def survey(text: str) -> Survey:
    """Find, name and judge every literal."""
    return inspect(parse(text))


def inspect(source: Source) -> Survey:
    """`survey` of parsed text, without caching."""
    literals = find(source)
    literals.found = [literal for literal in literals.found if _is_knob(literal)]
    names = assign_names(literals)
    spans = [source.span(literal.node) for literal in literals.found]
    found = _remarks(source, literals.found, spans)
    partners, nothing = _partners(literals.found), idle(source.tree)
    needed = [id(literal.node) not in nothing and all(id(step.node) not in nothing for step in literal.path) for literal in literals.found]
    parts = zip(literals.found, names, spans, found, partners, needed, strict=True)
    return Survey(source, tuple(_spot(source, *part) for part in parts))


def _partners(literals: list[Literal]) -> list[tuple[bool, bool]]:
    """For each literal, whether its place and its value may be tuned: a factor of layer sizes needs another that it must agree with."""
    factors = [places.layer_factor(literal) for literal in literals]
    places_of, values_of = Counter(factors), Counter((f, literal.value) for f, literal in zip(factors, literals, strict=True))
    return [
        (not factor or places_of[factor] > 1, not factor or values_of[factor, literal.value] > 1)
        for factor, literal in zip(factors, literals, strict=True)
    ]


def _is_knob(literal: Literal) -> bool:
    """Whether a literal is a knob: numbers and booleans always, a string only where it names one of several ways."""
    if not isinstance(literal.value, str):
        return True
    if not _CATEGORY.fullmatch(literal.value):
        return False
    if places.is_constant(literal):
        return not own_label(literal).startswith("__")
    if _NO_CATEGORY.search(own_label(literal).lower()) or not _assigned(literal.path):
        return False
    return all(step.field not in ("annotation", "returns", "decorator_list", "slice") for step in literal.path)


def _assigned(path: tuple[Step, ...]) -> bool:
    """Is the literal, alone or in a tuple, the value of a name, keyword, entry or default?"""
    outer = [step.node for step in path if not isinstance(step.node, ast.Tuple | ast.List)]
    last = outer[-1] if outer else None
    if isinstance(last, ast.Assign):
        return all(isinstance(target, ast.Name | ast.Attribute) and not _is_dunder(target) for target in last.targets)
    return isinstance(last, ast.AnnAssign | ast.keyword | ast.arguments | ast.Dict)


def _is_dunder(target: ast.expr) -> bool:
    return isinstance(target, ast.Name) and target.id.startswith("__")


def _remarks(source: Source, literals: list[Literal], spans: list[tuple[int, int]]) -> list[remarks.Remark]:
    """The remark of each literal's line; where several share a line, only those that it fits get it."""
    comments = [remarks.comment_after(source.text, end) for _, end in spans]
    lines = [source.line_at(start) for start, _ in spans]
    crowd = Counter(lines)
    found = []
    for literal, comment, line in zip(literals, comments, lines, strict=True):
        remark = remarks.read(comment)
        if crowd[line] > 1 and not _fits(literal.value, remark):
            remark = remarks.Remark(comment=comment, tuned=remark.tuned)
        found.append(remark)
    return found


def _fits(value: Value, remark: remarks.Remark) -> bool:
    if remark.options:
        return str(value) in remark.options
    if remark.low is not None and remark.high is not None:
        return not isinstance(value, bool | str) and remark.low <= value <= remark.high
    return True


def _spot(
    source: Source, literal: Literal, name: str, span: tuple[int, int], remark: remarks.Remark, partners: tuple[bool, bool], needed: bool
) -> Spot:
    shape = ranges.infer(_meaning(literal), literal.value, remark, places.is_gain(literal))
    stated = bool(remark.options or remark.low is not None)
    open_choice = shape.kind != ranges.CHOICE or len(shape.choices) > 1
    place = needed and places.place_tunable(literal) and remark.tuned and open_choice and (partners[0] or stated)
    return Spot(
        knob=Knob(
            name=name,
            value=literal.value,
            kind=shape.kind,
            low=shape.low,
            high=shape.high,
            log=shape.log,
            tunable=place and ((partners[1] and places.value_tunable(literal)) or (stated and shape.low < shape.high)),
            comment=remark.comment,
            line=source.line_at(span[0]),
            choices=shape.choices,
        ),
        start=span[0],
        end=span[1],
        node=literal.node,
        blanked=place,
        constant=places.is_constant(literal),
        named=places.is_named(literal),
        context=_context(literal.path[-1]),
        twin=_twin(literal),
    )


def _context(step: Step) -> str:
    if is_operation(step.node, ast.Pow) and step.field == "left":
        return "power"
    return "attribute" if step.field in ("value", "func") and isinstance(step.node, ast.Attribute | ast.Subscript | ast.Call) else ""


def _meaning(literal: Literal) -> str:
    """The label; what a function returns goes by the function's name."""
    functions = [step.node.name for step in literal.path if isinstance(step.node, ast.FunctionDef)]
    label = own_label(literal)
    return functions[-1] if functions and label == "return" else label


def _twin(literal: Literal) -> str:
    last = literal.path[-1]
    functions = [step.node.lineno for step in literal.path if isinstance(step.node, ast.FunctionDef)]
    return f"{functions[-1]}: {last.field} of {ast.unparse(last.node)}" if functions and isinstance(last.node, ast.BinOp) else ""


def _write(text: str, spot: Spot, value: Value) -> list[Splice]:
    accepted = _accept(spot.knob, value)
    if type(accepted) is type(spot.knob.value) and repr(accepted) == repr(spot.knob.value):
        return []
    written = _spell(accepted, text[spot.start : spot.end])
    before, after = text[spot.start - 1 : spot.start], text[spot.end : spot.end + 1]
    if (spot.context == "attribute" and (before, after) != ("(", ")")) or (spot.context == "power" and written.startswith("-")):
        written = f"({written})"
    gap_before = " " if before.isalnum() or before == "_" else ""
    gap_after = " " if after.isalnum() or after == "_" else ""
    return [Splice(spot.start, spot.end, gap_before + written + gap_after)]


def _accept(knob: Knob, value: Value) -> Value:
    """The value in the knob's own type, or KnobError."""
    if type(value) is type(knob.value) and (value == knob.value or isinstance(value, bool)):
        return value
    wanted = "string" if isinstance(knob.value, str) else knob.kind
    refusal = KnobError(f"{knob.name} is a {wanted}, now {knob.value!r}; it cannot become {value!r}")
    if isinstance(knob.value, str) and isinstance(value, str) and _CATEGORY.fullmatch(value):
        return value
    if isinstance(knob.value, bool | str) or isinstance(value, bool | str) or not ranges.is_number(value):
        raise refusal
    if isinstance(knob.value, float) or (knob.kind == ranges.FLOAT and value != int(value)):
        return float(value)
    if value != int(value):
        raise refusal
    return int(value)


def _spell(value: Value, old: str) -> str:
    """Source text of a value, in the manner of the old text where it has one: quotes, powers of two."""
    if isinstance(value, str):
        plain = repr(value)
        return f'"{value}"' if old[:1] == '"' and plain == f"'{value}'" and '"' not in value else plain
    power_of_two = isinstance(value, int) and not isinstance(value, bool) and value > 1 and value & (value - 1) == 0
    if "**" in old and power_of_two:
        return f"2**{int(value).bit_length() - 1}"
    return repr(value)
