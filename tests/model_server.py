"""A model endpoint for tests: real HTTP on loopback, speaking chat completions, with a scripted model behind it.

    with ModelServer(competent()) as server:
        … --llm {server.url} …
        server.requests     # what was asked, in order

A behaviour is a function of a `Request`; it returns what the model says, or an `Answer` for everything that an endpoint can do wrong.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import json
import math
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from structural_edits import POOL, StructuralEdit

from evo.llm.prompts import PARTNER_HEADING, PROGRAM_HEADING

DRIP_SECONDS = 0.02


@dataclass(frozen=True)
class Request:
    """One HTTP request, names of headers in lower case. `prompt` is the first message of the user, the one with the program."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body.get("messages", [])

    @property
    def prompt(self) -> str:
        return next((m["content"] for m in self.messages if m["role"] == "user"), "")

    @property
    def is_second_try(self) -> bool:
        return any(m["role"] == "assistant" for m in self.messages)


@dataclass(frozen=True)
class Answer:
    """A raw HTTP answer. `drips`: one byte at a time, for ever; `hangs`: none at all, until the server ends."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    drips: bool = False
    hangs: bool = False
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[[Request], "str | Answer"]


class ModelServer:
    """An endpoint while the context lasts."""

    def __init__(self, behaviour: Behaviour, models: Sequence[str] | Answer = ("scripted",)) -> None:
        """`models`: what the list of models names, or how the request for it is answered."""
        self.requests: list[Request] = []  # of chat completions, in order
        self._behaviour = behaviour
        self._models = models
        self._closing = threading.Event()
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> ModelServer:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                models = server._models
                server._send(self, models if isinstance(models, Answer) else listing(models))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                with server._lock:
                    server.requests.append(request)
                said = server._behaviour(request)
                server._send(self, said if isinstance(said, Answer) else completion(said))

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.hangs:
            self._closing.wait()
            return
        try:
            handler.send_response(answer.status)
            handler.send_header("Content-Type", answer.content_type)
            handler.send_header("Content-Length", str(10**9 if answer.drips else len(answer.body)))
            for name, value in answer.headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(answer.body)
            while answer.drips and not self._closing.wait(DRIP_SECONDS):
                handler.wfile.write(b" ")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has gone


def listing(models: Sequence[str]) -> Answer:
    """A list of models."""
    data = {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
    return Answer(body=json.dumps(data).encode())


COUNTED = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def completion(text: str | None, usage: dict[str, int] | None = COUNTED, **choice: Any) -> Answer:
    """What a server answers in the good case."""
    message = {"role": "assistant", "content": text}
    data = {
        "id": "1",
        "object": "chat.completion",
        "model": "scripted",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": usage,
    }
    return Answer(body=json.dumps(data).encode())


def unreachable() -> str:
    """An address where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


# ---- wrong models and endpoints

BLOCK = "<<<<<<< SEARCH\n{}\n=======\n{}\n>>>>>>> REPLACE"
BROKEN: dict[str, Behaviour] = {
    "errors": lambda _: Answer(500, b'{"error": {"message": "out of order"}}'),
    "refuses the key": lambda _: Answer(401, b'{"error": {"message": "who are you"}}'),
    "hangs": lambda _: Answer(hangs=True),
    "drips": lambda _: Answer(drips=True),
    "html": lambda _: Answer(body=b"<html><body>Welcome</body></html>", content_type="text/html"),
    "garbage": lambda _: Answer(body=b"\x00\xff{{{" * 1000),
    "list": lambda _: Answer(body=b"[]"),
    "an encoding that is no text's": lambda _: Answer(body=b"Welcome", content_type="text/html; charset=hex"),
    "an error in such an encoding": lambda _: Answer(400, b"Welcome", content_type="text/html; charset=idna"),
    "nothing": lambda _: Answer(),
    "empty choices": lambda _: Answer(body=b'{"choices": []}'),
    "no message": lambda _: Answer(body=b'{"choices": [{"message": null}]}'),
}
USELESS: dict[str, Behaviour] = {
    "prose": lambda _: "I would make it deeper.",
    "empty": lambda _: "",
    "no content": lambda _: completion(None),
    "thoughts alone": lambda _: completion(None, finish_reason="length"),
    "wrong search": lambda _: BLOCK.format("    no such line", "    x = 1"),
    "truncated": lambda _: "NOTE: deeper\n<<<<<<< SEARCH\nDEPTH = 8",
    "no program": lambda request: BLOCK.format(program_in(request).splitlines()[0], "def ("),
    "changes nothing": lambda request: BLOCK.format(program_in(request).splitlines()[0], program_in(request).splitlines()[0]),
    "breaks the contract": lambda request: BLOCK.format("def main() -> None:", "def other() -> None:"),
    "elided function": lambda _: "```python\ndef main() -> None:\n    # ... rest unchanged\n```",
    "unclear method": lambda _: "```python\ndef forward(self, x):\n    return x\n```",
    "wrong hunk": lambda _: "```diff\n@@ -1 +1 @@\n-    no such line\n+    x = 1\n```",
    "cut off program": lambda request: f"```python\n{program_in(request)[:4000]}",
    "reasoning": lambda _: f"<think>\n{BLOCK.format('DEPTH = 8  # transformer blocks', 'DEPTH = 9')}\n",
    "side effect": lambda request: BLOCK.format("def main() -> None:", "print(build_model())\n\n\ndef main() -> None:"),
}


def second_try(right: Behaviour, wrong: Behaviour = USELESS["wrong search"]) -> Behaviour:
    """Right only after it was told what was wrong."""
    return lambda request: right(request) if request.is_second_try else wrong(request)


# ---- servers whose context is too short

TOKENS_PER_BYTE = 0.3


@dataclass(frozen=True)
class Dialect:
    """How a server takes a request that is too long for it."""

    says: Callable[[int, int, int], str]  # context, tokens of the prompt, tokens asked for in the reply; "": it cuts the prompt silently
    is_strict: bool = True  # it refuses what the longest reply would be too long for; else only prompts that fill the context
    counts: bool = True  # it counts tokens in its answers


def _vllm(context: int, prompt: int, asked: int) -> str:
    if asked > context:
        return f"max_tokens={asked} cannot be greater than max_model_len=max_total_tokens={context}. Please request fewer output tokens."
    counted = min(prompt, context - asked + 1)  # it stops counting there
    return (
        f"This model's maximum context length is {context} tokens. However, you requested {asked} output tokens and your prompt contains "
        f"at least {counted} input tokens, for a total of at least {counted + asked} tokens."
    )


DIALECTS: dict[str, Dialect] = {
    "OpenAI": Dialect(
        lambda context, prompt, asked: (
            f"This model's maximum context length is {context} tokens. However, you requested {prompt + asked} tokens ({prompt} in the "
            f"messages, {asked} in the completion). Please reduce the length of the messages or completion."
        )
    ),
    "vLLM": Dialect(_vllm),
    "llama.cpp": Dialect(
        lambda context, prompt, _: f"request ({prompt} tokens) exceeds the available context size ({context} tokens), try increasing it",
        is_strict=False,
    ),
    "without figures": Dialect(
        lambda *_: "The number of tokens to keep from the initial prompt is greater than the context length.", is_strict=False
    ),
    "without any count": Dialect(lambda *_: "context length exceeded", counts=False),
    "Ollama": Dialect(lambda *_: "", is_strict=False),
}


def short_of_context(context: int, dialect: Dialect, behaviour: Behaviour) -> Behaviour:
    """A server that holds so many tokens of prompt and reply."""

    def behave(request: Request) -> str | Answer:
        prompt = math.ceil(TOKENS_PER_BYTE * sum(len(message["content"].encode()) for message in request.messages))
        asked = request.body["max_tokens"]
        if prompt >= context or (dialect.is_strict and prompt + asked > context):
            if said := dialect.says(context, prompt, asked):
                return Answer(400, json.dumps({"error": {"message": said}}).encode())
            prompt = context // 2 + 2
            said = "Which program?"
        else:
            said = str(behaviour(request))
        usage = {"prompt_tokens": prompt, "completion_tokens": 10} if dialect.counts else None
        return completion(said, usage=usage)

    return behave


# ---- the competent one


Wording = Callable[[str, StructuralEdit, str], str]  # the program, an edit of it, what it makes


def in_blocks(_: str, edit: StructuralEdit, __: str) -> str:
    return "```\n" + "\n".join(BLOCK.format(old, new) for old, new in edit.changes) + "\n```"


def in_a_diff(text: str, _: StructuralEdit, made: str) -> str:
    """With numbers that are wrong, as models write them."""
    lines = difflib.unified_diff(text.splitlines(), made.splitlines(), "a/train.py", "b/train.py", lineterm="")
    return "```diff\n" + "\n".join("@@ -1,9 +1,9 @@" if line.startswith("@@") else line for line in lines) + "\n```"


def in_definitions(text: str, _: StructuralEdit, made: str) -> str:
    """Imports, constants, functions and classes that differ, whole."""
    old, new = _statements(text), _statements(made)
    code = "\n\n".join(code for code in new if code not in old)
    return f"```python\n{code}\n```"


def _statements(text: str) -> list[str]:
    """The lines of each top-level statement."""
    lines, body = text.splitlines(), ast.parse(text).body
    starts = [min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))]) for node in body]
    return ["\n".join(lines[start - 1 : node.end_lineno]) for start, node in zip(starts, body, strict=True)]


def as_a_program(_: str, __: StructuralEdit, made: str) -> str:
    return f"```python\n{made}```"


WORDINGS: dict[str, Wording] = {
    "blocks": in_blocks,
    "diff": in_a_diff,
    "definitions": in_definitions,
    "program": as_a_program,
}


def competent(value: Callable[[str], float] | None = None, wording: Wording = in_blocks) -> Behaviour:
    """Answers with structural edits that the program lacks, each of them once for one program; crossovers bring over the other's changes.

    Args:
        value: lower is better, such as `evaluator.instant.true_bpb`; the best option is said. None: the first of the pool.
        wording: how an edit is said.
    """
    lock = threading.Lock()
    said: set[str] = set()  # programs

    def behave(request: Request) -> str:
        text = program_in(request)
        for options in _options(text, partner_diff_in(request)):
            made = {program: option for option in options if (program := _made(text, option.changes))}
            with lock:
                new = [program for program in made if program not in said]
                if new:
                    best = min(new, key=value) if value else new[0]
                    said.add(best)
                    return f"NOTE: {made[best].name}\n\n{wording(text, made[best], best)}\n"
        return "I can think of nothing."

    return behave


def program_in(request: Request) -> str:
    """The program that a prompt wants edited."""
    return _fence_after(request.prompt, PROGRAM_HEADING, "python") + "\n"


def shared_prefix(one: str, other: str) -> str:
    """What both begin with."""
    return one[: next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))]


def partner_diff_in(request: Request) -> str:
    """The other program's changes as a unified diff; "" for a mutation."""
    return _fence_after(request.prompt, PARTNER_HEADING, "diff") if PARTNER_HEADING in request.prompt else ""


def _fence_after(prompt: str, heading: str, language: str) -> str:
    lines = iter(prompt[prompt.rindex(f"\n{heading}\n") :].split("\n"))
    fence = next(line for line in lines if line.startswith("```") and line.endswith(language)).removesuffix(language)
    return "\n".join(itertools.takewhile(lambda line: line != fence, lines))


def _options(text: str, diff: str) -> Iterator[list[StructuralEdit]]:
    """What could be changed: one edit, or if all of those were said, two. A crossover begins with what the other program does."""
    brought = _hunks(text, diff)
    edits = [edit for edit in POOL if edit.applies(text)]
    alone = [StructuralEdit("what the other program does", brought)] if brought else []
    yield [*alone, *(StructuralEdit(edit.name, (*brought, *edit.changes)) for edit in edits)]
    pairs = itertools.combinations(edits, 2)
    yield [StructuralEdit(f"{a.name}, and {b.name}", (*brought, *a.changes, *b.changes)) for a, b in pairs]


def _made(text: str, changes: Iterable[tuple[str, str]]) -> str:
    """The program with the changes; "" where they do not go together."""
    made = f"\n{text}"
    for old, new in changes:
        if made.count(f"\n{old}\n") != 1:
            return ""
        made = made.replace(f"\n{old}\n", f"\n{new}\n")
    return made[1:]


def _hunks(text: str, diff: str) -> tuple[tuple[str, str], ...]:
    """The hunks of a unified diff that have their place in a program, as changes; with less context where that has changed."""
    found: list[tuple[str, str]] = []
    for hunk in _split(diff.split("\n"), "@@"):
        body = [line for line in hunk[1:] if line[:1] in (" ", "+", "-")]
        changed = [i for i, line in enumerate(body) if line[0] != " "]
        for around in (3, 2, 1, 0):
            kept = body[max(0, changed[0] - around) : changed[-1] + 1 + around]
            old, new = ("\n".join(line[1:] for line in kept if line[0] in signs) for signs in (" -", " +"))
            if old.strip() and f"\n{text}".count(f"\n{old}\n") == 1:
                found.append((old, new))
                break
    return tuple(found)


def _split(lines: Iterable[str], start: str) -> list[list[str]]:
    parts: list[list[str]] = []
    for line in lines:
        if line.startswith(start):
            parts.append([])
        if parts:
            parts[-1].append(line)
    return parts
