"""What a run knows about the knobs of one species, as samples for the tuner. Pure in the records; programs are read through `texts`.

Members have one structure, so their knobs have one set of names. Where the species is young, the relatives that it descends from join in:
their scores are shifted by what the structural change was worth, the species' first member against its parent, as far as that is known,
and their values go to the knobs that stand in the same place (genomes.match), whatever those are called by now.
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

SHELVED = 4096  # genomes whose values are remembered, some 5 kB each
LATEST = 300  # members that count: the cost of a proposal stays bounded, and early ones lie far from the incumbent …
FORETOLD_DRAWS = 0.25  # that the value foretold of a stopped run is worth
BLOCK = 50  # … and a block more, so that what counts changes seldom and what was learned of it can be remembered


def samples(
    genome: str, known: Mapping[str, Candidate], history: History, belief: Belief, texts: Callable[[str], str]
) -> tuple[Sample, ...]:
    """Samples of the genome's species, pending candidates included, and of the species that it came from; in index order."""
    species = known[genome].species
    members = [c for c in known.values() if c.species == species]
    founder = min(members, key=lambda c: c.index)
    relatives, shift = _relatives(founder, known, history, belief)
    everyone = sorted([*members, *relatives], key=lambda c: c.index)
    latest = everyone[-LATEST - len(everyone) % BLOCK :]
    chosen = sorted({c.genome: c for c in [*latest, known[genome]]}.values(), key=lambda c: c.index)
    own, other = texts(founder.genome), texts(min(relatives, key=lambda c: c.index).genome) if relatives else ""
    return tuple(
        _sample(_values(own, texts(c.genome)), history.genomes.get(c.genome), 0.0)
        if c.species == species
        else _sample(_carried(own, other, texts(c.genome)), history.genomes.get(c.genome), shift)
        for c in chosen
    )


class Shelf:
    """Knob values of stored programs, by genome: each is read once while it is among the latest asked for."""

    def __init__(self, texts: Callable[[str], str]) -> None:
        """
        Args:
            texts: genome id -> program.
        """
        self._texts = texts
        self.knobs = lru_cache(maxsize=64)(self._knobs)
        self.values = lru_cache(maxsize=SHELVED)(self._values)

    def _knobs(self, genome: str) -> tuple[genomes.Knob, ...]:
        return genomes.knobs(self._texts(genome))

    def _values(self, reference: str, genome: str) -> Mapping[str, genomes.Value]:
        """Knob of the reference -> its value in the genome."""
        return _reader(self._texts(reference)).values(self._texts(genome))


@lru_cache(maxsize=8)
def _reader(text: str) -> genomes.Reader:
    return genomes.Reader(text)


@lru_cache(maxsize=2 * LATEST)
def _values(reference: str, text: str) -> Mapping[str, genomes.Value]:
    """Knob of the reference -> its value in the text. Members of one species are read without parsing, others once."""
    return _reader(reference).values(text)


@lru_cache(maxsize=8)
def _matched(reference: str, other: str) -> Mapping[str, str]:
    return genomes.match(reference, other)


def _carried(reference: str, other: str, text: str) -> dict[str, genomes.Value]:
    """As `_values`, where the text is of the species of `other`."""
    found = _values(other, text)
    return {name: found[there] for name, there in _matched(reference, other).items() if there in found}


def _relatives(founder: Candidate, known: Mapping[str, Candidate], history: History, belief: Belief) -> tuple[list[Candidate], float]:
    """Members of the species that `founder` was made from, and what its scores have to be shifted by; none while either has no score."""
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
