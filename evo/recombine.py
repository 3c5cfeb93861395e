"""Programs that a genome becomes without an edit that seems worth nothing, or with one that others have shown to be worth something.

What each edit of the seed genome is worth is estimated over the scored genomes of the run (evo/numeric/attribution.py), with an sd. The
worths are drawn anew for each proposal (Thompson 1933), so that an edit which is seldom seen is tried now and then, and one that is known
well is not. Numbers are left as the genome has them: they are tuned.

    ablations        without the edits that are drawn as harmful, or as worth less than a tie; with them goes what nothing uses without them
    recombinations   with an edit that the genome lacks and that is drawn as a gain, by a three-way merge on the seed genome: also one of a
                     program that was bad for other reasons, which no crossover would take as a parent

Pure: the same records and generator give the same programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from random import Random

import genomes
from evo.core.belief import Belief
from evo.core.history import History
from evo.core.population import TIE_BAND
from evo.numeric.attribution import Effect, attribute, diverged
from evo.traits import Edits, Traits, structural, traits

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
    traits: Traits
    drawn: tuple[tuple[float, Effect], ...]  # a worth drawn from what is believed of it, for each effect; the best first


def known(edits: Edits, history: History, belief: Belief, rng: Random) -> Known:
    """What the run has shown."""
    found = traits(edits, history.genomes, _among(history, belief))
    out = diverged(found.observed, belief.noise_sd)
    result = attribute([row for row in found.observed if row.genome not in out], belief.noise_sd)
    ordered = sorted(result.effects, key=lambda effect: effect.edits)
    drawn = sorted(((rng.gauss(e.worth, e.sd), e) for e in ordered), key=lambda pair: pair[0])
    return Known(edits, found, tuple(drawn))


def _among(history: History, belief: Belief) -> frozenset[str]:
    """The genomes that count."""
    best = nsmallest(MOST, belief.of, key=lambda id_: (belief.of[id_].mean, history.genomes[id_].index))
    return frozenset([*best, *list(belief.of)[-MOST:]])


def ablations(genome: str, known: Known, belief: Belief) -> Iterator[Rewrite]:
    """Programs that the genome becomes without edits, those drawn as most harmful first."""
    seed, text = known.edits.texts(known.edits.founder), known.edits.texts(genome)
    own = genomes.diff(seed, text)
    names = {edit: name for (name, _), edit in structural(own)}
    for worth, effect in reversed(known.drawn):
        if worth < -TIE_BAND * belief.noise_sd:
            return
        gone = {edit for edit in own if names.get(edit) in effect.edits}
        if gone:
            left = [edit for edit in own if edit not in gone]
            yield Rewrite(_without_unused(left, seed), f"without {genomes.describe(e for e in own if e in gone)}")


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
    own = {name for (name, _), _ in structural(genomes.diff(seed, text))}
    by_name = _structural_only(known.traits.edits)
    for worth, effect in known.drawn:
        if worth >= 0:
            return
        brought = [by_name[name] for name in effect.edits if name in by_name and name not in own]
        if brought:
            merge = genomes.merge(seed, text, genomes.apply(brought, seed), genomes.prefer("b"))
            yield Rewrite(merge.text, f"with {genomes.describe(brought)}")


def _structural_only(edits: Mapping[tuple[str, float], genomes.Edit]) -> dict[str, genomes.Edit]:
    """Name -> edit, without those of numbers and choices."""
    return {name: edit for (name, _), edit in edits.items() if edit.path or edit.kind != "set"}
