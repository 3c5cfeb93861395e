"""The loop of a run: ask → write → evaluate → store → tell, in one thread, one event at a time.

What holds, whenever the process is killed: `begin` is stored before a slot starts and `finish` before the search is told, so what is
finished is kept and what is pending is run again under its index. Interrupting the loop (KeyboardInterrupt) is no different.

One candidate is written ahead, so that a slot that becomes free has its next program at once. With a model, as many as there are slots are
written ahead or being written: calls run beside training (evo/llm/desk.py), and a slot that would have to wait for one gets a built-in
mutation instead. Proposals without a program (Unwritten, Duplicate) take no slot. An Interrupted candidate runs again under its index; the
third time it is given up as Unwritten, which is neutral: the fault is the harness's, so the genome gets no failure and may be proposed
again. Whatever else breaks is looked after by evo/upkeep.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import genomes
from evaluator.outcome import CurvePoint, Evaluated, Failed, Interrupted, Unwritten
from evo import operators
from evo.core.records import CALIBRATE, REPEATS, Candidate, Record
from evo.core.stopping import Curves, latest
from evo.core.words import counted
from evo.errors import SeedFailsError, one_line
from evo.executor import Executor
from evo.folder import Finished
from evo.given import Given
from evo.hours import Hours
from evo.lab import Rendered
from evo.llm.desk import WRITES, Answer, Desk
from evo.proof import refuse_ignored_seed
from evo.search import Search, SearchConfig
from evo.species import Shelf
from evo.store import Store, curve, known
from evo.upkeep import INTERRUPTIONS, Fate, Upkeep
from evo.views.current import Views

AHEAD = 1  # candidates written before a slot is free
TICK_SECONDS = 0.5  # longest time without a look at the clock
VIEW_SHARE = 0.05  # share of the run's time that may go into refreshing views
TIME_UP = "the run's time was up before the model had written it"
HOPELESS = 2  # evaluations of the seed genome, none with a score, that show that it cannot be evolved


class Watcher(Protocol):
    """Sees a run while it goes on."""

    def told(self, record: Record, driver: Driver) -> None:
        """A record is stored and the search knows it."""
        ...

    def answered(self, answer: Answer, driver: Driver) -> None:
        """The model has answered, or its endpoint has failed."""
        ...

    def tick(self, driver: Driver) -> None:
        """Time has passed; at least every `TICK_SECONDS` while the executor does not block."""
        ...


class Driver:
    """One session of a run. `run` is called once."""

    def __init__(
        self,
        config: SearchConfig,
        store: Store,
        executor: Executor,
        lab: Rendered,
        watcher: Watcher,
        desk: Desk,
        given: Sequence[Given] = (),
    ) -> None:
        """
        Args:
            desk: where a model writes; `NoDesk()`: built-in operators alone.
            given: programs that people hand in, evaluated as soon as the seed genome's repeats are under way.
        """
        self._founder = operators.describe_seed(lab.seed)
        self._shelf = Shelf(self._text)
        self.search = Search(config, self._founder.genome, self._shelf)
        self.store = store
        self.executor = executor
        self.candidates: dict[int, Candidate] = {}  # submitted and not finished
        self.hours = Hours(None, ())
        self.stopping = False  # interrupted, and about to end
        self.told_before = frozenset[int]()  # indexes of the records of earlier sessions
        self.lab = lab
        self.desk = desk
        self.views = Views(store.run_dir)
        self._watcher = watcher
        self._curves = Curves(self.search.false_stops, config.seed, lab.budget_seconds)
        self._known = dict[str, Candidate]()
        self._contract = genomes.contract_of(lab.seed)
        self._ready: deque[operators.Written] = deque()  # begun, and waiting for a slot
        self._given = deque(given)
        self.notices: list[str] = []  # for people
        self.upkeep = Upkeep(executor, self.notices.append)
        self._views_at, self._views_cost = 0.0, 0.0

    def run(self, hours: float | None = None) -> None:
        """Runs until the search is finished.

        Args:
            hours: limit of the time worked, over all sessions of the run, after which nothing new is explored.
        Raises:
            SeedFailsError: the seed genome gets no score, or (SeedIgnoredError) takes no seed.
            ClusterError: the slots are lost.
            HarnessError: no slot can evaluate anything.
        """
        self._resume()
        self.hours = Hours(hours, self.search.standing.records)
        try:
            while self._step(closing=self.hours.are_up):
                self._watcher.tick(self)
                self._refresh_views()
        except KeyboardInterrupt:
            self.stopping = True
            self._watcher.tick(self)
            raise
        finally:
            self.views.refresh(self.search.standing, whole=True)

    @property
    def not_added(self) -> tuple[str, ...]:
        """Files of programs that were handed in and are not part of the run yet."""
        return tuple(given.file for given in self._given)

    # ---- steps

    def _step(self, closing: bool) -> bool:
        """Fills the slots and takes in one event, or none where nothing comes for a while; False at the end of the run."""
        self._take_answers(closing)
        self._fill(closing)
        if not self.candidates and not self._ready:  # else something runs or waits for a slot
            if not self.desk.busy:
                return False
            self._take_answers(closing, wait_seconds=TICK_SECONDS)
            return True
        event = self.executor.next_finished(TICK_SECONDS)
        if event is not None:
            self._take(event)
        return True

    def _resume(self) -> None:
        records, pending = self.store.records(), self.store.pending()
        self.search.resume(records, (c.proposal for c in pending))
        self.told_before = frozenset(r.index for r in records)
        for record in latest(records):
            self._curves.add(record, self._curve(record.index))
        self._known.update(known(records, pending))
        there, limit = self.search.history.evaluated, self.search.config.evals
        if limit is not None and there > limit:
            self.notices.append(f"the run has {counted(there, 'new genome')} already, and the limit is {limit}: nothing new is explored")
        self._prove_seed()
        self._ready.extend(operators.Written(c, self.store.text(c.genome)) for c in pending)

    def _fill(self, closing: bool) -> None:
        """Gives every free slot a candidate and writes ahead, until there is nothing to ask."""
        while True:
            while self._ready and self.executor.free_slots:
                begun = self._ready.popleft()
                self.candidates[begun.candidate.index] = begun.candidate
                self.executor.submit(begun.candidate, begun.text)
            starving = self.executor.free_slots > 0
            ask_model = self.desk.open and not starving
            ahead = max(AHEAD, self.executor.slots) if ask_model else AHEAD
            if not starving and len(self._ready) + self.desk.busy >= ahead:
                return
            if not self._write_next(closing, ask_model) and not (starving and self._take_back(closing)):
                return

    def _write_next(self, closing: bool, ask_model: bool) -> bool:
        """Writes one proposal; False if there is none. One at a time, so that each is asked for with the previous ones written: a resumed
        run asks the same."""
        if self._given and not self.search.calibrating:
            self._introduce(self._given.popleft())
            return True
        for proposal in self.search.ask(1, closing):
            if ask_model and proposal.operator in WRITES:
                library = dataclasses.replace(self._library(), known=dict(self._known))
                self.desk.start(proposal, library, self.search.standing)
            else:
                self._accept(operators.write(proposal, self._library()))
            return True
        return False

    def _introduce(self, given: Given) -> None:
        there = self._founder if given.genome == self._founder.genome else self._known.get(given.genome)
        if there is not None:
            self.notices.append(f"{given.file} is already in the run, as {there.genome}, and was not added")
            return
        if given.unlike:
            self.notices.append(
                f"{given.file} has other values than this profile sets: {given.unlike}; what it gains or loses includes what they do here"
            )
        self._accept(operators.judge(self.search.introduce(), self._library(), given.text, given.file))

    def _take_back(self, closing: bool) -> bool:
        """Takes the proposal that the model has had for longest and writes it without the model: a slot is free and nothing is left to ask.
        False if the model has none."""
        proposal = self.desk.take_back()
        if proposal is not None:
            self._accept(operators.unwritten(proposal, TIME_UP) if closing else operators.write(proposal, self._library()))
        return proposal is not None

    def _accept(self, written: operators.Written) -> None:
        """Queues a written proposal for a slot, or records it at once if there is nothing to evaluate."""
        candidate = written.candidate
        if written.outcome is not None:
            now = time.time()
            self._tell(Record(candidate, written.outcome, "", now, now))
            return
        candidate = dataclasses.replace(candidate, rule=self._curves.rule(candidate, self.search.bar(candidate.species)))
        self.store.begin(candidate, written.text)
        self._known.setdefault(candidate.genome, written.candidate)
        self._ready.append(operators.Written(candidate, written.text))

    def _take_answers(self, closing: bool, wait_seconds: float = 0.0) -> None:
        """Takes in what the model has written since the last look. Without a usable program the built-in operator writes the proposal."""
        for answer in self.desk.answers(wait_seconds):
            if closing:
                self._accept(operators.unwritten(answer.proposal, TIME_UP))
            elif answer.written is None or answer.written.candidate.genome in self._known:  # the same may have been written meanwhile
                self._accept(operators.write(answer.proposal, self._library()))
            else:
                self._accept(answer.written)
            if answer.exchange:  # last: if a kill came in between, the index would go to another proposal, and this exchange with it
                self.store.keep_exchange(str(answer.proposal.index), answer.exchange)
            self._watcher.answered(answer, self)
        for answer in self.desk.too_late():
            if answer.exchange:  # the program of that index is not the model's
                self.store.keep_exchange(f"{answer.proposal.index}.late", answer.exchange)
            if answer.endpoint_failed:  # why the model is not asked for a while
                self._watcher.answered(answer, self)
        self.notices += map(one_line, self.desk.news())

    def _take(self, event: Finished) -> None:
        candidate = self.candidates.pop(event.index)
        if isinstance(event.outcome, Interrupted):
            self._again(candidate, event, event.outcome.why)
            return
        self.hours.finished(event)
        self._tell(Record(candidate, event.outcome, event.slot, event.started, event.finished))
        self.upkeep.finished(event)

    def _again(self, candidate: Candidate, event: Finished, why: str) -> None:
        """Runs an interrupted candidate again under its index, or gives it up: then it may be proposed anew."""
        fate = self.upkeep.interrupted(event, why)
        if fate is not Fate.NEVER:
            begun = operators.Written(candidate, self.store.text(candidate.genome))
            self._ready.append(begun) if fate is Fate.LATER else self._ready.appendleft(begun)
            return
        first = self._known.get(candidate.genome)
        if first is not None and first.proposal == candidate.proposal and candidate.operator not in REPEATS:
            del self._known[candidate.genome]
        outcome = Unwritten(f"given up after {INTERRUPTIONS} interruptions by the harness, the last: {why}")
        self._tell(Record(candidate, outcome, event.slot, event.started, event.finished))

    def _tell(self, record: Record) -> None:
        self.store.finish(record)
        self._curves.add(record, record.outcome.curve if isinstance(record.outcome, Evaluated) else ())
        self.search.tell(record)
        self._watcher.told(record, self)
        if isinstance(record.outcome, Failed) and record.operator == CALIBRATE and self._hopeless():
            said = record.outcome
            raise SeedFailsError(f"the lab's train.py gets no score ({said.reason} in {said.phase}: {said.message})")
        if record.operator == CALIBRATE:
            self._prove_seed()

    def _hopeless(self) -> bool:
        """Whether the seed genome fails, and not only on one slot, which may be broken, while others are at work or still starting."""
        scored, told = self.search.history.calibrations
        tried = [r for r in self.search.standing.records if r.operator == CALIBRATE]
        failed = {record.slot for record in tried if isinstance(record.outcome, Failed)}
        others = {running.slot for running in self.executor.running()} - failed
        return not scored and told >= HOPELESS and (len(failed) > 1 or not (others or self.executor.starting))

    def _prove_seed(self) -> None:
        refuse_ignored_seed(self.search.standing.records, self.search.config.calibrations, self._curve)

    def _refresh_views(self) -> None:
        """Refreshes the views, the less often the more they cost: their cost grows with the run."""
        now = time.monotonic()
        if now - self._views_at < self._views_cost / VIEW_SHARE:
            return
        self.views.refresh(self.search.standing)
        self._views_at, self._views_cost = time.monotonic(), time.monotonic() - now

    def _library(self) -> operators.Library:
        """What is known now. `known` goes on growing."""
        search = self.search
        return operators.Library(
            founder=self._founder,
            texts=self._text,
            known=self._known,
            seed=search.config.seed,
            history=search.history,
            belief=search.belief,
            contract=self._contract,
            prepare=self.lab.prepare,
            numbers_apart=search.policy.numbers_apart,
            curves=self._curve,
            shelf=self._shelf,
        )

    def _curve(self, index: int) -> tuple[CurvePoint, ...]:
        return curve(self.store.run_dir, index)

    def _text(self, genome: str) -> str:
        return self.lab.seed if genome == self._founder.genome else self.store.text(genome)
