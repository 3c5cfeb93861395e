"""Lays out a program, given as tokens, in every way that Python allows.

Comments and blank lines wherever they may stand, spellings of numbers and strings, redundant parentheses, bare strings, semicolons,
backslashes, tabs, line ends: two layouts of one program mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

COMMENTS = (
    *("", " a comment", ' "quoted', " it's", ' """', " größe → 日本", " a # b", " \\", "\u2028 odd", " type: ignore", " log 1e-4..1e-1"),
    *(
        " share, range 0..0.5",
        " range 1e-3..1 log",
        " range 9..1",
        " one of 1, 2, SSSL; cheap",
        " not tuned",
        " power of two",
        " range 0..1e999",
    ),
)


@dataclass(frozen=True)
class Number:
    value: int | float


@dataclass(frozen=True)
class Text:
    value: str


@dataclass(frozen=True)
class Group:
    """Parentheses may stand around it, or not."""

    tokens: tuple[Token, ...]


Token = str | Number | Text | Group


@dataclass(frozen=True)
class Statement:
    """`heads` with their `bodies`; a simple statement has one head and no body. A head of a compound one ends before its colon."""

    heads: tuple[tuple[Token, ...], ...]
    bodies: tuple[tuple[Statement, ...], ...] = ()
    decorators: tuple[tuple[Token, ...], ...] = ()


@dataclass
class Layout:
    """The choices of one layout. `plain` ones differ from each other in nothing."""

    rng: Random
    plain: bool = False

    def text(self, program: tuple[Statement, ...]) -> str:
        lines = self._block(program, "", top=True)
        if self._chance(0.3):
            lines.append(f"#{self._comment()}")
        text = "\n".join(lines) + "\n" * self._chance(0.8, plain=True)
        return text.replace("\n", "\r\n") if self._chance(0.15) else text

    def _chance(self, share: float, plain: bool = False) -> bool:
        return plain if self.plain else self.rng.random() > 1 - share

    def _comment(self) -> str:
        return self.rng.choice(COMMENTS)

    def _block(self, statements: tuple[Statement, ...], indent: str, top: bool = False) -> list[str]:
        lines: list[str] = [f'{indent}"""Docstring, # and all."""'] if self._chance(0.15) else []
        for number, one in enumerate(statements):
            lines += self._between(indent)
            simple = not one.bodies
            if simple and number and not statements[number - 1].bodies and lines and self._chance(0.15) and self._open(lines[-1]):
                lines[-1] += "; " + self._tokens(one.heads[0])
            elif simple:
                lines += [indent + self._tokens(one.heads[0])]
            else:
                lines += self._compound(one, indent)
                continue
            lines[-1] += self._tail()
        return lines

    def _open(self, line: str) -> bool:
        """May a semicolon follow? Not after a comment, a blank line or a bare string."""
        return bool(line.strip()) and "#" not in line and not line.endswith(('"""', ";", " "))

    def _tail(self) -> str:
        return f"  #{self._comment()}" if self._chance(0.2) else " ;" if self._chance(0.05) else "  " if self._chance(0.05) else ""

    def _between(self, indent: str) -> list[str]:
        """Blank lines, comments at this or another indentation, form feeds."""
        found = []
        while self._chance(0.25):
            found.append(
                self.rng.choice(("", "   ", f"{indent}#{self._comment()}", f"#{self._comment()}", f"{indent}   #{self._comment()}", "\f"))
            )
        return found

    def _compound(self, one: Statement, indent: str) -> list[str]:
        lines: list[str] = []
        for decorator in one.decorators:
            lines += [f"{indent}@{self._tokens(decorator)}{self._tail().replace(';', '')}", *self._between(indent)]
        inner = indent + ("    " if self.plain else self.rng.choice(("    ", "    ", "  ", "\t", " ")))
        if not one.bodies[0]:  # match: its cases are indented
            lines += [f"{indent}{self._tokens(one.heads[0])}:", *self._between(inner)]
            one, indent, inner = Statement(one.heads[1:], one.bodies[1:]), inner, inner + "    "
        for head, body in zip(one.heads, one.bodies, strict=True):
            start = f"{indent}{self._tokens(head)}:"
            if all(not part.bodies for part in body) and self._chance(0.15):
                lines.append(f"{start} {'; '.join(self._tokens(part.heads[0]) for part in body)}{self._tail()}")
            else:
                lines += [start + (f"  #{self._comment()}" if self._chance(0.2) else ""), *self._block(body, inner)]
            if self._chance(0.1):
                lines += self._between(inner)
        return lines

    def _tokens(self, tokens: tuple[Token, ...]) -> str:
        pieces = self._flat(tokens)
        text, depth = "", 0
        for before, piece in zip(["", *pieces], pieces, strict=False):
            text += (self._gap(depth, before, piece) if text else "") + piece
            depth += (piece in ("(", "[", "{")) - (piece in (")", "]", "}"))
        return text

    def _flat(self, tokens: tuple[Token, ...]) -> list[str]:
        pieces: list[str] = []
        for token in tokens:
            if isinstance(token, Group):
                inside = self._flat(token.tokens)
                pieces += ["(", *inside, ")"] if self._chance(0.12) else inside
            elif isinstance(token, Number):
                pieces += [self._number(token.value)]
            else:
                pieces += [self._string(token.value)] if isinstance(token, Text) else [token]
        return pieces

    def _gap(self, depth: int, before: str, after: str) -> str:
        if depth and self._chance(0.04):
            return self.rng.choice(("\n", "\n\n      ", f"  #{self._comment()}\n  ", "\n\t"))
        if not depth and self._chance(0.02):
            return " \\\n  "
        tight = before in ("(", "[", "{", "@", ".") or after in (")", "]", "}", ",", ".", "(", "[")
        return " " if not tight or after == "." or self._chance(0.1) else ""

    def _number(self, value: int | float) -> str:
        plain = repr(value).replace("inf", "1e999")
        if self.plain:
            return plain
        if isinstance(value, float):
            whole = f"{value:.0f}." if value == int(min(value, 1e6)) else plain
            return self.rng.choice((plain, whole, f"{value:e}" if float(f"{value:e}") == value and value < 1e300 else plain))
        power = value > 1 and value & (value - 1) == 0
        ten = f"10 ** {len(plain) - 1}" if value >= 10 and plain == "1" + "0" * (len(plain) - 1) else plain
        return self.rng.choice(
            (plain, plain, hex(value), f"{value:_}", bin(value), f"(2 ** {value.bit_length() - 1})" if power else plain, f"({ten})")
        )

    def _string(self, value: str) -> str:
        spelled = [repr(value)]
        if not self.plain and not set(value) & set("\"'\\\n"):
            spelled += [f'"{value}"', f'"""{value}"""', f"\"{value[:3]}\" '{value[3:]}'", f"u'{value}'"]
        if not self.plain and "\n" in value and not set(value) & set("\"'\\"):
            spelled += [f'"""{value}"""', f"'''{value}'''"]
        return self.rng.choice(spelled) if len(spelled) > 1 else spelled[0]
