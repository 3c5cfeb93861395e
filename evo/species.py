"""What a run knows about the knobs of one species, as samples for the tuner. Pure in the records; programs are read through a `Shelf`.

Members have one structure, so their knobs have one set of names. While the species is young, members of the species that it comes from join
in. Their scores are shifted by what the structural change was worth (the species' first member against its parent, as far as that is
known), and their values go to the knobs in the same place (genomes.match), whatever those are called by now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import genomes
from evaluator.outcome import Phase, Reason
from evo.core.belief import Belief
from evo.core.history import Genome, History
from evo.core.records import REPEATS, Candidate
from evo.numeric.space import Sample
from evo.traits import Edits

SHELVED = 4096  # genomes whose values are remembered, some 5 kB each
REFERENCES = 8  # programs by whose knobs others are read
LATEST = 300  # members that count: the cost of a proposal stays bounded, and early ones lie far from the incumbent
FORETOLD_DRAWS = 0.25  # draws that the value predicted for a stopped run counts as
BLOCK = 50  # up to so many more count, so that the set changes seldom and what was learned of it can be remembered


class Shelf:
    """Knob values and edits of stored programs, by genome: each is read once while it is among the latest asked for."""

    def __init__(self, texts: Callable[[str], str]) -> None:
        """
        Args:
            texts: genome id -> program.
        """
        self._texts = texts
        self.knobs = lru_cache(maxsize=64)(self._knobs)
        self.values = lru_cache(maxsize=SHELVED)(self._values)
        self.matched = lru_cache(maxsize=REFERENCES)(self._matched)
        self.edits = lru_cache(maxsize=1)(self._edits)
        self._reader = lru_cache(maxsize=REFERENCES)(self._new_reader)

    def _knobs(self, genome: str) -> tuple[genomes.Knob, ...]:
        return genomes.knobs(self._texts(genome))

    def _values(self, reference: str, genome: str) -> Mapping[str, genomes.Value]:
        """Knob of the reference -> its value in the genome. Members of one species are read without parsing."""
        return self._reader(reference).values(self._texts(genome))

    def _matched(self, reference: str, other: str) -> Mapping[str, str]:
        """Knob of the reference -> the one that stands in its place in the other."""
        return genomes.match(self._texts(reference), self._texts(other))

    def _edits(self, founder: str) -> Edits:
        """Programs as edits of the seed genome."""
        return Edits(founder, self._texts)

    def _new_reader(self, reference: str) -> genomes.Reader:
        return genomes.Reader(self._texts(reference))


def samples(genome: str, known: Mapping[str, Candidate], history: History, belief: Belief, shelf: Shelf) -> tuple[Sample, ...]:
    """Samples of the genome's species, pending candidates included, and of the species that it came from; in index order."""
    species = known[genome].species
    members = [c for c in known.values() if c.species == species]
    founder = min(members, key=lambda c: c.index)
    relatives, shift = _relatives(founder, known, history, belief)
    everyone = sorted([*members, *relatives], key=lambda c: c.index)
    latest = everyone[-LATEST - len(everyone) % BLOCK :]
    chosen = sorted({c.genome: c for c in [*latest, known[genome]]}.values(), key=lambda c: c.index)
    own, other = founder.genome, min(relatives, key=lambda c: c.index).genome if relatives else ""
    return tuple(
        _sample(shelf.values(own, c.genome), history.genomes.get(c.genome), 0.0)
        if c.species == species
        else _sample(_carried(shelf, own, other, c.genome), history.genomes.get(c.genome), shift)
        for c in chosen
    )


def _carried(shelf: Shelf, own: str, other: str, genome: str) -> dict[str, genomes.Value]:
    """Knob of `own` -> its value in a genome of the species of `other`."""
    found = shelf.values(other, genome)
    return {name: found[there] for name, there in shelf.matched(own, other).items() if there in found}


def _relatives(founder: Candidate, known: Mapping[str, Candidate], history: History, belief: Belief) -> tuple[list[Candidate], float]:
    """Members of the species that `founder` was made from, and what their scores have to be shifted by; none while either has no score."""
    parent = next((p for p in founder.proposal.parents if p in known and p in belief.of), None)
    if parent is None or founder.genome not in belief.of or founder.operator in REPEATS:
        return [], 0.0
    shift = belief.of[founder.genome].mean - belief.of[parent].mean
    scored = [c for c in known.values() if c.species == known[parent].species and history.genomes.get(c.genome)]
    return scored, shift


def _sample(found: Mapping[str, genomes.Value], genome: Genome | None, shift: float) -> Sample:
    if genome is None:
        return Sample(found, pending=True)
    if not genome.scores and genome.foretold is not None:
        return Sample(found, genome.foretold + shift, draws=FORETOLD_DRAWS)
    if not genome.scores:
        lacked = genome.flaw is not None and genome.flaw.reason == Reason.OUT_OF_MEMORY and genome.flaw.phase != Phase.SCORE
        return Sample(found, out_of_memory=lacked)
    return Sample(found, genome.mean + shift, draws=len(genome.scores), memory_gib=genome.memory_gib)
