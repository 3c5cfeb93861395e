"""A server whose context is too short: what it says of itself is read, and prompts and replies are made to fit what it holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from model_server import (
    BLOCK,
    DIALECTS,
    USELESS,
    Answer,
    Behaviour,
    ModelServer,
    Request,
    completion,
    program_in,
    shared_prefix,
    short_of_context,
)
from refused_requests import OTHERS, REFUSED
from test_writer import DEEPER, FOUNDER, KEY, TRAIN, Shelf

from evo.config import LlmConfig
from evo.core.records import CROSSOVER, MUTATE, Proposal
from evo.core.standing import assess
from evo.errors import ModelError
from evo.llm import desk
from evo.llm.brief import Setting
from evo.llm.endpoint import Model, RefusedError
from evo.llm.prompts import AGENDA, Message
from evo.llm.refusals import Refusal
from evo.llm.room import LEAST_REPLY
from evo.llm.writer import ModelWriter

AGENDA_TEXT = "Lower val_bpb.\n\n" + "\n\n".join(f"Idea {i}: {'make it wider or deeper, ' * 8}" for i in range(12))
OFFERS = tuple(f"CONSTANT_{i} = {i}" for i in range(400))
WRONG = BLOCK.format("    no such line", "    x = 1")


class Writer:
    """A model that writes children of the default program at a server."""

    def __init__(self, url: str, max_tokens: int = 8192) -> None:
        self.model = Model(LlmConfig(url=url, model="scripted", timeout_seconds=20.0, max_tokens=max_tokens), KEY)
        self.shelf = Shelf()
        self._write = ModelWriter(self.model, lambda: Setting(AGENDA_TEXT, "cpu", 10.0, offers=OFFERS), 120_000)

    def write(self, index: int = 7, *parents: str) -> desk.Answer:
        proposal = Proposal(index, CROSSOVER if len(parents) > 1 else MUTATE, parents or (FOUNDER.genome,), 1)
        return self._write(proposal, self.shelf.library(), assess(()))


def refused(requests: list[Request], context: int, is_strict: bool = True) -> int:
    return sum(tokens(r) + (r.body["max_tokens"] if is_strict else 0) > context for r in requests)


def tokens(request: Request) -> float:
    return 0.3 * sum(len(message["content"].encode()) for message in request.messages)


# ---- what servers say


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_server_says_when_a_request_is_too_long_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    status, body, *figures = REFUSED[name]
    sent = body if isinstance(body, str) else json.dumps(body)
    with ModelServer(lambda _: Answer(status, sent.encode())) as server, pytest.raises(RefusedError) as raised:
        Model(LlmConfig(url=server.url, model="x"), KEY).complete([Message("user", "Hello?")])
    assert raised.value.said == Refusal(*figures)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_refused_for_another_reason_is_not_taken_for_too_long(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
    status, body = OTHERS[name]
    with ModelServer(lambda _: Answer(status, json.dumps(body).encode())) as server, pytest.raises(ModelError) as raised:
        Model(LlmConfig(url=server.url, model="x"), KEY).complete([Message("user", "Hello?")])
    assert not isinstance(raised.value, RefusedError)


# ---- what becomes of it


@pytest.mark.parametrize("context", [32_768, 16_384, 12_288, 9216])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_prompt_shortens_itself_to_what_the_server_holds_and_no_call_after_that_is_refused(name: str, context: int) -> None:
    dialect = DIALECTS[name]
    with ModelServer(short_of_context(context, dialect, lambda _: DEEPER)) as server:
        writer = Writer(server.url)
        first = writer.write()
        assert first.written is not None, first.why
        begun = len(server.requests)
        later = [writer.write(index) for index in range(8, 11)]
    assert all(answer.written is not None for answer in later)
    assert begun <= 6
    assert len(server.requests) == begun + 3
    assert refused(server.requests[begun - 1 :], context, dialect.is_strict) == 0
    assert program_in(server.requests[-1]) == TRAIN
    assert "build_model" in server.requests[-1].messages[0]["content"]


@pytest.mark.parametrize("name", DIALECTS)
def test_calls_that_begin_together_learn_the_same_and_agree(name: str) -> None:
    """All of them begin at full length; what the slower ones are told is no news by then."""
    together = threading.Barrier(6)

    def behave(request: Request) -> str | Answer:
        if request.body["max_tokens"] == 8192:
            together.wait(20)
        return limited(request)

    limited = short_of_context(9216, DIALECTS[name], lambda _: DEEPER)
    with ModelServer(behave) as server:
        writer = Writer(server.url)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(writer.write, range(7, 13)))
        assert all(answer.written is not None for answer in answers), [answer.why for answer in answers]
        begun = len(server.requests)
        assert writer.write(20).written is not None
    assert len(server.requests) == begun + 1
    assert begun <= 6 * 4


def test_a_reply_that_is_cut_off_at_the_most_that_a_server_gives_is_told_so() -> None:
    def behave(request: Request) -> Answer:
        if request.body["max_tokens"] > 4096:
            return Answer(400, b'{"error": {"message": "Invalid max_tokens value, the valid range of max_tokens is [1, 4096]"}}')
        return completion("Let me think.", {"prompt_tokens": 9000, "completion_tokens": 4096}, finish_reason="length")

    with ModelServer(behave) as server:
        answer = Writer(server.url).write()
    assert answer.why.endswith("cut off at 4096 tokens, thoughts included, the most that its server gives")


def test_a_reply_may_be_as_long_as_what_the_prompt_leaves_and_the_whole_prompt_goes_where_it_has_room() -> None:
    with ModelServer(short_of_context(16_384, DIALECTS["OpenAI"], lambda _: DEEPER)) as server:
        answer = Writer(server.url).write()
    first, second = server.requests
    assert first.messages == second.messages
    assert first.body["max_tokens"] == 8192
    assert 5000 < second.body["max_tokens"] <= 16_384 - tokens(second)
    assert "holds 16,384 tokens of prompt and reply together, so replies get what prompts leave" in answer.notice


def test_what_is_not_needed_goes_first_and_a_part_of_the_agenda_last() -> None:
    asked: dict[int, Request] = {}
    for context in (16_384, 11_500, 9500):
        with ModelServer(short_of_context(context, DIALECTS["OpenAI"], lambda _: DEEPER)) as server:
            answer = Writer(server.url).write()
            left_out = json.loads(answer.exchange)["left_out"]
            assert (AGENDA in left_out) == (context == 9500)
        asked[context] = server.requests[-1]
    assert "CONSTANT_399" in asked[16_384].prompt
    assert "CONSTANT_399" not in asked[11_500].prompt
    assert "Idea 11" in asked[11_500].prompt
    assert "Idea 11" not in asked[9500].prompt
    assert all(program_in(request) == TRAIN for request in asked.values())


@pytest.mark.parametrize("name", DIALECTS)
def test_where_the_program_does_not_fit_people_read_what_to_set_and_it_is_tried_again_later(name: str) -> None:
    """Later, since its server may have been started anew; then it works without another word."""
    context = 4096
    behave = lambda request: short_of_context(context, DIALECTS[name], lambda _: DEEPER)(request)  # noqa: E731
    with ModelServer(behave) as server:
        writer = Writer(server.url)
        answers = [writer.write(index) for index in (7, 8)]
        assert len(server.requests) <= 12
        context = 32_768
        mended = writer.write(9)
    for answer in answers:
        assert answer.written is None
        assert answer.endpoint_failed
        assert "give it a context of 16,384, better 32,768" in answer.why
        assert "OLLAMA_CONTEXT_LENGTH" in answer.why
        assert ("holds 4,096 tokens" in answer.why) == (not name.startswith("without"))
        assert answer.notice == ""
    assert mended.written is not None, mended.why


def test_a_program_that_is_too_long_where_others_fit_is_left_to_the_built_in_operators_without_a_call() -> None:
    with ModelServer(short_of_context(9216, DIALECTS["OpenAI"], lambda _: DEEPER)) as server:
        writer = Writer(server.url)
        longer = writer.shelf.add(1, TRAIN + "".join(f"\n\ndef unused_{i}() -> None:\n    pass\n" for i in range(200)))
        assert writer.write().written is not None
        asked = len(server.requests)
        answer = writer.write(8, longer)
        assert len(server.requests) == asked
        assert writer.write(9).written is not None
    assert not answer.endpoint_failed
    assert "give it a context of" in answer.why


def test_the_most_that_a_server_gives_in_a_reply_is_learned_once() -> None:
    def behave(request: Request) -> str | Answer:
        if request.body["max_tokens"] > 4096:
            why = "max_tokens is too large: 8192. This model supports at most 4096 completion tokens, whereas you provided 8192."
            return Answer(400, json.dumps({"error": {"message": why}}).encode())
        return DEEPER

    with ModelServer(behave) as server:
        writer = Writer(server.url)
        answers = [writer.write(index) for index in (7, 8)]
    assert [request.body["max_tokens"] for request in server.requests] == [8192, 4096, 4096]
    assert all(answer.written is not None for answer in answers)
    assert answers[0].notice == "model: its server gives at most 4,096 tokens in a reply, so it is asked for no more"


def test_a_second_try_quotes_less_where_the_context_is_short_and_is_left_where_it_has_no_room() -> None:
    behaviour: Behaviour = lambda request: DEEPER if request.is_second_try else WRONG + "\n" + "# so\n" * 2000  # noqa: E731
    with ModelServer(short_of_context(12_288, DIALECTS["OpenAI"], behaviour)) as server:
        answer = Writer(server.url).write()
        assert answer.written is not None, answer.why
        assert "characters …]" in server.requests[-1].messages[2]["content"]
    tight = 8192
    with ModelServer(short_of_context(tight, DIALECTS["OpenAI"], behaviour)) as server:
        answer = Writer(server.url).write()
    assert answer.written is None
    assert not answer.endpoint_failed
    assert "no room to ask again" in answer.why
    assert len(json.loads(answer.exchange)["turns"]) == 1


def test_a_reply_that_the_context_cut_off_is_no_reason_to_allow_longer_ones() -> None:
    """llama.cpp ends a reply where its context does, whatever was asked for."""

    def behave(request: Request) -> Answer:
        used = round(tokens(request))
        return completion("Let me think.", {"prompt_tokens": used, "completion_tokens": 12_288 - used}, finish_reason="length")

    with ModelServer(behave) as server:
        answer = Writer(server.url).write()
    assert "where its server's context of 12,288 ended: give it a longer one" in answer.why
    assert server.requests[0].body["max_tokens"] == 8192
    assert server.requests[1].body["max_tokens"] < 4096


def test_a_reply_that_ended_by_chance_where_a_context_could_limits_later_ones_for_a_time() -> None:
    """One in 128 of those that a server cuts off at a length of its own."""

    def behave(_: Request) -> Answer:
        if len(server.requests) > 1:
            return completion(DEEPER, {"prompt_tokens": 9000, "completion_tokens": 300})
        return completion(DEEPER, {"prompt_tokens": 9000, "completion_tokens": 4056}, finish_reason="length")

    with ModelServer(behave) as server:
        writer = Writer(server.url)
        answers = [writer.write(index) for index in range(7, 27)]
    asked = [request.body["max_tokens"] for request in server.requests]
    assert "perhaps 13,056 tokens" in answers[0].notice
    assert asked[0] == asked[-1] == 8192
    assert max(asked[1:16]) < 4096


def test_a_count_that_shows_more_than_a_server_said_lifts_the_limit() -> None:
    generous: Callable[[Request], str | Answer] = lambda _: completion(DEEPER, {"prompt_tokens": 10_000, "completion_tokens": 9000})  # noqa: E731
    behaviours = [short_of_context(16_384, DIALECTS["OpenAI"], lambda _: DEEPER)]
    with ModelServer(lambda request: behaviours[0](request)) as server:
        writer = Writer(server.url)
        writer.write()
        assert server.requests[-1].body["max_tokens"] < 8192
        behaviours[0] = generous
        writer.write(8)
        writer.write(9)
    assert server.requests[-1].body["max_tokens"] == 8192


def test_whatever_is_refused_the_least_is_asked_for_and_calls_end() -> None:
    always = Answer(400, b'{"error": {"message": "This model\'s maximum context length is 99 tokens."}}')
    with ModelServer(lambda _: always) as server:
        answer = Writer(server.url).write()
    assert answer.endpoint_failed
    assert len(server.requests) <= 6
    assert server.requests[-1].body["max_tokens"] == LEAST_REPLY


def test_a_refusal_that_nothing_helps_against_is_told_in_its_words() -> None:
    always = Answer(400, b'{"error": {"message": "max_tokens is too large: this model supports at most 4096 completion tokens"}}')
    with ModelServer(lambda _: always) as server:
        answer = Writer(server.url).write()
    assert answer.endpoint_failed
    assert "at most 4096 completion tokens" in answer.why
    assert "give it" not in answer.why
    assert len(server.requests) <= 6


def test_a_limit_that_a_refused_request_keeps_is_not_believed_and_not_asked_against_again() -> None:
    """What refuses everything is told in its words at once, and nothing follows from it for the size of tokens."""
    always = Answer(400, b'{"error": {"message": "This model\'s maximum context length is 131072 tokens."}}')
    with ModelServer(lambda _: always) as server:
        writer = Writer(server.url)
        answers = [writer.write(index) for index in (7, 8, 9)]
    assert all(answer.endpoint_failed for answer in answers)
    assert all(answer.why.endswith("answered 400: This model's maximum context length is 131072 tokens") for answer in answers)
    assert all("give it" not in answer.why for answer in answers)
    assert len(server.requests) <= 4


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("every", [3, 10])
def test_a_busy_server_that_refuses_now_and_then_goes_on_being_asked_and_with_more_again(every: int, counts: bool) -> None:
    """Calls to llama.cpp share a context: whether one is refused depends on the others, and no figure is told."""
    calm = 0

    def behave(request: Request) -> Answer:
        if len(server.requests) % every == 0 and not calm:
            return Answer(400, b'{"error": {"message": "Context size has been exceeded."}}')
        return completion(DEEPER, {"prompt_tokens": round(tokens(request)), "completion_tokens": 300} if counts else None)

    with ModelServer(behave) as server:
        writer = Writer(server.url)
        busy = [writer.write(index) for index in range(7, 27)]
        calm = len(server.requests)
        assert all(writer.write(index).written is not None for index in range(27, 75))
    assert sum(answer.written is not None for answer in busy) >= 16
    assert len(server.requests) == calm + 48
    assert server.requests[-1].body["max_tokens"] > 7000
    assert len(server.requests[-1].prompt) == len(server.requests[0].prompt)


def test_what_a_server_said_stands_beside_what_it_was_taken_for() -> None:
    with ModelServer(short_of_context(4096, DIALECTS["llama.cpp"], lambda _: DEEPER)) as server:
        answer = Writer(server.url).write()
    assert "holds 4,096 tokens" in answer.why
    assert "answered 400: request (" in answer.why


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_server_that_counts_only_what_it_had_not_read_before_has_cut_nothing(is_warm: bool) -> None:
    """Where it had read most of the first prompt too, as in a resumed run, one short prompt shows it."""
    read: list[str] = []

    def behave(request: Request) -> Answer:
        text = "".join(message["content"] for message in request.messages)
        known = max((len(shared_prefix(earlier, text)) for earlier in read), default=0)
        read.append(text)
        return completion(DEEPER, {"prompt_tokens": 1100 + round(0.3 * (len(text) - known)), "completion_tokens": 10})

    with ModelServer(behave) as server:
        if is_warm:
            Writer(server.url).write(6)
        writer = Writer(server.url)
        answers = [writer.write(index) for index in range(7, 12)]
    assert all(answer.written is not None for answer in answers)
    asked = [request.body["max_tokens"] for request in server.requests[-5:]]
    assert asked == ([8192, LEAST_REPLY, 8192, 8192, 8192] if is_warm else [8192] * 5)
    assert all(answer.notice == "" for answer in answers[1:])


def test_the_second_turn_after_a_cut_prompt_is_the_prompt_made_shorter() -> None:
    with ModelServer(short_of_context(10_240, DIALECTS["Ollama"], lambda _: DEEPER)) as server:
        answer = Writer(server.url).write()
    assert answer.written is not None, answer.why
    assert [len(request.messages) for request in server.requests] == [2, 2]
    assert answer.tokens > 10_240 // 2
    assert "holds 10,240 tokens" in answer.notice


def test_short_questions_are_not_touched() -> None:
    with ModelServer(USELESS["prose"]) as server:
        Model(LlmConfig(url=server.url, model="x"), KEY).complete([Message("user", "Hello?")])
    assert server.requests[0].body["max_tokens"] == 8192
