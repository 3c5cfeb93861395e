"""The final draws: the champion against the seed genome under fresh seeds, none of which took part in choosing it.

A group of draws has one stage or two, each with `size` draws of either arm. Their order is random, so that slots that score differently, or
a machine that gets busier, favour neither arm by more than chance, however many slots march in step. A draw that fails is replaced, up to
as many again. Only the end of a stage says anything, and each stage may be wrong half as often as the whole look (Bonferroni). A second
stage is drawn only if the first leaves the question open: of gains of two noise sds, two stages prove 91 %, a single stage with as many
draws 85 %, and one of the first stage's size 62 % (docs/log.md). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

from evaluator.outcome import Scored
from evo.core.records import FINAL, SEEDS, Proposal, Record
from evo.core.statistics import FALSE_SHARE, Announcement, announce

STAGES = 2
TRIES = 2  # most draws of an arm for each score that is wanted
HOPELESS = 0.6  # two-sided p of a gain that another stage would hardly prove


@dataclass(frozen=True)
class Group:
    """The final draws of one announcement, as far as they are known at one moment."""

    draws: tuple[Proposal, ...]  # in index order, at least one; told or pending
    told: Mapping[int, Record]  # index -> what came of it
    founder: str  # the seed genome
    size: int  # draws of either arm in one stage
    look: int = 1  # how many groups of the run have said something, including this one

    @property
    def champion(self) -> str:
        """The genome that is drawn against the seed."""
        return _champion(self.draws, self.founder) or self.founder

    @property
    def arms(self) -> tuple[str, str]:
        return self.champion, self.founder

    @cached_property
    def wanted(self) -> int:
        """How many scores of either arm are wanted."""
        return self.size if self._first_stage is None or _settled(self._first_stage) else STAGES * self.size

    @property
    def due(self) -> tuple[str, ...]:
        """The arms that lack a draw, pending ones counted."""
        return tuple(arm for arm in self.arms if self._lacks(arm))

    @property
    def announcement(self) -> Announcement | None:
        """What the latest complete stage says; None before the end of the first, and where an arm has fewer than two scores."""
        first = self._first_stage
        if first is None or _settled(first):
            return first
        scored = sum(1 for p in self.draws if p.index in self.told and isinstance(self.told[p.index].outcome, Scored))
        return self._verdict(STAGES) or replace(first, to_come=len(self.arms) * self.wanted - scored)

    @cached_property
    def _first_stage(self) -> Announcement | None:
        return self._verdict(1)

    def _lacks(self, arm: str) -> bool:
        drawn = [p for p in self.draws if p.parents[0] == arm]
        usable = sum(1 for p in drawn if p.index not in self.told or isinstance(self.told[p.index].outcome, Scored))
        return usable < self.wanted and len(drawn) < TRIES * self.wanted

    def _verdict(self, stages: int) -> Announcement | None:
        wanted = stages * self.size
        parts = [self._first(arm, wanted) for arm in self.arms]
        if None in parts:
            return None
        share = FALSE_SHARE / (self.look * (self.look + 1)) / STAGES
        return announce([record for part in parts for record in part or ()], self.champion, share)

    def _first(self, arm: str, wanted: int) -> list[Record] | None:
        """An arm's draws up to the one that gave the last wanted score; None while some of these are still to come."""
        told = [self.told[p.index] for p in self.draws if p.parents[0] == arm and p.index in self.told]
        scores = 0
        for count, record in enumerate(told, 1):
            scores += isinstance(record.outcome, Scored)
            if scores == wanted or count == TRIES * wanted:
                return told[:count]
        return None


def next_draw(group: Group | None, champion: str, founder: str, size: int, index: int, seed: int) -> Proposal | None:
    """The next final draw; None where none is due. Pairs of draws, one of either arm, have a seed in common.

    Args:
        group: the standing group; None begins a new one, with this champion.
        seed: of the search.
    """
    first = index if group is None else group.draws[0].group
    drawn = () if group is None else group.draws
    due = (champion, founder) if group is None else group.due
    if not due:
        return None
    order = [arm for stage in range(STAGES) for arm in _shuffled((champion, founder) * size, f"{seed}/{first}/order/{stage}")]
    arm = order[len(drawn)] if len(drawn) < len(order) else due[0]
    arm = arm if arm in due else due[0]
    pair = sum(1 for p in drawn if p.parents[0] == arm)
    fresh = Random(f"{seed}/{first}/final/{pair}").randrange(SEEDS)
    return Proposal(index, FINAL, (arm, champion), fresh, first)


def standing_group(draws: Iterable[Proposal], told: Mapping[int, Record], founder: str | None, size: int, after: int) -> Group | None:
    """The latest group, unless something else came after it began: then it says nothing about who leads now.

    Earlier groups that have said something count as looks: each may have announced what is not there.

    Args:
        draws: all final draws of the run.
        after: highest index of anything else.
    """
    groups: dict[int, list[Proposal]] = {}
    for proposal in sorted(draws, key=lambda p: p.index):
        groups.setdefault(proposal.group, []).append(proposal)
    if founder is None or max(groups, default=-1) <= after:
        return None
    found, look = None, 1
    for id_ in sorted(groups):
        look += found is not None and found.announcement is not None
        found = Group(tuple(groups[id_]), told, founder, size, look) if _champion(groups[id_], founder) else None
    return found


def _champion(draws: Iterable[Proposal], founder: str) -> str | None:
    """Older records name it in its own draws alone."""
    return next((p.parents[-1] for p in draws if p.parents[-1] != founder), None)


def _settled(said: Announcement) -> bool:
    return said.proven or said.gain <= 0 or said.p > HOPELESS


def _shuffled(arms: tuple[str, ...], seed: str) -> list[str]:
    order = list(arms)
    Random(seed).shuffle(order)
    return order
