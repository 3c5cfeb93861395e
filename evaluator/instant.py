"""The instant deterministic lab: a program's score is a known function of its syntax tree. No training, no processes, no files.

It is the third implementation of `Evaluate`, an honest landscape for tests, demonstrations and faults: search, store, executors and
writers run on it for thousands of evaluations in seconds. It says nothing about training.

The landscape: each statement, with its numbers blanked, is worth a fixed amount drawn from its hash; each number in it adds a smooth
basin over the logarithm of its value, whose optimum is drawn from the same hash. So numbers have optima, structure matters, and the
two interact: a changed statement moves the optima of its own numbers. Learning curves fall towards the value, all in the same way.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from evaluator.evaluate import Watch
from evaluator.outcome import CurvePoint, Failed, Outcome, Phase, Reason, Scored, Stopped

_BASE_BPB = 1.0
_STATEMENT_SD = 0.002  # worth of one statement
_NUMBER_DEPTH = 0.006  # worst minus best value of one number
_PERIOD_OCTAVES = 6.0  # every number is within three octaves of an optimum
_CURVE_POINTS = 4
_LONGEST_SECONDS = 86400.0
_COLLISIONS = 50  # failures blamed on parsing in several threads, before they count as something else


@dataclass(frozen=True)
class Landscape:
    """One instant lab; labs with different salts have different optima."""

    salt: int = 0
    noise_sd: float = 0.0  # standard deviation of one score, drawn from (salt, tree, seed)
    failure_share: float = 0.0  # share of trees, chosen by hash, that crash
    seconds: float = 0.0  # wall-clock time that one evaluation takes

    def __post_init__(self) -> None:
        for name, most in (("noise_sd", math.inf), ("failure_share", 1.0), ("seconds", _LONGEST_SECONDS)):
            value = getattr(self, name)
            if not (0 <= value <= most and math.isfinite(value)):
                raise ValueError(
                    f"instant.{name} is {value}, must be at least 0 and {'finite' if most == math.inf else f'at most {most:g}'}"
                )


class Instant:
    """`Evaluate` over a `Landscape`."""

    def __init__(self, landscape: Landscape | None = None) -> None:
        self.landscape = landscape or Landscape()
        lab = self.landscape
        self.measurement_key = f"instant/salt={lab.salt}/noise={lab.noise_sd:g}/failures={lab.failure_share:g}"

    def __call__(
        self,
        program: str,
        seed: int,
        budget_seconds: float,
        watch: Watch | None = None,
        heldout: bool = False,
        trained: Callable[[], None] | None = None,
    ) -> Outcome:
        try:
            tree = _parse(program)
        except (SyntaxError, ValueError) as error:
            return Failed(Reason.SYNTAX, Phase.IMPORT, str(error))
        missing = {"build_model", "main"} - {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if missing:
            return Failed(Reason.CONTRACT, Phase.IMPORT, f"defines no {' and no '.join(sorted(missing))}()")
        value = _value(program, tree, self.landscape.salt)
        curve = []
        for k in range(1, _CURVE_POINTS + 1):
            time.sleep(self.landscape.seconds / _CURVE_POINTS)
            curve.append(CurvePoint(budget_seconds * k / _CURVE_POINTS, 10 * k, 1000 * k, value * (1 + 1 / k)))
            note = watch(curve[-1]) if watch else None
            if note is not None:
                return Stopped(note, curve[-1].seconds, tuple(curve), total_seconds=curve[-1].seconds)
        if _uniform(f"{self.landscape.salt}/fails/{value!r}") < self.landscape.failure_share:
            return Failed(Reason.CRASH, Phase.TRAIN, "RuntimeError: this tree crashes in the instant lab", curve=tuple(curve))
        chance = random.Random(f"{self.landscape.salt}/{value!r}/{seed}")
        noise, other_noise = (chance.gauss(0.0, 1.0) * self.landscape.noise_sd for _ in range(2))
        return Scored(
            val_bpb=value + noise,
            training_seconds=budget_seconds,
            total_seconds=budget_seconds,
            steps=10 * _CURVE_POINTS,
            tokens=1000 * _CURVE_POINTS,
            parameters=0,
            peak_memory_gib=0.0,
            measurement_key=self.measurement_key,
            sandbox="instant",
            heldout_bpb=value + other_noise if heldout else None,
            curve=tuple(curve),
        )

    def close(self) -> None:
        """Nothing to end."""


def true_bpb(program: str, salt: int = 0) -> float:
    """The noise-free value of a program; always positive.

    Raises:
        SyntaxError, ValueError: it does not parse.
    """
    return _value(program, _parse(program), salt)


def _parse(text: str) -> ast.Module:
    """`ast.parse`, tried again: before CPython 3.11.8 and 3.12.2 it may fail while another thread parses too (python/cpython#106905)."""
    for _ in range(_COLLISIONS):
        with contextlib.suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def _value(program: str, tree: ast.Module, salt: int) -> float:
    return _BASE_BPB * math.exp(sum(_block_worth(block, salt) for block in _blocks(program, tree)))


def _blocks(program: str, tree: ast.Module) -> Iterator[str]:
    """The texts of the top-level statements. Most of a child's are its parent's, whose worth is known already."""
    lines = program.split("\n")
    for node in tree.body:
        decorators = [d.lineno for d in getattr(node, "decorator_list", [])]
        yield "\n".join(lines[min([node.lineno, *decorators]) - 1 : node.end_lineno])


@lru_cache(maxsize=8192)
def _block_worth(block: str, salt: int) -> float:
    return sum(_statement_worth(node, salt) for node in ast.walk(_parse(block)) if isinstance(node, ast.stmt))


def _statement_worth(statement: ast.stmt, salt: int) -> float:
    """Worth of one statement, not counting the statements in it."""
    numbers: list[float] = []
    shape = _blanked(statement, numbers)
    if not shape:
        return 0.0
    rng = random.Random(f"{salt}/{shape}")
    worth = rng.gauss(0.0, _STATEMENT_SD)
    for value in numbers:
        phase = rng.random()
        octave = math.log2(abs(value)) if value else -10.0
        worth += _NUMBER_DEPTH * (1.0 - math.cos(2 * math.pi * (octave / _PERIOD_OCTAVES - phase))) / 2
    return worth


def _blanked(node: ast.AST, numbers: list[float]) -> str:
    """Text of the tree without nested statements, docstrings and numbers; the numbers are appended in order."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return repr(node.value)
        numbers.append(float(node.value))
        return "#"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return ""
    parts = []
    for field, value in ast.iter_fields(node):
        if isinstance(value, list):
            parts += [_blanked(item, numbers) for item in value if isinstance(item, ast.AST) and not isinstance(item, ast.stmt)]
        elif isinstance(value, ast.AST):
            parts.append(_blanked(value, numbers))
        elif field not in ("type_comment", "kind"):
            parts.append(str(value))
    return f"{type(node).__name__}({','.join(parts)})"


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
