"""What of a run is worth telling a model about one proposal: a pure function of what is known to a `prompts.Brief`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import genomes
from evaluator.outcome import Duplicate, Failed, Outcome, Scored, Stopped, Unwritten
from evo.belief import Belief
from evo.history import EXPLORATIONS
from evo.operators import Library, common_ancestor
from evo.population import ranking
from evo.prompts import Attempt, Brief, Estimate, Partner, Result, Rivals
from evo.records import Proposal, Record
from evo.standing import Standing

TRIED, BEST, FAILURES = 20, 10, 6  # most that is told of each


@dataclass(frozen=True)
class Setting:
    """Where programs are trained, and what people want."""

    agenda: str  # the lab's program.md, as it is now
    profile: str  # name of the device profile
    budget_seconds: float


def brief(proposal: Proposal, library: Library, standing: Standing, setting: Setting) -> Brief:
    """The brief of one proposal: a mutation, or with two parents a crossover into the first."""
    parent, belief = proposal.parents[0], library.belief
    text = library.texts(parent)
    return Brief(
        agenda=setting.agenda,
        profile=setting.profile,
        budget_seconds=setting.budget_seconds,
        noise_sd=belief.noise_sd,
        text=text,
        contract=not genomes.check(text),
        score=_score(belief, parent),
        tried=tuple(islice(_tried(parent, library, standing), TRIED)),
        best=_best(library, standing),
        failures=tuple(islice(_failures(parent, belief, standing), FAILURES)),
        partner=_partner(library, parent, proposal.parents[1]) if len(proposal.parents) > 1 else None,
    )


def _tried(parent: str, library: Library, standing: Standing) -> Iterator[Attempt]:
    """What was made of this parent: under way first, then latest first."""
    told = {record.candidate.proposal.index for record in standing.records}
    for candidate in reversed(tuple(library.known.values())):
        proposal = candidate.proposal
        if parent in proposal.parents and proposal.operator in EXPLORATIONS and proposal.index not in told:
            yield Attempt(candidate.note, "is being evaluated")
    for record in reversed(standing.records):
        proposal = record.candidate.proposal
        if parent in proposal.parents and proposal.operator in EXPLORATIONS:
            yield Attempt(record.candidate.note, _end(record, library.belief, parent))


def _best(library: Library, standing: Standing) -> tuple[Result, ...]:
    seed = library.founder.genome
    if seed not in library.belief.of:
        return ()
    leaders = [id_ for id_ in ranking(library.history.genomes, library.belief) if id_ != seed and id_ in library.known]
    return tuple(Result(id_, library.known[id_].note, _gain(library.belief, seed, id_)) for id_ in leaders[:BEST])


def _failures(parent: str, belief: Belief, standing: Standing) -> Iterator[Attempt]:
    """Of other programs than those made of `parent`."""
    for record in reversed(standing.records):
        if isinstance(record.outcome, Failed) and parent not in record.candidate.proposal.parents:
            yield Attempt(record.candidate.note, _end(record, belief, parent))


def _partner(library: Library, parent: str, other: str) -> Partner:
    """What `other` changed since the ancestor that it shares with `parent`; of strangers, how it differs from `parent`."""
    own, text = library.texts(parent), library.texts(other)
    base = library.texts(common_ancestor(library, parent, other) or parent)
    known = set(genomes.definitions(base))
    unified = difflib.unified_diff(base.splitlines(), text.splitlines(), "ancestor", "other", lineterm="")
    return Partner(
        score=_score(library.belief, other),
        edits=genomes.describe(genomes.diff(base, text)),
        unified="\n".join(unified),
        definitions=tuple(code for code in genomes.definitions(text) if code not in known),
        rivals=tuple(Rivals(c.where, c.base, c.a, c.b) for c in genomes.merge(base, own, text, genomes.prefer("a")).conflicts),
    )


def _end(record: Record, belief: Belief, parent: str) -> str:
    outcome, child = record.outcome, record.candidate.genome
    if isinstance(outcome, Scored) and child in belief.of and parent in belief.of:
        gain = _gain(belief, parent, child)
        return f"gained {gain.mean:+.4f} ± {gain.sd:.4f} over its parent"
    return _said(outcome)


def _said(outcome: Outcome) -> str:
    if isinstance(outcome, Scored):
        return f"scored {outcome.val_bpb:.4f}"
    if isinstance(outcome, Failed):
        return f"failed in {outcome.where}, {outcome.reason}: {outcome.message}"
    if isinstance(outcome, Stopped):
        return f"stopped early: {outcome.note}"
    if isinstance(outcome, Duplicate):
        return "is a program that was tried before"
    return f"not evaluated: {outcome.why}" if isinstance(outcome, Unwritten) else "interrupted"


def _score(belief: Belief, genome: str) -> Estimate | None:
    estimate = belief.of.get(genome)
    return Estimate(estimate.mean, estimate.sd) if estimate else None


def _gain(belief: Belief, before: str, after: str) -> Estimate:
    a, b = belief.of[before], belief.of[after]
    return Estimate(a.mean - b.mean, math.hypot(a.sd, b.sd))
