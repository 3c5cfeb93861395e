"""Statements that a side moved, doubled, or brought in as the other did: settled for a whole block, before it is woven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from genomes.align import Stage
from genomes.merging.ledger import Ledger
from genomes.units import Unit

Homes = dict[int, str]  # id of a unit → the text that stands in its place, "" for none
IMPORTS = ("Import", "ImportFrom")
VALUES = ("Assign", "AnnAssign")


def core(unit: Unit) -> str:
    """The statement without what stands above it."""
    return unit.text[len(unit.lead) :]


def relocated(stages: Sequence[Stage[Unit]], where: str, ledger: Ledger, united: Callable[[Unit, Unit | None, Unit | None], str]) -> Homes:
    """The units whose places hold a text other than their own. `united` merges three versions of one statement."""
    new = [unit for stage in stages for unit in stage.inserted_a], [unit for stage in stages for unit in stage.inserted_b]
    homes: Homes = {}
    for old, found in _moved(stages, new):
        text = united(old, *(unit for unit, _ in found))
        homes.update({id(unit): "" for unit in (old, found[0][0], found[1][0]) if unit is not None})
        homes[id(_home(found, where, old, stages, ledger))] = text
    free = [[unit for unit in side if id(unit) not in homes] for side in new]
    order = {id(unit): number for number, stage in enumerate(stages) for unit in (*stage.inserted_a, *stage.inserted_b)}
    _brought_in_twice(free[0], free[1], order, where, ledger, homes)
    for stage in stages:
        if stage.base is not None and id(stage.base) not in homes:
            _doubled(stage, free, where, ledger, homes)
    return homes


_Version = tuple[Unit | None, bool]  # one side's version, and whether it stands somewhere else


def _moved(stages: Sequence[Stage[Unit]], new: tuple[list[Unit], list[Unit]]) -> Iterator[tuple[Unit, tuple[_Version, _Version]]]:
    """Statements of the base that one side or both have elsewhere in the block."""
    keys = [_unique(_identity(unit) for unit in side) for side in new]
    places = [{_identity(unit): unit for unit in side} for side in new]
    once = _unique(_identity(stage.base) for stage in stages if stage.base is not None)
    for stage in stages:
        if stage.base is None or (key := _identity(stage.base)) not in once:
            continue
        found = [(place.get(key) if key in unique else None) for place, unique in zip(places, keys, strict=True)]
        a, b = (
            (here, False) if here is not None else (there, there is not None) for here, there in zip((stage.a, stage.b), found, strict=True)
        )
        if a[1] or b[1]:
            yield stage.base, (a, b)


def _home(found: tuple[_Version, _Version], where: str, old: Unit, stages: Sequence[Stage[Unit]], ledger: Ledger) -> Unit:
    """The place of a moved statement; where both moved it to different places, that is a conflict."""
    (a, moved_a), (b, moved_b) = found
    assert a is not None or b is not None
    if a is None or b is None or not (moved_a and moved_b):
        home = a if moved_a else b
        assert home is not None
        return home
    together = any(a in stage.inserted_a and b in stage.inserted_b for stage in stages)
    return a if together or ledger.clash(where, old.text, a.text, b.text) == "a" else b


def _brought_in_twice(left: list[Unit], right: list[Unit], order: dict[int, int], where: str, ledger: Ledger, homes: Homes) -> None:
    """Lets what is new in both sides in only once, where it comes first; two new things of one name exclude each other."""
    others = {name: unit for unit in right if (name := _binds(unit, where))}
    for mine in left:
        other = others.get(_binds(mine, where))
        if other is None:
            continue
        same, ahead = core(mine) == core(other), order[id(mine)] <= order[id(other)]
        stays = ahead if same else ledger.clash(where, "", mine.text, other.text) == "a"
        homes[id(other if stays else mine)] = ""


def _doubled(stage: Stage[Unit], new: list[list[Unit]], where: str, ledger: Ledger, homes: Homes) -> None:
    """Settles where one side repeats a statement that the other changes: nobody can tell which of the two was meant."""
    old = stage.base
    assert old is not None
    for side, here, there in (("a", stage.a, stage.b), ("b", stage.b, stage.a)):
        copies = [unit for unit in new["ab".index(side)] if core(unit) == core(old) and id(unit) not in homes]
        if not copies or here is None or core(here) != core(old) or (there is not None and core(there) == core(old)):
            continue
        texts = here.text + "".join(unit.text for unit in copies), there.text if there is not None else ""
        if ledger.clash(where, old.text, *(texts if side == "a" else texts[::-1])) == side:
            homes[id(old)] = here.text
        else:
            homes.update({id(unit): "" for unit in copies})


def _identity(unit: Unit) -> str:
    """What makes a statement the same one elsewhere: its name, or its whole text."""
    return unit.label if unit.is_definition else core(unit).strip()


def _unique(keys: Iterable[str]) -> set[str]:
    return {key for key, count in Counter(keys).items() if count == 1}


def _binds(unit: Unit, where: str) -> str:
    """What only one new statement of a block can be, wherever it stands; "" for statements without such a limit."""
    if unit.is_definition:
        return unit.label
    if unit.kind in IMPORTS:
        return core(unit)
    return unit.label if unit.kind in VALUES and not where else ""
