"""The belief about the members of a species, refined by what their numbers say: programs with like knobs have like scores.

The lineage alone (evo/core/belief.py) knows a genome's own draws and its parents. Where a species has enough scored members, a Gaussian
process over its knobs gives posterior means that lean on all neighbours, so that the luckiest draw is not taken for the best program: on
the public table the lowest observation flatters by 0.0007 to 0.0011, the process's mean by a third of that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from heapq import nsmallest
from typing import Protocol

import numpy as np

from evo.core.belief import Belief, Estimate
from evo.core.history import Genome
from evo.numeric import process
from evo.numeric.model import MODELLED_FROM, compressed, expanded, kernels, scaled, scheduled
from evo.numeric.space import Array, Space
from genomes import Knob, Value

MOST = 240  # members that are modelled: the better ones by lineage, and the latest
SPECIES = 6  # most species that are refined, the most numerous first: the cost stays bounded


class KnobValues(Protocol):
    """Where the knobs of genomes are read (evo/species.py)."""

    def knobs(self, genome: str) -> tuple[Knob, ...]:
        """The knobs of a genome."""
        ...

    def values(self, reference: str, genome: str) -> Mapping[str, Value]:
        """Knob of the reference -> its value in the genome."""
        ...


def refine(genomes: Mapping[str, Genome], belief: Belief, shelf: KnobValues) -> Belief:
    """The belief with the estimates of numerous species replaced; `genomes` in the order of their introduction."""
    members: dict[str, list[Genome]] = {}
    for genome in genomes.values():
        if genome.id in belief.of:
            members.setdefault(genome.species, []).append(genome)
    numerous = sorted((m for m in members.values() if len(m) >= MODELLED_FROM), key=lambda m: (-len(m), m[0].index))
    estimates = dict(belief.of)
    for species in numerous[:SPECIES]:
        estimates |= _modelled(species, belief, shelf)
    return dataclasses.replace(belief, of=estimates)


def _modelled(species: list[Genome], belief: Belief, shelf: KnobValues) -> dict[str, Estimate]:
    first = species[0].id
    space = Space(shelf.knobs(first))
    if not len(space):
        return {}

    def arrays(members: list[Genome]) -> tuple[Array, Array, Array]:
        features = space.features(space.points([shelf.values(first, genome.id) for genome in members]))
        return features, np.array([genome.mean for genome in members]), np.array([float(len(genome.scores)) for genome in members])

    chosen = _chosen(species, belief)
    features, raw, draws = arrays(chosen)
    settled = arrays(_chosen(species[: scheduled(len(species))], belief)) if len(species) > MOST else (features, raw, draws)
    mean, sd = process.at_samples(kernels(*settled, belief.noise_sd, space.groups)[0], features, *scaled(raw, draws, belief.noise_sd))
    level, slope = expanded(mean, raw), compressed(raw)[1]
    return {genome.id: Estimate(float(level[i]), float(sd[i] / slope[i]), len(genome.scores)) for i, genome in enumerate(chosen)}


def _chosen(species: list[Genome], belief: Belief) -> list[Genome]:
    if len(species) <= MOST:
        return species
    better = nsmallest(MOST // 2, species, key=lambda genome: (belief.of[genome.id].mean, genome.index))
    kept = {genome.id for genome in better} | {genome.id for genome in species[-MOST // 2 :]}
    return [genome for genome in species if genome.id in kept]
