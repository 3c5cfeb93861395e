"""Checks that the fields of frozen values read back from disk have their declared types. JSON that parses may still be damaged."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

WORD = 2**63  # whole numbers lie within ± this, as a database holds them
_Value = TypeVar("_Value")


def checked(value: _Value, finite: bool = True) -> _Value:
    """Returns the dataclass instance itself if its fields are sound. Dataclasses inside it are checked by whoever made them.

    Args:
        finite: whether its floats must be finite.
    Raises:
        ValueError: a field does not have its declared type, or a number is beyond all reason.
    """
    kind: Any = type(value)
    for name, fits in _fields(kind, finite):
        if not fits(getattr(value, name)):
            raise ValueError(f"{type(value).__name__}.{name} is {reprlib.repr(getattr(value, name))}")
    return value


@lru_cache(maxsize=32)
def _fields(kind: Any, finite: bool) -> tuple[tuple[str, Callable[[Any], bool]], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((field.name, _test(hints[field.name], finite)) for field in dataclasses.fields(kind))


def _test(hint: Any, finite: bool) -> Callable[[Any], bool]:
    if isinstance(hint, types.UnionType):
        tests = [_test(part, finite) for part in typing.get_args(hint)]
        return lambda found: any(test(found) for test in tests)
    if typing.get_origin(hint) is tuple:
        inner = _test(typing.get_args(hint)[0], finite)
        return lambda found: type(found) is tuple and all(map(inner, found))
    if hint is float:
        return lambda found: _word(found) if type(found) is int else type(found) is float and (not finite or math.isfinite(found))
    return _word if hint is int else lambda found: type(found) is hint


def _word(found: Any) -> bool:
    return type(found) is int and abs(found) < WORD
