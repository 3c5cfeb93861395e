"""The model behind an endpoint that speaks OpenAI's chat completions, and the only module that knows the `openai` client.

A call ends within `timeout_seconds`, whatever the server does: it is cancelled on its own event loop, which closes the connection, so that
a server that drips bytes or says nothing holds a thread no longer. (Time-outs of the client itself start anew with every byte.) Only the
name look-up of a host cannot be cancelled.

A request that is refused as too long teaches what the server has room for (room.py); its caller asks again, for less.

Everything that an endpoint can do wrong is a `ModelError` with one line. The key comes from the environment (EVO_LLM_KEY, else
OPENAI_API_KEY) and is sent to the endpoint and nowhere else: it is not a setting, and is cut out of replies and messages in case a server
echoes it. A server on this machine is never asked through a proxy.

Left out: streaming, tools, a cache, prices.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import ipaddress
import ssl
import threading
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import openai

from evo.config import LlmConfig
from evo.errors import KeyRefusedError, ModelError, RequestTooLongError, UserError, one_line
from evo.llm.prompts import Message, size
from evo.llm.refusals import Refusal, refusal
from evo.llm.replies import Reply, decoded, encodable, reason, reply_of, short
from evo.llm.room import Room

OPENAI = "https://api.openai.com/v1"
KEYS = ("EVO_LLM_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set counts
_SET_KEY = f"set {', else '.join(KEYS)}, to a key that it takes"
RETRIES = 1  # of a request, within the time of the call
LISTING_SECONDS = 20.0  # longest time to list the models
SECRET_CHARACTERS = 8  # a key of fewer is not a secret
_NO_KEY = "none"  # sent where no key is set: local servers want none, the client wants some
_LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
_CALL_PATH = "/chat/completions"
_NAME_CHARACTERS = 80  # most of a model's name in a list
_BAD_REQUEST = 400
_FOREIGN = (openai.OpenAIError, openai.InvalidWebhookSignatureError, OSError)  # all that the client and its transport raise; time-outs too


class RefusedError(RequestTooLongError):
    """A request that is too long, and what the server said of itself."""

    def __init__(self, message: str, said: Refusal) -> None:
        super().__init__(message)
        self.said = said


class Model:
    """A model at an endpoint. Holds no connection, so that any number of threads may call it."""

    def __init__(self, llm: LlmConfig, key: str) -> None:
        """
        Args:
            llm: settled: with a model, and a url unless it is OpenAI's.
            key: "": none is needed.
        """
        self.name, self.max_tokens = llm.model, llm.max_tokens
        self.room = Room()  # as the server has shown in this session
        self._llm = llm
        self._key = key
        # The name of a reply's limit: OpenAI's own reasoning models refuse max_tokens; most other servers know only that.
        self._limit = "max_completion_tokens" if _host(_base(llm.url)) == _host(OPENAI) else "max_tokens"
        self._learning = threading.Lock()

    def complete(self, messages: Sequence[Message]) -> Reply:
        """The model's answer, as long as the server has room for.

        Raises:
            RequestTooLongError: the server refuses that much; what it has room for is known better now.
            ModelError: no answer came, or none that can be read.
        """
        prompt_bytes = size(messages)
        tokens = self.room.reply_tokens(prompt_bytes, self.max_tokens)
        try:
            reply = self._complete(messages, tokens)
        except RefusedError as error:
            self._learn(error.said, prompt_bytes, tokens)
            raise
        if reply.prompt_cut and not self.room.was_cut(reply.prompt_tokens):
            reply = dataclasses.replace(reply, prompt_cut=False)
        self._learn(reply, prompt_bytes, tokens)
        return reply

    def _learn(self, showed: Refusal | Reply, prompt_bytes: int, tokens: int) -> None:
        with self._learning:
            self.room = self.room.after(showed, prompt_bytes, tokens)

    def _complete(self, messages: Sequence[Message], tokens: int) -> Reply:
        """The answer, of at most so many tokens."""
        llm, began = self._llm, time.monotonic()
        asked: dict[str, Any] = {"model": llm.model, "messages": [dataclasses.asdict(message) for message in messages]}
        asked["stream"] = False  # a few servers stream unless they are told not to
        if llm.temperature is not None:
            asked["temperature"] = llm.temperature

        async def ask(client: openai.AsyncOpenAI) -> str:
            create, limit = client.chat.completions.with_raw_response.create, self._limit
            try:
                return str((await create(**{**asked, limit: tokens})).text)
            except openai.BadRequestError as error:
                other = next(name for name in _LIMIT_NAMES if name != limit)
                if other not in _told(error) or _refusal(error):  # "… is not supported, use …"
                    raise
            said = str((await create(**{**asked, other: tokens})).text)
            self._limit = other
            return said

        base = _base(llm.url)
        with translated(base, llm.timeout_seconds, self._key, longer=f"--set llm.timeout_seconds={2 * llm.timeout_seconds:g}"):
            data = self._answer(ask, llm.timeout_seconds)
            if not data.get("choices") and (said := refusal(_BAD_REQUEST, reason(data), data)):  # routers say it with status 200 as well
                raise RefusedError(f"{base} answered: {short(_without(reason(data), self._key))}", said)
            reply = reply_of(data, size(messages), time.monotonic() - began)
        return dataclasses.replace(reply, text=_without(reply.text, self._key), silence=_without(reply.silence, self._key))

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
        names = (entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))
        return tuple(_without(encodable(name), self._key) for name in names)

    def doubt(self) -> str:
        """Why the first call may fail, as far as the endpoint's list of models shows; "" if not at all. It may lack names that work."""
        try:
            names = self.served()
        except ModelError as error:
            return f"its models cannot be listed: {error}"
        name = self.name
        if not names or any(served in (name, f"{name}:latest") or served.endswith(f"/{name}") for served in names):
            return ""
        such = _some(difflib.get_close_matches(name, names) or names)
        return f"{name} is none of the {len(names)} that are served there, such as {such}"

    def client(self) -> openai.AsyncOpenAI:
        """A client for one event loop."""
        base = _base(self._llm.url)
        local = _is_loopback(base)
        # To read the certificates of the world takes longer than all else of a call to a server on this machine that has none: nobody is
        # trusted there, wherever it may send us.
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if local and base.startswith("http://") else True
        read_as = {"response": [_as_utf8]}
        http = openai.DefaultAsyncHttpxClient(trust_env=not local, verify=trusted, event_hooks=read_as)  # proxies come from the environment
        return openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY, base_url=base, timeout=self._llm.timeout_seconds, max_retries=RETRIES, http_client=http
        )

    def _answer(self, ask: Callable[[openai.AsyncOpenAI], Awaitable[str]], seconds: float) -> dict[str, Any]:
        """What an endpoint answers, decoded."""

        async def within() -> str:
            async with asyncio.timeout(seconds), self.client() as client:
                return await ask(client)

        return decoded(_without(asyncio.run(within()), self._key))  # before any of it is cut: a piece of a key is no longer found


# ---- from settings to a model


def connect(llm: LlmConfig, environment: Mapping[str, str]) -> Model:
    """The model that the settings name by url, name or both. Asks the endpoint which models it has where only the url is given.

    Raises:
        UserError: no key where one is needed, no model or several, or a proxy that the client cannot use.
    """
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
        raise UserError(f"{error}; start it, or if it runs, name its model with --model") from error
    if len(names) != 1:
        shown = f"{len(names)} models ({_some(names)})" if names else "no model by any name"
        raise UserError(f"{url} serves {shown}: choose with --model NAME")
    return names[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(short(name, _NAME_CHARACTERS) for name in names[:8]) + (", …" if len(names) > 8 else "")


async def _as_utf8(response: Any) -> None:
    """JSON is UTF-8, whatever a server says of it: Python has encodings of other kinds by the names that it may say, which break off."""
    response.encoding = "utf-8"


def _base(url: str) -> str:
    """The root of the API; a bare address means its usual path, and that of a call what it is under."""
    root = url.rstrip("/").removesuffix(_CALL_PATH)
    return (root if urllib.parse.urlsplit(root).path.strip("/") else f"{root}/v1") if url else OPENAI


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or ""


def _is_loopback(url: str) -> bool:
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


# ---- errors


@contextlib.contextmanager
def translated(endpoint: str, seconds: float, key: str, longer: str = "") -> Iterator[None]:
    """Turns everything that the client raises into a ModelError, and leaves the key out of every message.

    Args:
        longer: what gives a call more than `seconds`; "": nothing does.
    """
    try:
        yield
    except ModelError as error:
        error.args = (_without(str(error), key),)
        raise
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:  # 401 and 403
        raise KeyRefusedError(f"{endpoint} {_why(error, key)}; {_SET_KEY}") from None
    except (TimeoutError, openai.APITimeoutError):
        more = f"; if it needs longer: {longer}" if longer else ""
        raise ModelError(f"{endpoint} gave no complete answer within {seconds:g} s{more}") from None
    except _FOREIGN as error:  # the request in the error holds the key
        why = f"{endpoint} {_why(error, key)}"
        if isinstance(error, openai.APIStatusError) and (said := _refusal(error)):
            raise RefusedError(why, said) from None
        raise ModelError(why) from None


def _why(error: Exception, key: str) -> str:
    """What went wrong, without the key, which is taken out before anything is cut: a piece of it is no longer found."""
    if isinstance(error, openai.APIConnectionError):
        return f"cannot be reached: {short(_without(str(error.__cause__ or error), key))}"
    if isinstance(error, openai.APIStatusError):
        said = short(_without(_told(error), key)).rstrip(". ")
        return f"answered {error.status_code}: {said or 'nothing'}{_remedy(error.status_code)}"
    return f"failed with {type(error).__name__}: {short(_without(str(error), key))}"


def _told(error: openai.APIStatusError) -> str:
    """What an answer to a failed request says. The client looks for it at one place only, and drops what stands elsewhere."""
    return error.message.removeprefix(f"Error code: {error.status_code}").removeprefix(" - ") or reason(error.body)


def _refusal(error: openai.APIStatusError) -> Refusal | None:
    """What the server holds, if it refused the request as too long for it."""
    return refusal(error.status_code, reason(error.body) or _told(error), error.body)


def _remedy(status: int) -> str:
    """What people can do about a request that was refused; "" if what the endpoint said is all that is known."""
    if status == 404:
        return "; --llm is the root of its API, such as http://localhost:8000/v1, and --model a name that it serves"
    return ""


def _without(text: str, key: str) -> str:
    """The text without the key. A short key is a placeholder, such as "none", not a secret."""
    return text.replace(key, "[key]") if len(key) >= SECRET_CHARACTERS else text
