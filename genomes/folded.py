"""What of a program can run: a hash that tells whether a change to its text changes anything that it does.

Constants of the module stand in place of their names and of the arithmetic on them, branches that these rule out are gone, and so are
definitions that nothing reads. So a ratio that rounds to the same width changes nothing, nor does a factor behind a switch that is off. The
hash errs to one side: programs whose hashes are equal do the same; of those whose hashes differ, some do the same as well.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from genomes.canonical import canonical_form, identity, written
from genomes.checks.arithmetic import Constants
from genomes.checks.outline import Outline, Scope, outline
from genomes.knobs import knobs, set_knobs
from genomes.literals import Value, is_bare
from genomes.nodes import Function, children, imported_by, walk, words
from genomes.source import read

_DIGITS = 16
_CACHED = 64
# Whoever uses one of these may read the program itself, or names that its text does not show.
_READ_PROGRAMS = words(
    "globals locals vars eval exec dir compile __import__ importlib inspect modules __main__ __file__ __loader__ __spec__ __code__ "
    "__globals__ __dict__ __closure__ __defaults__ __kwdefaults__ linecache tokenize ast dis runpy builtins get_objects get_referents "
    "get_referrers"
)
_ENTRIES = ("build_model", "main")  # what the harness calls
_FOLDED = (ast.Name, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Subscript, ast.Call)
_BINDS = (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)  # say what kind of function, or scope, they are in
_PURE = (
    *(ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop),
)
_OF_A_CLASS = ("staticmethod", "classmethod", "property")


@dataclass(frozen=True)
class _Folded:
    """What can run, and which literals it holds as they are, by the name of their constant or their line."""

    digest: str
    names: frozenset[str]
    lines: frozenset[int]


def folded(text: str) -> str:
    """16 hex digits, equal only for programs that do the same; where a program may read its own text, its identity.

    Raises:
        ParseError: the text is no program.
    """
    return _fold(text).digest


def effective(text: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """New values of knobs without those that change nothing that the program does.

    Raises:
        KnobError, ParseError: as `set_knobs`.
    """
    before, lines = _fold(text), {knob.name: knob.line for knob in knobs(text)}
    left = dict(values)
    doubtful = [name for name in values if name not in before.names and lines.get(name) not in before.lines]
    after = folded(set_knobs(text, values)) if doubtful else ""
    for name in doubtful:
        fewer = {other: value for other, value in left.items() if other != name}
        if folded(set_knobs(text, fewer)) == after:
            left = fewer
    return left


@lru_cache(maxsize=_CACHED)
def _fold(text: str) -> _Folded:
    tree = read(text).tree
    program = outline(tree)
    if _reads_programs(program):
        return _Folded(identity(text), frozenset(knob.name for knob in knobs(text)), frozenset())
    pieces = _Folding(program).pieces(tree)
    digest = hashlib.sha256("\n".join(piece.form for piece in pieces).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return _Folded(digest, frozenset().union(*(piece.names for piece in pieces)), frozenset().union(*(piece.lines for piece in pieces)))


def _reads_programs(program: Outline) -> bool:
    names = {node.id for node, _ in program.reads}
    members = {node.attr for node, _ in program.attributes} - {"compile", "modules"}  # torch's, and those of a model
    imported = {part for node in program.import_nodes for path in _paths(node) for part in path.split(".")}
    return bool(_READ_PROGRAMS & (names | members | imported) or {"*", "sys"} & imported)


def _paths(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What an import names, whatever it is called afterwards."""
    if isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
    yield from (alias.name for alias in node.names)


@dataclass
class _Piece:
    """What is left of a statement of the module."""

    form: str = ""
    reads: set[str] = field(default_factory=set)  # names whose values the text does not fix
    names: set[str] = field(default_factory=set)  # constants that stand by themselves
    lines: set[int] = field(default_factory=set)  # of literals that do


class _Folding:
    """One walk over a program; afterwards `_instead` says how parts of it are written."""

    def __init__(self, program: Outline) -> None:
        self._program = program
        self._constants = Constants(program)
        self._instead: dict[int, str] = {}  # id(node) → canonical form of what is left of it
        self._piece = _Piece()  # the statement at hand

    def pieces(self, tree: ast.Module) -> list[_Piece]:
        """The statements that are left, in their order."""
        kept, waiting = dict[int, _Piece](), dict[str, tuple[int, _Piece]]()
        wanted = set(_ENTRIES)
        for place, statement in enumerate(tree.body):
            if is_bare(statement):
                continue
            piece = self._piece = _Piece()
            self._visit(statement, self._program.module)
            piece.form = canonical_form(statement, self._instead)
            if name := self._defined(statement):
                waiting[name] = place, piece
            else:
                kept[place] = piece
                wanted |= piece.reads
        while found := wanted & waiting.keys():
            for name in found:
                place, piece = waiting.pop(name)
                kept[place] = piece
                wanted |= piece.reads
        return [kept[place] for place in sorted(kept)]

    def _defined(self, statement: ast.stmt) -> str:
        """The name that a statement gives a meaning, and does nothing else; "" where it may do more."""
        match statement:
            case ast.FunctionDef() if not statement.decorator_list and _pure(_outside(statement)):
                name = statement.name
            case ast.ClassDef() if _harmless(statement):
                name = statement.name
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _pure([value]):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _pure([value]):
                pass
            case _:
                return ""
        return name if self._program.module.bound[name] == 1 else ""

    def _visit(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, _FOLDED) and not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
            value = self._constants.value(node, scope)
            if isinstance(value, bool | int | float | str):
                self._instead[id(node)] = written(value)
                if isinstance(node, ast.Name):
                    self._piece.names.add(node.id)
                return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            self._piece.reads.add(node.id)
        if isinstance(node, ast.Constant):
            self._piece.lines.add(node.lineno)
        if isinstance(node, ast.If | ast.IfExp):
            self._branch(node, scope)
        elif isinstance(node, Function):
            self._all([*node.decorator_list, *_outside(node)], scope)
            self._all(node.body, self._program.scopes[id(node)])
        elif isinstance(node, ast.Lambda):
            self._all(_outside(node), scope)
            self._visit(node.body, self._program.scopes[id(node)])
        elif isinstance(node, ast.ClassDef):
            self._all([*node.decorator_list, *node.bases, *node.keywords], scope)
            self._all(node.body, self._program.scopes[id(node)])
        else:
            self._all(children(node), scope)

    def _all(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        for node in nodes:
            self._visit(node, scope)

    def _branch(self, node: ast.If | ast.IfExp, scope: Scope) -> None:
        """Leaves of a settled branch what is taken, and the names that the rest would bind: they are local all the same."""
        holds = self._constants.truth(node.test, scope)
        taken, dropped = (_list(part) for part in ((node.body, node.orelse) if holds else (node.orelse, node.body)))
        below = [inner for part in dropped for inner in walk(part)]
        if holds is None or any(isinstance(inner, _BINDS) for inner in below):
            self._all(children(node), scope)
            return
        self._all(taken, scope)
        names = sorted(set(_bound(below)))
        forms = [canonical_form(part, self._instead) for part in taken if not is_bare(part)]
        self._instead[id(node)] = "".join([*(f"(binds {name})" for name in names), *forms])


def _list(part: ast.expr | list[ast.stmt]) -> list[ast.expr] | list[ast.stmt]:
    return part if isinstance(part, list) else [part]


def _bound(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Names that code binds in the scope that it stands in, and some of scopes inside it."""
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, Function | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_by(node)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest


def _outside(node: Function | ast.Lambda) -> list[ast.expr]:
    """What is evaluated where a function is defined, beside its decorators."""
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *filter(None, [arguments.vararg, arguments.kwarg])]
    hints = [*(argument.annotation for argument in given), getattr(node, "returns", None)]
    return [part for part in (*arguments.defaults, *arguments.kw_defaults, *hints) if part is not None]


def _pure(nodes: Iterable[ast.AST]) -> bool:
    """Whether to evaluate them does nothing; of attributes it is believed."""
    allowed = (*_PURE, ast.Attribute, ast.Subscript)
    return all(isinstance(inner, allowed) for node in nodes for inner in walk(node))


def _harmless(node: ast.ClassDef) -> bool:
    """Whether to define a class does nothing but that."""
    if node.decorator_list or node.keywords or not _pure(node.bases):
        return False
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            plain = all(isinstance(d, ast.Name) and d.id in _OF_A_CLASS for d in statement.decorator_list)
            if not plain or not _pure(_outside(statement)):
                return False
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            if not _pure(children(statement)):
                return False
        elif not isinstance(statement, ast.Pass) and not is_bare(statement):
            return False
    return True
