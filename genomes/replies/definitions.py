"""Whole functions, methods, classes and constants: each takes the place of the one of its name.

    def or class          replaces the definition of that name; a new one at top level goes before what uses it first
    def f(self, …)        bare, a method: of the one class that has an `f`, else an error names the classes
    class X:              with all members of the program's X: replaces it. With some: those are replaced or added, the others stay, and so
                          they do where the program's X has bases and the reply's none, which is how to say whose method is meant
    NAME = value          replaces the constant; a new one goes before the first definition or use
    import …              added, unless it is there
    what the program has word for word, and bare strings, are ignored; any other statement is an error

Definitions are told apart by name alone: one that occurs twice, as in both branches of an `if`, is an error too. A new function that
nothing uses is refused, since it would be the same program to the evaluator.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from genomes.errors import EditError
from genomes.nodes import Definition, names_in
from genomes.replies.defined import (
    Place,
    assigned,
    bound_in,
    definitions_in,
    flat,
    head,
    imported,
    member,
    members,
    names_at_import,
    says_nothing,
    takes_self,
)
from genomes.replies.page import Cut, Page, shown
from genomes.replies.snippets import Snippet, moved
from genomes.replies.spelling import indent_of
from genomes.source import Source, Splice
from genomes.units import first_line

MOST_DEFINITIONS = 64  # in a reply
_NAMED = 4  # candidates, in one message
_CONSTANT = re.compile(r"_*[A-Z][A-Z0-9_]*")
_BLOCK = "or use a search/replace block"


@dataclass(frozen=True, eq=False)
class _New:
    """A definition or constant that the program does not have."""

    name: str
    snippet: Snippet
    node: ast.stmt

    @property
    def where(self) -> str:
        return f"{self.name} of {self.snippet.where}"


@dataclass(eq=False)
class _Plan:
    """What there is to do, collected while going through the snippets."""

    page: Page
    cuts: list[Cut] = field(default_factory=list)
    new: list[_New] = field(default_factory=list)
    landed: dict[int, list[ast.AST]] = field(default_factory=dict)  # what comes into the top-level statement of that index

    def replace(self, found: Snippet, node: Definition, place: Place) -> None:
        first, end = first_line(place.node) - 1, place.node.end_lineno or place.node.lineno
        code = moved(found, first_line(node), node, indent_of(self.page.lines[first]))
        self.cuts.append(self.page.cut(f"{place.name} of {found.where}", first, end, code))
        self.lands(node, first)

    def add(self, new: _New) -> None:
        """Notes something new, once."""
        twin = next((one for one in self.new if one.name == new.name), None)
        if twin is None:
            self.new.append(new)
        elif ast.dump(twin.node) != ast.dump(new.node):
            raise EditError(f"{twin.where} and {new.where} differ: send one of them")

    def lands(self, node: ast.AST, line: int) -> None:
        """Notes that `node` comes into the program at a line, from 0."""
        starts = [first_line(statement) for statement in self.page.source.tree.body]
        self.landed.setdefault(bisect_right(starts, line + 1) - 1, []).append(node)


def definitions(snippets: Sequence[Snippet], page: Page) -> list[Cut]:
    """What the snippets, together, make of a program.

    Raises:
        EditError: a name is not clear, nothing uses what is new, or a statement is neither definition nor constant.
    """
    if sum(len(found.statements) for found in snippets) > 4 * MOST_DEFINITIONS:
        raise EditError(f"the reply has more than {4 * MOST_DEFINITIONS} statements outside of functions: make one focused change")
    plan, places = _Plan(page), list(definitions_in(page.source.tree.body))
    known = {ast.dump(statement) for statement in page.source.tree.body}
    for found in snippets:
        for node in found.statements:
            if isinstance(node, Definition):
                _definition(plan, places, found, node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                _import(plan, found, node)
            elif _is_constant(node):
                _constant(plan, found, node)
            elif not says_nothing(node) and ast.dump(node) not in known:
                line = shown(found.source.lines[node.lineno - 1])
                raise EditError(f"{found.where}: {line} is not a function, class, constant or import: put it into a function, {_BLOCK}")
    return [*plan.cuts, *_placed(plan)]


def are_constants(found: Snippet) -> bool:
    """Whether code gives constants values and does nothing else."""
    return any(map(_is_constant, found.statements)) and all(
        _is_constant(node) or says_nothing(node) or isinstance(node, ast.Import | ast.ImportFrom) for node in found.statements
    )


def _is_constant(node: ast.stmt) -> bool:
    return _CONSTANT.fullmatch(assigned(node)) is not None


def _definition(plan: _Plan, places: Sequence[Place], found: Snippet, node: Definition) -> None:
    same = [place for place in places if place.node.name == node.name]
    tops, methods = [place for place in same if not place.owner], [place for place in same if place.owner == "class"]
    others = [place for place in same if not takes_self(place.node)]  # static methods, functions within functions
    candidates = (methods or tops) if takes_self(node) else (tops or others)
    if len(candidates) > 1 and _lines(found.source, node) in [_lines(plan.page.source, place.node) for place in candidates]:
        return  # shown as it is, indentation included
    if len(candidates) > 1:
        named = " or ".join(f"{place.name} (line {first_line(place.node)})" for place in candidates[:_NAMED])
        how = (
            f"write it inside `class {candidates[0].name.rpartition('.')[0]}:`, or the class that you mean, "
            if candidates == methods
            else ""
        )
        raise EditError(f"{found.where}: {node.name} may be {named}: {how}{_BLOCK}")
    if candidates and isinstance(node, ast.ClassDef) and isinstance(old := candidates[0].node, ast.ClassDef):
        _class(plan, found, node, candidates[0], old)
    elif candidates:
        plan.replace(found, node, candidates[0])
    elif takes_self(node):
        raise EditError(f"{found.where}: no class of the program has a method {node.name}: write a new one inside `class NAME:`")
    else:
        plan.add(_New(node.name, found, node))


def _lines(source: Source, node: Definition) -> list[str]:
    return [line.rstrip() for line in source.lines[first_line(node) - 1 : node.end_lineno]]


def _class(plan: _Plan, found: Snippet, node: ast.ClassDef, place: Place, old: ast.ClassDef) -> None:
    has, given = members(old), members(node)
    is_context = not (node.bases or node.keywords or node.decorator_list) and bool(old.bases or old.keywords)
    left = [name for name in has if name not in given]
    left += _unnamed(old)[len(_unnamed(node)) :]
    if not left and not is_context:
        plan.replace(found, node, place)
        return
    if not is_context and head(node) != head(old):
        kept = ", ".join(left[:_NAMED])
        raise EditError(f"{found.where}: class {node.name} has a head unlike the program's and leaves out {kept}: send it whole")
    for statement, source in [*((one, plan.page.source) for one in old.body), *((one, found.source) for one in node.body)]:
        if source.text[source.starts[statement.lineno - 1] : source.span(statement)[0]].strip():
            line = shown(source.lines[statement.lineno - 1])
            raise EditError(f"{found.where}: class {node.name} leaves out members, and one does not begin its line, {line}: send it whole")
    known = {ast.dump(statement) for statement in old.body}
    for statement in node.body:
        name = member(statement)
        same = has.get(name, [])
        if says_nothing(statement) or (same == [] and not name and ast.dump(statement) in known):
            continue
        if not name or len(same) > 1:
            line = shown(found.source.lines[statement.lineno - 1])
            raise EditError(
                f"{found.where}: in class {node.name}, which leaves out other members, {line} has no clear place: send the whole class"
            )
        _member_cut(plan, found, statement, Place(f"{place.name}.{name}", "class", old), same)


def _unnamed(node: ast.ClassDef) -> list[str]:
    """The members of a class that have no name to find them by."""
    return [type(statement).__name__ for statement in node.body if not member(statement) and not says_nothing(statement)]


def _member_cut(plan: _Plan, found: Snippet, node: ast.stmt, place: Place, same: Sequence[ast.stmt]) -> None:
    """Replace or add a member of the class that `place` stands for."""
    page, body = plan.page, place.node.body
    code = moved(found, first_line(node), node, indent_of(page.lines[first_line(body[0]) - 1]))
    if same:
        first, end = first_line(same[0]) - 1, same[0].end_lineno or 0
    elif isinstance(node, Definition):
        first = end = place.node.end_lineno or 0
        code = ["", *code]
    else:
        first = end = next(
            (_above(page, first_line(inner) - 1) for inner in body if isinstance(inner, Definition)), place.node.end_lineno or 0
        )
        code = [*code, ""]
    plan.cuts.append(page.cut(f"{place.name} of {found.where}", first, end, code))
    plan.lands(node, first_line(place.node) - 1)


def _constant(plan: _Plan, found: Snippet, node: ast.stmt) -> None:
    name = assigned(node)
    old = [statement for statement in flat(plan.page.source.tree.body) if assigned(statement) == name]
    if len(old) > 1:
        raise EditError(
            f"{found.where}: {name} is assigned at lines {', '.join(str(s.lineno) for s in old[:_NAMED])}: use a search/replace block"
        )
    if not old:
        plan.add(_New(name, found, node))
        return
    (start, end), (first, last) = plan.page.source.span(old[0]), found.source.span(node)
    text, rest = found.source.text[first:last], found.source.text[last:].partition("\n")[0]
    after = plan.page.lines[(old[0].end_lineno or 1) - 1][_column(plan.page.source, end) :]
    if rest.strip().startswith("#") and after.strip()[:1] in ("", "#"):  # the comment of the reply takes the place of the program's
        text, end = text + rest.rstrip(), end + len(after)
    plan.cuts.append(Cut(f"{name} of {found.where}", Splice(start, end, text.replace("\n", plan.page.line_end))))
    plan.lands(node, old[0].lineno - 1)


def _import(plan: _Plan, found: Snippet, node: ast.Import | ast.ImportFrom) -> None:
    body = plan.page.source.tree.body
    there = {key for statement in flat(body) if isinstance(statement, ast.Import | ast.ImportFrom) for key in imported(statement)}
    if set(imported(node)) <= there:
        return
    is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
    head = [statement for statement in body if isinstance(statement, ast.Import | ast.ImportFrom)]
    if head and not is_future:
        line = head[-1].end_lineno or 0
    else:
        line = next(
            (_above(plan.page, first_line(statement) - 1) for statement in body if not says_nothing(statement)), len(plan.page.lines)
        )
    plan.cuts.append(plan.page.cut(f"an import of {found.where}", line, line, moved(found, node.lineno, node, "")))


# ---- what is new


def _placed(plan: _Plan) -> Iterator[Cut]:
    """Puts what is new before its first use, but after what is needed when the program is imported."""
    if not plan.new:
        return
    body = plan.page.source.tree.body
    names = [names_in(statement).union(*map(names_in, plan.landed.get(index, []))) for index, statement in enumerate(body)]
    binds = [set(bound_in(statement)) for statement in body]
    first_definition = next((index for index, statement in enumerate(body) if isinstance(statement, Definition)), len(body))
    for new, use in _uses(plan.new, names):
        is_definition = isinstance(new.node, Definition)
        needed = names_at_import(new.node)
        behind = max((index + 1 for index, there in enumerate(binds) if there & needed), default=0)
        index = max(use if is_definition else min(use, first_definition), behind)
        code = moved(new.snippet, first_line(new.node), new.node, "")
        if not is_definition and index and isinstance(body[index - 1], ast.Assign | ast.AnnAssign):  # among the constants
            line = body[index - 1].end_lineno or 0
        elif index == len(body):
            line, code = len(plan.page.lines), ["", "", *code]
        else:
            line = _above(plan.page, first_line(body[index]) - 1)
            code += ["", ""] if is_definition or isinstance(body[index], Definition) else []
        yield plan.page.cut(new.where, line, line, code)


def _uses(new: Sequence[_New], names: Sequence[set[str]]) -> Iterator[tuple[_New, int]]:
    """Each new thing with the top-level statement that first uses it, directly or through others that are new."""
    if len(new) > MOST_DEFINITIONS:
        raise EditError(f"the reply has more than {MOST_DEFINITIONS} new functions, classes and constants: make one focused change")
    never = len(names)
    used = {one.name: next((index for index, there in enumerate(names) if one.name in there), never) for one in new}
    needs = {one.name: names_in(one.node) & used.keys() - {one.name} for one in new}
    for _ in new:  # as often as a chain of them can be long
        for one in new:
            for other in needs[one.name]:
                used[other] = min(used[other], used[one.name])
    for one in new:
        if used[one.name] == never:
            raise EditError(f"{one.snippet.where}: nothing uses the new {one.name}: send the function that uses it too")
        yield one, used[one.name]


def _above(page: Page, line: int) -> int:
    """The first line, from 0, of the comments that stand directly above a line."""
    indent = indent_of(page.lines[line])
    while line and page.lines[line - 1].startswith(f"{indent}#"):
        line -= 1
    return line


def _column(source: Source, offset: int) -> int:
    return offset - source.starts[source.line_at(offset) - 1]
