"""A model writes a proposal: ask, translate the reply into edits, judge them, dry-run a new structure if wanted, ask once more with what
was wrong.

A `ModelWriter` is called in threads beside the driver (desk.py), so it holds nothing that changes, and is given snapshots: a library
and a standing that nobody changes any more. What comes back is a value for the driver's thread to store: a candidate or the reason why
there is none, the tokens, and all that was said. Nothing that a model says or an endpoint does is raised.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import genomes
from evaluator.outcome import Duplicate
from evo import operators
from evo.core.records import CROSSOVER, Proposal
from evo.core.standing import Standing
from evo.errors import ModelError, one_line
from evo.llm import prompts
from evo.llm.brief import Setting, brief
from evo.llm.desk import Answer
from evo.llm.prompts import Message, TooLong
from evo.llm.replies import Reply
from evo.operators import Library, Written

TURNS = 2  # an answer, and a second one after what was wrong with the first
_EDITS_CHARACTERS = 100  # most of a note that tells the edits
_NAME_CHARACTERS = 80


class Speaker(Protocol):
    """What answers: evo.llm.endpoint.Model."""

    name: str
    max_tokens: int  # limit of one reply

    def complete(self, messages: Sequence[Message]) -> Reply:
        """Raises ModelError where there is no answer."""
        ...


@dataclass(frozen=True)
class Turn:
    """One answer of the model and what came of it."""

    reply: str
    prompt_tokens: int
    reply_tokens: int
    seconds: float
    trouble: str  # why it could not be used; "" if it could


@dataclass(frozen=True)
class Exchange:
    """All that was said about one proposal. `messages` are the first prompt; what followed is in the turns."""

    model: str
    messages: tuple[Message, ...]
    turns: tuple[Turn, ...]

    @property
    def tokens(self) -> int:
        return sum(turn.prompt_tokens + turn.reply_tokens for turn in self.turns)

    def as_json(self) -> str:
        return json.dumps({"tokens": self.tokens, **dataclasses.asdict(self)}, ensure_ascii=False, indent=1)


@dataclass(frozen=True)
class ModelWriter:
    """Writes proposals with a model: a `desk.Author`."""

    model: Speaker
    setting: Callable[[], Setting]  # asked before each prompt, so that people may edit the agenda while a run goes on
    prompt_bytes: int
    dry_run: Callable[[str], str] | None = None  # what is wrong with a program when it is run, "" if nothing; None: it is not run

    def __call__(self, proposal: Proposal, library: Library, standing: Standing, beside: int = 0) -> Answer:
        """One answer; `library` and `standing` must not change any more. `beside`: calls for the same parents that are under way."""
        asked = prompts.messages(brief(proposal, library, standing, self.setting(), beside), self.prompt_bytes)
        if isinstance(asked, TooLong):
            return Answer(proposal, None, str(asked), endpoint_failed=False, tokens=0, exchange="")
        conversation, turns = asked, list[Turn]()
        while True:
            try:
                reply = self.model.complete(conversation)
            except ModelError as error:
                return self._answer(proposal, asked, turns, str(error), endpoint_failed=True)
            result = self._judged(proposal, library, reply)
            trouble = result if isinstance(result, str) else ""
            turns.append(Turn(reply.text, reply.prompt_tokens, reply.reply_tokens, reply.seconds, trouble))
            if not isinstance(result, str):
                return dataclasses.replace(self._answer(proposal, asked, turns, ""), written=result)
            if len(turns) == TURNS:
                return self._answer(proposal, asked, turns, f"no usable edit in {TURNS} answers, the last: {self._told(reply, trouble)}")
            conversation = prompts.again(conversation, reply.text, trouble)

    def _answer(
        self, proposal: Proposal, asked: tuple[Message, ...], turns: Sequence[Turn], why: str, endpoint_failed: bool = False
    ) -> Answer:
        exchange = Exchange(one_line(self.model.name), asked, tuple(turns))
        return Answer(proposal, None, why, endpoint_failed, exchange.tokens, exchange.as_json() if turns else "")

    def _told(self, reply: Reply, trouble: str) -> str:
        """What was wrong with a reply, in words for people."""
        if reply.truncated:
            most = self.model.max_tokens
            return f"cut off at {most} tokens, thoughts included; raise that with --set llm.max_tokens={2 * most}"
        if reply.prompt_cut:
            read = f"its server counts {reply.prompt_tokens} tokens in a prompt that has more, and so has dropped a part"
            return f"{read}: give it a longer context (Ollama: OLLAMA_CONTEXT_LENGTH)"
        return trouble.partition("\n")[0]  # what follows are frames, for the model

    def _judged(self, proposal: Proposal, library: Library, reply: Reply) -> Written | str:
        """The candidate that a reply makes, or why it makes none, in words for the model."""
        if not reply.text.strip():
            cut_off = "the answer was cut off at its length limit before anything was said: think less, be shorter"
            return cut_off if reply.truncated else f"the answer is empty{f': {reply.silence}' if reply.silence else ''}"
        parent = library.texts(proposal.parents[0])
        try:
            text = genomes.patch(parent, reply.text, cut=reply.truncated)
            edits = genomes.describe(genomes.diff(parent, text))
        except genomes.GenomeError as error:
            return f"{'the answer was cut off at its length limit, be shorter; ' if reply.truncated else ''}{error}"
        if found := operators.problems(proposal, library, operators.mend(proposal, library, text)[0]):
            return f"the program would break the contract: {'; '.join(map(str, found[:3]))}"
        written = operators.judge(proposal, library, text, self._note(proposal, edits, reply.text))
        if isinstance(written.outcome, Duplicate):
            return f"that does the same as candidate {written.outcome.of} of this run: change something that runs"
        if self.dry_run is not None and written.candidate.species != genomes.species(parent) and (trouble := self.dry_run(written.text)):
            return trouble
        return dataclasses.replace(written, candidate=dataclasses.replace(written.candidate, writer=self._signature))

    @property
    def _signature(self) -> str:
        return one_line(self.model.name)[:_NAME_CHARACTERS]

    def _note(self, proposal: Proposal, edits: str, reply: str) -> str:
        """What changed, from the programs, and what the model says about it."""
        crossed = f"{proposal.parents[1][:8]} into {proposal.parents[0][:8]}: " if proposal.operator == CROSSOVER else ""
        changed = genomes.shortened(edits, _EDITS_CHARACTERS)
        said = remark(reply)
        return crossed + (f"{changed} – {said}" if said else changed)


def remark(reply: str) -> str:
    """What a reply says in its line NOTE, beside its edits; "" if nothing."""
    for line in genomes.prose(reply):
        name, colon, said = line.strip().strip("*").partition(":")
        if colon and name.strip("* ").upper() == "NOTE":
            return prompts.told(said.strip("* "))
    return ""


def settings_of(lab: Path, start: Setting) -> Callable[[], Setting]:
    """The `setting` of a `ModelWriter`: with the lab's program.md as it is now, or as it was at the start while it cannot be read."""

    def now() -> Setting:
        try:
            text = (lab / "program.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = start.agenda
        return dataclasses.replace(start, agenda=text)

    return now
