"""A model at a real endpoint: what it gets right becomes a candidate, what it gets wrong is told to it once, then given up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from model_server import (
    BLOCK,
    BROKEN,
    USELESS,
    WORDINGS,
    Behaviour,
    ModelServer,
    Request,
    competent,
    completion,
    program_in,
    second_try,
    unreachable,
)
from model_server import Answer as Endpoint

import genomes
from evaluator.instant import true_bpb
from evo.config import LlmConfig
from evo.core.belief import believe
from evo.core.history import fold
from evo.core.records import CALIBRATE, CROSSOVER, MUTATE, Candidate, Proposal
from evo.core.standing import assess
from evo.llm.brief import Setting
from evo.llm.desk import Answer
from evo.llm.endpoint import Model
from evo.llm.writer import ModelWriter, remark, settings_of
from evo.operators import Library, describe_seed

TRAINER = Path(__file__).resolve().parent.parent / "trainer"
TRAIN = (TRAINER / "train.py").read_text()
FOUNDER = describe_seed(TRAIN)
DEEPER = BLOCK.format("DEPTH = 8  # transformer blocks", "DEPTH = 10  # transformer blocks")
KEY = "sk-very-secret"


class Shelf:
    """What is known, as a driver would hand it over."""

    def __init__(self) -> None:
        self.texts = {FOUNDER.genome: TRAIN}
        self.known = {FOUNDER.genome: dataclasses.replace(FOUNDER, proposal=Proposal(0, CALIBRATE, (), 0))}

    def add(self, index: int, text: str) -> str:
        id_ = genomes.identity(text)
        self.texts[id_] = text
        self.known[id_] = Candidate(Proposal(index, MUTATE, (FOUNDER.genome,), index), id_, genomes.species(text), genomes.size(text), "")
        return id_

    def library(self) -> Library:
        history = fold(())
        return Library(
            founder=FOUNDER, texts=self.texts.__getitem__, known=dict(self.known), seed=0, history=history, belief=believe(history.genomes)
        )


def ask(behaviour: Behaviour, *parents: str, shelf: Shelf | None = None, **settings: int) -> tuple[Answer, list[Request]]:
    """One proposal at a server with that behaviour."""
    with ModelServer(behaviour) as server:
        return at(server.url, *parents, shelf=shelf, **settings), server.requests


def at(
    url: str, *parents: str, shelf: Shelf | None = None, prompt_bytes: int = 120_000, dry_run: Callable[[str], str] | None = None
) -> Answer:
    model = Model(LlmConfig(url=url, model="scripted", timeout_seconds=4.0), KEY)
    proposal = Proposal(7, CROSSOVER if len(parents) > 1 else MUTATE, parents or (FOUNDER.genome,), 1)
    writer = ModelWriter(model, lambda: Setting("Lower val_bpb.", "cpu", 10.0), prompt_bytes, dry_run)
    return writer(proposal, (shelf or Shelf()).library(), assess(()))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)


# ---- the good case


def test_an_edit_becomes_a_candidate_that_names_its_writer() -> None:
    answer, requests = ask(lambda _: f"NOTE: deeper, since\tdepth pays\n{DEEPER}")
    assert answer.written is not None
    candidate = answer.written.candidate
    assert answer.written.text == TRAIN.replace("DEPTH = 8 ", "DEPTH = 10 ")
    assert candidate.genome == genomes.identity(answer.written.text)
    assert candidate.writer == "scripted"
    assert candidate.note == "DEPTH 8 → 10 – deeper, since depth pays"
    assert (answer.why, answer.endpoint_failed, answer.tokens, len(requests)) == ("", False, 110, 1)


def test_the_parent_stands_in_the_prompt_to_the_letter() -> None:
    _, requests = ask(lambda _: DEEPER)
    assert program_in(requests[0]) == TRAIN


def test_an_edit_without_a_note_is_described_by_itself() -> None:
    answer, _ = ask(lambda _: DEEPER)
    assert answer.written is not None
    assert answer.written.candidate.note == "DEPTH 8 → 10"


def test_the_competent_model_finds_one_new_program_after_the_other() -> None:
    found = set()
    with ModelServer(competent()) as server:
        for _ in range(25):  # more than there are single edits
            answer = at(server.url)
            assert answer.written is not None, answer.why
            assert not genomes.check(answer.written.text)
            found.add(answer.written.candidate.genome)
    assert len(found) == 25


@pytest.mark.parametrize("wording", WORDINGS)
def test_an_edit_may_be_said_in_any_form(wording: str) -> None:
    with ModelServer(competent(wording=WORDINGS[wording])) as other, ModelServer(competent()) as usual:
        for _ in range(3):
            answer, wanted = at(other.url), at(usual.url)
            assert answer.written is not None, answer.why
            assert wanted.written is not None
            assert answer.written.candidate.genome == wanted.written.candidate.genome
            assert answer.written.candidate.note == wanted.written.candidate.note


def test_what_a_length_limit_cut_off_is_not_taken_for_whole() -> None:
    function = "def norm(x: torch.Tensor) -> torch.Tensor:\n    return x"
    answer, requests = ask(lambda _: completion(function, finish_reason="length"))
    assert answer.written is None
    assert "cut off at its length limit" in requests[1].messages[-1]["content"]
    answer, _ = ask(lambda _: function)
    assert answer.written is not None


def test_the_competent_model_knows_its_landscape() -> None:
    value = lambda text: true_bpb(text, 1)  # noqa: E731
    with ModelServer(competent(value)) as server:
        first, second = at(server.url), at(server.url)
    assert first.written is not None
    assert second.written is not None
    assert value(first.written.text) < value(second.written.text) < value(TRAIN)


def test_a_crossover_brings_over_what_the_other_parent_changed() -> None:
    shelf = Shelf()
    a = shelf.add(1, TRAIN.replace("self.down(F.relu(self.up(x)).square())", "self.down(F.gelu(self.up(x)))"))
    b = shelf.add(2, TRAIN.replace("        return x + self.mlp(norm(x))", "        return x + DEPTH**-0.5 * self.mlp(norm(x))"))
    answer, requests = ask(competent(), a, b, shelf=shelf)
    assert answer.written is not None, answer.why
    assert "F.gelu" in answer.written.text
    assert "DEPTH**-0.5" in answer.written.text
    assert answer.written.candidate.note.startswith(f"{b[:8]} into {a[:8]}: ")
    assert program_in(requests[0]) == shelf.texts[a]


# ---- what it gets wrong


@pytest.mark.parametrize("name", USELESS)
def test_a_useless_answer_is_told_what_was_wrong_and_asked_for_once_more(name: str) -> None:
    answer, requests = ask(second_try(lambda _: DEEPER, USELESS[name]))
    assert answer.written is not None, answer.why
    assert len(requests) == 2
    first, second = json.loads(answer.exchange)["turns"]
    assert first["trouble"] in requests[1].messages[-1]["content"]
    assert second["trouble"] == ""
    assert answer.tokens == 220


@pytest.mark.parametrize("name", USELESS)
def test_a_model_that_stays_useless_is_given_up_with_the_reason(name: str) -> None:
    answer, requests = ask(USELESS[name])
    assert answer.written is None
    assert not answer.endpoint_failed
    assert len(requests) == 2
    assert answer.why.startswith("no usable edit in 2 answers, the last: ")
    assert "\n" not in answer.why


@pytest.mark.parametrize("text", [None, "<think>\nWhat if", "NOTE: deeper\n<<<<<<< SEARCH\nDEPTH = 8"], ids=["nothing", "thoughts", "half"])
def test_people_read_that_answers_are_cut_off_and_which_setting_helps(text: str | None) -> None:
    answer, requests = ask(lambda _: completion(text, finish_reason="length"))
    remedy = "cut off at 8192 tokens, thoughts included; raise that with --set llm.max_tokens=16384"
    assert answer.why == f"no usable edit in 2 answers, the last: {remedy}"
    told = requests[1].messages[-1]["content"]
    assert "cut off at its length limit" in told
    assert "be shorter" in told
    assert "--set" not in told  # no business of the model


def test_a_refusal_is_told_in_its_words() -> None:
    said = {"choices": [{"message": {"content": None, "refusal": "I cannot help."}, "finish_reason": "stop"}]}
    answer, _ = ask(lambda _: Endpoint(body=json.dumps(said).encode()))
    assert answer.why == "no usable edit in 2 answers, the last: the answer is empty: it refused: I cannot help."


@pytest.mark.parametrize("text", [None, "", " \n", "<think>No.</think>\n"])
def test_an_answer_that_is_empty_is_called_so(text: str | None) -> None:
    answer, requests = ask(lambda _: completion(text))
    assert answer.why == "no usable edit in 2 answers, the last: the answer is empty"
    assert "the answer is empty" in requests[1].messages[-1]["content"]


def repeated(other: str) -> Behaviour:
    return lambda _: BLOCK.format("DEPTH = 8  # transformer blocks", other)


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (lambda shelf: (FOUNDER.genome,) if shelf.add(5, TRAIN.replace("DEPTH = 8 ", "DEPTH = 10 ")) else (), "candidate 5"),
        (lambda shelf: (FOUNDER.genome, shelf.add(5, TRAIN.replace("DEPTH = 8 ", "DEPTH = 10 "))), "candidate 5"),
    ],
    ids=["mutation", "crossover"],
)
def test_a_program_that_is_known_is_refused_and_named(arrange: Callable[[Shelf], tuple[str, ...]], said: str) -> None:
    shelf = Shelf()
    answer, requests = ask(lambda _: DEEPER, *arrange(shelf), shelf=shelf)
    assert answer.written is None
    assert said in requests[1].messages[-1]["content"]


def test_an_edit_that_changes_nothing_that_runs_is_refused_and_told_so() -> None:
    line = "def norm(x: torch.Tensor) -> torch.Tensor:"
    idle = BLOCK.format(line, f"def unused(x):\n    return x\n\n\n{line}")
    answer, requests = ask(lambda _: idle, FOUNDER.genome, shelf=Shelf())
    assert answer.written is None
    assert "does the same as candidate 0 of this run" in requests[1].messages[-1]["content"]


PARALLEL = BLOCK.format("        return x + self.mlp(norm(x))", "        return x + self.mlp(x)")


def test_a_crash_of_a_dry_run_is_told_like_a_wrong_edit() -> None:
    tried: list[str] = []

    def dry_run(program: str) -> str:
        tried.append(program)
        return "ValueError: it falls over\nin line 7" if len(tried) == 1 else ""

    with ModelServer(second_try(lambda _: PARALLEL, lambda _: PARALLEL.replace("self.mlp(x)", "self.mlp(2.5 * x)"))) as server:
        answer = at(server.url, dry_run=dry_run)
    assert answer.written is not None, answer.why
    assert [answer.written.text] == tried[1:]
    assert "ValueError: it falls over\nin line 7" in server.requests[1].messages[-1]["content"]


def test_what_is_run_dry_is_the_program_as_it_would_be_evaluated_repairs_included() -> None:
    tried: list[str] = []

    def dry_run(program: str) -> str:
        tried.append(program)
        return ""

    with ModelServer(lambda _: PARALLEL.replace("self.mlp(x)", "math.sqrt(2) * self.mlp(x)")) as server:
        answer = at(server.url, dry_run=dry_run)
    assert answer.written is not None, answer.why
    assert tried == [answer.written.text]
    assert "import math\n" in answer.written.text
    assert "repaired" in answer.written.candidate.note


def test_a_program_that_crashes_twice_is_given_up() -> None:
    with ModelServer(lambda _: PARALLEL) as server:
        answer = at(server.url, dry_run=lambda _: "ValueError: it falls over\nin line 7")
    assert answer.written is None
    assert answer.why == "no usable edit in 2 answers, the last: ValueError: it falls over"


def test_a_program_with_other_numbers_alone_is_not_run_dry() -> None:
    with ModelServer(lambda _: DEEPER) as server:
        assert at(server.url, dry_run=lambda _: "it falls over").written is not None


def test_contract_problems_of_the_parent_are_no_reason_to_refuse_a_child() -> None:
    shelf = Shelf()
    odd = shelf.add(1, TRAIN.replace("def norm(", "print('loud')\n\n\ndef norm("))
    answer, requests = ask(lambda _: DEEPER, odd, shelf=shelf)
    assert answer.written is not None, answer.why
    assert "build_model" in requests[0].messages[0]["content"]


# ---- what its endpoint gets wrong


@pytest.mark.parametrize("name", sorted(set(BROKEN) - {"drips"}))
def test_an_endpoint_that_fails_is_told_apart_from_a_model_that_is_wrong(name: str) -> None:
    answer, _ = ask(BROKEN[name])
    assert answer.written is None
    assert answer.endpoint_failed
    assert answer.why
    assert (answer.tokens, answer.exchange) == (0, "")


def test_an_endpoint_that_is_not_there_has_failed() -> None:
    answer = at(unreachable())
    assert answer.endpoint_failed
    assert "cannot be reached" in answer.why


def test_an_endpoint_that_fails_between_two_answers_keeps_the_first_in_the_exchange() -> None:
    answer, _ = ask(second_try(BROKEN["errors"]))
    assert answer.endpoint_failed
    assert answer.tokens == 110
    assert len(json.loads(answer.exchange)["turns"]) == 1


def test_a_program_that_no_prompt_can_hold_is_not_asked_about() -> None:
    answer, requests = ask(lambda _: DEEPER, prompt_bytes=5000)
    assert not requests
    assert answer.written is None
    assert not answer.endpoint_failed
    assert "prompt_bytes" in answer.why


# ---- what is kept


def test_the_exchange_holds_all_that_was_said_and_no_key() -> None:
    answer, requests = ask(second_try(lambda request: f"{DEEPER} {request.headers['authorization']}"))
    exchange = json.loads(answer.exchange)
    assert exchange["model"] == "scripted"
    assert exchange["tokens"] == 220
    assert exchange["messages"] == requests[0].messages
    assert [turn["reply"].startswith("<<<<<<< SEARCH") for turn in exchange["turns"]] == [True, True]
    assert KEY in requests[0].headers["authorization"]
    assert KEY not in answer.exchange


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("NOTE: deeper\n", "deeper"),
        ("**NOTE:** deeper", "deeper"),
        ("Note : deeper", "deeper"),
        (f"{DEEPER}\nNOTE: afterwards", "afterwards"),
        (BLOCK.format("# a", "NOTE: inside"), ""),
        ("NOTE: about code\n```python\ndef f():\n    NOTE: int\n```", "about code"),
        ('```python\ndef f():\n    """What.\n\n    NOTE: inside\n    """\n```', ""),
        (f"<think>\nNOTE: thought\n</think>\nNOTE: said\n{DEEPER}", "said"),
        (f"```\nNOTE: in the fence\n{DEEPER}\n```", "in the fence"),
        ("nothing", ""),
        ("NOTE: `a`\x1b[31m" + "b" * 500, "'a'" + "b" * 156 + "…"),
    ],
)
def test_the_remark_is_the_line_that_says_note(reply: str, said: str) -> None:
    assert remark(reply) == said


def test_the_agenda_is_read_anew_for_every_prompt(tmp_path: Path) -> None:
    now = settings_of(tmp_path, Setting("as it was", "cpu", 10.0))
    assert now() == Setting("as it was", "cpu", 10.0)  # program.md cannot be read
    (tmp_path / "program.md").write_text("try less")
    assert now().agenda == "try less"
    (tmp_path / "program.md").write_bytes(b"\xff")
    assert now().agenda == "as it was"
