"""One walk over a program: its scopes, how often each binds what, and where it calls, reads attributes and refuses to go on.

The static checks read it. A name means something certain only where it is bound once in the scope that holds it; everything else is left
alone. Comprehensions count as part of the function around them, and class bodies as scopes of the functions in them: both make names look
bound more often than they are, so that a check says less.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from genomes.nodes import Definition, Function, children, parameters_of, walk

CONSTITUTION = "prepare"  # the module of the lab that every genome uses
_LATER = Definition | ast.Lambda
_STATIC = ("staticmethod", "classmethod")


@dataclass(eq=False)
class Scope:
    """A module, function, lambda or class body."""

    node: ast.AST
    parent: Scope | None
    owner: ast.ClassDef | None = None  # the class whose method this is or is inside
    me: str = ""  # what that method calls its instance; "" where it has none
    bound: Counter[str] = field(default_factory=Counter)

    def holder(self, name: str) -> Scope | None:
        """The innermost scope that binds the name; None for builtins and for what nobody binds."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.bound:
                return scope
            scope = scope.parent
        return None


@dataclass(eq=False)
class Outline:
    """What the checks ask of a program."""

    module: Scope
    definitions: dict[str, Definition]  # functions and classes at top level
    scopes: dict[int, Scope] = field(default_factory=dict)  # id(node that opens it) → scope
    calls: list[tuple[ast.Call, Scope]] = field(default_factory=list)
    reads: list[tuple[ast.Name, Scope]] = field(default_factory=list)
    attributes: list[tuple[ast.Attribute, Scope]] = field(default_factory=list)
    subscripts: list[tuple[ast.Subscript, Scope]] = field(default_factory=list)
    assignments: list[tuple[ast.Assign | ast.AnnAssign, Scope]] = field(default_factory=list)
    strings: set[str] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)  # name → dotted path, for names that only one import of the module binds
    guarded: set[int] = field(default_factory=set)  # ids of imports in a `try` that may fail
    import_nodes: list[ast.Import | ast.ImportFrom] = field(default_factory=list)

    def definition(self, name: str, scope: Scope) -> Definition | None:
        """The top-level function or class that a name certainly means in a scope."""
        if scope.holder(name) is not self.module or self.module.bound[name] != 1:
            return None
        return self.definitions.get(name)

    def dotted(self, node: ast.expr, scope: Scope) -> str:
        """`nn.Linear` → torch.nn.Linear, through the module's imports; "" where the first name is not certainly an import."""
        if isinstance(node, ast.Attribute):
            before = self.dotted(node.value, scope)
            return f"{before}.{node.attr}" if before else ""
        if isinstance(node, ast.Name) and node.id in self.imports and scope.holder(node.id) is self.module:
            return self.imports[node.id]
        return ""


def outline(tree: ast.Module) -> Outline:
    """Walk the program once."""
    module = Scope(tree, None)
    result = Outline(module, {node.name: node for node in tree.body if isinstance(node, Definition)})
    result.scopes[id(tree)] = module
    walk = _Walk(result)
    walk.children(tree, module)
    for name, paths in walk.imported.items():
        if module.bound[name] == len(paths) and len(set(paths)) == 1:  # `import torch` and `import torch.nn` bind one and the same
            result.imports[name] = paths[0]
    return result


class _Walk:
    def __init__(self, result: Outline) -> None:
        self.result = result
        self.imported: dict[str, list[str]] = {}

    def children(self, node: ast.AST, scope: Scope) -> None:
        for name in node._fields:
            child = getattr(node, name, None)
            if isinstance(child, list):
                for item in child:
                    if isinstance(item, ast.AST):
                        self.visit(item, scope)
            elif isinstance(child, ast.AST):
                self.visit(child, scope)

    def visit(self, node: ast.AST, scope: Scope) -> None:
        kind = type(node)
        handle = _HANDLERS.get(kind)
        if handle is not None:
            handle(self, node, scope)
        elif kind not in _LEAVES:
            self.children(node, scope)

    def name(self, node: ast.Name, scope: Scope) -> None:
        if isinstance(node.ctx, ast.Load):
            self.result.reads.append((node, scope))
        else:
            scope.bound[node.id] += 1

    def argument(self, node: ast.arg, scope: Scope) -> None:
        scope.bound[node.arg] += 1
        self.children(node, scope)

    def constant(self, node: ast.Constant, scope: Scope) -> None:
        if isinstance(node.value, str):
            self.result.strings.add(node.value)

    def call(self, node: ast.Call, scope: Scope) -> None:
        self.result.calls.append((node, scope))
        self.children(node, scope)

    def assignment(self, node: ast.Assign | ast.AnnAssign, scope: Scope) -> None:
        self.result.assignments.append((node, scope))
        self.children(node, scope)

    def attribute(self, node: ast.Attribute, scope: Scope) -> None:
        self.result.attributes.append((node, scope))
        self.visit(node.value, scope)

    def subscript(self, node: ast.Subscript, scope: Scope) -> None:
        self.result.subscripts.append((node, scope))
        self.children(node, scope)

    def imports(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        self.result.import_nodes.append(node)
        module = f"{'.' * node.level}{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            name = alias.asname or (alias.name if module else alias.name.split(".")[0])
            scope.bound[name] += 1
            if scope.parent is None:
                self.imported.setdefault(name, []).append(module + (alias.name if alias.asname or module else name))

    def function(self, node: Function, scope: Scope) -> None:
        scope.bound[node.name] += 1
        outside = [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults), *filter(None, [node.returns])]
        for part in outside:
            self.visit(part, scope)
        inner = self._opened(node, scope)
        arguments = node.args
        plain = [*arguments.posonlyargs, *arguments.args]
        if isinstance(scope.node, ast.ClassDef):
            inner.owner = scope.node
            inner.me = plain[0].arg if plain and not any(isinstance(d, ast.Name) and d.id in _STATIC for d in node.decorator_list) else ""
        self._arguments(arguments, inner)
        if inner.me and scope.me == inner.me and not isinstance(scope.node, ast.ClassDef) and inner.me in inner.bound:
            inner.me = ""  # an inner function with an argument of that name
        for statement in node.body:
            self.visit(statement, inner)

    def anonymous(self, node: ast.Lambda, scope: Scope) -> None:
        for part in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
            self.visit(part, scope)
        inner = self._opened(node, scope)
        self._arguments(node.args, inner)
        if inner.me in inner.bound:
            inner.me = ""
        self.visit(node.body, inner)

    def kind(self, node: ast.ClassDef, scope: Scope) -> None:
        scope.bound[node.name] += 1
        for part in [*node.decorator_list, *node.bases, *(keyword.value for keyword in node.keywords)]:
            self.visit(part, scope)
        inner = self._opened(node, scope)
        inner.owner, inner.me = None, ""
        for statement in node.body:
            self.visit(statement, inner)

    def handler(self, node: ast.ExceptHandler, scope: Scope) -> None:
        if node.name:
            scope.bound[node.name] += 1
        self.children(node, scope)

    def capture(self, node: ast.MatchAs | ast.MatchStar | ast.MatchMapping, scope: Scope) -> None:
        name = node.rest if isinstance(node, ast.MatchMapping) else node.name
        if name:
            scope.bound[name] += 1
        self.children(node, scope)

    def declared(self, node: ast.Global | ast.Nonlocal, scope: Scope) -> None:
        """A name that two scopes bind is certain in neither."""
        for name in node.names:
            outer: Scope | None = scope
            while outer is not None:
                outer.bound[name] += 2
                outer = outer.parent

    def attempt(self, node: ast.Try, scope: Scope) -> None:
        if node.handlers:
            self.result.guarded.update(id(inner) for statement in node.body for inner in walk(statement))
        self.children(node, scope)

    def _opened(self, node: ast.AST, scope: Scope) -> Scope:
        inner = self.result.scopes[id(node)] = Scope(node, scope, scope.owner, scope.me)
        return inner

    def _arguments(self, arguments: ast.arguments, inner: Scope) -> None:
        for argument in parameters_of(arguments):
            self.argument(argument, inner)


_LEAVES = frozenset({ast.Load, ast.Store, ast.Del, ast.Pass, ast.Break, ast.Continue})
_HANDLERS: dict[type[ast.AST], Callable[[_Walk, Any, Scope], None]] = {
    ast.Name: _Walk.name,
    ast.arg: _Walk.argument,
    ast.Constant: _Walk.constant,
    ast.Call: _Walk.call,
    ast.Attribute: _Walk.attribute,
    ast.Subscript: _Walk.subscript,
    ast.Assign: _Walk.assignment,
    ast.AnnAssign: _Walk.assignment,
    ast.Import: _Walk.imports,
    ast.ImportFrom: _Walk.imports,
    ast.FunctionDef: _Walk.function,
    ast.AsyncFunctionDef: _Walk.function,
    ast.Lambda: _Walk.anonymous,
    ast.ClassDef: _Walk.kind,
    ast.ExceptHandler: _Walk.handler,
    ast.MatchAs: _Walk.capture,
    ast.MatchStar: _Walk.capture,
    ast.MatchMapping: _Walk.capture,
    ast.Global: _Walk.declared,
    ast.Nonlocal: _Walk.declared,
    ast.Try: _Walk.attempt,
    ast.TryStar: _Walk.attempt,
}


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """The node and everything below it that runs with it: no inner functions, classes or lambdas."""
    open_ = [node]
    while open_:
        current = open_.pop()
        yield current
        open_ += [child for child in children(current) if not isinstance(child, _LATER)]
