"""What a model answers, as edits of a program: every format becomes splices of its text, applied all together or not at all.

    search/replace blocks    blocks.py       wherever they stand, in fences or not
    unified diffs            hunks.py        in fences; outside of them with `@@` or `---`, `+++`
    functions, classes       definitions.py  in fences, with constants or these alone; functions also outside of fences
    whole programs           a fence that has what the lab's contract asks for, and all that it uses of the program

`parts.py` drops reasoning and opens fences, `snippets.py` reads code, `page.py` finds passages in the program, `spelling.py` says which
lines are the same but for how they are written. `dialects.py` turns what else models write (JSON, tags, numbered lines, …) into blocks and
fences; that is done where nothing else in the reply is an edit. `stubs.py` fills in functions that are said to be unchanged.

How it is decided what a reply is: blocks are read first. A fence is a diff if it is called one or has marks of one, else code if it parses
and defines something, else a diff if it has lines with signs and lines of the program. Other fences, and those in other languages, are
talk. What stands outside of fences is talk too, unless nothing else is an edit. All that is found is done together, whatever its format,
where no two parts change the same lines; a whole program stands alone. Parts that repeat each other, or the program, count for nothing,
and so do those that a later one is said to correct. Options to choose from are refused.

What does not fit is an error whose message a model can act on: what did not match, where, which lines are near. The reply is untrusted:
sizes are capped, time is linear in them, code that is cut off or left out (`# ...`) is refused, and so is what changes nothing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from genomes.canonical import identity
from genomes.contract import check, contract_of
from genomes.errors import EditError, GenomeError, ParseError
from genomes.nodes import Definition, names_in, walk
from genomes.replies.blocks import FORMAT, blocks, cut_off
from genomes.replies.defined import bound_in
from genomes.replies.definitions import are_constants, definitions
from genomes.replies.dialects import Reading, readings, respelt, unread
from genomes.replies.hunks import has_signs, hunks, is_diff
from genomes.replies.page import Cut, Page, Passage, shown
from genomes.replies.parts import Part, answer, parts, says_no, spoken
from genomes.replies.snippets import MOST_DEPTH, Snippet, code_outside, defines, require_complete, snippet
from genomes.replies.stubs import restored
from genomes.source import Splice, parse, require_shallow, splice

_MOST_FENCES = 200
_TOLD = 3  # passages that do not match, in one message
_READ = 200  # characters of a line that may begin a choice
_OFFER = re.compile(r"[\W\d]*((?:option|alternative|variant|version|approach|choice)\s+(?:[A-D]|[1-4]|one|two))\b", re.IGNORECASE)
_CUT_OFF = "is cut off: send it whole, and close its fence"


@dataclass(eq=False)
class _Found:
    """The edits of a reply, by kind."""

    passages: list[Passage] = field(default_factory=list)
    code: list[Snippet] = field(default_factory=list)
    aside: list[Snippet] = field(default_factory=list)  # statements without a definition, which count beside code that has one

    @property
    def is_empty(self) -> bool:
        return not self.size

    @property
    def size(self) -> int:
        return len(self.passages) + len(self.code)


@dataclass(frozen=True, eq=False)
class _Tried:
    """What came of a way to read a reply: a program, an error, or neither where there was no edit."""

    found: _Found
    made: str = ""
    wrong: GenomeError | None = None


def patch(text: str, reply: str, cut: bool = False) -> str:
    """The program that a reply makes of `text`.

    Args:
        cut: the reply ended at a limit of its length; then only blocks and what stands in closed fences is read.

    Raises:
        EditError: no edit, one that is incomplete or has not exactly one place, edits that overlap, or nothing changes.
        ParseError: code of the reply, or what results, is no program, or is nested too deeply.
    """
    page, lines = Page(text), answer(reply)
    tried = _tried(page, lines, cut)
    for reading in readings(lines):
        made = _in_dialect(page, reading, tried, cut)
        if made:
            return made
    if tried.made:
        return tried.made
    for other in respelt(lines, text):
        if made := _tried(page, other, cut).made:
            return made
    aside = tried.found.aside
    nothing = f"{aside[0].where} has no function or class; " if aside else ""
    raise tried.wrong or EditError(f"the reply has no block, diff, whole function or whole program; {nothing}{FORMAT}")


def _tried(page: Page, lines: Sequence[str], cut: bool) -> _Tried:
    """Lines of a reply as they stand."""
    found = _Found()
    try:
        found = _edits(page, lines, cut)
        return _Tried(found, "" if found.is_empty else _edited(page, found))
    except GenomeError as error:
        return _Tried(found, wrong=error)


def _in_dialect(page: Page, reading: Reading, tried: _Tried, cut: bool) -> str:
    """The program that a dialect makes of a reply; "" where the reply as it stands says it all.

    Raises:
        GenomeError: parts of the reply are edits as they stand, and others are so only in the dialect, or it does not fit.
    """
    inside, beside = (_tried(page, lines, cut) for lines in (reading.lines, reading.rest))
    is_beside = beside.wrong is not None or not beside.found.is_empty
    if tried.made:
        if inside.found.is_empty or (reading.may_stand and tried.found.size > beside.found.size):
            return ""
    elif inside.found.is_empty and inside.wrong is None:
        return ""
    other = unread(reading.rest, page.known)
    if is_beside or other:
        what = "others as they stand" if is_beside else f"{other} beside it"
        raise tried.wrong or EditError(f"the reply has edits as {reading.name}, and {what}: send all of them as search/replace blocks")
    if inside.made:
        return inside.made
    raise tried.wrong or inside.wrong or EditError(f"the reply has no edit; {FORMAT}")


def _edits(page: Page, lines: Sequence[str], cut: bool) -> _Found:
    """All that the lines of a reply want."""
    passages, outside = blocks(lines, cut)
    rest, *fences = parts(outside)
    found = _Found()
    _keep(passages, page, found)
    full = _full(fences)
    for part in full:
        _read(part, page, found)
    offered = _offered(outside, fences, passages)
    if found.is_empty:
        _read_outside(rest, page, found, cut)
        offered = [] if found.is_empty else [offer for line in rest.lines if (offer := _offer(line))]
    if found.is_empty and len(full) == 1 and found.aside and are_constants(found.aside[0]):
        _require_meant(found.aside[0], rest)
        found.code = list(found.aside)
    found.code = _last_word(found, page.text)
    _require_one(offered, found)
    return found


def _edited(page: Page, found: _Found) -> str:
    result = splice(page.text, _apart(page, _cuts(page, found)))
    _require_program(result, found.passages)
    if found.passages and not found.passages[-1].closed and _idle(result) > _idle(page.text):
        raise cut_off(found.passages[-1].where)  # words behind the code, such as "Done", may be code too
    if identity(result) == identity(page.text):
        raise EditError("the edits leave the program as it was, but for comments and layout: change what it does")
    return result


def prose(reply: str) -> list[str]:
    """The lines that stand outside of blocks and fences.

    Raises:
        EditError: it cannot be taken apart.
    """
    wrong: EditError | None = None
    lines = answer(reply)
    for read in _ways(lines):
        try:
            return list(parts(blocks(read)[1])[0].lines)
        except EditError as error:
            wrong = wrong or error
    assert wrong is not None
    raise wrong


def without_reasoning(reply: str) -> str:
    """What a reply says, without what its model thought before."""
    return "\n".join(spoken(reply))


def _ways(lines: list[str]) -> Iterator[Sequence[str]]:
    yield lines
    yield from (reading.lines for reading in readings(lines))
    yield from respelt(lines)


# ---- what the parts are


def _full(fences: Iterable[Part]) -> list[Part]:
    full = [part for part in fences if not part.is_blank]
    if len(full) > _MOST_FENCES:
        raise EditError(f"the reply has {len(full)} code fences, at most {_MOST_FENCES} are read: make one focused change")
    return full


def _read(part: Part, page: Page, found: _Found) -> None:
    """Put a fence where it belongs; talk goes nowhere."""
    if is_diff(part):
        _read_diff(part, page, found)
        return
    if not part.may_be_python:
        return
    is_code = defines(part.lines)
    try:
        code = snippet(part, page)
    except ParseError as error:
        if has_signs(part, page):
            _read_diff(part, page, found)
        elif is_code:
            require_complete(part.name, part.lines, page)
            if not part.closed:
                raise EditError(f"{part.name} {_CUT_OFF}") from error
            raise
        return
    if any(isinstance(node, Definition) for node in code.statements) or _is_program(code, page.text):
        code = restored(code, page)
        if not part.closed:
            raise EditError(f"{part.name} {_CUT_OFF}")
        require_complete(part.name, map(str.rstrip, code.source.lines), page)
        found.code.append(code)
    elif has_signs(part, page):
        _read_diff(part, page, found)
    else:
        found.aside.append(code)


def _read_diff(part: Part, page: Page, found: _Found) -> None:
    if not part.closed:
        raise EditError(f"the diff in {part.name} {_CUT_OFF}")
    _keep(hunks(part, page, sum(passage.where.startswith("hunk") for passage in found.passages)), page, found)


def _keep(passages: Sequence[Passage], page: Page, found: _Found) -> None:
    for passage in passages:
        require_complete(passage.where, (line for run in passage.runs for line in run.new), page)
    found.passages += passages


def _read_outside(rest: Part, page: Page, found: _Found, cut: bool) -> None:
    code = code_outside(rest)
    is_edit = is_diff(rest) or (code is not None and defines(code.lines))
    if is_edit and cut:
        raise EditError(f"{rest.name} {_CUT_OFF}")
    if is_diff(rest):
        _read_diff(rest, page, found)
    elif code is not None and is_edit:
        require_complete(code.name, code.lines, page)
        try:
            found.code.append(snippet(code, page))
        except ParseError as error:
            raise ParseError(f"{error}; put code between ```python and ```, and nothing else there") from error


def _last_word(found: _Found, text: str) -> list[Snippet]:
    """The code without the program as it is, shown beside an edit, and without what a later part is said to correct."""
    changed = [one for one in found.code if one.source.text.strip() != text.strip()]
    kept = list[Snippet]()
    for one in changed if changed or found.passages else found.code:
        if one.is_final:
            is_whole = _is_program(one, text)
            kept = [before for before in kept if not (is_whole or (before.names and before.names <= one.names))]
        kept.append(one)
    return kept


def _require_meant(code: Snippet, rest: Part) -> None:
    """Raise EditError where constants stand alone in a reply that says no, since they may be quoted."""
    if doubt := next(filter(says_no, rest.lines), ""):
        raise EditError(
            f"{code.where} has only constants, which may not be meant as an edit, since the reply also says {shown(doubt)}: {FORMAT}"
        )


def _offer(line: str) -> str:
    return match[1].lower() if (match := _OFFER.match(line[:_READ])) else ""


def _offered(outside: Sequence[str], fences: Sequence[Part], passages: Sequence[Passage]) -> list[str]:
    """For each edit the last offer between it and the previous edit: other offers are only mentioned."""
    found, last = list[str](), 0
    spans = [*((part.at, part.end) for part in fences), *((passage.at, passage.at) for passage in passages)]
    for start, end in sorted(spans):
        between = [offer for line in outside[last:start] if (offer := _offer(line))]
        found += between[-1:]
        last = max(last, end)
    return found


def _require_one(offers: Iterable[str], found: _Found) -> None:
    """Raise EditError where edits are offered to choose from."""
    offered = sorted(set(offers))
    edits = {*found.code, *found.passages, *found.aside}
    if len(offered) > 1 and len(edits) > 1:
        raise EditError(f"the reply has edits to choose from, {' and '.join(offered[:_TOLD])}: send those of one, and no others")


# ---- what they do


def _cuts(page: Page, found: _Found) -> list[Cut]:
    for code in found.code:
        if _is_program(code, page.text):
            if len(found.code) > 1 or found.passages:
                raise EditError(f"{code.where} is a whole program, and there are other edits beside it: send one or the other")
            return [Cut(code.where, Splice(0, len(page.text), code.source.text.replace("\n", page.line_end)))]
    cuts = _placed(page, found.passages)
    return [*cuts, *definitions([*found.code, *found.aside], page)] if found.code else cuts


def _placed(page: Page, passages: Sequence[Passage]) -> list[Cut]:
    """The places of all passages; what is wrong with the first few that have none is reported together."""
    cuts, wrong = list[Cut](), list[str]()
    for passage in passages:
        try:
            cuts += page.find(passage)
        except EditError as error:
            wrong.append(str(error))
            if len(wrong) == _TOLD:
                break
    if wrong:
        raise EditError("; ".join(wrong))
    return cuts


def _is_program(code: Snippet, text: str) -> bool:
    """Whether code has what the contract asks for as a whole, and brings what it uses of the program."""
    if code.is_inner or any(problem.line == 0 for problem in check(code.source.text, contract_of(text))):
        return False
    there = {name for statement in parse(text).tree.body for name in bound_in(statement)}
    own = {name for statement in code.statements for name in bound_in(statement)}
    own |= {inner.id for inner in walk(code.source.tree) if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load)}
    own |= {inner.arg for inner in walk(code.source.tree) if isinstance(inner, ast.arg)}
    return not names_in(code.source.tree) & there - own


def _apart(page: Page, cuts: Iterable[Cut]) -> list[Splice]:
    """The splices, each once, without those that change nothing.

    Raises:
        EditError: two of them change the same lines.
    """
    wanted = {cut.splice: cut for cut in cuts if page.text[cut.splice.start : cut.splice.end] != cut.splice.text}
    ordered = sorted(wanted.values(), key=lambda cut: (cut.splice.start, cut.splice.end))
    for before, after in pairwise(ordered):
        if after.splice.start < before.splice.end:
            both = _both(before.where, after.where)
            raise EditError(f"{both} both change line {page.source.line_at(after.splice.start)}: send one of them, or combine them")
    return [cut.splice for cut in ordered]


def _both(before: str, after: str) -> str:
    """ "blocks 1 and 2", "block 1 and hunk 2"."""
    kind, _, number = before.partition(" ")
    other, _, second = after.partition(" ")
    return f"{kind}s {number} and {second}" if kind == other in ("block", "hunk") else f"{before} and {after}"


def _idle(text: str) -> int:
    """The number of expressions that stand as statements and do nothing."""
    return sum(
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom | ast.Constant)
        for node in walk(parse(text).tree)
    )


def _require_program(text: str, passages: Sequence[Passage]) -> None:
    try:
        require_shallow(parse(text).tree, MOST_DEPTH)
    except ParseError as error:
        if passages and not passages[-1].closed:
            raise cut_off(passages[-1].where) from error
        raise ParseError(f"with these edits the program does not parse: {error}") from error
