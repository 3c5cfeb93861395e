"""Where a model writes while programs train: calls run in threads beside the driver, which never waits for one of them.

The driver starts a call for a proposal and takes the answers that have arrived whenever it fills slots. A proposal that comes back without
a program is written by the built-in operator under the same index, so that a broken model costs no slot; so is one that the model still has
when a slot has nothing else to do. An endpoint that fails is left alone for a time that doubles, then tried with one call; meanwhile the
run goes on with built-in mutations.

Threads are daemons and hold nothing: a call that is under way when the process ends is forgotten, its index stays unused.
"""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from evo.core.records import CROSSOVER, MUTATE, Proposal
from evo.core.standing import Standing
from evo.operators import Library, Written

WRITES = (MUTATE, CROSSOVER)  # operators that a model takes over
_FIGURES = re.compile(r"\d[\d,]*")
PAUSE_SECONDS, PAUSE_MOST_SECONDS = 5.0, 300.0


@dataclass(frozen=True)
class Answer:
    """What a model made of one proposal."""

    proposal: Proposal
    written: Written | None  # None: nothing that can be evaluated; `why` says why
    why: str
    endpoint_failed: bool  # the endpoint gave no reply, whatever the model is worth
    tokens: int
    exchange: str  # all that was said, as JSON for people and for the store; "" when nothing was
    notice: str = ""  # what people should know once, whatever came of it


Author = Callable[[Proposal, Library, Standing, int], Answer]
"""Writes a proposal with a model, from what was known when it was started; the number is that of calls for the same parents which were
under way then. Called in threads; raises nothing that is not a bug."""


class Aside:
    """A question to an endpoint, asked in a thread, so that nobody waits for one that hangs."""

    def __init__(self, question: Callable[[], str]) -> None:
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=lambda: self._answers.put(question()), name="question to an endpoint", daemon=True).start()

    def answer(self, wait_seconds: float = 0.0) -> str:
        """The answer, once; "" while it has not come, and where there is nothing to say."""
        try:
            return self._answers.get(timeout=wait_seconds) if wait_seconds else self._answers.get_nowait()
        except queue.Empty:
            return ""


class Desk:
    """Calls under way, and how the endpoint is doing. Used by the driver's thread alone, apart from the threads that it starts itself."""

    def __init__(self, author: Author, calls: int, token_limit: int | None = None, tokens: int = 0, doubt: Aside | None = None) -> None:
        """
        Args:
            calls: under way at once, at most.
            token_limit: of the run; beyond it nothing more is asked. Each call under way counts as much as the largest so far.
            tokens: spent before this session.
            doubt: asks why the first call may fail.
        """
        self.tokens = tokens
        self.tokens_before = tokens
        self.refused = 0  # proposals of this session that the model gave back without a usable program
        self.failed = 0  # proposals of this session to which the endpoint gave no reply
        self.late = 0  # proposals of this session that were taken back: a slot would have waited
        self.remedy = ""  # what is done about an endpoint that fails; "" while it does not
        self._why = ""  # what the model or its endpoint last got wrong
        self._author = author
        self._calls = calls
        self._token_limit = token_limit
        self._busy: dict[int, Proposal] = {}  # in the order in which they were started
        self._taken_back: set[int] = set()  # their calls are still under way
        self._too_late: list[Answer] = []
        self._arrived: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        self._largest: int | None = None  # most tokens of an answer in this session; until there is one, no second call under a limit
        self._doubt = doubt
        self._said = set[str]()  # what people have been told, without figures
        self._news: list[str] = []  # what they have not
        self._failures = 0  # of the endpoint, in a row
        self._closed_until = 0.0  # monotonic

    @property
    def staffed(self) -> bool:
        """Whether a model writes here at all."""
        return self._calls > 0

    @property
    def busy(self) -> int:
        """Proposals whose answers are waited for."""
        return len(self._busy)

    @property
    def spent(self) -> str:
        """Why the model is no longer asked in this run; "" while it is."""
        reached = self._token_limit is not None and self.tokens >= self._token_limit
        return f"the limit of {self._token_limit} tokens is reached" if reached else ""

    @property
    def why(self) -> str:
        """Why the model is no longer asked, or what it last got wrong; "" while all is well."""
        return self.spent or self._why

    @property
    def trouble(self) -> str:
        """The same with what is done about it, as long as something is."""
        return self.why if self.spent or not self.remedy else f"{self.why}; {self.remedy}"

    @property
    def open(self) -> bool:
        """Whether another proposal may be given to the model now."""
        if self.spent:
            return False
        under_way = len(self._busy) + len(self._taken_back)
        if self._token_limit is not None and under_way and self._tokens_after(under_way) >= self._token_limit:
            return False
        return under_way < (1 if self._failures else self._calls) and time.monotonic() >= self._closed_until

    def _tokens_after(self, calls: int) -> float:
        """Tokens that will have been spent, at most as far as anybody knows, when the calls under way have come."""
        return self.tokens + calls * self._largest if self._largest is not None else math.inf

    def start(self, proposal: Proposal, library: Library, standing: Standing) -> None:
        """Gives a proposal to the model; the library must not change any more."""
        beside = sum(p.parents == proposal.parents for p in self._busy.values())

        def work() -> None:
            try:
                self._arrived.put(self._author(proposal, library, standing, beside))
            except BaseException as error:  # noqa: BLE001  a bug of ours: raised where the driver can see it
                self._arrived.put(error)

        self._busy[proposal.index] = proposal
        threading.Thread(target=work, name=f"model call {proposal.index}", daemon=True).start()

    def take_back(self) -> Proposal | None:
        """The proposal that the model has had for longest, whose answer no longer counts: a slot needs it now. None if it has none."""
        if not self._busy:
            return None
        index = next(iter(self._busy))
        self.late += 1
        self._taken_back.add(index)
        return self._busy.pop(index)

    def answers(self, wait_seconds: float = 0.0) -> list[Answer]:
        """What has arrived since the last call.

        Args:
            wait_seconds: for the first one, if none is there.
        """
        found: list[Answer] = []
        while self._busy or self._taken_back:
            try:
                arrived = self._arrived.get(timeout=wait_seconds) if wait_seconds and not found else self._arrived.get_nowait()
            except queue.Empty:
                break
            if isinstance(arrived, BaseException):
                raise arrived
            late = arrived.proposal.index in self._taken_back
            self._note(arrived, late)
            (self._too_late if late else found).append(arrived)
        return found

    def too_late(self) -> list[Answer]:
        """Answers since the last call to proposals that had been taken back. They are not used, but what they cost counts."""
        found, self._too_late = self._too_late, []
        return found

    def news(self) -> list[str]:
        """What people should know about the model and do not yet, in sentences; each is said once, also if its figures change."""
        if self._doubt is not None and (doubt := self._doubt.answer()):
            self._say(f"model: {doubt}")
        found, self._news = self._news, []
        return found

    def _say(self, line: str) -> None:
        kind = _FIGURES.sub("", line)
        if kind not in self._said:
            self._said.add(kind)
            self._news.append(line)

    def _note(self, answer: Answer, late: bool) -> None:
        self._busy.pop(answer.proposal.index, None)
        self._taken_back.discard(answer.proposal.index)
        self.tokens += answer.tokens
        self._largest = max(answer.tokens, self._largest or 0)
        if not late:  # else the proposal counts as such already
            self.failed += answer.endpoint_failed
            self.refused += answer.written is None and not answer.endpoint_failed
        self._why = answer.why
        if answer.notice:
            self._say(answer.notice)
        now = time.monotonic()
        if not answer.endpoint_failed:
            self._failures, self._closed_until, self.remedy = 0, 0.0, ""
        elif now >= self._closed_until:  # calls under way when it failed are the same failure
            pause = min(PAUSE_SECONDS * 2**self._failures, PAUSE_MOST_SECONDS)
            self._failures += 1
            self._closed_until = now + pause
            self.remedy = f"built-in mutations meanwhile, next try in {pause:.0f} s"


class NoDesk(Desk):
    """A desk where no model writes: it has no place for a call, so it is never open, and has nothing under way or spent."""

    def __init__(self) -> None:
        super().__init__(_nobody, calls=0)


def _nobody(proposal: Proposal, library: Library, standing: Standing, beside: int) -> Answer:
    raise AssertionError(f"proposal {proposal.index} was given to a model, and there is none")
