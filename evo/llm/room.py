"""What a server has room for, as far as it has shown: a value that each refusal and each answer makes anew.

To begin with nothing is known, and a prompt is as long as the settings allow. From the first request that is refused as too long, or whose
prompt was cut, prompts and replies are sized by what that showed. Nothing of it is stored: a session asks at full length and learns it
again from one answer, since servers are started anew with another context in between. What is only guessed is never less than has been
read, and is tried again with more now and then: some servers share a context between calls, and have less of it when they are busy.

Servers count tokens, prompts are built in bytes: between the two stands the most tokens per byte that the server has counted in prompts of
this run, or a guess on the safe side.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from evo.llm.refusals import Refusal
from evo.llm.replies import MOST_BYTES_PER_TOKEN, Reply

LEAST_REPLY = 512  # tokens: an edit with its note
SHARE = 4  # a reply may have this part of a context before anything that a prompt could do without
MARGIN = 64  # tokens: what a chat template adds, and what the next prompt has more per byte
UNBOUNDED = 10**9  # bytes
_GUESS = 0.36  # tokens per byte of programs and English where nothing was counted; most vocabularies have 0.25 to 0.33
_MORE = 1.25  # times as many tokens per byte where a prompt that should have fitted did not
_MOST_TOKENS_PER_BYTE = 1.0  # in any vocabulary
_LESS = 0.97  # … where one did that should not have
_STEP = 256  # contexts are multiples of it
_LADDER = tuple(1024 * 2**k for k in range(11))  # contexts that are tried where a server does not say what it holds
_PATIENCE = 16  # answers after which more is tried than a guess allows
_COMFORT = 24_576  # tokens that have room for a whole prompt, whatever the program becomes


@dataclass(frozen=True)
class Room:
    """Limits of a server in tokens; None where it has shown none."""

    context: int | None = None  # prompt and reply together
    reply: int | None = None  # the most that may be asked for in a reply
    tokens_per_byte: float | None = None  # of prompts
    is_counted: bool = False  # … the most that it has counted; else what follows from prompts that did, or did not, fit
    is_said: bool = True  # the context is the server's own figure, no guess
    is_proven: bool = False  # a whole prompt was answered
    most_read: int = 0  # tokens of the longest prompt that it has counted whole
    answers: int = 0  # since a guessed context was last tried with more

    def tokens(self, prompt_bytes: int) -> int:
        """About how many tokens a prompt has."""
        return math.ceil(prompt_bytes * (self.tokens_per_byte or _GUESS))

    def prompt_limits(self, max_tokens: int) -> tuple[int, int]:
        """Bytes that a prompt may have: with what it could do without, and at most.

        Args:
            max_tokens: that people allow a reply.
        """
        if self.context is None:
            return UNBOUNDED, UNBOUNDED
        most = min(max_tokens, self.reply or max_tokens)
        least = min(most, LEAST_REPLY)
        wanted = max(least, min(most, self.context // SHARE))
        return self._bytes(self.context - wanted), self._bytes(self.context - least)

    def reply_tokens(self, prompt_bytes: int, max_tokens: int) -> int:
        """The tokens to ask for in the reply to a prompt; the least that makes sense where it leaves less."""
        most = min(max_tokens, self.reply or max_tokens)
        if self.context is None:
            return most
        return max(min(most, LEAST_REPLY), min(most, self.context - MARGIN - self.tokens(prompt_bytes)))

    def holds(self, prompt_bytes: int, max_tokens: int) -> bool:
        """Whether a prompt leaves room for a reply, as far as is known."""
        return prompt_bytes <= self.prompt_limits(max_tokens)[1]

    def was_cut(self, read: int) -> bool:
        """Whether a prompt of which the server counts so few tokens may have been cut. Not if it has read a longer one than the context
        that would follow from that: some servers count only what they had not read before."""
        return _cut_to(read) >= self.most_read

    def _fits(self, prompt_bytes: int, reply_tokens: int) -> bool:
        """Whether a request was made to fit what is known. (One that was under way when that was learned was not.)"""
        return self.context is None or self.tokens(prompt_bytes) + reply_tokens <= self.context

    def _bytes(self, tokens: int) -> int:
        return max(0, math.floor((tokens - MARGIN) / (self.tokens_per_byte or _GUESS)))

    # ---- what it learns

    def after(self, showed: Refusal | Reply, prompt_bytes: int, reply_tokens: int) -> Room:
        """What is known once a request for so many tokens was refused, or answered."""
        if isinstance(showed, Refusal):
            return self._after_refusal(showed, prompt_bytes, reply_tokens)
        return self._after_reply(showed, prompt_bytes, reply_tokens)

    def _after_refusal(self, said: Refusal, prompt_bytes: int, reply_tokens: int) -> Room:
        counted = said.prompt
        if counted is not None and said.context is not None and counted + reply_tokens == said.context + 1:
            counted = None  # vLLM stops counting where a prompt leaves no room for the reply
        known = dataclasses.replace(self, reply=said.reply or self.reply)
        if counted is not None:
            known = known._counting(counted / prompt_bytes)
        if said.context is not None:
            known = dataclasses.replace(known, context=said.context, is_said=True)
        elif said.reply is None:
            rung = max((rung for rung in _LADDER if rung < known.tokens(prompt_bytes) + reply_tokens), default=_LADDER[0])
            read = self.most_read + LEAST_REPLY + MARGIN if self.most_read else 0
            known = dataclasses.replace(known, context=max(min(rung, self.context or rung), _whole_steps(read)), is_said=False)
        if known == self and counted is None and self._fits(prompt_bytes, reply_tokens):
            return self._too_hopeful(prompt_bytes, reply_tokens)
        return dataclasses.replace(known, is_proven=self.is_proven and known.context == self.context)

    def _after_reply(self, reply: Reply, prompt_bytes: int, reply_tokens: int) -> Room:
        proven = dataclasses.replace(self._trying_more(), is_proven=True)
        if not reply.is_counted:
            there = math.inf if self.context is None else max(self.context - MARGIN - reply_tokens, 1)
            fitted = self.tokens(prompt_bytes) <= there
            return proven if fitted else dataclasses.replace(proven, tokens_per_byte=_LESS * there / prompt_bytes, is_counted=False)
        if reply.prompt_cut:
            return self._after_cut(reply.prompt_tokens, prompt_bytes, reply_tokens)
        if reply.prompt_tokens >= prompt_bytes / MOST_BYTES_PER_TOKEN:
            proven = dataclasses.replace(proven, most_read=max(self.most_read, reply.prompt_tokens))
            proven = proven._counting(reply.prompt_tokens / prompt_bytes)
        total = reply.prompt_tokens + reply.reply_tokens
        full = _whole_steps(total)
        if reply.truncated and reply.reply_tokens < reply_tokens and full - total <= 1:  # the context ended the reply, or chance
            return dataclasses.replace(proven, context=full, is_said=False)
        if self.context is not None and total > self.context:  # it holds more than it said, or than before
            return dataclasses.replace(proven, context=None if self.is_said else full)
        return proven

    def _after_cut(self, read: int, prompt_bytes: int, reply_tokens: int) -> Room:
        known = dataclasses.replace(self, context=_cut_to(read), is_said=True, is_proven=False)
        should_fit = known == self and self._fits(prompt_bytes, reply_tokens)
        return self._too_hopeful(prompt_bytes, reply_tokens) if should_fit else known

    def _trying_more(self) -> Room:
        """One answer more; after some of them a guess allows more."""
        if self.context is None or self.is_said:
            return self
        if self.answers + 1 < _PATIENCE:
            return dataclasses.replace(self, answers=self.answers + 1)
        return dataclasses.replace(self, context=2 * self.context, answers=0)

    def _counting(self, tokens_per_byte: float) -> Room:
        most = max(self.tokens_per_byte or 0.0, tokens_per_byte) if self.is_counted else tokens_per_byte
        return dataclasses.replace(self, tokens_per_byte=most, is_counted=True)

    def _too_hopeful(self, prompt_bytes: int, reply_tokens: int) -> Room:
        """A prompt did not fit that should have: it has at least as many tokens as that takes. As it was, if those would be more than its
        bytes: then it is not the length that is refused, whatever was said."""
        taken = ((self.context or 0) - reply_tokens) / prompt_bytes
        more = max(_MORE * (self.tokens_per_byte or _GUESS), taken)
        return self if more > _MOST_TOKENS_PER_BYTE else dataclasses.replace(self, tokens_per_byte=more, is_counted=False)

    # ---- what it says

    def words(self, max_tokens: int) -> str:
        """What is done to fit, in a sentence for people; "" if nothing is."""
        said, enough = [], _COMFORT + max_tokens
        if self.context is not None and self.context < enough:
            holds = f"its server holds {'' if self.is_said else 'perhaps '}{self.context:,} tokens of prompt and reply together"
            said.append(
                f"{holds}, so replies get what prompts leave, and where that is too little, prompts leave out what other programs showed, "
                f"then the end of the agenda; a context of {enough:,} has room for everything"
            )
        if self.reply is not None and self.reply < max_tokens:
            said.append(f"its server gives at most {self.reply:,} tokens in a reply, so it is asked for no more")
        return "; ".join(said)

    def lacks(self, prompt_bytes: int, max_tokens: int) -> str:
        """What people have to do where the shortest prompt does not fit, in a clause."""
        least = min(max_tokens, LEAST_REPLY)
        needed = self.tokens(prompt_bytes) + least + MARGIN
        enough, whole = next((rung for rung in _LADDER if rung >= needed + least), needed), _COMFORT + max_tokens
        holds = f"holds {self.context:,} tokens" if self.context is not None and self.is_said else "does not say how many tokens it holds"
        better = f", better {whole:,}" if enough < whole else ""
        return (
            f"its server {holds}, and the shortest prompt with a reply needs about {-(-needed // 100) * 100:,}: give it a context of "
            f"{enough:,}{better} (llama.cpp: -c, Ollama: OLLAMA_CONTEXT_LENGTH, vLLM: --max-model-len, LM Studio: the model's settings)"
        )


def _whole_steps(tokens: int) -> int:
    return tokens + -tokens % _STEP


def _cut_to(read: int) -> int:
    """The context of a server that has read so many tokens of a prompt that was too long for it. Ollama keeps the end of such a prompt: as
    much as fits, since 2025 half a context and a few tokens (https://github.com/ollama/ollama/issues/17427)."""
    return read if read % _STEP == 0 else max(2 * read // _STEP * _STEP, _STEP)
