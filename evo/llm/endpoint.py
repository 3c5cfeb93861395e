"""The model behind an endpoint that speaks OpenAI's chat completions, and the only module that knows the `openai` client.

A call ends within `timeout_seconds`, whatever the server does: it is cancelled on its own event loop, which closes the connection, so that
a server that drips bytes or says nothing holds a thread no longer. (Time-outs of the client itself start anew with every byte.) Only the
name look-up of a host cannot be cancelled.

Everything that an endpoint can do wrong is a `ModelError` with one line. The key comes from the environment (EVO_LLM_KEY, else
OPENAI_API_KEY) and is sent to the endpoint and nowhere else: it is not a setting, and is cut out of replies and messages in case a server
echoes it. A server on this machine is never asked through a proxy.

Left out: streaming, tools, a cache, prices.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from evo.config import LlmConfig
from evo.errors import KeyRefusedError, ModelError, UserError, one_line
from evo.llm.prompts import Message

OPENAI = "https://api.openai.com/v1"
KEYS = ("EVO_LLM_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set counts
_SET_KEY = f"set {', else '.join(KEYS)}, to a key that it takes"
RETRIES = 1  # of a request, within the time of the call
LISTING_SECONDS = 20.0  # longest time to list the models
BYTES_PER_TOKEN = 4  # where a server does not count
SECRET_CHARACTERS = 8  # a key of fewer is not a secret
_NO_KEY = "none"  # sent where no key is set: local servers want none, the client wants some
_LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
_TEXT_PARTS = ("text", "output_text")
_MESSAGE_CHARACTERS, _BODY_CHARACTERS = 300, 100  # most characters of an answer that an error quotes
_FOREIGN = (openai.OpenAIError, openai.InvalidWebhookSignatureError, OSError)  # all that the client and its transport raise; time-outs too


@dataclass(frozen=True)
class Reply:
    """What a model said, without its thoughts."""

    text: str
    prompt_tokens: int  # as the server counts them, else estimated
    reply_tokens: int
    seconds: float
    truncated: bool  # cut off at max_tokens


class Model:
    """A model at an endpoint. Holds no connection, so that any number of threads may call it."""

    def __init__(self, llm: LlmConfig, key: str) -> None:
        """
        Args:
            llm: settled: with a model, and a url unless it is OpenAI's.
            key: "": none is needed.
        """
        self.name, self.max_tokens = llm.model, llm.max_tokens
        self._llm = llm
        self._key = key
        # The name of a reply's limit: OpenAI's own reasoning models refuse max_tokens; most other servers know only that.
        self._limit = "max_completion_tokens" if _host(_base(llm.url)) == _host(OPENAI) else "max_tokens"

    def complete(self, messages: Sequence[Message]) -> Reply:
        """The model's answer.

        Raises:
            ModelError: none came, or none that can be read.
        """
        llm, began = self._llm, time.monotonic()
        asked: dict[str, Any] = {"model": llm.model, "messages": [dataclasses.asdict(message) for message in messages]}
        if llm.temperature is not None:
            asked["temperature"] = llm.temperature

        async def ask(client: openai.AsyncOpenAI) -> str:
            create, limit = client.chat.completions.with_raw_response.create, self._limit
            try:
                return str((await create(**{**asked, limit: llm.max_tokens})).text)
            except openai.BadRequestError as error:
                other = next(name for name in _LIMIT_NAMES if name != limit)
                if other not in error.message:  # "… is not supported, use …"
                    raise
            said = str((await create(**{**asked, other: llm.max_tokens})).text)
            self._limit = other
            return said

        prompt_bytes = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
        with translated(_base(llm.url), llm.timeout_seconds, self._key):
            reply = _reply(self._answer(ask, llm.timeout_seconds), prompt_bytes, began)
        return dataclasses.replace(reply, text=_without(reply.text, self._key))

    def served(self) -> tuple[str, ...]:
        """Names of the models that the endpoint has.

        Raises:
            ModelError: it does not say.
        """

        async def ask(client: openai.AsyncOpenAI) -> str:
            return (await client.models.with_raw_response.list()).text

        seconds = min(self._llm.timeout_seconds, LISTING_SECONDS)
        with translated(_base(self._llm.url), seconds, self._key):
            listed = self._answer(ask, seconds).get("data")
        entries = listed if isinstance(listed, list) else []
        return tuple(_encodable(entry["id"]) for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))

    def client(self) -> openai.AsyncOpenAI:
        """A client for one event loop."""
        base = _base(self._llm.url)
        http = openai.DefaultAsyncHttpxClient(trust_env=not _is_loopback(base))  # proxies come from the environment
        return openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY, base_url=base, timeout=self._llm.timeout_seconds, max_retries=RETRIES, http_client=http
        )

    def _answer(self, ask: Callable[[openai.AsyncOpenAI], Awaitable[str]], seconds: float) -> dict[str, Any]:
        """What an endpoint answers, decoded."""

        async def within() -> str:
            async with asyncio.timeout(seconds), self.client() as client:
                return await ask(client)

        return _decoded(asyncio.run(within()))


# ---- from settings to a model


def connect(llm: LlmConfig, environment: Mapping[str, str]) -> Model | None:
    """The model that the settings name; None if they name none. Asks the endpoint which models it has where only the url is given.

    Raises:
        UserError: no key where one is needed, no model or several, or a proxy that the client cannot use.
    """
    if not (llm.url or llm.model):
        return None
    key = next((environment[name] for name in KEYS if environment.get(name)), "")
    if not llm.url and not key:
        raise UserError(f"--model {llm.model} without --llm means OpenAI's endpoint, which needs a key: set {KEYS[0]}, or give --llm URL")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"the key in {' or '.join(KEYS)} has characters that no key has: set it again")
    model = Model(llm, key)
    try:
        model.client()
    except (ImportError, ValueError) as error:
        raise UserError(
            f"the model's endpoint cannot be reached: {one_line(str(error))}; check HTTP_PROXY, HTTPS_PROXY and ALL_PROXY"
        ) from error
    return model if llm.model else Model(dataclasses.replace(llm, model=_only(model, llm.url)), key)


def _only(model: Model, url: str) -> str:
    try:
        names = model.served()
    except KeyRefusedError as error:
        raise UserError(str(error)) from error
    except ModelError as error:
        raise UserError(f"{error}; start it, or name its model with --model") from error
    if len(names) != 1:
        shown = ", ".join(one_line(name) for name in names[:8]) + (", …" if len(names) > 8 else "")
        raise UserError(f"{url} serves {f'{len(names)} models ({shown})' if names else 'no model by any name'}: choose with --model NAME")
    return names[0]


def _base(url: str) -> str:
    """The root of the API; a bare address means its usual path."""
    return (f"{url.rstrip('/')}/v1" if not urllib.parse.urlsplit(url).path.strip("/") else url) if url else OPENAI


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _is_loopback(url: str) -> bool:
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# ---- from bytes to a reply


def _decoded(body: str) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the endpoint answered with something other than JSON: {_short(body, _BODY_CHARACTERS) or 'nothing'}") from error
    if not isinstance(data, dict):
        raise ModelError(f"the endpoint answered with a {type(data).__name__} instead of an object: {_short(body, _BODY_CHARACTERS)}")
    return data


def _reply(data: Mapping[str, Any], prompt_bytes: int, began: float) -> Reply:
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise ModelError(f"the endpoint answered without a message: {_short(json.dumps(data), _BODY_CHARACTERS)}")
    content, truncated = _text(message.get("content")), choice.get("finish_reason") == "length"
    given = data.get("usage")
    usage = given if isinstance(given, dict) else {}
    return Reply(
        text=_encodable(_spoken(content)),
        prompt_tokens=_count(usage.get("prompt_tokens"), prompt_bytes),
        reply_tokens=_count(usage.get("completion_tokens"), len(content.encode("utf-8", "replace"))),
        seconds=time.monotonic() - began,
        truncated=truncated,
    )


def _text(content: object) -> str:
    """What a message says: its text, or that of its parts. "" if all of it was thoughts, tool calls or a refusal: its tokens were spent all
    the same, and it is an answer that does not fit."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS else part for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _spoken(content: str) -> str:
    """An answer without the thoughts that some servers leave in front of it."""
    before, closed, after = content.rpartition("</think>")
    if closed:
        return after
    return "" if before.startswith("<think>") or after.lstrip().startswith("<think>") else content


def _encodable(text: str) -> str:
    """The text with halves of characters replaced: JSON can spell them, but no file and no request can hold them."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(value: object, size: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else -(-size // BYTES_PER_TOKEN)


# ---- errors


@contextlib.contextmanager
def translated(endpoint: str, seconds: float, key: str) -> Iterator[None]:
    """Turns everything that the client raises into a ModelError, and leaves the key out of every message."""
    try:
        yield
    except ModelError as error:
        raise ModelError(_without(str(error), key)) from None
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:  # 401 and 403
        raise KeyRefusedError(_without(f"{endpoint} {_why(error, seconds)}; {_SET_KEY}", key)) from None
    except _FOREIGN as error:
        raise ModelError(_without(f"{endpoint} {_why(error, seconds)}", key)) from None  # the request in the error holds the key


def _why(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return f"gave no complete answer within {seconds:g} s"
    if isinstance(error, openai.APIConnectionError):
        return f"cannot be reached: {_short(str(error.__cause__ or error))}"
    if isinstance(error, openai.APIStatusError):
        said = error.message.removeprefix(f"Error code: {error.status_code}").removeprefix(" - ")
        return f"answered {error.status_code}: {_short(said) or 'nothing'}"
    return f"failed with {type(error).__name__}: {_short(str(error))}"


def _short(text: str, limit: int = _MESSAGE_CHARACTERS) -> str:
    line = one_line(text[: 4 * limit])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _without(text: str, key: str) -> str:
    """The text without the key. A short key is a placeholder, such as "none", not a secret."""
    return text.replace(key, "[key]") if len(key) >= SECRET_CHARACTERS else text
