"""A model writes a proposal: ask (talk.py), translate the reply into edits, judge them, dry-run a new structure if wanted, ask once more
with what was wrong.

A `ModelWriter` is called in threads beside the driver (desk.py), so it holds nothing that changes, and is given snapshots: a library
and a standing that nobody changes any more. What comes back is a value for the driver's thread to store: a candidate or the reason why
there is none, the tokens, and all that was said. Nothing that a model says or an endpoint does is raised.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import genomes
from evaluator.outcome import Duplicate
from evo import operators
from evo.core.records import CROSSOVER, Proposal
from evo.core.standing import Standing
from evo.errors import one_line
from evo.llm import prompts
from evo.llm.brief import Setting, brief
from evo.llm.desk import Answer
from evo.llm.prompts import Message
from evo.llm.replies import Reply
from evo.llm.talk import Silence, Speaker, Talk, Turn
from evo.operators import Library, Written

TURNS = 2  # an answer, and a second one after what was wrong with the first
_EDITS_CHARACTERS = 100  # most of a note that tells the edits
_NAME_CHARACTERS = 80


@dataclass(frozen=True)
class Exchange:
    """All that was said about one proposal. `messages` are the first prompt; what followed is in the turns."""

    model: str
    messages: tuple[Message, ...]
    left_out: tuple[str, ...]  # parts of the prompt that there was no room for
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
        talk = Talk(self.model, brief(proposal, library, standing, self.setting(), beside), self.prompt_bytes)
        trouble = ""
        while True:
            reply = talk.next_reply(trouble)
            if isinstance(reply, Silence):
                return self._answer(proposal, talk, reply.why, reply.endpoint_failed)
            result = self._judged(proposal, library, reply)
            trouble = result if isinstance(result, str) else ""
            talk.heard(reply, trouble)
            if not isinstance(result, str):
                return dataclasses.replace(self._answer(proposal, talk, ""), written=result)
            if len(talk.turns) == TURNS:
                why = f"no usable edit in {TURNS} answers, the last: {talk.told(reply, trouble)}"
                return self._answer(proposal, talk, why, endpoint_failed=reply.prompt_cut)

    def _answer(self, proposal: Proposal, talk: Talk, why: str, endpoint_failed: bool = False) -> Answer:
        exchange = Exchange(one_line(self.model.name), talk.prompt.messages, talk.prompt.left_out, tuple(talk.turns))
        notice = "" if endpoint_failed else talk.notice
        return Answer(proposal, None, why, endpoint_failed, exchange.tokens, exchange.as_json() if talk.turns else "", notice)

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
