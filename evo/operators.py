"""A proposal becomes a program: the one place where genomes are written.

    calibrate, confirm, final   the text of the known genome
    mutate                      a built-in mutation of the parent; tried again while the child is known already. Where numbers are left to
                                `tune`, a structural mutation; if none applies, what `tune` does
    tune                        values of the parent's knobs that a model of its species expects much of (evo/numeric/)
    optuna                      the same by Optuna (evo/tuner.py), for the baseline that goes by it alone
    ablate, recombine           the parent without an edit, or with one of others, by what the run says they are worth (recombine.py)
    repair                      what genomes.repair mends of a genome that failed
    crossover                   three-way merge on the trees, the parents' lowest common ancestor as base; conflicts go to the fitter parent

Whatever goes wrong is an outcome, not an exception: Unwritten says why no program came of it, Duplicate names the candidate that has
the same canonical tree, or the parent that does the same. Randomness comes from (run seed, proposal index) alone. What a model writes
(evo/llm/writer.py), or people hand in, passes `judge` as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from random import Random

import genomes
from evaluator.outcome import CurvePoint, Duplicate, Unwritten
from evo import recombine, species, tuner
from evo.core.belief import Belief
from evo.core.history import History
from evo.core.population import lowest_common_ancestor
from evo.core.records import (
    ABLATE,
    CALIBRATE,
    CONFIRM,
    CROSSOVER,
    FINAL,
    GIVEN,
    MUTATE,
    OPTUNA,
    RECOMBINE,
    REPAIR,
    REPEATS,
    TUNE,
    Candidate,
    Proposal,
    places,
)
from evo.errors import one_line
from evo.numeric import propose as numeric
from evo.numeric.lore import warmup_share
from evo.numeric.propose import Step
from evo.numeric.space import Sample

ATTEMPTS = 12  # mutations of one proposal before it counts as a duplicate
REPEAT_NOTES = {CALIBRATE: "seed genome", CONFIRM: "repeat of a contender", FINAL: "fresh draw for the announcement"}


@dataclass(frozen=True, kw_only=True)
class Library:
    """What is known when a proposal is written."""

    founder: Candidate  # the seed genome; its proposal does not matter
    texts: Callable[[str], str]  # genome id -> program
    known: Mapping[str, Candidate]  # genome id -> the candidate that introduced it, pending ones included
    seed: int  # of the run
    history: History
    belief: Belief
    contract: genomes.Contract = genomes.Contract.LAB  # what the lab asks of its genomes
    prepare: str = ""  # text of the lab's prepare.py, as programs see it; "" where no program is run
    numbers_apart: bool = False  # of the run's policy: tune sets numbers, mutations change structure alone
    curves: Callable[[int], Sequence[CurvePoint]] = lambda _: ()  # index of a record -> its learning curve
    shelf: species.Shelf | None = None  # where knob values of `texts` are read; None: read anew each time


@dataclass(frozen=True)
class Written:
    """The candidate and its text; `outcome` is set where there is nothing to evaluate, and the text is empty then."""

    candidate: Candidate
    text: str
    outcome: Unwritten | Duplicate | None = None


def describe_seed(text: str) -> Candidate:
    """The seed genome as a candidate."""
    return _candidate(Proposal(-1, CALIBRATE, (), 0), text, REPEAT_NOTES[CALIBRATE])


def write(proposal: Proposal, library: Library) -> Written:
    """Turns a proposal into a program, or says why not. Never raises for what the genomes are like."""
    if proposal.operator in REPEATS:
        return _repeat(proposal, library)
    rng = Random(f"{library.seed}/{proposal.index}/write")
    try:
        return _MAKERS[proposal.operator](proposal, library, rng)
    except genomes.GenomeError as error:
        return unwritten(proposal, one_line(str(error)))


def _repeat(proposal: Proposal, library: Library) -> Written:
    id_ = proposal.parents[0] if proposal.parents else library.founder.genome
    original = library.known.get(id_, library.founder)
    candidate = replace(original, proposal=proposal, note=REPEAT_NOTES[proposal.operator], writer="", rule=None)
    return Written(candidate, library.texts(id_))


def _mutate(proposal: Proposal, library: Library, rng: Random) -> Written:
    parent = library.texts(proposal.parents[0])
    last = unwritten(proposal, "no mutation applied")
    names = genomes.STRUCTURAL_MUTATIONS if library.numbers_apart else None
    for _ in range(ATTEMPTS):
        try:
            mutant = genomes.mutate(parent, rng, names, contract=library.contract)
        except genomes.MutationError:
            if library.numbers_apart:
                return _tune(proposal, library, rng)
            raise
        last = judge(proposal, library, mutant.text, f"{mutant.mutation}: {mutant.note}")
        if last.outcome is None:
            break
    return last


def _recombine(proposal: Proposal, library: Library, rng: Random) -> Written:
    id_, shelf = proposal.parents[0], library.shelf or species.Shelf(library.texts)
    known = recombine.known(shelf.edits(library.founder.genome), library.history, library.belief, rng)
    if proposal.operator == ABLATE:
        rewrites, last = recombine.ablations(id_, known), unwritten(proposal, "every edit of it is worth something")
    else:
        rewrites, last = recombine.recombinations(id_, known), unwritten(proposal, "no edit that it lacks is worth anything")
    for rewrite in islice(rewrites, ATTEMPTS):
        last = judge(proposal, library, rewrite.text, rewrite.note)
        if last.outcome is None:
            break
    return last


def _tune(proposal: Proposal, library: Library, rng: Random) -> Written:
    propose = _by_optuna if proposal.operator == OPTUNA else numeric.propose
    id_ = proposal.parents[0]
    parent, last = library.texts(id_), unwritten(proposal, "none of its knobs can be tuned")
    knobs = genomes.knobs(parent)
    shelf = library.shelf or species.Shelf(library.texts)
    samples = species.samples(id_, library.known, library.history, library.belief, shelf)
    for _ in range(ATTEMPTS):
        step = propose(knobs, samples, library.belief.noise_sd, rng)
        values = genomes.effective(parent, step.values) if step is not None else {}
        if step is None or not values:
            continue
        moved = "; ".join(f"{knob.name} {knob.value} → {values[knob.name]}" for knob in knobs if knob.name in values)
        last = judge(proposal, library, genomes.set_knobs(parent, values), f"{step.how}: {moved}" if step.how else moved)
        if last.outcome is None:
            break
    return last


def _by_optuna(knobs: Sequence[genomes.Knob], samples: Sequence[Sample], noise_sd: float, rng: Random) -> Step:
    return Step(tuner.propose(knobs, samples, rng), "")


def _crossover(proposal: Proposal, library: Library, rng: Random) -> Written:
    a, b = proposal.parents
    base = common_ancestor(library, a, b)
    if base is None:
        return unwritten(proposal, f"{a} and {b} have no common ancestor")
    text = library.texts(a)
    merge = genomes.merge(library.texts(base), text, library.texts(b), fitter_side(library.belief, a, b, rng))
    settled = f", conflicts settled: {len(merge.conflicts)}" if merge.conflicts else ""
    return judge(proposal, library, merge.text, f"{b[:8]} into {a[:8]}: {genomes.describe(genomes.diff(text, merge.text))}{settled}")


def fitter_side(belief: Belief, a: str, b: str, rng: Random) -> genomes.Settle:
    """Settles what both parents changed as the better one has it; at random if neither is known to be better, by more than a standard
    deviation."""
    one, other = belief.of.get(a), belief.of.get(b)
    if one is None or other is None or abs(one.mean - other.mean) <= math.hypot(one.sd, other.sd):
        return genomes.seeded(rng)
    return genomes.prefer("a" if one.mean < other.mean else "b")


def _repair(proposal: Proposal, library: Library, rng: Random) -> Written:
    id_ = proposal.parents[0]
    flaw = library.history.genomes[id_].flaw
    if flaw is None:
        return unwritten(proposal, f"{id_} has not failed")
    failure = genomes.Failure(id_, str(flaw.reason), flaw.message, places(flaw.trace))
    repaired = genomes.repair(library.texts(id_), failure, library.contract, library.prepare)
    if repaired is None:
        return unwritten(proposal, f"no rule repairs {flaw.reason}: {flaw.message}")
    return judge(proposal, library, repaired.text, f"{repaired.note} ({flaw.reason})")


def judge(proposal: Proposal, library: Library, text: str, note: str) -> Written:
    """A written text as a candidate, after mending what a rule can mend, or why it is not worth an evaluation."""
    text, mended = mend(proposal, library, text)
    note = f"{note}; repaired: {mended}" if mended else note
    if found := problems(proposal, library, text):
        return unwritten(proposal, one_line(f"{note}: {found[0]}"))
    candidate = _candidate(proposal, text, one_line(note))
    twin = library.known.get(candidate.genome) or _parent_that_does_the_same(proposal, library, text)
    if twin is not None:
        same = replace(candidate, genome=twin.genome, species=twin.species, size=twin.size)
        return Written(same, "", Duplicate(twin.index))
    return Written(candidate, text)


def _parent_that_does_the_same(proposal: Proposal, library: Library, text: str) -> Candidate | None:
    folded = genomes.folded(text)
    parents = (parent for parent in proposal.parents if genomes.folded(library.texts(parent)) == folded)
    return next((library.known.get(parent, library.founder) for parent in parents), None)


def problems(proposal: Proposal, library: Library, text: str) -> tuple[genomes.Problem, ...]:
    """What breaks the contract in a text and not already in its parents."""
    inherited = _inherited(proposal, library)
    found = tuple(problem for problem in _check(library, text) if problem.message not in inherited)
    return found or _another_measure(proposal, library, text)


def _another_measure(proposal: Proposal, library: Library, text: str) -> tuple[genomes.Problem, ...]:
    """Scripts time and score themselves: a child that does it otherwise than its parents could be better by that alone.

    What people hand in is theirs to answer for.
    """
    if library.contract is not genomes.Contract.SCRIPT or proposal.operator == GIVEN:
        return ()
    known = [genomes.measure(library.texts(parent)) for parent in proposal.parents]
    mine = genomes.measure(text)
    if not known or mine in known:
        return ()
    said = next((f"now has `{line}`" for line in mine if line not in known[0]), "")
    said = said or next((f"no longer has `{line}`" for line in known[0] if line not in mine), "has the same lines in another order")
    advice = "score and time are taken as before; a change of the loss acts `if self.training` only"
    return (genomes.Problem(0, f"what makes its score or keeps its time {said}: {advice}"),)


def mend(proposal: Proposal, library: Library, text: str) -> tuple[str, str]:
    """The text with its problems mended by rules, and what was done; as it was, and "", if a problem would remain."""
    repaired = genomes.mend(text, library.contract, library.prepare, accepted=_inherited(proposal, library))
    return (repaired.text, repaired.note) if repaired is not None else (text, "")


def _inherited(proposal: Proposal, library: Library) -> frozenset[str]:
    """Messages of the parents' problems."""
    return frozenset(problem.message for parent in proposal.parents for problem in _check(library, library.texts(parent)))


def _check(library: Library, text: str) -> tuple[genomes.Problem, ...]:
    return genomes.check(text, library.contract, library.prepare)


def common_ancestor(library: Library, a: str, b: str) -> str | None:
    """The youngest genome that both descend from; None if they are strangers."""
    parents_of = {id_: c.proposal.parents for id_, c in library.known.items()}
    return lowest_common_ancestor(parents_of, {id_: c.index for id_, c in library.known.items()}, a, b)


def _candidate(proposal: Proposal, text: str, note: str) -> Candidate:
    """A candidate with all that its text says."""
    return Candidate(
        proposal,
        genome=genomes.identity(text),
        species=genomes.species(text),
        size=genomes.size(text),
        note=note,
        loss_code=genomes.loss_code(text),
        warmup=warmup_share(genomes.knobs(text)),
    )


def unwritten(proposal: Proposal, why: str) -> Written:
    """No program came of it, and why."""
    return Written(Candidate(proposal, "", "", 0, ""), "", Unwritten(why))


_MAKERS = {
    MUTATE: _mutate,
    CROSSOVER: _crossover,
    RECOMBINE: _recombine,
    ABLATE: _recombine,
    TUNE: _tune,
    OPTUNA: _tune,
    REPAIR: _repair,
}
