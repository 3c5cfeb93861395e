"""Numbers: batches that do not fit into memory, constants that do not divide, rates that explode, a vocabulary that is not there."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Iterator

from genomes.checks.arithmetic import Constants
from genomes.checks.guards import constants_of, involved, refusals, running
from genomes.checks.outline import CONSTITUTION
from genomes.knobs import knobs, set_knobs
from genomes.nodes import is_operation, walk
from genomes.repairs.case import Case, Repaired

_BATCH = re.compile(r"(?i)^(?:(?:device|micro|per_device|local|train)_?)?(?:batch|bs|b)(?:_?size)?$")
_PER_DEVICE = re.compile(r"(?i)device|micro")
_ACCUMULATION = re.compile(r"(?i)accum")
_RATE = re.compile(r"(?i)(?:^|[_.])(?:lr|learning_rate)(?:$|_)")
_NO_RATE = re.compile(r"(?i)factor|frac|ratio|min|final|decay|mult|scale|warm")  # relative to another, or no rate
_SPAN = 8  # a constant is moved by at most this factor to fit
_NEAR = 64  # … or looked for among this many whole numbers on either side


def memory(found: Case) -> Iterator[Repaired]:
    """Half the rows per pass at the same total batch is the same mathematics in less memory (docs/design.md).

    Where the number of passes is a constant, it doubles; where there is neither, the total batch halves too, and the note says so.
    """
    settings = found.settings()
    name = _device_batch(found)
    rows = settings.get(name)
    if type(rows) is not int or rows < 2:
        return
    fewer = max(divisor for divisor in range(1, rows // 2 + 1) if rows % divisor == 0)
    cuts, note = [found.with_setting(name, fewer)], f"{name} {rows} → {fewer}"
    if _divides(found, name):
        yield found.repaired(cuts, f"{note} at the same total batch")
        return
    passes = [other for other, value in settings.items() if _ACCUMULATION.search(other) and type(value) is int and value > 0]
    if len(passes) == 1:
        before = settings[passes[0]]
        assert isinstance(before, int)
        more = before * rows // fewer
        yield found.repaired(
            [*cuts, found.with_setting(passes[0], more)], f"{note} and {passes[0]} {before} → {more}: the same total batch"
        )
    elif not passes:
        yield found.repaired(cuts, f"{note}; the total batch shrinks with it")


def guard(found: Case) -> Iterator[Repaired]:
    """The nearest value of one constant with which no guard stops the program."""
    program, runs = found.program, running(found.program)
    settings = found.settings()
    stopped = list(refusals(program, found.constants, runs))
    names = {name for scope, _, test in stopped for name in involved(test, scope, found.constants)}
    numbers = _numbers(found.constants, stopped)
    options = [
        (abs(math.log(value / before)), name, value)
        for name in sorted(names)
        if type(before := settings.get(name)) is int and before > 0
        for value in _nearby(before, numbers)
    ]
    for _, name, value in sorted(options):
        constants = constants_of(program, found.prepare)
        constants.assume(name, value)
        if next(refusals(program, constants, runs), None) is None:
            yield found.repaired([found.with_setting(name, value)], f"{name} {settings[name]} → {value}")
            return


def vocabulary(found: Case, prepared: str) -> Iterator[Repaired]:
    """The nearest size that is prepared."""
    sizes = [int(size) for size in re.findall(r"\d+", prepared)]
    settings = found.settings()
    for name in _passed(found, 1, "vocab_size"):
        before = settings.get(name)
        if type(before) is int and before > 0 and sizes:
            nearest = min(sizes, key=lambda size: (abs(math.log(size / before)), size))
            yield found.repaired([found.with_setting(name, nearest)], f"{name} {before} → {nearest}")


def rates(found: Case) -> Iterator[Repaired]:
    """Halves every learning rate: the named constants, or where there are none, the literals called so."""
    numbers = [knob for knob in knobs(found.source.text) if knob.kind == "float" and knob.tunable and isinstance(knob.value, float)]
    named = [knob for knob in numbers if _RATE.search(knob.name) and not _NO_RATE.search(knob.name)]
    chosen = [knob for knob in named if "." not in knob.name] or named
    halved = {knob.name: float(f"{float(knob.value) / 2:.4g}") for knob in chosen if knob.value}
    if halved:
        yield Repaired(set_knobs(found.source.text, halved), f"half of {', '.join(halved)}")


def _device_batch(found: Case) -> str:
    """The constant that says how many rows one pass has: what prepare is asked for, else what is called so."""
    asked = _passed(found, 0, "batch_size")
    if asked:
        return asked[0]
    named = [name for name, value in found.settings().items() if type(value) is int and _BATCH.match(name)]
    return min(named, key=lambda name: not _PER_DEVICE.search(name), default="")


def _passed(found: Case, position: int, keyword: str) -> list[str]:
    """Constants that are handed to `prepare.batches` as such, through local names or not."""
    names = dict[str, None]()
    for call, scope in found.program.calls:
        if found.program.dotted(call.func, scope) != f"{CONSTITUTION}.batches":
            continue
        given: list[ast.expr] = [*call.args[position : position + 1], *(k.value for k in call.keywords if k.arg == keyword)]
        node: ast.expr | None = given[0] if given else None
        for _ in range(_SPAN):
            if not isinstance(node, ast.Name):
                break
            if scope.holder(node.id) is found.program.module:
                names[node.id] = None
                break
            node = found.constants.definition(node.id, scope)
    return [name for name in names if name in found.settings()]


def _divides(found: Case, name: str) -> bool:
    """Whether something is divided by the constant: the number of passes follows from it."""
    for scope in found.program.scopes.values():
        body = getattr(scope.node, "body", [])
        for statement in body if isinstance(body, list) else [body]:
            for node in walk(statement):
                if is_operation(node, ast.FloorDiv, ast.Div) and name in involved(node.right, scope, found.constants):
                    return True
    return False


def _numbers(constants: Constants, stopped: Iterable[tuple[object, ast.stmt, ast.expr]]) -> set[int]:
    """Whole numbers that the parts of the conditions come to."""
    found = set[int]()
    for scope, _, test in stopped:
        for node in walk(test):
            value = constants.value(node, scope) if isinstance(node, ast.expr) else None  # type: ignore[arg-type]
            if type(value) is int and value > 0:
                found.add(value)
    return found


def _nearby(before: int, numbers: Iterable[int]) -> set[int]:
    """Whole numbers around one: neighbours, powers of two, and those that divide or are divided by what it has to go with."""
    options = {*range(max(1, before - _NEAR), before + _NEAR + 1), *(1 << power for power in range(before.bit_length() + 4))}
    for number in numbers:
        options |= {before // number * number, (before // number + 1) * number}
        options |= {number // divisor for divisor in range(1, min(number, 4096) + 1) if number % divisor == 0}
    return {value for value in options if value > 0 and value != before and before / _SPAN <= value <= before * _SPAN}
