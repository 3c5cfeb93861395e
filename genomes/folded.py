"""What of a program can run: a hash that tells whether a change to its text changes anything that it does.

Constants of the module stand in place of their names and of the arithmetic on them, branches that these rule out are gone, and so are
definitions that nothing reads. So a ratio that rounds to the same width changes nothing, nor does a factor behind a switch that is off. The
hash errs to one side: programs whose hashes are equal do the same; of those whose hashes differ, some do the same as well.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from genomes.canonical import canonical_form, identity, written
from genomes.checks.arithmetic import Constants
from genomes.checks.outline import Outline, Scope, outline
from genomes.knobs import knobs, set_knobs
from genomes.literals import Value, is_bare
from genomes.nodes import Function, children, imported_by, parameters_of, stored_in, targets_of, walk, words
from genomes.source import parse

_DIGITS = 16
_CACHED = 64
# Whoever uses one of these may read the program itself, or names that its text does not show.
_READ_PROGRAMS = words(
    "globals locals vars eval exec dir compile __import__ importlib inspect modules __main__ __file__ __loader__ __spec__ __code__ "
    "__globals__ __dict__ __closure__ __defaults__ __kwdefaults__ linecache tokenize ast dis runpy builtins get_objects get_referents "
    "get_referrers get_type_hints __builtins__ f_globals f_locals f_builtins f_code gi_frame gi_code cr_frame tb_frame "
    # a compiler that reads the text of functions, and knows literals from constants
    "jit script triton numba"
)
# Whoever defines or reads one of these learns of classes that nothing names, or changes what it is to define one.
_OF_CLASSES = words("__init_subclass__ __subclasses__ __set_name__ __mro_entries__ __class_getitem__ __prepare__ metaclass")
_ENTRIES = ("build_model", "main")  # what the harness calls
_FOLDED = (ast.Name, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Subscript, ast.Call)
_BINDS = (ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal)  # say what kind of function, or scope, they are in
_BUILTINS = frozenset(dir(builtins))
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
    tree = parse(text).tree
    program = outline(tree)
    if _reads_programs(program):
        return _Folded(identity(text), frozenset(knob.name for knob in knobs(text)), frozenset())
    pieces = _Folding(program).pieces(tree)
    digest = hashlib.sha256("\n".join(piece.form for piece in pieces).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return _Folded(digest, frozenset().union(*(piece.names for piece in pieces)), frozenset().union(*(piece.lines for piece in pieces)))


def _reads_programs(program: Outline) -> bool:
    names = {node.id for node, _ in program.reads}
    said = {node.attr for node, _ in program.attributes} | (program.strings - {"__main__"})  # which `__name__` is compared with
    members = said - {"compile", "modules", "triton"}  # torch's, and those of a model
    imported = {part for node in program.import_nodes for path in _paths(node) for part in path.split(".")}
    generic = any(getattr(scope.node, "type_params", ()) for scope in program.scopes.values())  # names that the outline does not know
    return generic or bool(_READ_PROGRAMS & (names | members | imported) or {"*", "sys"} & imported)


def _minds_classes(program: Outline) -> bool:
    nodes = [scope.node for scope in program.scopes.values()]
    names = {node.name for node in nodes if isinstance(node, Function)} | {node.attr for node, _ in program.attributes} | program.strings
    named = {keyword.arg for node in nodes if isinstance(node, ast.ClassDef) for keyword in node.keywords}
    return bool(_OF_CLASSES & (names | named))


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
        self._constants = Constants(program, in_order=True)
        self._minds_classes = _minds_classes(program)
        self._sure: set[str] = set()  # names that the statements so far have bound for good
        self._instead: dict[int, str] = {}  # id(node) → canonical form of what is left of it
        self._piece = _Piece()  # the statement at hand

    def pieces(self, tree: ast.Module) -> list[_Piece]:
        """The statements that are left, in their order."""
        kept, waiting = dict[int, _Piece](), dict[str, tuple[int, _Piece]]()
        wanted = set(_ENTRIES)
        deleted = {node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del)}
        self._sure = set(_BUILTINS - deleted)
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
            self._sure |= _binds(statement) - deleted
        while found := wanted & waiting.keys():
            for name in found:
                place, piece = waiting.pop(name)
                kept[place] = piece
                wanted |= piece.reads
        return [kept[place] for place in sorted(kept)]

    def _defined(self, statement: ast.stmt) -> str:
        """The name that a statement gives a meaning, and does nothing else; "" where it may do more."""
        match statement:
            case ast.FunctionDef() if not statement.decorator_list and self._defines(statement, self._sure):
                name = statement.name
            case ast.ClassDef() if self._harmless(statement):
                name = statement.name
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if self._pure(value, self._sure):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if self._pure(value, self._sure):
                if not self._type(statement.annotation, self._sure):
                    return ""
            case _:
                return ""
        return name if self._program.module.bound[name] == 1 else ""

    def _pure(self, node: ast.AST, sure: set[str]) -> bool:
        """Whether to evaluate an expression does nothing, and does not fail; of attributes it is believed."""
        if isinstance(node, ast.Constant) or id(node) in self._instead:
            return True
        match node:
            case ast.Name():
                return node.id in sure
            case ast.Attribute():
                return self._pure(node.value, sure)
            case ast.Tuple() | ast.List():
                return all(self._pure(element, sure) for element in node.elts)
            case ast.Set():
                return all(self._hashable(element, sure) for element in node.elts)
            case ast.Dict():
                keys = all(key is not None and self._hashable(key, sure) for key in node.keys)
                return keys and all(self._pure(value, sure) for value in node.values)
        return False

    def _hashable(self, node: ast.expr, sure: set[str]) -> bool:
        return (isinstance(node, ast.Constant | ast.Attribute) or id(node) in self._instead) and self._pure(node, sure)

    def _type(self, node: ast.AST, sure: set[str]) -> bool:
        """The same of a hint, or the base of a class; of `list[int]` and `int | None` it is believed as well."""
        match node:
            case ast.Subscript():
                return self._type(node.value, sure) and self._type(node.slice, sure)
            case ast.BinOp(op=ast.BitOr()):
                return self._type(node.left, sure) and self._type(node.right, sure)
            case ast.Tuple() | ast.List():
                return all(self._type(element, sure) for element in node.elts)
        return self._pure(node, sure)

    def _defines(self, node: ast.FunctionDef, sure: set[str]) -> bool:
        """Whether to define a function, decorators aside, does nothing but that."""
        given = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
        return all(self._pure(part, sure) for part in given) and all(self._type(part, sure) for part in _hints(node))

    def _harmless(self, node: ast.ClassDef) -> bool:
        """Whether to define a class does nothing but that."""
        sure = set(self._sure)
        if self._minds_classes or node.decorator_list or node.keywords or not all(self._type(base, sure) for base in node.bases):
            return False
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                known = set(_OF_A_CLASS) - self._program.module.bound.keys() - self._program.scopes[id(node)].bound.keys()
                if not all(isinstance(d, ast.Name) and d.id in known for d in statement.decorator_list):
                    return False
                done = self._defines(statement, sure)
            elif isinstance(statement, ast.Assign | ast.AnnAssign):
                named = all(isinstance(target, ast.Name) for target in targets_of(statement))
                hinted = not isinstance(statement, ast.AnnAssign) or self._type(statement.annotation, sure)
                done = named and hinted and (statement.value is None or self._pure(statement.value, sure))
            else:
                done = isinstance(statement, ast.Pass) or is_bare(statement)
            if not done:
                return False
            sure |= _binds(statement)
        return True

    def _visit(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, _FOLDED) and not isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
            value = self._constants.value(node, scope)
            if isinstance(value, bool | int | float | str) and not _keeps_scope(node):
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
        if holds is None or _keeps_scope(node.test) or any(isinstance(inner, _BINDS) for inner in below):
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
    return [*node.args.defaults, *filter(None, node.args.kw_defaults), *_hints(node)]


def _hints(node: Function | ast.Lambda) -> list[ast.expr]:
    hints = [*(argument.annotation for argument in parameters_of(node.args)), getattr(node, "returns", None)]
    return [hint for hint in hints if hint is not None]


def _keeps_scope(node: ast.expr) -> bool:
    """Whether an expression says something of the scope around it, even where it is not evaluated."""
    return not isinstance(node, ast.Name) and any(isinstance(inner, (*_BINDS, ast.NamedExpr)) for inner in walk(node))


def _binds(statement: ast.stmt) -> set[str]:
    """Names that a statement binds whenever it succeeds."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return set(imported_by(statement))
    if isinstance(statement, Function | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign) or (isinstance(statement, ast.AnnAssign) and statement.value is not None):
        return set().union(*(stored_in(target) for target in targets_of(statement)))
    return set()
