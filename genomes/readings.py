"""Reads knob values off many programs that are like one another, without parsing each of them.

A `Reader` knows one program. Another that differs from it in literals alone (a member of its species written by a knob move) is read by
comparing characters, some fifty times faster than `knobs`; any other is parsed. Both ways give the same values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from genomes.knobs import Knob, in_order, knobs
from genomes.literals import Value, read_value
from genomes.source import parse_expression

_CONSTANT = re.compile(r"^[A-Z][A-Z0-9_]*[ \t]*(?::[^=\n]+)?=(?!=).*\n?(?:[ \t)\]}].*\n?)*", re.MULTILINE)


def constants(text: str) -> str:
    """The statements that assign UPPER_CASE names at module level, as a program of their own: its knobs are the program's constants.

    Read off the lines: text inside a multi-line string that looks like such a statement is taken for one.
    """
    return "".join(match.group().rstrip("\n") + "\n" for match in _CONSTANT.finditer(text))


class Reader:
    """Values of the tunable knobs of programs like `reference`, by the reference's names.

    Raises:
        ParseError: the reference is no program.
    """

    def __init__(self, reference: str) -> None:
        found = in_order(reference)
        self.knobs: Mapping[str, Knob] = {spot.knob.name: spot.knob for spot in found if spot.knob.tunable}
        self._names = [spot.knob.name for spot in found]
        self._literals = [reference[spot.start : spot.end] for spot in found]
        self._values = [spot.knob.value for spot in found]
        edges = [0, *(edge for spot in found for edge in (spot.start, spot.end)), len(reference)]
        self._between = [reference[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]

    def values(self, text: str) -> dict[str, Value]:
        """Name -> value of the reference's tunable knobs that `text` has too.

        Raises:
            ParseError: the text is no program.
        """
        found = self._compared(text)
        if found is None:
            found = {knob.name: knob.value for knob in knobs(text)}
        return {name: found[name] for name in self.knobs if name in found}

    def _compared(self, text: str) -> dict[str, Value] | None:
        """All knobs of a text that has the reference's characters between its literals; None for any other."""
        first, *later = self._between
        if not text.startswith(first) or not text.endswith(later[-1] if later else first):
            return None
        position, found = len(first), dict[str, Value]()
        for number, after in enumerate(later):
            last = number == len(later) - 1
            end = len(text) - len(after) if last else text.find(after, position + 1)
            value = self._value(number, text[position:end]) if end > position else None
            if value is None:
                return None
            found[self._names[number]] = value
            position = end + len(after)
        return found if later or text == first else None

    def _value(self, number: int, literal: str) -> Value | None:
        """What the characters in the place of a literal mean; None where they are no literal."""
        if literal == self._literals[number]:
            return self._values[number]
        try:
            return read_value(parse_expression(literal))
        except (SyntaxError, ValueError):
            return None
