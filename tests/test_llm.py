"""The client: what an endpoint answers becomes a reply, what it does wrong becomes one error in bounded time, and the key stays secret."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from model_server import BROKEN, Answer, Behaviour, ModelServer, Request, completion, unreachable

from evo.config import LlmConfig
from evo.errors import ModelError, UserError
from evo.llm.endpoint import Model, connect, translated
from evo.llm.prompts import Message
from evo.llm.start import connected

ASKED = (Message("system", "Be brief."), Message("user", "Hello?"))
KEY = "sk-very-secret"
PATIENCE, SHORT = 30.0, 1.0  # seconds of a call: on a busy machine, and of one whose answer never comes


def model(url: str, key: str = "", **settings: Any) -> Model:
    return Model(LlmConfig(**{"url": url, "model": "scripted", "timeout_seconds": PATIENCE, **settings}), key)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries follow at once."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)


def error_of(behaviour: Behaviour, key: str = "", seconds: float = PATIENCE) -> str:
    with ModelServer(behaviour) as server, pytest.raises(ModelError) as raised:
        model(server.url, key, timeout_seconds=seconds).complete(ASKED)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- the good case


def test_a_reply_is_what_the_server_said_and_counted() -> None:
    with ModelServer(lambda _: "Hello.") as server:
        reply = model(server.url).complete(ASKED)
    assert (reply.text, reply.prompt_tokens, reply.reply_tokens, reply.truncated) == ("Hello.", 100, 10, False)
    assert reply.seconds > 0


def test_what_is_asked_follows_the_settings() -> None:
    with ModelServer(lambda _: "Hello.") as server:
        model(server.url, temperature=0.5, max_tokens=77).complete(ASKED)
        model(server.url).complete(ASKED)
    first, second = (request.body for request in server.requests)
    assert first["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("scripted", 0.5, 77)
    assert first["stream"] is False
    assert "temperature" not in second  # the server's own


def test_a_server_that_does_not_count_is_estimated() -> None:
    with ModelServer(lambda _: Answer(body=b'{"choices": [{"message": {"content": "12345678"}}]}')) as server:
        reply = model(server.url).complete(ASKED)
    assert (reply.prompt_tokens, reply.reply_tokens) == (4, 2)  # 15 and 8 bytes


@pytest.mark.parametrize("count", [10**400, 10**10, -1, True, 1.5], ids=["absurd", "too many", "negative", "a truth", "a half"])
def test_a_count_that_is_none_is_estimated(count: object) -> None:
    said = {"choices": [{"message": {"content": "12345678"}}], "usage": {"prompt_tokens": count, "completion_tokens": count}}
    with ModelServer(lambda _: Answer(body=json.dumps(said).encode())) as server:
        reply = model(server.url).complete(ASKED)
    assert (reply.prompt_tokens, reply.reply_tokens, reply.is_counted) == (4, 2, False)


@pytest.mark.parametrize("said", ["utf-16", "hex", "latin-1", "nonsense"])
def test_an_answer_is_read_as_utf_8_whatever_encoding_it_says(said: str) -> None:
    body = json.dumps({"choices": [{"message": {"content": "wärmer"}}]}, ensure_ascii=False).encode()
    with ModelServer(lambda _: Answer(body=body, content_type=f"application/json; charset={said}")) as server:
        assert model(server.url).complete(ASKED).text == "wärmer"


@pytest.mark.parametrize(("usage", "spent"), [((7, 5, 12), (7, 5)), ((7, 5, 40), (7, 33)), ((7, 5, None), (7, 5)), ((7, 5, 3), (7, 5))])
def test_thoughts_that_are_counted_in_the_total_alone_were_spent(usage: tuple[int, int, int | None], spent: tuple[int, int]) -> None:
    counted = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), usage, strict=True))
    with ModelServer(lambda _: Answer(body=json.dumps({"choices": [{"message": {"content": "Hi"}}], "usage": counted}).encode())) as server:
        reply = model(server.url).complete(ASKED)
    assert (reply.prompt_tokens, reply.reply_tokens) == spent


@pytest.mark.parametrize(("counted", "cut"), [(100, False), (2048, True), (4096, True), (6000, False), (9000, False), (None, False)])
def test_a_server_that_counts_fewer_tokens_than_a_prompt_can_have_has_dropped_a_part(counted: int | None, cut: bool) -> None:
    """A count of a hundred is that of a server that leaves out what it had cached."""
    said = {"choices": [{"message": {"content": "Hi"}}], "usage": {"prompt_tokens": counted, "completion_tokens": 1}}
    with ModelServer(lambda _: Answer(body=json.dumps(said).encode())) as server:
        assert model(server.url).complete([Message("user", "x = 1\n" * 5000)]).prompt_cut == cut


def test_a_reply_that_was_cut_off_is_a_reply() -> None:
    with ModelServer(lambda _: completion("half of", finish_reason="length")) as server:
        reply = model(server.url).complete(ASKED)
    assert (reply.text, reply.truncated) == ("half of", True)
    with ModelServer(lambda _: completion(None, finish_reason="length")) as server:  # all of it were thoughts
        assert model(server.url).complete(ASKED).text == ""


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length"])
def test_servers_name_the_limit_of_a_reply_differently(reason: str) -> None:
    with ModelServer(lambda _: completion("half of", finish_reason=reason)) as server:
        assert model(server.url).complete(ASKED).truncated


@pytest.mark.parametrize(
    ("message", "reason", "said"),
    [
        ({"content": None, "refusal": "I cannot\nhelp."}, "stop", "it refused: I cannot help."),
        ({"content": ""}, "content_filter", "content filter"),
        ({"content": " ", "reasoning_content": "Deeper!"}, "stop", "thoughts"),
        ({"content": None, "reasoning": "Deeper!"}, "stop", "thoughts"),
        ({"content": None, "reasoning": ""}, "stop", ""),
        ({"content": "Yes.", "reasoning": "Deeper!", "refusal": "no"}, "stop", ""),
    ],
)
def test_why_there_is_no_text_is_told_where_the_server_says(message: dict[str, Any], reason: str, said: str) -> None:
    answer = Answer(body=json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode())
    with ModelServer(lambda _: answer) as server:
        silence = model(server.url).complete(ASKED).silence
    assert said in silence
    assert bool(silence) == bool(said)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<think>a block?\n<<<<<<< SEARCH</think>Yes.", "Yes."),
        ("only the end of a thought</think>\nYes.", "Yes."),
        ("only the end\n</think>Yes.", "Yes."),
        ("<think>never done", ""),
        ("I <think> so", "I <think> so"),
        ("half \ud800 of a character", "half ? of a character"),
    ],
)
def test_thoughts_and_half_characters_are_no_part_of_a_reply(said: str, text: str) -> None:
    with ModelServer(lambda _: said) as server:
        assert model(server.url).complete(ASKED).text == text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}], "Hello."),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Hello."}], "Hello."),
        (["Hello."], "Hello."),
        ([], ""),
        (None, ""),
        ({"text": "no form that anybody uses"}, ""),
    ],
)
def test_a_reply_in_parts_is_their_text_and_one_without_any_is_counted_all_the_same(content: object, text: str) -> None:
    said = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
    with ModelServer(lambda _: Answer(body=json.dumps(said).encode())) as server:
        reply = model(server.url).complete(ASKED)
    assert (reply.text, reply.prompt_tokens, reply.reply_tokens) == (text, 7, 5)


def test_a_server_that_knows_the_limit_by_another_name_is_asked_by_that() -> None:
    def behave(request: Request) -> str | Answer:
        if "max_tokens" in request.body:
            why = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
            return Answer(400, json.dumps({"error": {"message": why}}).encode())
        return f"at most {request.body['max_completion_tokens']}"

    with ModelServer(behave) as server:
        subject = model(server.url, max_tokens=77)
        assert [subject.complete(ASKED).text for _ in range(2)] == ["at most 77"] * 2
    assert len(server.requests) == 3  # once is enough to learn it


def test_many_threads_may_call_one_model() -> None:
    together = threading.Barrier(6, timeout=20)

    def behave(_: object) -> str:
        together.wait()  # breaks unless six calls are under way at once
        return "Hello."

    replies: list[str] = []
    with ModelServer(behave) as server:
        subject = model(server.url, timeout_seconds=20.0)
        threads = [threading.Thread(target=lambda: replies.append(subject.complete(ASKED).text)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert replies == ["Hello."] * 6


# ---- everything else


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", BROKEN)
def test_whatever_an_endpoint_does_wrong_is_one_error(name: str) -> None:
    """Hanging and dripping ones too: a call ends when its time is up, or this test would not."""
    assert error_of(BROKEN[name], seconds=SHORT)


@pytest.mark.usefixtures("no_waiting")
def test_errors_say_what_went_wrong() -> None:
    assert "answered 500: " in error_of(BROKEN["errors"])
    assert "out of order" in error_of(BROKEN["errors"])
    assert "who are you" in error_of(BROKEN["refuses the key"])
    assert "within 1 s" in error_of(BROKEN["drips"], seconds=SHORT)
    assert "Welcome" in error_of(BROKEN["html"])
    with pytest.raises(ModelError, match="cannot be reached"):
        model(unreachable()).complete(ASKED)


WORDS = "the words of the server"
DEEP = b'{"error": ' * 900 + b"0" + b"}" * 900


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("status", [200, 400, 404, 502])
@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": WORDS, "code": 1}},
        {"error": WORDS},
        {"detail": WORDS},
        {"detail": [{"loc": [], "msg": WORDS}]},
        {"message": WORDS},
        [{"error": {"code": 400, "message": WORDS}}],
        {"error": {"message": "", "code": WORDS}},
        f"<html>{WORDS}</html>",
    ],
)
def test_what_a_server_says_of_a_failure_is_passed_on_wherever_it_stands(body: Any, status: int) -> None:
    sent = body if isinstance(body, str) else json.dumps(body)
    assert WORDS in error_of(lambda _: Answer(status, sent.encode()))


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_is_nested_deeply_is_one_error(status: int) -> None:
    assert error_of(lambda _: Answer(status, DEEP))
    assert error_of(lambda _: Answer(status, b"[" * 900 + b"]" * 900))


@pytest.mark.parametrize(
    ("status", "said", "remedy"),
    [
        (404, "Not Found", "--llm"),
        (404, "The model `x` does not exist", "--model"),
        (400, "Invalid API token", ""),
        (400, "temperature must be 1", ""),
    ],
)
def test_a_request_that_settings_can_mend_names_them(status: int, said: str, remedy: str) -> None:
    error = error_of(lambda _: Answer(status, json.dumps({"error": {"message": said}}).encode()))
    assert remedy in error
    assert remedy or error.endswith(said)


def test_an_answer_that_takes_too_long_names_the_setting_and_a_list_of_models_does_not() -> None:
    said = error_of(BROKEN["hangs"], seconds=SHORT)
    assert said.endswith("gave no complete answer within 1 s; if it needs longer: --set llm.timeout_seconds=2")
    with ModelServer(lambda _: "", models=Answer(hangs=True)) as server, pytest.raises(ModelError) as raised:
        model(server.url, timeout_seconds=SHORT).served()
    assert str(raised.value).endswith("gave no complete answer within 1 s")


def test_an_answer_that_a_router_broke_off_is_no_answer() -> None:
    said = error_of(lambda _: completion("NOTE: dee", finish_reason="error", error={"message": "the provider has gone"}))
    assert said.endswith("broke off its answer: the provider has gone")


@pytest.mark.usefixtures("no_waiting")
def test_a_failing_request_is_tried_twice_and_a_refused_one_once() -> None:
    with ModelServer(BROKEN["errors"]) as server, pytest.raises(ModelError):
        model(server.url).complete(ASKED)
    assert len(server.requests) == 2
    with ModelServer(BROKEN["refuses the key"]) as server, pytest.raises(ModelError):
        model(server.url).complete(ASKED)
    assert len(server.requests) == 1


def test_a_server_that_asks_for_patience_gets_none_beyond_the_time_of_the_call() -> None:
    assert "within 1 s" in error_of(lambda _: Answer(429, b"{}", headers={"Retry-After": "100"}), seconds=SHORT)


def foreign_errors() -> Iterator[type[Exception]]:
    for name, kind in inspect.getmembers(openai, inspect.isclass):
        if issubclass(kind, Exception) and not name.startswith("_"):
            yield kind


def instance(kind: type[Exception]) -> Exception:
    """An exception of openai's with the arguments that its constructor asks for."""
    request = httpx2.Request("POST", "http://host/v1")
    response = httpx2.Response(500, request=request)
    known = {
        "request": request,
        "response": response,
        "message": "m",
        "body": None,
        "unsent_messages": [],
        "completion": openai.types.chat.ChatCompletion.construct(),
    }
    signature = inspect.signature(kind.__init__).parameters
    required = {name: p for name, p in signature.items() if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return kind(**{name: known[name] for name in required if name != "self" and name in known})


@pytest.mark.parametrize("kind", [*foreign_errors(), TimeoutError, ConnectionResetError], ids=lambda kind: kind.__name__)
def test_no_error_of_the_client_is_left_untranslated(kind: type[Exception]) -> None:
    with pytest.raises(ModelError) as raised, translated("http://host/v1", 3.0, ""):
        raise instance(kind)
    assert raised.value.__cause__ is None  # the request that openai's errors hold has the key in its headers


def test_the_list_of_foreign_errors_is_not_empty() -> None:
    assert openai.APITimeoutError in set(foreign_errors())


# ---- keys, addresses, proxies


@pytest.mark.usefixtures("no_waiting")
def test_the_key_is_sent_and_never_said_again() -> None:
    def parrot(request: Any) -> str:
        return f"You said {request.headers['authorization']}"

    with ModelServer(parrot) as server:
        assert model(server.url, KEY).complete(ASKED).text == "You said Bearer [key]"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    with ModelServer(lambda request: completion(None, message={"refusal": parrot(request)}), models=(f"not {KEY}",)) as server:
        assert model(server.url, KEY).complete(ASKED).silence == "it refused: You said Bearer [key]"
        assert KEY not in model(server.url, KEY).doubt()
    said = error_of(lambda request: Answer(500, f'{{"error": {{"message": "{parrot(request)}"}}}}'.encode()), KEY)
    assert "[key]" in said
    assert KEY not in said


@pytest.mark.parametrize("before", range(0, 320, 7))
def test_no_piece_of_a_key_is_left_where_a_message_is_cut(before: int) -> None:
    said = "x" * before + KEY
    refused = error_of(lambda _: Answer(400, json.dumps({"error": {"message": said}}).encode()), KEY)
    assert KEY[:4] not in refused + error_of(lambda _: Answer(body=said.encode()), KEY)


def test_models_are_listed_without_the_key_and_long_names_are_cut() -> None:
    with ModelServer(lambda _: "", models=(KEY, "x" * 10_000)) as server:
        assert model(server.url, KEY).served()[0] == "[key]"
        assert len(model(server.url, KEY).doubt()) < 300
        with pytest.raises(UserError) as raised:
            connect(LlmConfig(url=server.url), {"EVO_LLM_KEY": KEY})
    assert KEY not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_local_server_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ModelServer(lambda _: "Hello.") as server:
        found = connect(LlmConfig(url=server.url, model="x"), {})
        assert found.complete(ASKED).text == "Hello."


def test_the_own_key_comes_before_openais() -> None:
    with ModelServer(lambda _: "Hello.") as server:
        for environment in ({"OPENAI_API_KEY": "a"}, {"OPENAI_API_KEY": "a", "EVO_LLM_KEY": "b"}):
            connect(LlmConfig(url=server.url, model="x"), environment).complete(ASKED)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer a", "Bearer b"]


@pytest.mark.parametrize("environment", [{}, {"EVO_LLM_KEY": ""}])
def test_openai_without_a_key_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UserError, match="EVO_LLM_KEY"):
        connect(LlmConfig(model="gpt"), environment)


@pytest.mark.parametrize("key", ["two words", "line\n", "schlüssel"])
def test_a_key_that_is_none_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UserError) as raised:
        connect(LlmConfig(model="gpt"), {"OPENAI_API_KEY": key})
    assert key not in str(raised.value)


def test_no_address_and_no_name_means_no_model() -> None:
    assert connected(LlmConfig()) is None


def test_the_only_model_of_a_server_is_taken() -> None:
    with ModelServer(lambda _: "Hello.", models=("alone",)) as server:
        found = connect(LlmConfig(url=server.url), {})
        assert found.name == "alone"
        found.complete(ASKED)
    assert server.requests[0].body["model"] == "alone"


@pytest.mark.parametrize(("models", "said"), [(("a", "b"), "2 models \\(a, b\\)"), ((), "no model")])
def test_a_choice_of_models_is_left_to_people(models: tuple[str, ...], said: str) -> None:
    with ModelServer(lambda _: "", models=models) as server, pytest.raises(UserError, match=f"{said}.*--model NAME"):
        connect(LlmConfig(url=server.url), {})


def test_a_server_that_does_not_answer_cannot_be_asked_for_its_models() -> None:
    with pytest.raises(UserError, match="--model"):
        connect(LlmConfig(url=unreachable(), timeout_seconds=5.0), {})


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("key", ["", KEY])
def test_where_the_key_is_refused_the_remedy_is_the_key(status: int, key: str) -> None:
    no = Answer(status, json.dumps({"error": {"message": "bad key"}}).encode())
    remedy = f"answered {status}: bad key; set EVO_LLM_KEY, else OPENAI_API_KEY, to a key that it takes"
    with ModelServer(lambda _: "", models=no) as server, pytest.raises(UserError) as raised:
        connect(LlmConfig(url=server.url), {"EVO_LLM_KEY": key})
    assert str(raised.value) == f"{server.url} {remedy}"  # and neither "start it" nor "--model"
    assert remedy in error_of(lambda _: no, key)


def test_a_bare_address_means_the_usual_path() -> None:
    with ModelServer(lambda _: "Hello.") as server:
        for url in (server.url.removesuffix("/v1"), server.url.removesuffix("v1"), server.url, f"{server.url}/"):
            model(url).complete(ASKED)
    assert {request.path for request in server.requests} == {"/v1/chat/completions"}


def test_the_address_of_a_call_means_the_root_above_it() -> None:
    with ModelServer(lambda _: "Hello.") as server:
        for url in (f"{server.url}/chat/completions", f"{server.url}/chat/completions/", server.url.replace("/v1", "/chat/completions")):
            model(url).complete(ASKED)
    assert {request.path for request in server.requests} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("listed", "doubted"),
    [
        (("scripted",), ""),
        (("models/scripted", "b"), ""),
        (("scripted:latest",), ""),
        ((), ""),
        (("a", "scripted:7b"), "scripted is none of the 2 that are served there, such as scripted:7b"),
        (tuple(f"{i}x" for i in range(9)), "0x, 1x, 2x, 3x, 4x, 5x, 6x, 7x, …"),
        (Answer(401, b"{}"), "cannot be listed"),
    ],
)
def test_a_name_that_is_not_served_is_doubted_before_the_first_call(listed: tuple[str, ...] | Answer, doubted: str) -> None:
    with ModelServer(lambda _: "", models=listed) as server:
        said = model(server.url).doubt()
    assert doubted in said
    assert bool(said) == bool(doubted)


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, unreachable().removesuffix("/v1"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ModelServer(lambda _: "Hello.") as server:
        assert model(server.url).complete(ASKED).text == "Hello."
        assert model(server.url.replace("127.0.0.1", "localhost")).complete(ASKED).text == "Hello."
    with pytest.raises(ModelError, match="cannot be reached"):
        model("http://host.invalid/v1").complete(ASKED)


def test_a_proxy_that_the_client_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "gopher://proxy:70")
    with pytest.raises(UserError, match="HTTPS_PROXY"):
        connect(LlmConfig(url="https://host/v1", model="x"), {})
