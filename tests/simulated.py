"""A run of the pure core without programs: genomes are names, their true values follow a rule, draws add noise.

A genome's value is a function of (salt, the proposal that made it), so that a resumed run sees the same world.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from evaluator.outcome import Duplicate, Failed, Outcome, Phase, Reason, Scored, Unwritten
from evo.core.records import CROSSOVER, REPEATS, Candidate, Proposal, Record
from evo.search import Search, SearchConfig

Effect = Callable[[Random], float]  # what one mutation does to val_bpb
FOUNDER = "seed"


PACE_SLOPE = -0.25  # val_bpb per unit of log tokens, when a machine is busy


def scored(val_bpb: float, pace: float = 0.0) -> Scored:
    """A score; `pace` is the logarithm of how fast the machine was."""
    steps = round(10_000 * math.exp(pace))
    return Scored(val_bpb + PACE_SLOPE * pace, 10.0, 12.0, steps, 10 * steps, 50, 1.5, "key", "process")


@dataclass
class World:
    """True values and what evaluations say."""

    effect: Effect
    noise_sd: float = 0.001
    busy_sd: float = 0.0  # of the logarithm of the machine's pace, run by run
    failures: float = 0.0  # share of new genomes that crash
    memory: float = 0.0  # share of new genomes that run out of it
    blanks: float = 0.0  # share of proposals that are unwritten, and as many duplicates
    salt: int = 0
    truth: dict[str, float] = field(default_factory=lambda: {FOUNDER: 1.0})

    def evaluate(self, proposal: Proposal) -> Record:
        rng = Random(f"world/{self.salt}/{proposal.index}")
        if proposal.operator in REPEATS:
            genome = proposal.parents[0] if proposal.parents else FOUNDER
            return self._record(proposal, genome, self._score(genome, rng))
        draw = rng.random()
        if draw < self.blanks:
            return Record(Candidate(proposal, "", "", 0, ""), Unwritten("nothing applies"))
        if draw < 2 * self.blanks:
            return self._record(proposal, proposal.parents[0], Duplicate(0))
        genome = f"g{proposal.index}"
        parents = [self.truth[p] for p in proposal.parents]
        self.truth[genome] = min(parents) + self.effect(rng) * (0.3 if proposal.operator == CROSSOVER else 1.0)
        if rng.random() < self.failures:
            return self._record(proposal, genome, Failed(Reason.CRASH, Phase.TRAIN, "boom"))
        if rng.random() < self.memory:
            return self._record(proposal, genome, Failed(Reason.OUT_OF_MEMORY, Phase.TRAIN, "MemoryError: "))
        return self._record(proposal, genome, self._score(genome, rng))

    def _score(self, genome: str, rng: Random) -> Scored:
        noise = rng.gauss(0, self.noise_sd)
        return scored(self.truth[genome] + noise, rng.gauss(0, self.busy_sd) if self.busy_sd else 0.0)

    def _record(self, proposal: Proposal, genome: str, outcome: Outcome) -> Record:
        species = "species-0" if genome == FOUNDER else f"species-{int(genome[1:]) % 3}"
        return Record(Candidate(proposal, genome, species, 100 + len(genome), f"note of {genome}"), outcome)


def search(**config: object) -> Search:
    return Search(SearchConfig(**config), FOUNDER)  # type: ignore[arg-type]


def drive(found: Search, world: World, slots: int = 4, stop_after: int | None = None) -> list[Record]:
    """Runs to the end with `slots` slots that finish in a shuffled but reproducible order; the records in the order told."""
    told: list[Record] = []
    rng = Random(world.salt)
    running = list(found.pending)
    while stop_after is None or len(told) < stop_after:
        running += found.ask(slots - len(running))
        if not running:
            break
        told.append(world.evaluate(running.pop(rng.randrange(len(running)))))
        found.tell(told[-1])
    return told


def improving(rng: Random) -> float:
    """One edit in four gains up to 0.01, one in four ruins."""
    return rng.choice([0.0, 0.0, -0.01, 0.05]) * rng.random()


def neutral(rng: Random) -> float:
    return 0.0


def finished(found: Search, closing: bool = False) -> bool:
    """Whether nothing is pending and nothing is left to ask. Where something is, it is pending afterwards."""
    return not found.pending and not found.ask(1, closing)
