"""Where a run stands: who leads, and what may be announced. Pure functions of the records, shared by the search and the views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evo.core.belief import Belief, believe, doubted
from evo.core.history import History, fold
from evo.core.policies import POLICIES
from evo.core.records import CALIBRATE, Proposal, Record
from evo.core.statistics import Announcement, announce
from evo.numeric.refine import KnobValues, refine


@dataclass(frozen=True)
class Standing:
    """A run so far, as people want to see it."""

    records: tuple[Record, ...]  # in index order
    history: History
    belief: Belief
    founder: str | None  # the seed genome; None before its first record
    champion: str | None  # announced, or else whom the policy presents
    announcement: Announcement | None


def assess(records: Iterable[Record], policy: str = "evo", shelf: KnobValues | None = None) -> Standing:
    """The standing of a run from its records and the policy that it searches by; `shelf` as the search has it."""
    ordered = tuple(sorted(records, key=lambda r: r.index))
    history = fold(ordered)
    belief = refined(history, policy, shelf)
    group = standing_finals((r.candidate.proposal for r in history.finals), history.explored_until)
    champion = group[0].parents[0] if group else POLICIES[policy].champion(history, belief)
    founder = next((r.candidate.genome for r in ordered if r.operator == CALIBRATE), None)
    return Standing(ordered, history, belief, founder, champion, verdict(history, group))


def refined(history: History, policy: str, shelf: KnobValues | None) -> Belief:
    """What is believed of each genome: by its lineage, and by its numbers where a policy looks at them."""
    belief = believe(history.genomes)
    return doubted(refine(history.genomes, belief, shelf) if shelf is not None and POLICIES[policy].models else belief)


def standing_finals(finals: Iterable[Proposal], explored_until: int) -> list[Proposal]:
    """The final draws that count: the latest group, unless something was explored after it began. In index order.

    The champion's draw is asked first, so the group's champion is the first one's parent.
    """
    finals = list(finals)
    latest = max((p.group for p in finals), default=-1)
    if latest <= explored_until:
        return []
    return sorted((p for p in finals if p.group == latest), key=lambda p: p.index)


def verdict(history: History, group: list[Proposal]) -> Announcement | None:
    """What a group of final draws says; None before each arm has two scores."""
    if not group:
        return None
    this = group[0].group
    looks = {r.candidate.proposal.group for r in history.finals if r.candidate.proposal.group <= this} | {this}
    return announce([r for r in history.finals if r.candidate.proposal.group == this], group[0].parents[0], len(looks))
