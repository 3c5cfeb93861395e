"""Functions that a reply names without their bodies, said to be as they are: they get the program's.

    def initialise(self):
        ...  # unchanged

Only where a comment says so (beside `pass` and the like: that alone), nothing else is in the body, and the program has one function of
that name in that place with the same arguments and decorators. Every other sign that code is left out is refused, by
`snippets.require_complete`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from genomes.nodes import Function, parameters_of
from genomes.replies.defined import definitions_in, says_nothing
from genomes.replies.page import Page
from genomes.replies.snippets import Snippet, again, moved, says_unchanged
from genomes.replies.spelling import indent_of
from genomes.source import Source
from genomes.units import first_line


def restored(code: Snippet, page: Page) -> Snippet:
    """The code with the program's functions in place of stubs."""
    stubs = [(place.name, node) for place in definitions_in(code.statements) if _is_stub(code.source, node := place.node)]
    if not stubs:
        return code
    program = page.source
    whole, lines = Snippet("", program, tuple(program.tree.body), is_inner=False), list(code.source.lines)
    for name, stub in reversed(stubs):
        same = list(_same(program, name, stub))
        if len(same) == 1:
            first = first_line(stub) - 1
            own = moved(whole, first_line(same[0]), same[0], indent_of(lines[first]))
            lines[first : stub.end_lineno] = [f"{line}\n" for line in own]
    return again(code, lines)


def _is_stub(source: Source, node: ast.stmt) -> bool:
    if not isinstance(node, Function) or not all(says_nothing(statement) or _is_unwritten(statement) for statement in node.body):
        return False
    is_open = any(map(_is_ellipsis, node.body))  # `pass` may be meant, and then its comment says why
    return any(says_unchanged(line, alone=not is_open) for line in source.lines[node.lineno - 1 : node.end_lineno])


def _is_ellipsis(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...


def _is_unwritten(node: ast.stmt) -> bool:
    return isinstance(node, ast.Raise) and node.exc is not None and ast.unparse(node.exc).startswith("NotImplementedError")


def _same(program: Source, name: str, stub: ast.stmt) -> Iterator[ast.stmt]:
    for place in definitions_in(program.tree.body):
        if place.name == name and _head(place.node) == _head(stub):
            yield place.node


def _head(node: ast.stmt) -> list[str]:
    """What callers see, without annotations, which models leave out."""
    if not isinstance(node, Function):
        return []
    names = [parameter.arg for parameter in parameters_of(node.args)]
    parts = [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.decorator_list]
    return [type(node).__name__, *names, *map(ast.dump, parts)]
