"""Which items of two sequences correspond, and the three-way walk that follows from it. Used on statements and on arguments alike."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Keyed(Generic[T]):
    """An item with its text, which equal items share, and its label, which an item keeps when it changes."""

    item: T
    text: str
    label: str


@dataclass(frozen=True)
class Stage(Generic[T]):
    """One stage of a three-way walk: what each side inserts here, then one item of the base as each side has it (None: deleted).

    `base` is None in the last stage, which only inserts.
    """

    inserted_a: tuple[T, ...]
    inserted_b: tuple[T, ...]
    base: T | None
    a: T | None
    b: T | None


def align(a: Sequence[Keyed[T]], b: Sequence[Keyed[T]]) -> dict[int, int]:
    """Pairs of indices, increasing on both sides: equal items first, then, between them, items of one label, then gaps of one length.

    If both sides have equally many items, those at the same place correspond, unless another alignment leaves more of them unchanged: so
    of two equal items, the one at the changed place has changed.
    """
    changed = [index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x.text != y.text]
    in_place = len(a) == len(b) and all(a[i].label == b[i].label or _may_pair([a[i].label], [b[i].label]) for i in changed)
    if in_place and len(changed) <= 1:
        return {index: index for index in range(len(a))}
    opcodes = difflib.SequenceMatcher(None, [item.text for item in a], [item.text for item in b], autojunk=False).get_opcodes()
    if in_place and len(a) - len(changed) >= sum(i2 - i1 for tag, i1, i2, _, _ in opcodes if tag == "equal"):
        return {index: index for index in range(len(a))}
    pairs: dict[int, int] = {}
    for tag, i1, i2, j1, j2 in opcodes:
        if tag == "equal":
            pairs.update(zip(range(i1, i2), range(j1, j2), strict=True))
        elif tag == "replace":
            pairs.update(_align_changed(a, b, (i1, i2), (j1, j2)))
    return pairs


def _align_changed(a: Sequence[Keyed[T]], b: Sequence[Keyed[T]], i: tuple[int, int], j: tuple[int, int]) -> dict[int, int]:
    pairs: dict[int, int] = {}
    left, right = [item.label for item in a[i[0] : i[1]]], [item.label for item in b[j[0] : j[1]]]
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal" or (tag == "replace" and i2 - i1 == j2 - j1 and _may_pair(left[i1:i2], right[j1:j2])):
            pairs.update(zip(range(i[0] + i1, i[0] + i2), range(j[0] + j1, j[0] + j2), strict=True))
    return pairs


def _may_pair(left: Sequence[str], right: Sequence[str]) -> bool:
    """Definitions and keywords of different names are different things."""
    named = ("def ", "class ", "keyword ")
    return not any(label.startswith(named) for label in [*left, *right])


def walk(base: Sequence[Keyed[T]], a: Sequence[Keyed[T]], b: Sequence[Keyed[T]]) -> list[Stage[T]]:
    """The stages of a three-way merge of sequences, in the order of the base."""
    to_a, to_b = align(base, a), align(base, b)
    stages, at_a, at_b = [], 0, 0
    for index in range(len(base) + 1):
        ends = index == len(base)
        stop_a = len(a) if ends else to_a.get(index, at_a)
        stop_b = len(b) if ends else to_b.get(index, at_b)
        stages.append(
            Stage(
                tuple(item.item for item in a[at_a:stop_a]),
                tuple(item.item for item in b[at_b:stop_b]),
                None if ends else base[index].item,
                a[stop_a].item if index in to_a else None,
                b[stop_b].item if index in to_b else None,
            )
        )
        at_a, at_b = stop_a + (index in to_a), stop_b + (index in to_b)
    return stages


def stretches(stages: Iterable[Stage[T]]) -> Iterator[tuple[list[Stage[T]], tuple[T, T, T] | None]]:
    """What stands between two items that both sides kept, with the second of these as the base and each side have it; None at the end."""
    stretch = list[Stage[T]]()
    for stage in stages:
        if stage.base is not None and stage.a is not None and stage.b is not None:
            yield [*stretch, Stage(stage.inserted_a, stage.inserted_b, None, None, None)], (stage.base, stage.a, stage.b)
            stretch = []
        else:
            stretch.append(stage)
    yield stretch, None


def versions(stretch: Sequence[Stage[T]]) -> tuple[list[T], list[T], list[T]]:
    """The items of a stretch as the base and each side have them."""
    base = [stage.base for stage in stretch if stage.base is not None]
    a = [item for stage in stretch for item in (*stage.inserted_a, stage.a) if item is not None]
    b = [item for stage in stretch for item in (*stage.inserted_b, stage.b) if item is not None]
    return base, a, b
