"""What an endpoint answers, from bytes to a reply or one error: pure.

Servers differ in how they say that a reply was cut off, held back, or broken off, what they count, and where an error says why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import genomes
from evo.errors import ModelError, one_line

BYTES_PER_TOKEN = 4  # where a server does not count
_TEXT_PARTS = ("text", "output_text")
_MESSAGE_CHARACTERS, _BODY_CHARACTERS = 300, 100  # most characters of an answer that an error quotes
_CUT_OFF = ("length", "max_tokens", "model_length")  # finish reasons of OpenAI, of Anthropic behind a translator, of Mistral
_TELLING = ("message", "error", "detail", "msg")  # where answers to failed requests say why, the first that is there
_MOST_TOKENS = 10**9  # no server has read or said so many in one call: what counts more counts something else
_LEAST_CONTEXT = 1024  # tokens: no server's context is shorter, so a smaller count is no sign of one
MOST_BYTES_PER_TOKEN = 6  # of English and Python, in any vocabulary


@dataclass(frozen=True)
class Reply:
    """What a model said, without its thoughts."""

    text: str
    prompt_tokens: int  # as the server counts them, else estimated
    reply_tokens: int
    seconds: float
    truncated: bool  # cut off at max_tokens
    silence: str = ""  # why there is no text, where the server says
    prompt_cut: bool = False  # it counts too few tokens to have read the whole prompt: Ollama drops what its context cannot hold
    is_counted: bool = False  # the tokens of both are the server's count


def decoded(body: str) -> dict[str, Any]:
    """The object that an answer is.

    Raises:
        ModelError: it is something else.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the endpoint answered with something other than JSON: {short(body, _BODY_CHARACTERS) or 'nothing'}") from error
    if not isinstance(data, dict):
        raise ModelError(f"the endpoint answered with a {type(data).__name__} instead of an object: {short(body, _BODY_CHARACTERS)}")
    return data


def reply_of(data: Mapping[str, Any], prompt_bytes: int, seconds: float) -> Reply:
    """The reply in a decoded answer.

    Raises:
        ModelError: there is none.
    """
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ModelError(f"the endpoint answered without a message: {short(reason(data))}")
    if choice.get("finish_reason") == "error":  # a router whose provider failed half-way
        raise ModelError(f"the endpoint broke off its answer: {short(reason(choice.get('error'))) or 'it does not say why'}")
    content = _text(message.get("content"))
    usage = data.get("usage")
    prompt_tokens, reply_tokens = _spent(usage, prompt_bytes, len(content.encode("utf-8", "replace")))
    return Reply(
        text=encodable(genomes.without_reasoning(content)),
        prompt_tokens=prompt_tokens,
        reply_tokens=reply_tokens,
        seconds=seconds,
        truncated=choice.get("finish_reason") in _CUT_OFF,
        silence=_silence(choice, message) if not content.strip() else "",
        prompt_cut=_LEAST_CONTEXT <= prompt_tokens < prompt_bytes / MOST_BYTES_PER_TOKEN,
        is_counted=isinstance(usage, dict) and all(_is_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")),
    )


def _silence(choice: Mapping[str, Any], message: Mapping[str, Any]) -> str:
    """Why a message has no content, as far as the server says."""
    if refusal := _text(message.get("refusal")):
        return f"it refused: {encodable(short(refusal))}"
    if choice.get("finish_reason") == "content_filter":
        return "a content filter of the endpoint held it back"
    thoughts = any(_text(message.get(name)).strip() for name in ("reasoning_content", "reasoning"))
    return "all of it stood among the thoughts" if thoughts else ""


def _spent(given: object, prompt_bytes: int, reply_bytes: int) -> tuple[int, int]:
    """Tokens of prompt and reply. Some servers count thoughts in the total alone."""
    usage = given if isinstance(given, dict) else {}
    prompt, reply = _count(usage.get("prompt_tokens"), prompt_bytes), _count(usage.get("completion_tokens"), reply_bytes)
    return prompt, max(reply, _count(usage.get("total_tokens"), 0) - prompt)


def _text(content: object) -> str:
    """What a message says: its text, or that of its parts. "" if all of it was thoughts, tool calls or a refusal: its tokens were spent all
    the same, and it is an answer that does not fit."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def encodable(text: str) -> str:
    """The text with halves of characters replaced: JSON can spell them, but no file and no request can hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(value: object, size: int) -> int:
    return value if _is_count(value) else -(-size // BYTES_PER_TOKEN)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS


def reason(body: object) -> str:
    """The message in the body of an answer, however deep it lies; all of it if it has none."""
    while isinstance(body, list | dict) and body:
        inner = body[0] if isinstance(body, list) else next((body[name] for name in _TELLING if body.get(name)), None)
        if inner is None:
            return json.dumps(body)
        body = inner
    return body if isinstance(body, str) else ""


def short(text: str, limit: int = _MESSAGE_CHARACTERS) -> str:
    """A text on one line, cut."""
    line = one_line(text[: 4 * limit])
    return line if len(line) <= limit else line[: limit - 1] + "…"
