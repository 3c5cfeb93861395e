"""Other ways to write a reply, turned into blocks and fences where they stand.

{"code": "…"}, {"edits": [{"search": "…", "replace": "…"}]}    in a fence or as the whole reply
<search>…</search> <replace>…</replace>                        blocks
Replace ```…``` with ```…```                                   two fences and the words between
12 | x = 1                                                     numbered lines
if a &lt; b                                                    signs of HTML, where the program has none

The first three read parts of a reply. They count where nothing beside these parts is an edit, or may be one: see `unread`. The other two
spell the whole reply anew, and are tried only where it is no edit as it stands.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from genomes.errors import EditError
from genomes.replies.parts import Part, parts, says_no

_SEARCH, _BETWEEN, _REPLACE = "<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE"
_FENCE = "~~~~~~~~~~~~"  # longer than any that code holds
_TAGS = {"<search>": [_SEARCH], "</search>": [], "<replace>": [_BETWEEN], "</replace>": [_REPLACE]}
_TAG = re.compile(f"({'|'.join(_TAGS)})", re.IGNORECASE)
_NUMBERED = re.compile(r"\s{0,20}(\d{1,6})\s{0,4}\|(.*)")
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|apos|#\d{2,3}|#x[0-9a-fA-F]{2});")
_OLD = re.compile(
    r"[\W\d]*(?:(?:please|first|then|next|now|finally),?\s+)?(?:in\s+[`\w.]{1,80},\s*)?(?:replace|change)\b|\W*(?:old|before|original)\W*$",
    re.IGNORECASE,
)
_TITLES = ("old", "before", "original")
_NEW = re.compile(r"\W*(?:with|by|to|new|after|updated)(?:\s+(?:this|the\s+following|the\s+new\s+code))?\W*", re.IGNORECASE)
_READ = 200  # characters of a line of prose

# A second change in words, beside a pair of fences.
_MORE = re.compile(
    r"[\W\d]*(?:and|or|also|then|additionally|besides|furthermore|next|finally|second(?:ly)?)\b.{0,60}?"
    r"\b(?:with|replace|change|set|use|increase|decrease|raise|lower|remove|delete|drop|add|insert|rename|move)\b",
    re.IGNORECASE,
)
_WRAPPER = re.compile(r"\s{0,40}</?\w{1,20}>\s{0,40}")
_KEYS = ("edits", "search", "replace", "code")


@dataclass(frozen=True)
class Reading:
    """A reply in a dialect."""

    name: str
    lines: list[str]
    rest: list[str]  # without the parts that the dialect reads
    may_stand: bool = False  # those parts may be edits as they stand, too


def readings(lines: Sequence[str]) -> Iterator[Reading]:
    """A reply in each dialect that parts of it could be in.

    Raises:
        EditError: JSON that seems to hold edits has one that is not usable.
    """
    yield from filter(None, (dialect(lines) for dialect in (_json, _tagged, _named)))


def respelt(lines: Sequence[str], text: str = "") -> Iterator[list[str]]:
    """A whole reply in other spellings that it could have; `text` is the program."""
    if (read := _numbered(lines)) is not None:
        yield read
    if not _ENTITY.search(text) and any(map(_ENTITY.search, lines)):
        yield [_ENTITY.sub(lambda found: html.unescape(found[0]), line) for line in lines]


def unread(rest: Sequence[str], known: Container[str]) -> str:
    """What may be an edit beside a dialect: those of another, or a fence with code that the program does not have; "" for nothing."""
    for reading in readings(rest):
        return reading.name
    for part in parts(rest)[1:]:
        if (part.may_be_python or part.is_called_diff or part.label == "json") and any(
            line.strip() and line.strip() not in known and not _WRAPPER.fullmatch(line) for line in part.lines
        ):
            return part.name
    return ""


# ---- JSON


def _json(lines: Sequence[str]) -> Reading | None:
    fences = [part for part in parts(lines)[1:] if part.label in ("", "json")]
    read, rest, last = list[str](), list[str](), 0
    for part in fences:
        found = _of_json("\n".join(part.lines), part.name, is_called=part.label == "json")
        if found:
            read += [*lines[last : part.at], *found]
            rest += [*lines[last : part.at], ""]
            last = part.end
    if last:
        return Reading("JSON", [*read, *lines[last:]], [*rest, *lines[last:]])
    return _json_alone(lines)


def _json_alone(lines: Sequence[str]) -> Reading | None:
    """JSON from the first line that begins with a bracket to the last that ends with one."""
    fenced = {index for part in parts(lines)[1:] for index in range(part.at, part.end)}
    outside = [index for index in range(len(lines)) if index not in fenced]
    first = next((index for index in outside if lines[index].lstrip()[:1] in ("{", "[")), len(lines))
    last = next((index for index in reversed(outside) if lines[index].rstrip()[-1:] in ("}", "]")), -1)
    if last < first:
        return None
    found = _of_json("\n".join(lines[first : last + 1]), "the reply")
    before, after = list(lines[:first]), list(lines[last + 1 :])
    return Reading("JSON", [*before, *found, *after], [*before, *after]) if found else None


def _of_json(text: str, where: str, is_called: bool = False) -> list[str]:
    """JSON edits as blocks and fences; none if it is no such JSON.

    Raises:
        EditError: it seems to be, and one edit is not usable.
    """
    text = text.strip()
    if text[:1] not in ("{", "[") and not is_called:
        return []
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if re.search(r'"(?:search|code)"\s{0,40}:', text):
            raise EditError(f"the JSON of {where} cannot be read ({_why(error)}): write search/replace blocks") from error
        return []
    edits = data["edits"] if isinstance(data, dict) and "edits" in data else data
    listed = edits if isinstance(edits, list) else [edits]
    if not any(isinstance(edit, dict) and edit.keys() & {*_KEYS} for edit in (data, *listed)):
        return []
    wholes = [_of_edit(edit) for edit in listed]
    is_mixed = edits is not data and bool(data.keys() & {*_KEYS[1:]})
    if is_mixed or not all(wholes):
        number = 1 if is_mixed else wholes.index([]) + 1
        raise EditError(
            f'edit {number} of the JSON of {where} is not just "search" and "replace", or "code", with text: send all edits whole'
        )
    return [line for whole in wholes for line in whole]


def _why(error: Exception) -> str:
    return str(error).partition("\n")[0][:80] or type(error).__name__


def _of_edit(edit: Any) -> list[str]:
    if not isinstance(edit, dict):
        return []
    search, replace, code = (edit.get(name) for name in _KEYS[1:])
    if isinstance(search, str) and isinstance(replace, str) and "code" not in edit:
        return _block(search.strip("\n").split("\n"), replace.strip("\n").split("\n") if replace.strip() else [])
    if isinstance(code, str) and not edit.keys() & {"search", "replace"}:
        return _fenced(Part(1, "python", tuple(code.split("\n")), closed=True))
    return []


def _block(search: Sequence[str], replace: Sequence[str]) -> list[str]:
    return [_SEARCH, *search, _BETWEEN, *replace, _REPLACE]


def _fenced(part: Part) -> list[str]:
    return [f"{_FENCE}{part.label}", *part.lines, _FENCE]


# ---- tags


def _tagged(lines: Sequence[str]) -> Reading | None:
    """Tags count where they begin or end a line; blank text beside them is layout."""
    found, rest = list[str](), list[str]()
    is_tagged = is_inside = False
    for line in lines:
        pieces = [piece for piece in _TAG.split(line) if piece.strip()] if "<" in line else []
        if not pieces or not {pieces[0].lower(), pieces[-1].lower()} & _TAGS.keys():
            pieces = [line]
        for piece in pieces:
            tag = piece.lower()
            is_tagged = is_tagged or (is_inside and tag == "<replace>")
            is_inside = is_inside or tag == "<search>"
            found += _TAGS.get(tag, [piece])
            rest += [] if is_inside or tag in _TAGS else [piece]
            is_inside = is_inside and tag != "</replace>"
    return Reading("tags", found, rest) if is_tagged else None


# ---- fences in pairs


def _named(lines: Sequence[str]) -> Reading | None:
    """Pairs of fences with `replace` before the first and `with` between."""
    read, rest, last = list[str](), list[str](), 0
    old: Part | None = None
    for part in parts(lines)[1:]:
        if old is not None and part.closed and _NEW.fullmatch(part.lead[:_READ]):
            read += [*lines[last : old.at], *_block(old.lines, part.lines)]
            rest += [*lines[last : old.at], ""]
            last, old = part.end, None
        else:
            old = part if part.closed and _is_old(part) else None
    if not last:
        return None
    prose = parts([*rest, *lines[last:]])[0].lines
    if any(_MORE.match(line[:_READ]) and not _OLD.match(line[:_READ]) for line in prose):
        return None
    return Reading("a pair of fences", [*read, *lines[last:]], [*rest, *lines[last:]], may_stand=True)


def _is_old(part: Part) -> bool:
    lead = part.lead[:_READ]
    return _OLD.match(lead) is not None and (lead.strip(" *_#:").lower() in _TITLES or not says_no(lead))


# ---- spelling


def _numbered(lines: Sequence[str]) -> list[str] | None:
    """Lines without the numbers in front of them, which count up by one, and without the blank that follows each number."""
    found, run = list[str](), list[re.Match[str]]()
    is_numbered = False
    for line in (*lines, ""):
        match = _NUMBERED.match(line)
        if run and not (match and int(match[1]) == int(run[-1][1]) + 1):
            margin = 1 if all(one[2][:1] in ("", " ") for one in run) else 0
            found += [one[2][margin:] for one in run]
            run, is_numbered = [], True
        if match:
            run.append(match)
        else:
            found.append(line)
    return found[:-1] if is_numbered else None
