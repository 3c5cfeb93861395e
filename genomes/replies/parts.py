"""A reply taken apart: reasoning dropped, code fences opened, what is left is prose.

Fences are those of CommonMark (three or more backticks or tildes; closed by at least as many of the same), wherever they are indented.
Reasoning is what stands between `<think>` and `</think>`, or before a `</think>` that nothing opens; what follows an opening that is never
closed is reasoning too. Tags count at the start of a line, and one that nothing opens also at the end, so that a string of a program can
hold them elsewhere. Servers that do not know
a model leave in the tags of its own: `[THINK]` (Magistral), `◁think▷` (Kimi), `<seed:think>`, and the channels of gpt-oss.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from genomes.errors import EditError
from genomes.source import split_lines

MOST_CHARACTERS = 200_000  # most characters of a reply
_FENCE_CHARACTERS = 200  # most characters of a fence's line, which bounds the time of the pattern
_SAID = 2000  # characters of a line of prose that is read for what it says
_FENCE = re.compile(r"([ \t]{0,40})(`{3,}|~{3,})[ \t]*([^`]*)$")
_NAMES = "(?:(?:seed:)?think|thinking|thoughts?|reasoning|analysis|scratchpad)"
_TAG = re.compile(rf"\s{{0,40}}(?:</?{_NAMES}>|\[/?think\]|◁/?think▷)", re.IGNORECASE)
_LAST_TAG = re.compile(rf"(?:</{_NAMES}>|\[/think\]|◁/think▷)\s*$", re.IGNORECASE)
_LAST_CHARACTERS = 40  # of a line whose end may be a tag
_CHANNEL = re.compile(r"<\|channel\|>(\w{1,20})<\|message\|>")  # https://cookbook.openai.com/articles/openai-harmony
NOTE = "NOTE:"  # what a model is asked to say beside its edits
_PYTHON = ("py", "python", "python3")
_FINAL = re.compile(
    r"\b(?:final|corrected|fixed|revised)\s+(?:\w+\s+)?(?:version|code|program|file|answer|implementation|function|class|edit|train\.py)\b"
    r"|^\W*(?:final|corrected|fixed|revised|correction)\W*$",
    re.IGNORECASE,
)
_NO = re.compile(  # words of prose beside code that is not meant, or no longer
    r"\b(?:not|no|none|never|nothing|neither|nor|without|\w{1,9}n['’]t|dont|wont|cannot|worse|worst|bad|old|earlier|previous(?:ly)?|last\s+run"
    r"|instead\s+of|rather\s+than|examples?|e\.g|could|might|avoid|reject(?:ed)?|fail(?:s|ed)?|tried|was|were|used|had)\b",
    re.IGNORECASE,
)
_DIFF = ("diff", "patch", "udiff")


@dataclass(frozen=True)
class Part:
    """The lines of one fence, or all lines outside of fences. `number` counts fences from 1; 0 is what stands outside."""

    number: int
    label: str  # the first word behind the opening fence, in lower case
    lines: tuple[str, ...]
    closed: bool
    lead: str = ""  # the last line of prose before it
    at: int = 0  # the line of its opening, from 0
    end: int = 0  # the line behind its closing

    @property
    def name(self) -> str:
        return f"fence {self.number}" if self.number else "the code outside of fences"

    @property
    def may_be_python(self) -> bool:
        return self.label in ("", *_PYTHON) or self.label.endswith(".py")

    @property
    def is_called_diff(self) -> bool:
        return self.label in _DIFF

    @property
    def is_final(self) -> bool:
        """Whether it is said to take the place of what came before."""
        return _FINAL.search(self.lead[:_FENCE_CHARACTERS]) is not None

    @property
    def is_blank(self) -> bool:
        return not any(line.strip() for line in self.lines)


def says_no(line: str) -> bool:
    """Whether words may speak of code that is not to be used; where in doubt, they do."""
    return _NO.search(line[:_SAID]) is not None or len(line) > _SAID


def answer(reply: str) -> list[str]:
    """The lines of a reply, without their ends and without its reasoning.

    Raises:
        EditError: it is too long.
    """
    if len(reply) > MOST_CHARACTERS:
        raise EditError(f"the reply has {len(reply)} characters, at most {MOST_CHARACTERS} are read: send only what changes")
    return spoken(reply)


def spoken(reply: str) -> list[str]:
    """The lines of a reply of any length, without their ends and without its reasoning."""
    kept, closing = list[str](), ""
    for line in (line.rstrip("\r\n") for line in split_lines(_final(reply))):
        tag = None if closing else _TAG.match(line)
        if tag and "/" not in tag[0]:
            opening = tag[0].strip().lower()
            closing = f"{opening[0]}/{opening[1:]}"
            line = line[tag.end() :]
        elif tag:  # nothing opened it: all that came before was reasoning
            kept, line = [], line[tag.end() :]
        elif not closing and _LAST_TAG.search(line[-_LAST_CHARACTERS:]):
            kept = []
            continue
        if closing:
            _, closed, line = _partition(line, closing)
            if not closed:
                continue
            closing = ""
        if not tag or line.strip():
            kept.append(line)
    return kept


def _final(reply: str) -> str:
    """What stands in the last channel `final` of a reply in channels; all of a reply that has no channels."""
    channels = list(_CHANNEL.finditer(reply))
    if not channels:
        return reply
    start = next((channel.end() for channel in reversed(channels) if channel[1] == "final"), len(reply))
    return reply[start:].removesuffix("<|end|>").removesuffix("<|return|>")


def parts(lines: Iterable[str]) -> list[Part]:
    """What stands outside of fences, then the fences, in their order. A note at the start of a fence counts as outside."""
    outside, found = list[str](), list[Part]()
    inside, mark, indent, label, lead = list[str](), "", "", "", ""
    start, number = 0, -1
    for number, line in enumerate(lines):
        fence = _FENCE.match(line) if len(line) <= _FENCE_CHARACTERS else None
        if not mark and fence:
            indent, mark, info = fence.groups()
            start, inside, label = number, [], (info.split() or [""])[0].lower()
        elif not mark:
            outside.append(line)
            lead = line if line.strip() else lead
        elif fence and fence[2].startswith(mark) and not fence[3].strip():
            found.append(Part(len(found) + 1, label, tuple(inside), True, lead, start, number + 1))
            outside.append("")
            mark = lead = ""
        elif line.lstrip().startswith(NOTE) and not any(inside):
            outside.append(line.lstrip())
        else:
            inside.append(line.removeprefix(indent))
    if mark:
        found.append(Part(len(found) + 1, label, tuple(inside), False, lead, start, number + 1))
    return [Part(0, "", tuple(outside), closed=True), *found]


def _partition(line: str, closing: str) -> tuple[str, bool, str]:
    """`str.partition` without regard to case."""
    at = line.lower().find(closing)
    return (line[:at], True, line[at + len(closing) :]) if at >= 0 else (line, False, "")
