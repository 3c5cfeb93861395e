"""Three-way merge of blocks: statements are matched by text, then by what they define, and woven; heads are merged from inside.

Between two statements that both sides still have, each side may have inserted and deleted. What one of them deletes and the other changes
is a conflict of the whole stretch; what both insert is united where the order cannot matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from genomes.align import Keyed, Stage, stretches, versions, walk
from genomes.merging.ledger import Ledger
from genomes.merging.relocation import IMPORTS, VALUES, Homes, core, relocated
from genomes.merging.touches import independent
from genomes.units import Clause, Unit

_NAME = re.compile(r"[A-Za-z_]\w*")


def merge_blocks(base: tuple[Unit, ...], a: tuple[Unit, ...], b: tuple[Unit, ...], ledger: Ledger) -> str:
    """The text of three programs united."""
    modules = frozenset(name for program in (base, a, b) for unit in program if unit.kind in IMPORTS for name in _NAME.findall(core(unit)))
    return _Blocks(ledger, modules).block(base, a, b, "")


class _Blocks:
    def __init__(self, ledger: Ledger, modules: frozenset[str]) -> None:
        self.ledger = ledger
        self.modules = modules

    def block(self, base: Sequence[Unit], a: Sequence[Unit], b: Sequence[Unit], where: str) -> str:
        stages = walk(_keyed(base), _keyed(a), _keyed(b))
        homes = relocated(stages, where, self.ledger, lambda old, left, right: self.unit(old, left, right, where))
        pieces = list[str]()
        for stretch, kept in stretches(stages):
            pieces += self.stretch(stretch, homes, where)
            if kept is not None:
                pieces.append(homes[id(kept[0])] if id(kept[0]) in homes else self.unit(*kept, where))
        return _join(pieces)

    def stretch(self, stages: Sequence[Stage[Unit]], homes: Homes, where: str) -> list[str]:
        """Merges what stands between two statements that both sides have."""
        if any(_torn(stage, homes) for stage in stages):
            return self.torn(stages, homes, where)
        pieces = list[str]()
        for stage in stages:
            pieces += self.inserted(stage, homes, where)
            if (old := stage.base) is not None:
                pieces.append(homes[id(old)] if id(old) in homes else self.unit(old, stage.a, stage.b, where))
        return pieces

    def torn(self, stages: Sequence[Stage[Unit]], homes: Homes, where: str) -> list[str]:
        """One side of the whole stretch; definitions that the other side moved here stay."""
        base, a, b = versions(stages)
        texts = [_join(homes.get(id(unit), unit.text) for unit in side) for side in (a, b)]
        chosen = self.ledger.choose(where, "".join(unit.text for unit in base), *texts)
        other = b if chosen == texts[0] else a
        return [chosen, *(homes.get(id(unit), "") for unit in other)]

    def inserted(self, stage: Stage[Unit], homes: Homes, where: str) -> list[str]:
        """What both sides put at one place: all of it where the order cannot matter, common statements once."""
        settled = [homes[id(unit)] for unit in (*stage.inserted_a, *stage.inserted_b) if homes.get(id(unit))]
        left = [unit for unit in stage.inserted_a if id(unit) not in homes]
        known = {core(unit) for unit in left}
        right = [unit for unit in stage.inserted_b if id(unit) not in homes and core(unit) not in known]
        alone = [unit for unit in left if core(unit) not in {core(other) for other in stage.inserted_b}]
        if alone and right and not independent(_join(map(core, alone)), _join(map(core, right)), self.modules):
            texts = (_join(unit.text for unit in side if id(unit) not in homes) for side in (stage.inserted_a, stage.inserted_b))
            return [*settled, self.ledger.choose(where, "", *texts)]
        return [*settled, *(self.ledger.allowed(side, where, "", unit.text) for side, new in (("a", left), ("b", right)) for unit in new)]

    def unit(self, base: Unit, a: Unit | None, b: Unit | None, where: str) -> str:
        """One statement of the base as both sides have it; None where a side deleted it."""
        texts = base.text, a.text if a else "", b.text if b else ""
        if a is None or b is None or not base.kind == a.kind == b.kind:
            return self.ledger.choose(where, *texts)
        simple = texts[1] in (texts[0], texts[2]) or texts[2] == texts[0]
        if simple and not (self.ledger.fine and any(clause.body for clause in base.clauses)):
            return self.ledger.choose(where, *texts)
        is_value = base.kind in VALUES and base.label.isidentifier()
        inner = f"{where}.{base.label}".lstrip(".") if is_value else base.inside(where)
        matched = _matched(base.clauses, a.clauses, b.clauses)
        if matched is None:
            return self.ledger.choose(where, *texts)
        pieces = [self.lead(base.lead, a.lead, b.lead, where)]
        for old, left, right in matched:
            pieces += [self.head((old, left, right), inner), self.block(old.body, left.body, right.body, inner)]
        return _join(pieces)

    def head(self, clauses: tuple[Clause, Clause, Clause], where: str) -> str:
        base, a, b = (clause.head for clause in clauses)
        if a != b:
            a, b = self.ledger.allowed("a", where, base, a), self.ledger.allowed("b", where, base, b)
        if a == b or base in (a, b):
            return a if b == base else b
        from genomes.merging.expressions import merge_lines  # here: its libcst takes as long to import as the rest of genomes

        before = len(self.ledger.conflicts)
        merged = merge_lines(base, a, b, lambda *texts: self.ledger.clash(where, *texts))
        if merged is not None:
            return merged
        del self.ledger.conflicts[before:]
        return a if self.ledger.clash(where, base, a, b) == "a" else b

    def lead(self, base: str, a: str, b: str, where: str) -> str:
        """Blank lines and comments above a statement, line by line; blank lines alone are worth no conflict."""
        if a in (b, base) or b == base:
            return a if b == base else b
        if b.strip() in (a.strip(), base.strip()) or a.strip() == base.strip():
            return a if b.strip() == base.strip() else b
        pieces = list[str]()
        for stage in walk(*(_lines(text) for text in (base, a, b))):
            pieces += [*stage.inserted_a, *(line for line in stage.inserted_b if line not in stage.inserted_a)]
            if stage.base is not None:
                pieces.append(self.ledger.choose(where, stage.base, stage.a or "", stage.b or ""))
        return "".join(pieces)


def _matched(base: Sequence[Clause], a: Sequence[Clause], b: Sequence[Clause]) -> list[tuple[Clause, Clause, Clause]] | None:
    """Clauses that correspond, in order; one that a side added stands for all three. None where a side dropped one, or both added some."""
    if len(base) == len(a) == len(b):
        return list(zip(base, a, b, strict=True))
    found = list[tuple[Clause, Clause, Clause]]()
    for stage in walk(*([Keyed(clause, clause.text, _keyword(clause)) for clause in clauses] for clauses in (base, a, b))):
        if stage.inserted_a and stage.inserted_b:
            return None
        found += [(new, new, new) for new in (*stage.inserted_a, *stage.inserted_b)]
        if stage.base is not None:
            if stage.a is None or stage.b is None:
                return None
            found.append((stage.base, stage.a, stage.b))
    return found


def _keyword(clause: Clause) -> str:
    """`if`, `else`, `except`: the first word that is no comment."""
    lines = [line.strip() for line in clause.head.splitlines()]
    return next((_NAME.findall(line)[0] for line in lines if _NAME.match(line)), "")


def _torn(stage: Stage[Unit], homes: Homes) -> bool:
    """Did one side delete what the other changed? Blank lines above it do not count."""
    if stage.base is None or id(stage.base) in homes:
        return False
    kept = stage.a if stage.b is None else stage.b
    return kept is not None and (core(kept), kept.lead.strip()) != (core(stage.base), stage.base.lead.strip())


def _keyed(block: Iterable[Unit]) -> list[Keyed[Unit]]:
    """Units go by their statement: a new comment above makes no new one."""
    return [Keyed(unit, core(unit), unit.label) for unit in block]


def _lines(text: str) -> list[Keyed[str]]:
    return [Keyed(line, line, "") for line in text.splitlines(keepends=True)]


def _join(pieces: Iterable[str]) -> str:
    """Concatenate; a piece that was the end of its file without a newline gets one where something follows."""
    filled = [piece for piece in pieces if piece]
    ended = [piece if piece.endswith(("\n", "\r")) or last == len(filled) else piece + "\n" for last, piece in enumerate(filled, start=1)]
    return "".join(ended)
