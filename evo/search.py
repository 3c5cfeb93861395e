"""The search: `ask` what to try next, `tell` what came of it. Pure: no clock, file, log or global randomness.

State is a function of the set of told records and of the pending proposals, both by index: any order of tells gives the same next
ask, and `resume` rebuilds a search exactly. Randomness comes from (run seed, proposal index). There is no generation barrier.

    calibrate   repeats of the seed genome, first of all: they give the noise. Slots beyond them get children of the seed
    explore     what the policy picks (mutate, crossover, tune, repair, confirm), until the limit of evaluations or `closing`
    final       once nothing else is pending: a few repeats of the champion where it has had few, then fresh draws of champion and
                seed genome (core/finals.py). Exploring further after them voids the announcement; the next closing draws afresh
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from random import Random

from evaluator.outcome import Interrupted
from evo.core.belief import Belief
from evo.core.finals import Group, next_draw, standing_group
from evo.core.history import EXPLORATIONS, SCORES_PER_FAILURE, History, Ledger, count_tries, crossed_pairs, repaired_genomes
from evo.core.policies import POLICIES, SearchConfig, View, widen
from evo.core.population import Population, contenders, population
from evo.core.records import CALIBRATE, CONFIRM, FINAL, GIVEN, SEEDS, Proposal, Record, lean
from evo.core.standing import Standing, refined
from evo.core.statistics import Announcement
from evo.core.words import counted
from evo.numeric.refine import KnobValues

__all__ = ["Search", "SearchConfig"]

CALIBRATION_TRIES = 4  # most tries, in times the calibrations that are wanted
LEADER_DRAWS = 3  # scores that a champion must have before the final draws; more where one of its evaluations failed
LATE_CONFIRMATIONS = 8  # most repeats after the last new genome: whoever leads next may fall back, too
STARVED = 4  # times `widen_after` proposals in a row without a new program, after which what is under way comes in first


class _Facts:
    """What the told records amount to; each part is computed once per set of records, when it is wanted."""

    def __init__(self, ledger: Ledger, config: SearchConfig, shelf: KnobValues | None) -> None:
        self._ledger = ledger
        self._config = config
        self._shelf = shelf

    @cached_property
    def history(self) -> History:
        return self._ledger.history()

    @cached_property
    def belief(self) -> Belief:
        return refined(self.history, self._config.policy, self._shelf)

    @cached_property
    def population(self) -> Population:
        return population(self.history, self.belief, self._config.population, self._config.species_share)


class Search:
    """See the module. Not thread-safe: the driver is its only caller."""

    def __init__(self, config: SearchConfig, founder: str, shelf: KnobValues | None = None) -> None:
        """
        Args:
            founder: the seed genome, where every run starts and which a champion is compared with.
            shelf: where knob values of told genomes are read; None: genomes are known by their lineage alone.
        """
        self.config = config
        self.policy = POLICIES[config.policy]
        self.founder = founder
        self._shelf = shelf
        self._records: dict[int, Record] = {}
        self._pending: dict[int, Proposal] = {}
        self._ledger = Ledger()
        self._facts = _Facts(self._ledger, config, shelf)

    # ---- verbs

    def ask(self, free_slots: int, closing: bool = False) -> tuple[Proposal, ...]:
        """Up to `free_slots` proposals, pending from now on until told.

        Nothing is returned when there is nothing left to do, or when the last explorations must come in first: before the
        final draws, and where they could use up the limit of evaluations.

        Args:
            closing: the driver's limit of hours is reached: explore no further, make the final draws.
        """
        asked = []
        for _ in range(free_slots):
            proposal = self._next(closing)
            if proposal is None:
                break
            self._pending[proposal.index] = proposal
            asked.append(proposal)
        return tuple(asked)

    def introduce(self) -> Proposal:
        """A place for a program that people hand in: a child of the seed genome, whose text is theirs. Pending from now on."""
        index = self._next_index()
        proposal = Proposal(index, GIVEN, (self.founder,), self._rng(index).randrange(SEEDS))
        self._pending[index] = proposal
        return proposal

    def tell(self, record: Record) -> None:
        """Takes in what came of a pending proposal.

        Raises:
            ValueError: the index was told already or never asked, the proposal is another one, or the outcome is
                Interrupted, which is run again under its index instead.
        """
        proposal = record.candidate.proposal
        if proposal.index in self._records:
            raise ValueError(f"index {proposal.index} was told already")
        if proposal.index not in self._pending:
            raise ValueError(f"index {proposal.index} was never asked")
        if self._pending[proposal.index] != proposal:
            raise ValueError(f"index {proposal.index} was asked as {self._pending[proposal.index]}, told as {proposal}")
        self._take(record)
        del self._pending[proposal.index]
        self._facts = _Facts(self._ledger, self.config, self._shelf)

    def resume(self, records: Iterable[Record], pending: Iterable[Proposal] = ()) -> None:
        """Replaces the state by that of a search that was told `records` and waits for `pending`.

        Raises:
            ValueError: an index occurs twice, or an outcome is Interrupted.
        """
        self._records, self._pending, self._ledger = {}, {}, Ledger()
        for record in records:
            if record.index in self._records:
                raise ValueError(f"index {record.index} occurs twice among the records")
            self._take(record)
        for proposal in pending:
            if proposal.index in self._records or proposal.index in self._pending:
                raise ValueError(f"index {proposal.index} is pending and known already")
            self._pending[proposal.index] = proposal
        self._facts = _Facts(self._ledger, self.config, self._shelf)

    # ---- what people want to know

    @property
    def pending(self) -> tuple[Proposal, ...]:
        """Asked and not told, in index order."""
        return tuple(self._pending[i] for i in sorted(self._pending))

    @property
    def history(self) -> History:
        return self._facts.history

    @property
    def belief(self) -> Belief:
        return self._facts.belief

    def bar(self, species: str) -> float | None:
        """What a new genome of a species must beat to survive, in bits per byte; None while there is room for it."""
        return self._facts.population.bar(species)

    @property
    def false_stops(self) -> float:
        """Share of would-be survivors that stopping runs early may cost; 0: nothing is stopped. Baselines train everything to the end."""
        return self.config.early_stopping if self.policy.stops else 0.0

    @property
    def exhausted(self) -> str:
        """Why exploration cannot go on although no limit is reached; empty while it can."""
        scored, told = self.history.calibrations
        if not scored and told >= CALIBRATION_TRIES * self.config.calibrations:
            return f"the seed genome got no score in {counted(told, 'evaluation')}: see their logs"
        if self.history.fruitless >= self.config.give_up_after:
            return f"{self.history.fruitless} proposals in a row gave no new program"
        return ""

    @property
    def champion(self) -> str | None:
        """The announced genome while its final draws stand, else the one that the policy would present now."""
        group = self._group()
        return group.champion if group else self.policy.champion(self.history, self.belief)

    @property
    def finals(self) -> tuple[int, int]:
        """How many of the standing final draws have come in, and how many there are to be where none fails."""
        group = self._group()
        return (sum(p.index in self._records for p in group.draws), len(group.arms) * group.wanted) if group else (0, 0)

    @property
    def announcement(self) -> Announcement | None:
        """What the standing final draws say; None before the end of their first stage, and where no genome beat the seed."""
        group = self._group()
        return group.announcement if group else None

    @property
    def standing(self) -> Standing:
        """Everything that people look at, as one value."""
        records = tuple(self._records[i] for i in sorted(self._records))
        return Standing(records, self.history, self.belief, self.founder, self.champion, self.announcement)

    # ---- the next proposal: pure in (records, pending, closing)

    def _next(self, closing: bool) -> Proposal | None:
        index = self._next_index()
        rng = self._rng(index)
        seed = rng.randrange(SEEDS)
        if closing or self.exhausted or self.limit_reached:
            return self._next_final(index, seed)
        if self.calibrating:
            return Proposal(index, CALIBRATE, (), seed)
        view = self._view()
        if self.history.fruitless >= STARVED * self.config.widen_after and view.explorations > self.history.evaluated:
            return None  # else one idle slot could use up `give_up_after` while the others evaluate what would give it ideas
        if self.config.evals is not None and view.explorations >= self.config.evals:
            return None
        stuck = self.policy.widens and self.history.fruitless >= self.config.widen_after
        move = widen(view, rng) if stuck else self.policy.explore(view, rng)
        return Proposal(index, move.operator, move.parents, seed)

    def _next_index(self) -> int:
        return 1 + max(max(self._records, default=-1), max(self._pending, default=-1))

    def _rng(self, index: int) -> Random:
        return Random(f"{self.config.seed}/{index}")

    @property
    def limit_reached(self) -> bool:
        """As many new genomes were evaluated as were asked for."""
        return self.config.evals is not None and self.history.evaluated >= self.config.evals and not self.calibrating

    @property
    def calibrating(self) -> bool:
        """Whether repeats of the seed genome are due. Those that fail are replaced, up to a limit that one broken slot does not reach
        before it is found (health.py)."""
        scored, told = self.history.calibrations
        pending = sum(1 for p in self._pending.values() if p.operator == CALIBRATE)
        return scored + pending < self.config.calibrations and told + pending < CALIBRATION_TRIES * self.config.calibrations

    def _view(self) -> View:
        history, pending = self.history, self._pending.values()
        tries = dict(history.tries)
        for genome, count in count_tries(pending).items():
            tries[genome] = tries.get(genome, 0) + count
        draws: dict[str, int] = {}
        for proposal in pending:
            if proposal.operator == CONFIRM:
                draws[proposal.parents[0]] = draws.get(proposal.parents[0], 0) + 1
        return View(
            config=self.config,
            founder=self.founder,
            history=history,
            belief=self.belief,
            survivors=self._facts.population.survivors,
            contenders=contenders(history, self.belief),
            tries=tries,
            crossed=history.crossed | crossed_pairs(pending),
            repaired=history.repaired | repaired_genomes(pending),
            draws=draws,
            explorations=history.evaluated + sum(1 for p in pending if p.operator in EXPLORATIONS),
            confirmations=history.confirmations + sum(draws.values()),
        )

    # ---- final draws

    def _group(self) -> Group | None:
        """The standing final draws, pending ones included."""
        draws = [r.candidate.proposal for r in self.history.finals] + [p for p in self._pending.values() if p.operator == FINAL]
        others = max((i for i, p in self._pending.items() if p.operator != FINAL), default=-1)
        after = max(self.history.explored_until, others)
        return standing_group(draws, self._records, self.founder, self.config.final_draws, after)

    def _next_final(self, index: int, seed: int) -> Proposal | None:
        """The next final draw. Before the first of them come repeats of the champion, since one that leads by a lucky draw, or fails under
        other seeds, would waste them."""
        waiting = [p for p in self._pending.values() if p.operator != FINAL]
        if any(p.operator != CONFIRM for p in waiting):
            return None
        group, champion = self._group(), self.champion
        if champion is None or champion == self.founder or self.founder not in self.belief.of:
            return None
        if group is None and self.policy.heeds_repeats:
            genome = self.history.genomes[champion]
            drawn = len(genome.scores) + sum(p.parents[0] == champion for p in waiting)
            if (
                drawn < max(LEADER_DRAWS, SCORES_PER_FAILURE * genome.failures)
                and self.history.late_confirmations + len(waiting) < LATE_CONFIRMATIONS
            ):
                return Proposal(index, CONFIRM, (champion,), seed)
        return None if waiting else next_draw(group, champion, self.founder, self.config.final_draws, index, self.config.seed)

    def _take(self, record: Record) -> None:
        if isinstance(record.outcome, Interrupted):
            raise ValueError(f"index {record.index} was interrupted: run it again under its index")
        record = lean(record)
        self._records[record.index] = record
        self._ledger.add(record)
