"""Policies: what to explore next, and whom to present at the end. Pure; `search.policy` names one.

evo        steady state: parents drawn from the survivors by belief and by how little they were tried; structure by mutate, and by
           crossover of different structures; by recombine and ablate, which go by what single edits have brought; numbers by tune; each
           as often as it pays (yields.py). A new structure is tuned first,
           so that it is not judged by the numbers of another. Confirm where a repeat can change who leads. A genome whose failure a
           rule may mend is repaired first, once
greedy     karpathy/autoresearch's chain: mutate the genome with the lowest observed score, keep the child if it scored lower;
           one draw each, no repeats, no crossover. Its champion is what the chain claims: the lowest observation
tune-only  the baseline that changes numbers alone: Optuna tunes the knobs of the best genome so far, nothing else is tried
random     the baseline that isolates selection: the same mutations and crossovers with parents drawn uniformly from everything
           that has a score. Its champion is chosen by the same belief as evo's, so that only the search differs
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from evaluator.outcome import Failed, Phase, Reason
from evo.core.belief import Belief
from evo.core.history import Genome, History
from evo.core.population import ancestors, best, draw_parent
from evo.core.records import ABLATE, CONFIRM, CROSSOVER, MUTATE, OPTUNA, RECOMBINE, REPAIR, TUNE
from evo.core.yields import factors

DECISIVE = 2.0  # sds of a lead above which a repeat would not change who leads
YOUNG_TRIES = 4  # explorations from a structure until it counts as tuned
EDITS_FROM = 12  # scored genomes from which edits are compared: fewer say nothing about single ones
REPAIRS_IN_A_ROW = 2  # most repairs of repairs; what fails after them is left alone
# Failures that genomes.repair has rules for, by reason or by message. Whether a rule applies to the program shows when it is written.
MENDABLE = (Reason.OUT_OF_MEMORY, Reason.NOT_FINITE, Reason.NO_MODEL)
MENDABLE_WORDS = re.compile(
    r"is not defined|object has no attribute|unexpected keyword argument|no tokeniser of size|fused|view size is not compatible|same dtype"
    r"|on the same device|indices should be either on|shapes cannot be multiplied|leaf Variable|only for scalar outputs"
)
SHARED = (MUTATE, CROSSOVER, RECOMBINE, ABLATE, TUNE)  # operators that share explorations by what they bring (yields.py)
PARTNER_DRAWS = 8  # tries to find a partner that is neither ancestor nor descendant and was not crossed with before


@dataclass(frozen=True)
class SearchConfig:
    """Settings of a search, fixed for a run except for the limits."""

    policy: str = "evo"
    population: int = 16  # survivors
    seed: int = 0  # of the run; with the index of a proposal it gives all randomness
    calibrations: int = 4  # repeats of the seed genome before anything else; the driver raises it to the number of slots
    evals: int | None = None  # new genomes to evaluate; None: no limit
    crossover_share: float = 0.15  # of explorations, once there are two unrelated survivors of different structure
    recombine_share: float = 0.05  # of explorations, once others have edits of the structure that the parent lacks
    ablate_share: float = 0.02  # of explorations, of parents with edits of the structure
    tune_share: float = 0.6  # of explorations other than crossover; a run that starts with a model has less (session.py)
    confirm_share: float = 0.05  # of evaluations, at most
    confirm_draws: int = 6  # scores of a genome after which it is settled and not repeated
    species_share: float = 0.5  # of the survivors that one species may take while others could
    early_stopping: float = 0.02  # share of would-be survivors that stopping runs early may cost; 0: every run gets its whole budget
    final_draws: int = 4  # fresh draws of champion and seed genome each, behind the announcement
    widen_after: int = 8  # explorations in a row without an evaluation, after which anything is mutated, not only survivors
    give_up_after: int = 200  # … in a row, after which exploration ends: nothing new can be written

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"search.policy is {self.policy!r}, known: {', '.join(POLICIES)}")
        least = {"population": 1, "calibrations": 4, "final_draws": 2, "confirm_draws": 1, "widen_after": 1, "give_up_after": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"search.{name} is {getattr(self, name)}, must be at least {low}")
        for name in ("crossover_share", "recombine_share", "ablate_share", "tune_share", "confirm_share", "species_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"search.{name} is {getattr(self, name)}, must be between 0 and 1")
        if self.early_stopping and not 1e-9 <= self.early_stopping < 0.5:
            raise ValueError(f"search.early_stopping is {self.early_stopping}, must be 0 (never stop), or at least 1e-9 and below 0.5")
        if self.evals is not None and self.evals < 0:
            raise ValueError(f"search.evals is {self.evals}, must not be negative")


@dataclass(frozen=True)
class View:
    """What a policy sees: the told records, with pending proposals counted in."""

    config: SearchConfig
    founder: str  # the seed genome
    history: History
    belief: Belief
    survivors: tuple[str, ...]
    contenders: tuple[str, ...]  # leader and runner-up, the two whose repeats may decide who is handed out
    tries: Mapping[str, int]  # genome -> explorations with it as a parent, pending ones included
    crossed: frozenset[frozenset[str]]
    repaired: frozenset[str]  # genomes that have a repair, pending ones included
    draws: Mapping[str, int]  # genome -> pending repeats
    explorations: int  # evaluated and pending
    confirmations: int  # told and pending


@dataclass(frozen=True)
class Move:
    """An operator and its parents."""

    operator: str
    parents: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """How to explore, and whom to present."""

    explore: Callable[[View, Random], Move]
    champion: Callable[[History, Belief], str | None]
    stops: bool = False  # ends runs early if they cannot survive: `search.early_stopping`
    widens: bool = False  # out of ideas near the survivors, it mutates anything
    numbers_apart: bool = False  # tune sets numbers, mutations change structure alone
    models: bool = False  # looks at what the knobs' values say about the scores (evo/numeric/refine.py)

    @property
    def heeds_repeats(self) -> bool:
        """Whether further draws of a genome can change whom it presents."""
        return self.champion is best


def widen(view: View, rng: Random) -> Move:
    """Out of ideas near the survivors: mutate anything that ever had a score."""
    return Move(MUTATE, (_anyone(view, rng),))


def _evo(view: View, rng: Random) -> Move:
    broken = repairable(view)
    if broken is not None:
        return Move(REPAIR, (broken,))
    contender = confirmation(view)
    if contender is not None:
        return Move(CONFIRM, (contender,))
    candidates = view.survivors or (view.founder,)
    parent = draw_parent(candidates, view.belief, view.tries, rng)
    shares, tune_share = _shares(view, parent)
    drawn = rng.random()
    if drawn < shares[CROSSOVER]:
        genomes = view.history.genomes  # within a structure only numbers differ, and those have a better way to meet
        others = tuple(c for c in candidates if genomes[c].species != genomes[parent].species) if parent in genomes else ()
        partner = _partner(view, parent, lambda: draw_parent(others, view.belief, view.tries, rng)) if others else None
        if partner is not None:
            return Move(CROSSOVER, (parent, partner))
    elif drawn < shares[CROSSOVER] + shares[RECOMBINE]:
        return Move(RECOMBINE, (parent,))
    elif drawn < shares[CROSSOVER] + shares[RECOMBINE] + shares[ABLATE]:
        return Move(ABLATE, (parent,))
    return Move(TUNE, (untuned(view) or parent,)) if rng.random() < tune_share else Move(MUTATE, (parent,))


def untuned(view: View) -> str | None:
    """The best survivor whose structure was not tuned yet and that is not clearly behind the leader; None when there is none. It has the
    numbers of another structure, so it deserves a few tries before it is judged."""
    genomes, of = view.history.genomes, view.belief.of
    tried: dict[str, int] = {}  # species -> tries of its members as parents
    for id_, count in view.tries.items():
        if id_ in genomes:
            tried[genomes[id_].species] = tried.get(genomes[id_].species, 0) + count
    for id_ in view.survivors:
        lead = of[id_].mean - of[view.survivors[0]].mean
        if tried.get(genomes[id_].species, 0) < YOUNG_TRIES and lead < DECISIVE * math.hypot(of[id_].sd, of[view.survivors[0]].sd):
            return id_
    return None


def _shares(view: View, parent: str) -> tuple[dict[str, float], float]:
    """Shares of crossover, recombine and ablate among explorations, and of tune among the others: as configured, moved by what each has
    brought."""
    config, leader = view.config, view.survivors[0] if view.survivors else None
    factor = factors(view.history.genomes, view.belief, leader, SHARED)
    lacked, had = _edited(view, parent)
    configured = {CROSSOVER: config.crossover_share, RECOMBINE: lacked * config.recombine_share, ABLATE: had * config.ablate_share}
    weights = {name: share * factor[name] for name, share in configured.items()}
    tune, mutate = config.tune_share * factor[TUNE], (1 - config.tune_share) * factor[MUTATE]
    total = sum(weights.values()) + max(0.0, 1 - sum(configured.values())) * (tune + mutate)
    return {name: weight / total for name, weight in weights.items()}, tune / (tune + mutate)


def _edited(view: View, parent: str) -> tuple[bool, bool]:
    """Whether others have edits of the structure that the parent may lack, and whether it has any itself; no and no while too little is
    known about edits."""
    genomes = view.history.genomes
    if len(view.belief.of) < EDITS_FROM or parent not in genomes or view.founder not in genomes:
        return False, False
    own = {genomes[parent].species, genomes[view.founder].species}
    return any(genomes[id_].species not in own for id_ in view.belief.of), len(own) > 1


def _greedy(view: View, rng: Random) -> Move:
    return Move(MUTATE, (_lowest_observed(view.history, view.belief) or view.founder,))


def _tune_only(view: View, rng: Random) -> Move:
    return Move(OPTUNA, (best(view.history, view.belief) or view.founder,))


def _random(view: View, rng: Random) -> Move:
    parent = _anyone(view, rng)
    if rng.random() < view.config.crossover_share:
        partner = _partner(view, parent, lambda: _anyone(view, rng))
        if partner is not None:
            return Move(CROSSOVER, (parent, partner))
    return Move(MUTATE, (parent,))


def repairable(view: View) -> str | None:
    """The oldest genome without a score whose failure a rule may mend and that has no repair yet; None when there is none."""
    genomes = view.history.genomes
    for genome in genomes.values():
        open_ = not genome.scores and genome.parents and genome.id not in view.repaired
        if open_ and not _lesson(genome, genomes) and _mendable(genome.flaw) and _repairs_behind(genome, genomes) < REPAIRS_IN_A_ROW:
            return genome.id
    return None


def _lesson(genome: Genome, genomes: Mapping[str, Genome]) -> bool:
    """Whether a tuner that sees how much memory programs need proposed it too large: the tuner learns from it, and has better proposals
    than half the rows."""
    too_large = genome.operator == TUNE and genome.flaw is not None and genome.flaw.reason == Reason.OUT_OF_MEMORY
    parent = genomes.get(genome.parents[0]) if too_large else None
    return parent is not None and parent.memory_gib > 0


def _mendable(flaw: Failed | None) -> bool:
    if flaw is None or flaw.phase == Phase.SCORE:  # how many rows are scored at once is the judge's affair
        return False
    return flaw.reason in MENDABLE or MENDABLE_WORDS.search(flaw.message) is not None


def _repairs_behind(genome: Genome, genomes: Mapping[str, Genome]) -> int:
    """How many repairs in a row made a genome."""
    count, at = 0, genome
    while at.operator == REPAIR:
        count, at = count + 1, genomes[at.parents[0]]
    return count


def confirmation(view: View) -> str | None:
    """The genome whose repeat could change who leads: leader or runner-up, while their gap is within `DECISIVE` sds.

    The one with fewer draws goes first. None when the lead is clear, both are settled, or the share is used up.
    """
    config, estimates = view.config, view.belief.of
    if len(view.contenders) < 2 or view.confirmations + 1 > config.confirm_share * (view.explorations + view.confirmations + 1):
        return None
    first, second = view.contenders
    lead = estimates[second].mean - estimates[first].mean
    if lead > DECISIVE * math.hypot(estimates[first].sd, estimates[second].sd):
        return None
    drawn = {id_: estimates[id_].n + view.draws.get(id_, 0) for id_ in (first, second)}
    least = first if drawn[first] <= drawn[second] else second
    return least if drawn[least] < config.confirm_draws else None


def _partner(view: View, parent: str, draw: Callable[[], str]) -> str | None:
    """A genome to cross `parent` with: neither ancestor nor descendant (the merge would be the younger one), and no pair twice; None if
    none is found."""
    parents_of = {id_: g.parents for id_, g in view.history.genomes.items()}
    line = ancestors(parents_of, parent)
    for _ in range(PARTNER_DRAWS):
        other = draw()
        if other not in line and frozenset((parent, other)) not in view.crossed and parent not in ancestors(parents_of, other):
            return other
    return None


def _anyone(view: View, rng: Random) -> str:
    return rng.choice(list(view.belief.of) or [view.founder])


def _lowest_observed(history: History, belief: Belief) -> str | None:
    """The chain's incumbent. The seed's repeats count once, by its first draw, as upstream would have run it."""
    scored = [g for g in history.genomes.values() if g.scores]
    return min(scored, key=lambda g: (g.scores[0], g.index)).id if scored else None


POLICIES: Mapping[str, Policy] = {
    "evo": Policy(_evo, best, stops=True, widens=True, numbers_apart=True, models=True),
    "greedy": Policy(_greedy, _lowest_observed),
    "random": Policy(_random, best),
    "tune-only": Policy(_tune_only, best),
}
