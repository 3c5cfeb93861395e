"""One conversation with a model about a proposal: a prompt as long as its server has room for, an answer, and a second one after what was
wrong with the first.

Where the server refuses the prompt as too long, or has read only a part of it, it is made shorter by what that showed (room.py), and asked
again. Only where it cannot be made to fit do people have to do something, and are told what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from evo.errors import ModelError, RequestTooLongError
from evo.llm import prompts
from evo.llm.brief import Brief
from evo.llm.prompts import Message, Prompt, TooLong
from evo.llm.replies import Reply
from evo.llm.room import Room

REFUSALS = 6  # of one prompt, each made to fit what the server said, after which it is given up


class Speaker(Protocol):
    """What answers: evo.llm.endpoint.Model."""

    name: str
    max_tokens: int  # limit of one reply, as people set it

    @property
    def room(self) -> Room:
        """What its server has room for, as far as it has shown."""
        ...

    def complete(self, messages: Sequence[Message]) -> Reply:
        """Raises RequestTooLongError where a shorter prompt may have an answer, ModelError where there is none."""
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
class Silence:
    """Why a model says nothing more about a proposal."""

    why: str
    endpoint_failed: bool


class Talk:
    """A conversation under way."""

    def __init__(self, model: Speaker, brief: Brief, prompt_bytes: int) -> None:
        """
        Args:
            prompt_bytes: limit of the prompt, as people set it.
        """
        self.prompt = Prompt(())  # as it was last sent
        self.turns: list[Turn] = []
        self._model = model
        self._brief = brief
        self._prompt_bytes = prompt_bytes
        self._last: Reply | None = None
        self._refusals = 0
        self._room = model.room  # what the prompt was made for

    def next_reply(self, trouble: str) -> Reply | Silence:
        """The model's first answer, or after what was wrong with that, its second."""
        asked = self._asked(trouble)
        while not isinstance(asked, Silence):
            try:
                return self._model.complete(asked)
            except RequestTooLongError as error:
                asked = self._given_up(trouble) if self.turns else self._shorter(str(error))
            except ModelError as error:
                return Silence(str(error), endpoint_failed=True)
        return asked

    def heard(self, reply: Reply, trouble: str) -> None:
        """Takes in what came of a reply."""
        self._last = reply
        self.turns.append(Turn(reply.text, reply.prompt_tokens, reply.reply_tokens, reply.seconds, trouble))

    @property
    def notice(self) -> str:
        """What was done so that the prompt fits, in a sentence for people; "" where nothing was, or it came to nothing."""
        words = self._model.room.words(self._model.max_tokens) if self.turns else ""
        return f"model: {words}" if words else ""

    def told(self, reply: Reply, trouble: str) -> str:
        """What was wrong with a reply, in words for people."""
        if reply.truncated:
            return self._cut_off(reply)
        if reply.prompt_cut:
            return self._model.room.lacks(prompts.size(self.prompt.messages), self._model.max_tokens)
        return trouble.partition("\n")[0]  # what follows are frames, for the model

    def _cut_off(self, reply: Reply) -> str:
        room, most = self._model.room, self._model.max_tokens
        if room.context is not None and reply.reply_tokens < min(most, room.reply or most):
            ended = f"where its server's context of {room.context:,} ended: give it a longer one"
            return f"cut off at {reply.reply_tokens} tokens, thoughts included, {ended}"
        if room.reply is not None and room.reply < most:
            return f"cut off at {room.reply} tokens, thoughts included, the most that its server gives"
        return f"cut off at {most} tokens, thoughts included; raise that with --set llm.max_tokens={2 * most}"

    # ---- what is asked

    def _asked(self, trouble: str) -> tuple[Message, ...] | Silence:
        last = self._last
        if last is None:
            return self._first()
        if last.prompt_cut:
            return self._shorter("")
        most = self._model.room.prompt_limits(self._model.max_tokens)[1]
        return prompts.again(self.prompt.messages, last.text, trouble, most) or self._given_up(trouble)

    def _first(self) -> tuple[Message, ...] | Silence:
        """The prompt, as long as the server's room and the settings allow.

        One that needs more than the server has room for is sent all the same where that room is a guess, and as long as none was answered:
        the server may have been started anew with more.
        """
        room, most = self._model.room, self._model.max_tokens
        self._room = room
        wanted, needed = (min(self._prompt_bytes, limit) for limit in room.prompt_limits(most))
        found = prompts.messages(self._brief, wanted, needed)
        if isinstance(found, TooLong) and found.needed_bytes <= self._prompt_bytes:
            if room.is_proven and room.is_said:
                return Silence(room.lacks(found.needed_bytes, most), endpoint_failed=False)
            found = prompts.messages(self._brief, found.needed_bytes)
        if isinstance(found, TooLong):
            return Silence(str(found), endpoint_failed=False)
        self.prompt = found
        return found.messages

    def _shorter(self, why: str) -> tuple[Message, ...] | Silence:
        """The prompt once more, as the server has room for it now; or if there is none, what people have to do."""
        before, known = prompts.size(self.prompt.messages), self._room
        asked = self._first()
        room, most = self._room, self._model.max_tokens
        self._refusals += 1
        is_less = isinstance(asked, Silence) or prompts.size(asked) < before or room.holds(before, most)
        if room != known and is_less and self._refusals < REFUSALS:  # else the same would be asked once more
            return asked
        if room.holds(before, most):
            return Silence(why, endpoint_failed=True)  # whatever it means, it is not that
        lacks = room.lacks(before, most)
        return Silence(f"{lacks}; {why}" if why else lacks, endpoint_failed=True)  # both: what was said may have been misread

    def _given_up(self, trouble: str) -> Silence:
        """There is no room for a second turn."""
        assert self._last is not None
        return Silence(f"no usable edit, and no room to ask again: {self.told(self._last, trouble)}", endpoint_failed=False)
