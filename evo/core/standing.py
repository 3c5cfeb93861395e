"""Where a run stands: who leads, and what may be announced. Pure functions of the records, shared by the search and the views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evo.core.belief import Belief, believe, doubted
from evo.core.finals import standing_group
from evo.core.history import History, fold
from evo.core.policies import POLICIES, SearchConfig
from evo.core.records import CALIBRATE, Record
from evo.core.statistics import Announcement
from evo.numeric.refine import KnobValues, refine

_USUAL = SearchConfig()


@dataclass(frozen=True)
class Standing:
    """A run so far, as people want to see it."""

    records: tuple[Record, ...]  # in index order
    history: History
    belief: Belief
    founder: str | None  # the seed genome; None before its first record
    champion: str | None  # announced, or else whom the policy presents
    announcement: Announcement | None


def assess(records: Iterable[Record], config: SearchConfig = _USUAL, shelf: KnobValues | None = None) -> Standing:
    """The standing of a run from its records.

    Args:
        config: the run's settings.
        shelf: as the search uses it.
    """
    ordered = tuple(sorted(records, key=lambda r: r.index))
    history = fold(ordered)
    belief = refined(history, config.policy, shelf)
    founder = next((r.candidate.genome for r in ordered if r.operator == CALIBRATE), None)
    told = {record.index: record for record in history.finals}
    group = standing_group((r.candidate.proposal for r in told.values()), told, founder, config.final_draws, history.explored_until)
    champion = group.champion if group else POLICIES[config.policy].champion(history, belief)
    return Standing(ordered, history, belief, founder, champion, group.announcement if group else None)


def refined(history: History, policy: str, shelf: KnobValues | None) -> Belief:
    """What is believed of each genome: from its lineage, and from its numbers where the policy looks at them."""
    belief = believe(history.genomes)
    return doubted(refine(history.genomes, belief, shelf) if shelf is not None and POLICIES[policy].models else belief)
