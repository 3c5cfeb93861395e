"""Names that nobody defines, and names read before anything can have been assigned to them.

Who binds what is CPython's own answer (`symtable`), so every kind of scope and binding is covered. A program that makes names in ways that
no text shows (`import *`, `globals()`, `exec`) gets no verdict. Left out: names that only some paths assign, and what is deleted.
"""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable, Iterator

from genomes.checks.order import early_reads
from genomes.checks.outline import Outline
from genomes.checks.problem import Problem
from genomes.errors import nearest
from genomes.nodes import Function, children, names_in, parameters_of, words

_PREDEFINED = frozenset(dir(builtins)) | words(
    "__name__ __file__ __doc__ __package__ __spec__ __loader__ __builtins__ __annotations__ __path__ __cached__ __dict__ __debug__"
)
_MAKES_NAMES = ("globals", "exec", "vars", "eval")
_MAKES_MEMBERS = ("_convert_", "global_enum")  # functions of the standard library's `enum`
# As `symtable` calls them.
_COMPREHENSIONS = {ast.ListComp: "listcomp", ast.SetComp: "setcomp", ast.DictComp: "dictcomp", ast.GeneratorExp: "genexpr"}
_FUTURE = "__future__.annotations"


def name_problems(table: symtable.SymbolTable, program: Outline) -> list[Problem]:
    """Every name that the program certainly fails at, once per name."""
    tree = program.module.node
    assert isinstance(tree, ast.Module)
    if "*" in program.module.bound or _makes_names(program):
        return []
    tables = list(_tables(table))
    unknown = _undefined(tables)
    return [*_undefined_problems(unknown, table, tree, program), *early_reads(tables, program)]


def _makes_names(program: Outline) -> bool:
    builtin = any(isinstance(call.func, ast.Name) and call.func.id in _MAKES_NAMES for call, _ in program.calls)
    return builtin or any(attribute.attr in _MAKES_MEMBERS for attribute, _ in program.attributes)


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _undefined(tables: Iterable[symtable.SymbolTable]) -> dict[str, list[symtable.SymbolTable]]:
    """Names that some scope reads as globals and none defines → those scopes."""
    defined, read = set(_PREDEFINED), dict[str, list[symtable.SymbolTable]]()
    for table in tables:
        module = table.get_type() == "module"
        for symbol in table.get_symbols():
            if (module or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                defined.add(symbol.get_name())
            own = not module and (symbol.is_assigned() or symbol.is_parameter() or symbol.is_imported())
            if symbol.is_referenced() and symbol.is_global() and (not own or symbol.is_declared_global()):  # `def top` is told wrong
                read.setdefault(symbol.get_name(), []).append(table)
    return {name: where for name, where in read.items() if name not in defined and name not in ("__class__", "__qualname__", "__module__")}


def _undefined_problems(
    unknown: dict[str, list[symtable.SymbolTable]], table: symtable.SymbolTable, tree: ast.Module, program: Outline
) -> Iterator[Problem]:
    if not unknown:
        return
    reads = _Reads(set(unknown), postponed=_FUTURE in program.imports.values())
    reads.visit(tree)
    known = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    for name, where in unknown.items():
        opened = {(scope.get_name().strip("<>"), scope.get_lineno()) for scope in where}
        found = reads.found.get(name, [])
        lines = [line for line, scope in found if scope in opened] or [line for line, _ in found]
        if lines:
            yield Problem(min(lines), f"name '{name}' is not defined: define or import it; {nearest(name, known)}")


class _Reads(ast.NodeVisitor):
    """Where some names are read, with the scope as `symtable` names it; annotations that are never evaluated, and what a
    `try … except NameError` expects, left out."""

    def __init__(self, names: set[str], postponed: bool) -> None:
        self.names = names
        self.postponed = postponed
        self.found: dict[str, list[tuple[int, tuple[str, int]]]] = {}
        self._scope = ("top", 0)
        self._in_function = False

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in self.names and isinstance(node.ctx, ast.Load):
            self.found.setdefault(node.id, []).append((node.lineno, self._scope))

    def visit_Try(self, node: ast.Try) -> None:
        expected = any(h.type is None or {"NameError", "Exception", "BaseException"} & names_in(h.type) for h in node.handlers)
        for statement in [*([] if expected else node.body), *node.orelse, *node.finalbody, *node.handlers]:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        parts_ = [node.target, *filter(None, [node.value])]
        local = self._in_function and isinstance(node.target, ast.Name)
        for part in parts_ if self.postponed or local else [*parts_, node.annotation]:
            self.visit(part)

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation is not None and not self.postponed:
            self.visit(node.annotation)

    def visit_FunctionDef(self, node: Function) -> None:
        returns = [node.returns] if node.returns is not None and not self.postponed else []
        for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *returns, *parameters_of(node.args)]:
            self.visit(part)
        self._inside((node.name, node.lineno), node.body, function=True)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815  the name that NodeVisitor looks for

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in [*node.decorator_list, *node.bases, *node.keywords]:
            self.visit(part)
        self._inside((node.name, node.lineno), node.body, function=False)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for part in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(part)
        self._inside(("lambda", node.lineno), [node.body], function=True)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            self._inside((_COMPREHENSIONS[type(node)], node.lineno), list(children(node)), self._in_function)
        else:
            super().generic_visit(node)

    def _inside(self, scope: tuple[str, int], nodes: Iterable[ast.AST], function: bool) -> None:
        before = self._scope, self._in_function
        self._scope, self._in_function = scope, function
        for node in nodes:
            self.visit(node)
        self._scope, self._in_function = before
