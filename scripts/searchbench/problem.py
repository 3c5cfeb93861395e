"""What a policy is measured on: a program with knobs, and what evaluating it would say.

A `Problem` gives the seed program and, for any program, its noise-free value, whether it fits in memory and how much it needs. Programs
carry ranges in the remarks of their knobs, so that every policy, ours and the samplers beside it, searches the same box.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Value = float | int | str | bool
BODY = """

def build_model():
    return prepare.model(knobs())


def knobs():
    return {{{pairs}}}


def main():
    model = build_model()
    for batch in prepare.batches(*prepare.rows(knobs())):
        model.learn(batch, prepare.progress())
    prepare.save(model)
"""


@dataclass(frozen=True)
class Dial:
    """One knob of a problem. `options` are the values of a choice; a power of two has whole `low` and `high`."""

    name: str
    default: Value
    low: float = 0.0
    high: float = 0.0
    kind: str = "float"  # "float" | "int" | "power" | "choice"
    log: bool = False
    options: tuple[Value, ...] = ()
    meaning: str = ""


@dataclass(frozen=True)
class Truth:
    """The noise-free facts about a program. The value of one that does not fit in memory is never given to anybody."""

    val_bpb: float
    feasible: bool = True
    memory_gib: float = 0.0


class Problem(Protocol):
    """Something to search on."""

    name: str
    text: str  # the seed program
    dials: Sequence[Dial]
    noise_sd: float

    def truth(self, text: str) -> Truth:
        """The noise-free facts about a program."""
        ...


def seed_program(dials: Sequence[Dial], body: str = BODY) -> str:
    """A program under the lab's contract whose constants are the dials at their defaults."""
    lines = ["import prepare", ""]
    for dial in dials:
        lines.append(f"{dial.name} = {dial.default!r}  # {_remark(dial)}")
    pairs = ", ".join(f'"{dial.name.lower()}": {dial.name}' for dial in dials)
    return "\n".join(lines) + body.format(pairs=pairs)


def constants(text: str) -> dict[str, Value]:
    """Module-level `NAME = literal` of a program, the last assignment of each."""
    found: dict[str, Value] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant | ast.UnaryOp):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def with_values(text: str, values: Mapping[str, Value]) -> str:
    """A program with other values of its constants: how the samplers beside ours write theirs."""
    for name, value in values.items():
        text, count = re.subn(rf"^{name} = .*?(?=  #)", f"{name} = {value!r}", text, flags=re.MULTILINE)
        assert count == 1, f"{name} stands {count} times"
    return text


def _remark(dial: Dial) -> str:
    meaning = f"{dial.meaning}, " if dial.meaning else ""
    if dial.kind == "choice":
        return f"{meaning}one of {', '.join(str(option) for option in dial.options)}"
    if dial.kind == "power":
        return f"{meaning}power of two, range {int(dial.low)}..{int(dial.high)} log"
    bounds = f"{int(dial.low)}..{int(dial.high)}" if dial.kind == "int" else f"{float(dial.low)!r}..{float(dial.high)!r}"
    return f"{meaning}range {bounds} {'log' if dial.log else 'linear'}"
