"""Who survives, who becomes a parent, and how genomes are related. Pure functions of the history and the belief."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import nsmallest
from random import Random
from statistics import median

from evo.core.belief import MAD_TO_SD, Belief
from evo.core.history import Genome, History

TIE_BAND = 0.5  # noise sds: posterior means closer than this are a tie, and fewer tree nodes rank first
SHARPNESS = 4.0  # log weight of a parent per robust sd of posterior mean
Z_MOST = 5.0  # beyond it, better is not likelier: nobody takes all the draws


def ranking(genomes: Mapping[str, Genome], belief: Belief) -> Iterator[str]:
    """Scored genomes, best first by posterior mean; within a tie band the smaller program, then the better, then the older."""
    by_mean = sorted(belief.of, key=lambda id_: belief.of[id_].mean)  # stable: equal means stay in order of introduction
    start = 0
    while start < len(by_mean):
        end = start + 1
        limit = belief.of[by_mean[start]].mean + TIE_BAND * belief.noise_sd
        while end < len(by_mean) and belief.of[by_mean[end]].mean <= limit:
            end += 1
        yield from sorted(by_mean[start:end], key=lambda id_: (genomes[id_].size, belief.of[id_].mean, genomes[id_].index))
        start = end


@dataclass(frozen=True)
class Population:
    """Who survives, for value and for diversity.

    No species takes more than `cap` of the places while another one could fill them; places that nobody else wants go to the best of the
    rest.
    """

    history: History
    belief: Belief
    size: int  # the most that survive
    cap: int
    kept: tuple[str, ...]
    rest: tuple[str, ...]

    @cached_property
    def survivors(self) -> tuple[str, ...]:
        """All of them, best first."""
        return tuple(sorted((*self.kept, *self.rest), key=lambda id_: (self.belief.of[id_].mean, self.history.genomes[id_].index)))

    def bar(self, species: str) -> float | None:
        """The value that a new genome of a species must beat to survive, in bits per byte; None while there is room for it whatever its
        value, as for the first members of a species when others have more than their share. Ties are ignored: within a tie band a smaller
        program survives a better one."""
        members = [id_ for id_ in self.kept if self.history.genomes[id_].species == species]
        full = len(members) >= self.cap
        rivals = (*self.rest, *members) if full else self.kept
        if len(self.kept) + (len(self.rest) if full else 0) < self.size:
            return None
        return max(self.belief.of[id_].mean for id_ in rivals)


def population(history: History, belief: Belief, size: int, species_share: float) -> Population:
    """At most `size` survivors."""
    cap = max(1, math.ceil(size * species_share))
    kept: list[str] = []
    crowded: list[str] = []
    members: dict[str, int] = {}
    for id_ in ranking(history.genomes, belief):
        if len(kept) == size:
            break
        species = history.genomes[id_].species
        if members.get(species, 0) < cap:
            kept.append(id_)
            members[species] = members.get(species, 0) + 1
        else:
            crowded.append(id_)
    return Population(history, belief, size, cap, tuple(kept), tuple(crowded[: size - len(kept)]))


def best(history: History, belief: Belief) -> str | None:
    """The genome to hand out: best by belief, simpler in ties; but none that is believed to be worse than the seed, or that often fails."""
    seed = next((g.id for g in history.genomes.values() if not g.parents and g.id in belief.of), None)
    most = belief.of[seed].mean if seed is not None else math.inf
    ranked = ranking(history.genomes, belief)
    return next((id_ for id_ in ranked if belief.of[id_].mean <= most and _sound(history.genomes[id_])), None)


def contenders(history: History, belief: Belief) -> tuple[str, ...]:
    """The two that could be handed out, best first, whatever their species."""
    sound = (id_ for id_ in belief.of if _sound(history.genomes[id_]))
    return tuple(nsmallest(2, sound, key=lambda id_: (belief.of[id_].mean, history.genomes[id_].index)))


def _sound(genome: Genome) -> bool:
    """Whether it may be handed out. The seed may whatever it does: there is nothing else to fall back on."""
    return not genome.parents or not genome.unreliable


def parent_weights(candidates: Sequence[str], belief: Belief, tries: Mapping[str, int]) -> list[float]:
    """How likely each candidate is to be drawn: better and less tried ones are likelier.

    exp(SHARPNESS z) / (1 + tries), z being the posterior mean in robust sds below the median, pending tries counted. After
    ShinkaEvolve's weighted parents (arXiv 2509.19349, section 3.1), with an exponential in place of its sigmoid: a sigmoid weighs all
    of the better half alike, and lost to the greedy chain on four synthetic landscapes. A candidate without an estimate is typical.
    """
    means = [belief.of[id_].mean for id_ in candidates if id_ in belief.of]
    centre = median(means) if means else 0.0
    spread = MAD_TO_SD * median(abs(m - centre) for m in means) if means else 0.0
    scale = max(spread, belief.noise_sd)
    weights = []
    for id_ in candidates:
        z = (centre - belief.of[id_].mean) / scale if id_ in belief.of else 0.0
        weights.append(math.exp(SHARPNESS * max(min(z, Z_MOST), -Z_MOST)) / (1 + tries.get(id_, 0)))
    return weights


def draw_parent(candidates: Sequence[str], belief: Belief, tries: Mapping[str, int], rng: Random) -> str:
    """One of `candidates`, by `parent_weights`."""
    return rng.choices(candidates, weights=parent_weights(candidates, belief, tries))[0]


def ancestors(parents_of: Mapping[str, Iterable[str]], genome: str) -> set[str]:
    """`genome` and everything it descends from."""
    found, open_ = {genome}, [genome]
    while open_:
        for parent in parents_of.get(open_.pop(), ()):
            if parent not in found:
                found.add(parent)
                open_.append(parent)
    return found


def lowest_common_ancestor(parents_of: Mapping[str, Iterable[str]], born: Mapping[str, int], a: str, b: str) -> str | None:
    """The youngest genome that both descend from (or are); None if they are strangers.

    Lineage is a directed graph with two parents per crossover. Ancestors are born earlier than their descendants, so the
    common ancestor born last is never an ancestor of another common ancestor: it is a lowest one.
    """
    common = ancestors(parents_of, a) & ancestors(parents_of, b)
    return max(common, key=lambda id_: (born.get(id_, -1), id_), default=None)
