"""Programs that a genome becomes without an edit that seems worth nothing, or with one that others have shown to be worth something.

What each edit of the seed genome is worth is estimated over the scored genomes of the run (evo/numeric/attribution.py), with an sd. The
worths are drawn anew for each proposal (Thompson 1933), so that an edit which is seldom seen is tried now and then, and one that is known
well is not. Numbers are left as the genome has them: they are tuned.

    ablations        without an edit that is drawn as harmful, or as worth less than a tie; with it goes what nothing uses without it
    recombinations   with an edit that the genome lacks and that is drawn as a gain, by a three-way merge on the seed genome: also one of a
                     program that was bad for other reasons, which no crossover would take as a parent

An edit may need another that came in the same step, such as a weight the optimiser's list of weights. That is so, as far as anybody knows,
where it was never scored without it: then they come and go together, unless the other clearly does harm.

Pure: the same records and generator give the same programs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from random import Random

import genomes
from evo.core.belief import Belief
from evo.core.history import Genome, History
from evo.core.population import TIE_BAND
from evo.numeric.attribution import CLEAR, Effect, attribute, diverged
from evo.traits import Edits, first_members, structural, traits

MOST = 80  # genomes that the estimate rests on: so many of the best by belief, and as many of the latest


@dataclass(frozen=True)
class Rewrite:
    """A program and, in a line, what was done."""

    text: str
    note: str


@dataclass(frozen=True)
class Known:
    """What the run has shown about edits."""

    edits: Edits
    history: Mapping[str, Genome]
    firsts: Mapping[str, str]  # species -> the member that it is known by
    carriers: Mapping[str, Sequence[str]]  # name of an edit -> the scored genomes that have it, the best first
    drawn: tuple[tuple[float, Effect], ...]  # a worth drawn from what is believed of it, for each effect; the best first
    tie: float  # worths of less are none

    def structure(self, genome: str) -> dict[str, genomes.Edit]:
        """A scored genome's edits of the structure, by name."""
        own = self.edits.of(genome, self.firsts[self.history[genome].species])
        return {name: edit for (name, _), edit in own.items() if edit.path or edit.kind != "set"}  # numbers and choices stand nowhere

    def step(self, names: Collection[str], genome: str) -> dict[str, genomes.Edit]:
        """These edits of a genome, and those that its line got in one step with them."""
        found = {name: edit for name, edit in self.structure(genome).items() if name in names}
        parents = self._parents(genome)
        while (older := next((p for p in parents if found.keys() <= self.structure(p).keys()), None)) is not None:
            genome, parents = older, self._parents(older)
        had = {name for parent in parents for name in self.structure(parent)}
        return {name: edit for name, edit in self.structure(genome).items() if name not in had} | found

    def needs(self, name: str, other: str) -> bool:
        """Whether an edit was never scored without another one."""
        return {*self.carriers.get(name, ())} <= {*self.carriers.get(other, ())}

    def _parents(self, genome: str) -> list[str]:
        """The nearest ancestors with a score: a genome may be the repair of one without."""
        found = []
        for parent in self.history[genome].parents:
            if parent in self.history:
                found += [parent] if self.history[parent].scores else self._parents(parent)
        return found


def known(edits: Edits, history: History, belief: Belief, rng: Random) -> Known:
    """What the run has shown."""
    observed = traits(edits, history.genomes, _among(history, belief)).observed
    out = diverged(observed, belief.noise_sd)
    result = attribute([row for row in observed if row.genome not in out], belief.noise_sd)
    ordered = sorted(result.effects, key=lambda effect: effect.edits)
    drawn = sorted(((rng.gauss(e.worth, e.sd), e) for e in ordered), key=lambda pair: pair[0])
    carriers: dict[str, list[str]] = {}
    for row in sorted(observed, key=lambda row: belief.of[row.genome].mean):
        for name in row.edits:
            carriers.setdefault(name, []).append(row.genome)
    return Known(edits, history.genomes, first_members(history.genomes), carriers, tuple(drawn), TIE_BAND * belief.noise_sd)


def _among(history: History, belief: Belief) -> frozenset[str]:
    """The genomes that count."""
    best = nsmallest(MOST, belief.of, key=lambda id_: (belief.of[id_].mean, history.genomes[id_].index))
    return frozenset([*best, *list(belief.of)[-MOST:]])


def ablations(genome: str, known: Known) -> Iterator[Rewrite]:
    """Programs that the genome becomes without edits, those drawn as most harmful first."""
    seed, text = known.edits.texts(known.edits.founder), known.edits.texts(genome)
    own = genomes.diff(seed, text)
    names = {edit: name for (name, _), edit in structural(own)}
    for worth, effect in reversed(known.drawn):
        if worth < -known.tie:
            return
        taken = {*effect.edits} & {*names.values()}
        if taken:
            taken |= {name for name in known.step(taken, genome) if any(known.needs(name, one) for one in taken)}
            gone = [edit for edit in own if names.get(edit) in taken]
            yield Rewrite(_without_unused([edit for edit in own if edit not in gone], seed), f"without {genomes.describe(gone)}")


def _without_unused(edits: list[genomes.Edit], seed: str) -> str:
    """The seed genome with these edits, less those that do nothing without what was taken away."""
    text = genomes.apply(edits, seed)
    does = genomes.folded(text)
    for edit in [e for e in edits if e.kind == "insert"]:
        fewer = [e for e in edits if e is not edit]
        shorter = genomes.apply(fewer, seed)
        if genomes.folded(shorter) == does:
            edits, text = fewer, shorter
    return text


def recombinations(genome: str, known: Known) -> Iterator[Rewrite]:
    """Programs that the genome becomes with edits of others, those drawn as best first."""
    seed, text = known.edits.texts(known.edits.founder), known.edits.texts(genome)
    own, harmful = known.structure(genome), {name for _, e in known.drawn if e.worth > CLEAR * e.sd for name in e.edits}
    for worth, effect in known.drawn:
        if worth >= 0:
            return
        step = known.step(effect.edits, known.carriers[effect.edits[0]][0])
        new = [name for name in effect.edits if name in step and name not in own]
        needed = [name for name in step if name not in own and name not in harmful and any(known.needs(one, name) for one in new)]
        if new:
            brought = [step[name] for name in dict.fromkeys([*new, *needed])]
            merge = genomes.merge(seed, text, genomes.apply(brought, seed), genomes.prefer("b"))
            yield Rewrite(merge.text, f"with {genomes.describe(brought)}")
