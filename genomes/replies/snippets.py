"""Code that a reply shows: read as Python, at whatever indentation it stands, and told from the text around it.

Only one slip is repaired: a first line that has lost the indentation of the lines after it. What stands for omitted code, such as `...` or
"# rest unchanged", is refused wherever the program does not have that line itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from genomes.errors import EditError, ParseError
from genomes.nodes import walk
from genomes.replies.defined import head, member, members
from genomes.replies.page import Page, shown
from genomes.replies.parts import Part
from genomes.replies.spelling import indent_of, reindented
from genomes.source import Source, read, require_shallow

MOST_DEPTH = 64  # most levels of a syntax tree; hand-written programs have some 20
_WRAPPER = "if True:\n"
_READ = 200  # characters of a line that is looked at for an elision
_DEFINITION = re.compile(r"\s*(?:async\s+def|def|class)\s+\w+\s*[(:\[]")
_OPENING = re.compile(r"\s+(?:@\w|(?:async\s+def|def|class)\s+\w+\s*[(:\[])")  # start of a definition at some indentation
_CODE = re.compile(
    r"""@\w
    |(?:async\ def|def|class)\s+\w+\s*[(:\[]
    |import\ [\w.]+ | from\ [\w.]+\ import\b | if\ __name__
    |_*[A-Z][A-Z0-9_]*(?::[^=]*|\ *)=[^=]""",
    re.VERBOSE,
)
# A comment that stands for code, and code that stands for it: `...` always, what does nothing where such a comment is beside it.
_COMMENT = r"""\#\s*(?:
        (?:\.\.\.|…|\[\.\.\.)
        |\W*(?:the\s+)?(?:rest|remainder|remaining)\b.*\b(?:unchanged|same|before|here|omitted|goes|code|function|class|file|method)
        |\W*(?:the\s+)?(?:(?:keep|keeps|kept)\s+(?:the\s+)?)?
            (?:existing|previous|original|unchanged|other)\s+(?:code|implementation|body|lines|logic|methods?|functions?|content)\b
        |\W*(?:the\s+)?(?:(?:keep|keeps|kept)\s+(?:the\s+)?)?
            same\s+(?:code|implementation|body|lines|logic|methods?|functions?|content)(?:\W*$|\s+(?:as|here|above|before)\b)
        |\W*(?:unchanged|omitted|same\s+as\s+(?:before|above|original|in\s+the\s+original)|as\s+before|no\s+changes?)\b
        |.{0,80}\b(?:remains?|stays?|are|is|left|code)\s+(?:the\s+same|unchanged|as\s+before|as\s+is)\W*$
        |.{0,80}\((?:unchanged|omitted|same\s+as\s+before)\)
    )"""
_NOTHING = r"""(?:pass|return|return\ None|raise\ NotImplementedError(?:\(\s*\))?)"""
_HEAD = r"""(?:(?:async\ def|def|class)\s[^#]{0,160}:\s*)"""
_ELISION = re.compile(
    rf"""{_HEAD}?(?:\.\.\.|…)\s*(?:\#.*)?$
    |(?:{_HEAD}?{_NOTHING})?\s*{_COMMENT}
    |raise\ NotImplementedError\(\s*["'].{{0,80}}\b(?:unchanged|existing|as\ before|same\ as|omitted|original)\b""",
    re.VERBOSE | re.IGNORECASE,
)
_ELIDED_BODY = re.compile(rf"{_HEAD}{_COMMENT}", re.VERBOSE | re.IGNORECASE)  # a head with nothing but such a comment
_SAYS = re.compile(_COMMENT, re.VERBOSE | re.IGNORECASE)
# Nothing but that: a comment that says more may be about what the code does, not about what was left out.
_UNCHANGED = re.compile(
    r"""\W*(?:(?:the|all|this|keep|keeps|kept)\s+)*
    (?:(?:existing|previous|original|unchanged|same|rest|remaining|code|implementation|body|lines|logic|methods?|functions?|content|of|the)\s+)*
    (?:(?:remains?|stays?|are|is|left)\s+)*
    (?:unchanged|omitted|(?:the\s+)?same(?:\s+as\s+(?:before|above|original|in\s+the\s+(?:original|program)))?|as\s+(?:before|is)|no\s+changes?
        |(?:existing|previous|original|same)\s+(?:code|implementation|body|logic))
    (?:\s+here)?\W*""",
    re.VERBOSE | re.IGNORECASE,
)
_DOES_NOTHING = re.compile(rf"{_NOTHING}\s*(?:\#.*)?$", re.VERBOSE)
_BEGINNINGS = ("#", ".", "…", "pass", "return", "raise", "def", "async", "class")  # how one may begin: checked first, to save time


@dataclass(frozen=True, eq=False)
class Snippet:
    """Statements with the text that they stand in."""

    where: str
    source: Source
    statements: tuple[ast.stmt, ...]
    is_inner: bool  # it stood at some indentation, so that its first line is one of ours
    is_final: bool = False  # it is said to take the place of what came before

    @property
    def names(self) -> set[str]:
        """All that it defines: functions and constants, classes by their heads and members, since a class may hold only some of them."""
        return {name for node in self.statements for name in _names(node)}


def _names(node: ast.stmt) -> Iterator[str]:
    if not isinstance(node, ast.ClassDef):
        yield from filter(None, [member(node)])
        return
    yield from (f"{node.name}({base})" for base in head(node))
    yield from (f"{node.name}.{name}" for name in members(node) or ("",))


def snippet(part: Part, page: Page) -> Snippet:
    """A part as code, indented as the program is.

    Raises:
        ParseError: it is not code.
    """
    lines = _without_margins(part.lines)
    wrong: ParseError | None = None
    for spelling in (lines, *_first_line_moved(lines)):
        try:
            found = _read(part.name, spelling)
        except ParseError as error:
            wrong = wrong or error
        else:
            return replace(_indented(found, spelling, page), is_final=part.is_final)
    raise ParseError(f"{part.name} does not parse: {wrong}") from wrong


def _indented(found: Snippet, lines: Sequence[str], page: Page) -> Snippet:
    """The snippet in the program's kind of indentation, unless a string would change with it."""
    new = reindented(lines, page.indents) if page.indents else tuple(lines)
    if new == tuple(lines):
        return found
    try:
        other = _read(found.where, new)
    except ParseError:
        return found
    return other if ast.dump(other.source.tree) == ast.dump(found.source.tree) else found


def code_outside(part: Part) -> Part | None:
    """The lines outside fences, from the first that is certainly code to the last that may be; None if there is no such first line."""
    lines = part.lines
    first = next((index for index, line in enumerate(lines) if _CODE.match(line) or _OPENING.match(line)), None)
    if first is None:
        return None
    tails = (index for index in range(len(lines) - 1, first - 1, -1) if _may_continue(lines[index]))
    last = next(tails, first)
    return Part(0, "", lines[first : last + 1], closed=True)


def defines(lines: Iterable[str]) -> bool:
    """Whether a line begins a function or a class."""
    return any(_DEFINITION.match(line) for line in lines)


def require_complete(where: str, lines: Iterable[str], page: Page) -> None:
    """Raise EditError where a line stands for code that is left out."""
    is_headed = False  # whether above stands a definition whose comment says that its body is left out
    for line in lines:
        stripped = line.strip()
        if (_is_elision(stripped) and stripped not in page.known) or (is_headed and _DOES_NOTHING.match(stripped)):
            raise EditError(
                f"{where} leaves out code at {shown(line)}: write every line of what it replaces, or a block of only the lines that change"
            )
        is_opened = stripped.startswith(_BEGINNINGS) and stripped not in page.known and _ELIDED_BODY.match(stripped[:_READ]) is not None
        is_headed = is_opened or (is_headed and stripped[:1] in ("", "#", '"', "'"))


def says_unchanged(line: str, alone: bool = False) -> bool:
    """Whether a comment of a line says that code is left out as it is; `alone`: and nothing else."""
    _, sign, said = line.strip()[:_READ].partition("#")
    return bool(sign) and _SAYS.match(sign + said) is not None and (not alone or _UNCHANGED.fullmatch(said) is not None)


def again(found: Snippet, lines: Sequence[str]) -> Snippet:
    """A snippet with other lines, the first of which may be ours."""
    own = [line.rstrip("\r\n") for line in lines[found.is_inner :]]
    return replace(_read(found.where, own), is_final=found.is_final)


def _is_elision(stripped: str) -> bool:
    return stripped.startswith(_BEGINNINGS) and _ELISION.match(stripped[:_READ]) is not None


def moved(found: Snippet, first: int, node: ast.stmt, indent: str) -> list[str]:
    """The lines of a statement from line `first` on, from 1, at another indentation. Strings that are no docstrings keep theirs."""
    lines = [line.rstrip("\r\n") for line in found.source.lines[first - 1 : node.end_lineno]]
    own = indent_of(lines[0])
    if own == indent:
        return lines
    kept = _inside_strings(node)
    return [line if number in kept else _at(line, own, indent) for number, line in enumerate(lines, first)]


def _at(line: str, own: str, indent: str) -> str:
    if line.startswith(own):
        return indent + line[len(own) :] if line.strip() else line
    return indent + line.lstrip() if line.lstrip().startswith("#") else line


def _inside_strings(node: ast.stmt) -> set[int]:
    """Lines, from 1, that begin inside a string whose text is used."""
    bare = {id(inner.value) for inner in walk(node) if isinstance(inner, ast.Expr)}
    found = set[int]()
    for inner in walk(node):
        is_text = isinstance(inner, ast.JoinedStr) or (isinstance(inner, ast.Constant) and isinstance(inner.value, str | bytes))
        if is_text and id(inner) not in bare:
            line, end = getattr(inner, "lineno", 0), getattr(inner, "end_lineno", 0)
            found.update(range(line + 1, end + 1))
    return found


def _read(where: str, lines: Sequence[str]) -> Snippet:
    is_inner = bool(lines) and lines[0][:1].isspace()
    source = read("".join([_WRAPPER if is_inner else "", *(f"{line}\n" for line in lines)]))
    require_shallow(source.tree, MOST_DEPTH)
    statements = source.tree.body
    if is_inner:
        wrapper = statements[0]
        if not isinstance(wrapper, ast.If) or wrapper.orelse:
            raise ParseError("it begins in the middle of a statement")
        statements = [*wrapper.body, *statements[1:]]
    return Snippet(where, source, tuple(statements), is_inner)


def _without_margins(lines: Sequence[str]) -> list[str]:
    """The lines without blank ones at the start and at the end."""
    full = [index for index, line in enumerate(lines) if line.strip()]
    return list(lines[full[0] : full[-1] + 1]) if full else []


def _first_line_moved(lines: Sequence[str]) -> list[list[str]]:
    rest = [indent_of(line) for line in lines[1:] if line.strip()]
    least = min(rest, key=len, default="")
    return [[least + lines[0], *lines[1:]]] if least and not lines[0][:1].isspace() else []


def _may_continue(line: str) -> bool:
    """Whether a line may belong to code that began above: indented, closing, or code by itself."""
    return bool(line.strip()) and (
        line[:1].isspace() or line[:1] in ")]}#" or bool(_CODE.match(line)) or bool(re.fullmatch(r"[\w.]{1,80}\(.{0,200}\)", line))
    )
