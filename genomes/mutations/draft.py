"""Writing on a program: several edits of one mutation, with the lines and names they need, or a MisfitError where the program has no room.

A draft keeps every line that it does not name: statements are inserted as whole lines in the indentation of their neighbour, and
expressions are replaced character by character.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator

from genomes.mutations.mutation import STRUCTURAL, Mutation, Program, Rewrite
from genomes.nodes import walk
from genomes.source import Source, Splice, read, splice

_CONSTANT = re.compile(r"[A-Z][A-Z0-9_]*")


class MisfitError(Exception):
    """The program is not written in a way that this mutation can change. It then does not apply; nobody sees this but `drafted`."""


class Draft:
    """The edits of one mutation, so far."""

    def __init__(self, parent: Program) -> None:
        self.parent = parent
        self.cuts: list[Splice] = []

    @property
    def source(self) -> Source:
        return self.parent.source

    def code(self, node: ast.AST) -> str:
        return self.source.code(node)

    def replace(self, node: ast.AST, text: str) -> None:
        """Other characters for an expression; parentheses around it stay."""
        self.cuts.append(Splice(*self.source.span(node), text))

    def wrap(self, node: ast.AST, before: str, after: str) -> None:
        """Characters on both sides of an expression, which may itself be edited."""
        start, end = self.source.span(node)
        self.cuts += [Splice(start, start, before), Splice(end, end, after)]

    def keep(self, whole: ast.expr, part: ast.expr) -> None:
        """Only a part of an expression, its first or its last. The part may itself be edited; what is cut must not split parentheses."""
        (start, end), (first, last) = self.source.span(whole), self.source.span(part)
        cut = self.source.text[last:end] if first == start else self.source.text[start:first]
        if cut.count("(") != cut.count(")") or "#" in cut or (start != first and end != last):
            raise MisfitError("parentheses or comments around a part")
        self.cuts.append(Splice(last, end, "") if first == start else Splice(start, first, ""))

    def above(self, statement: ast.stmt, *lines: str) -> None:
        """Lines before a statement that begins its own line."""
        start = self.source.starts[statement.lineno - 1]
        self.cuts.append(Splice(start, start, self._indented(statement, lines)))

    def below(self, statement: ast.stmt, *lines: str) -> None:
        """Lines after a statement that ends its own line, but for a comment."""
        start, end = self._whole_lines(statement)
        text = self._indented(statement, lines)
        self.cuts.append(Splice(end, end, text if self.source.text[start:end].endswith("\n") else f"\n{text.rstrip()}"))

    def at_end(self, function: ast.FunctionDef, *lines: str) -> None:
        """Lines at the end of a function, before it returns."""
        last = function.body[-1]
        (self.above if isinstance(last, ast.Return) else self.below)(last, *lines)

    def delete(self, statement: ast.stmt) -> None:
        """The lines of a statement that stands alone on them and is not all of its block."""
        self._indented(statement, ())
        if any(len(block) == 1 and block[0] is statement for block in _blocks(self.source.tree)):
            raise MisfitError("the block would be empty")
        self.cuts.append(Splice(*self._whole_lines(statement), ""))

    def argument(self, call: ast.Call, text: str) -> None:
        """One more positional argument at the end of a call."""
        end = self.source.span(call)[1] - 1
        inner = self.source.text[self.source.span(call.func)[1] : end]
        if call.keywords or not call.args or "#" in inner:
            raise MisfitError("no place for an argument")
        self.cuts.append(Splice(end, end, f" {text}" if inner.rstrip().endswith(",") else f", {text}"))

    def parameter(self, function: ast.FunctionDef, text: str) -> None:
        """One more parameter at the end of a signature."""
        arguments = function.args
        if arguments.defaults or arguments.kwonlyargs or arguments.vararg or arguments.kwarg or not arguments.args:
            raise MisfitError("no place for a parameter")
        end = self.source.span(arguments.args[-1])[1]
        self.cuts.append(Splice(end, end, f", {text}"))

    def element(self, item: ast.expr, text: str) -> None:
        """One more element before an element of a list or tuple, on a line of its own where that one has its own."""
        start = self.source.span(item)[0]
        line = self.source.text[self.source.starts[item.lineno - 1] : start]
        self.cuts.append(Splice(start, start, f"{text}, " if line.strip() else f"{text},\n{line}"))

    def drop_element(self, item: ast.expr) -> None:
        """The lines of an element of a list that stands alone on them."""
        start, end = self.source.span(item)
        first, last = self.source.starts[item.lineno - 1], self._line_end(item)
        if self.source.text[first:start].strip() or not re.fullmatch(r",[ \t]*(#.*)?\s*", self.source.text[end:last]):
            raise MisfitError("the element has no line of its own")
        self.cuts.append(Splice(first, last, ""))

    def finished(self, note: str) -> Rewrite:
        """The program with all edits. Constants that only they had used go too: nobody should turn a knob that does nothing."""
        text = splice(self.parent.text, self.cuts)
        return Rewrite(_without_orphans(self.parent.tree, text) if any(not cut.text for cut in self.cuts) else text, note)

    def _indented(self, statement: ast.stmt, lines: tuple[str, ...]) -> str:
        start = self.source.starts[statement.lineno - 1]
        indent = self.source.text[start : self.source.span(statement)[0]]
        if indent.strip():
            raise MisfitError("the statement does not begin its line")
        return "".join(f"{indent}{line}\n" for line in lines)

    def _whole_lines(self, statement: ast.stmt) -> tuple[int, int]:
        end, last = self.source.span(statement)[1], self._line_end(statement)
        rest = self.source.text[end:last].strip()
        if rest and not rest.startswith("#"):
            raise MisfitError("the statement does not end its line")
        return self.source.starts[statement.lineno - 1], last

    def _line_end(self, node: ast.expr | ast.stmt) -> int:
        line = node.end_lineno or node.lineno
        return self.source.starts[line] if line < len(self.source.lines) else len(self.source.text)


def drafted(name: str, summary: str, source: str, weight: float, build: Callable[[Draft, random.Random], str]) -> Mutation:
    """A structural mutation by a function that writes on a draft and returns the note; where it meets a MisfitError, it does not apply."""

    def apply(parent: Program, rng: random.Random) -> Rewrite | None:
        draft = Draft(parent)
        try:
            return draft.finished(build(draft, rng))
        except MisfitError:
            return None

    return Mutation(name, summary, source, STRUCTURAL, weight, apply)


def alias(parent: Program, module: str) -> str:
    """What a program calls a module such as torch.nn.functional: `F`, `functional`, or the whole name where it imports torch."""
    _package, _, last = module.rpartition(".")
    imports = [node for node in parent.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        for name in node.names:
            whole = name.name if isinstance(node, ast.Import) else f"{node.module}.{name.name}"
            if whole == module and (name.asname or isinstance(node, ast.ImportFrom)):
                return name.asname or last
    if any(isinstance(node, ast.Import) and any(name.name == "torch" and not name.asname for name in node.names) for node in imports):
        return module
    raise MisfitError(f"{module} is not imported")


def _blocks(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in walk(tree):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def _without_orphans(before: ast.Module, text: str) -> str:
    source = read(text)
    used = _loads(before) - _loads(source.tree)
    lines = [
        node.lineno
        for node in source.tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(target := node.targets[0], ast.Name)
        if target.id in used
        and _CONSTANT.fullmatch(target.id)
        and node.lineno == node.end_lineno
        and ";" not in source.lines[node.lineno - 1]
    ]
    return "".join(line for number, line in enumerate(source.lines, start=1) if number not in lines)


def _loads(tree: ast.Module) -> set[str]:
    return {node.id for node in walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
