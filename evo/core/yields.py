"""What each operator has brought for the time that it took, and how the next explorations are shared out by it: a bandit. Pure.

The reward of a child is how far its posterior mean lies below that of its best parent; 0 if it does not, for failures and for duplicates.
Its cost is the seconds of its evaluations. An operator's rate is its reward per second over the latest `WINDOW` genomes, drawn towards the
rate of all as if it had `PRIOR_CHILDREN` more children of average yield. Its share is the configured one times the ratio of the two rates,
within bounds: what has stopped paying gives way, and nothing is given up for good.

On a plateau, when `PATIENCE` genomes in a row brought no new best, numbers are probably tuned as far as they go: operators that change
structure get a growing share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from evo.core.belief import Belief
from evo.core.history import EXPLORATIONS, Genome
from evo.core.records import ABLATE, CROSSOVER, MUTATE, RECOMBINE

WINDOW = 200  # genomes
PRIOR_CHILDREN = 10
MOST = 3.0  # largest factor on a configured share; its inverse is the smallest
PATIENCE = 48  # genomes
STRUCTURAL = (MUTATE, CROSSOVER, RECOMBINE, ABLATE)


@dataclass(frozen=True)
class Yield:
    """What one operator has brought."""

    children: int  # evaluated genomes
    failed: int  # children that failed: no score
    stopped: int  # children that were stopped early: their curves were hopeless
    better: int  # children believed better than each parent
    reward: float  # bits per byte, summed over the children
    seconds: float  # time of a slot

    @property
    def rate(self) -> float:
        """Bits per byte per hour of a slot."""
        return 3600 * self.reward / self.seconds if self.seconds else 0.0


def yields(genomes: Iterable[Genome], belief: Belief) -> dict[str, Yield]:
    """Operator -> its yield over these genomes, those without children left out."""
    children: dict[str, list[Genome]] = {}
    for genome in genomes:
        if genome.operator in EXPLORATIONS:
            children.setdefault(genome.operator, []).append(genome)
    return {name: _yield(children[name], belief) for name in EXPLORATIONS if name in children}


def _yield(children: list[Genome], belief: Belief) -> Yield:
    rewards = [reward(child, belief) for child in children]
    return Yield(
        len(children),
        sum(not child.scores and child.flaw is not None for child in children),
        sum(not child.scores and child.flaw is None for child in children),
        sum(r > 0 for r in rewards),
        sum(rewards),
        sum(child.seconds for child in children),
    )


def reward(child: Genome, belief: Belief) -> float:
    """How much better a child is believed to be than its best parent, in bits per byte; 0 if it is not, or nothing is known."""
    parents = [belief.of[parent].mean for parent in child.parents if parent in belief.of]
    if not parents or child.id not in belief.of:
        return 0.0
    return max(0.0, min(parents) - belief.of[child.id].mean)


def factors(genomes: dict[str, Genome], belief: Belief, leader: str | None, operators: Iterable[str]) -> dict[str, float]:
    """What the configured share of each of these operators is multiplied by.

    Args:
        genomes: in the order of their introduction.
        leader: the best of them.
    """
    latest = list(islice(reversed(genomes.values()), WINDOW))
    found = yields(latest, belief)
    made, seconds = sum(each.children for each in found.values()), sum(each.seconds for each in found.values())
    total = sum(each.reward for each in found.values())
    waited = next((place for place, genome in enumerate(latest) if genome.id == leader), len(latest))
    shares = {}
    for name in operators:
        ratio = max(1.0, waited / PATIENCE) if name in STRUCTURAL else 1.0
        if total > 0 and seconds > 0:
            own, prior_seconds, rate = found.get(name), PRIOR_CHILDREN * seconds / made, total / seconds
            reward, cost = (own.reward, own.seconds) if own else (0.0, 0.0)
            ratio *= (reward + rate * prior_seconds) / (cost + prior_seconds) / rate
        shares[name] = min(MOST, max(1 / MOST, ratio))
    return shares
