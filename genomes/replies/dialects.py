"""Other ways to write a reply, turned into blocks and fences. They are tried, one by one, only where a reply as it stands is no edit.

{"code": "…"}, {"edits": [{"search": "…", "replace": "…"}]}    in a fence or as the whole reply
<search>…</search> <replace>…</replace>                        blocks
Replace ```…``` with ```…```                                   two fences and the words between
12 | x = 1                                                     numbered lines
if a &lt; b                                                    signs of HTML, where the program has none
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Sequence

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

Dialect = Callable[[Sequence[str]], list[str] | None]


def readings(lines: Sequence[str], text: str = "") -> Iterator[Sequence[str]]:
    """The lines of a reply as they are, then in each dialect that they could be in; `text` is the program."""
    yield lines
    for dialect in _DIALECTS:
        if (read := dialect(lines)) is not None:
            yield read
    if not _ENTITY.search(text) and any(map(_ENTITY.search, lines)):
        yield [_ENTITY.sub(lambda found: html.unescape(found[0]), line) for line in lines]


def _json(lines: Sequence[str]) -> list[str] | None:
    rest, *fences = parts(lines)
    texts = ["\n".join(part.lines) for part in fences if part.label in ("", "json")] or ["\n".join(rest.lines)]
    found = [line for text in texts for line in _of_json(text)]
    return found or None


def _of_json(text: str) -> Iterator[str]:
    start, end = text.find("{"), text.rfind("}")
    opening = text.find("[")
    if 0 <= opening < start:
        start, end = opening, text.rfind("]")
    if start < 0:
        return
    try:
        data = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return
    edits = data.get("edits", data) if isinstance(data, dict) else data
    for edit in edits if isinstance(edits, list) else [edits]:
        if not isinstance(edit, dict):
            continue
        search, replace, code = (edit.get(name) for name in ("search", "replace", "code"))
        if isinstance(search, str) and isinstance(replace, str):
            yield from _block(search.strip("\n").split("\n"), replace.strip("\n").split("\n") if replace.strip() else [])
        elif isinstance(code, str):
            yield from _fenced(Part(1, "python", tuple(code.split("\n")), closed=True))


def _block(search: Sequence[str], replace: Sequence[str]) -> list[str]:
    return [_SEARCH, *search, _BETWEEN, *replace, _REPLACE]


def _tagged(lines: Sequence[str]) -> list[str] | None:
    """Tags count where they begin or end a line; blank text beside them is layout."""
    found, is_tagged = list[str](), False
    for line in lines:
        pieces = [piece for piece in _TAG.split(line) if piece.strip()] if "<" in line else []
        if pieces and (pieces[0].lower() in _TAGS or pieces[-1].lower() in _TAGS):
            is_tagged = True
            for piece in pieces:
                found += _TAGS.get(piece.lower(), [piece])
        else:
            found.append(line)
    return found if is_tagged else None


def _numbered(lines: Sequence[str]) -> list[str] | None:
    """Without numbers in front of lines that count up by one, and the blank that follows on all of them."""
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


def _named(lines: Sequence[str]) -> list[str] | None:
    """Pairs of fences with `replace` before the first and `with` between."""
    rest, *fences = parts(lines)
    found, old = list(rest.lines), None
    is_paired = False
    for part in fences:
        if old is not None and part.closed and _NEW.fullmatch(part.lead[:_READ]):
            found += _block(old.lines, part.lines)
            old, is_paired = None, True
            continue
        found += _fenced(old) if old else []
        old = part if _is_old(part) else None
        found += [] if old else _fenced(part)
    return [*found, *(_fenced(old) if old else [])] if is_paired else None


def _is_old(part: Part) -> bool:
    lead = part.lead[:_READ]
    return _OLD.match(lead) is not None and (lead.strip(" *_#:").lower() in _TITLES or not says_no(lead))


def _fenced(part: Part) -> list[str]:
    return [part.lead, f"{_FENCE}{part.label}", *part.lines, _FENCE]


_DIALECTS: tuple[Dialect, ...] = (_json, _tagged, _named, _numbered)
