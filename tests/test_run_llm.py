"""`python -m evo.run --llm`: a model at a real endpoint writes beside evaluation; without one the run goes on, and its key is nowhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from model_server import BROKEN, DIALECTS, USELESS, Answer, ModelServer, competent, shared_prefix, short_of_context, unreachable
from tiny_lab import make_lab

from evaluator.instant import true_bpb
from evaluator.outcome import Evaluated
from evo.core.history import EXPLORATIONS
from evo.core.population import ancestors
from evo.core.records import CROSSOVER, MUTATE, Record
from evo.core.standing import assess
from evo.lineage.__main__ import main as lineage
from evo.run import main
from evo.store import snapshot

TRAIN = (Path(__file__).resolve().parent.parent / "trainer" / "train.py").read_text()
KEY = "sk-very-secret"
INSTANT = ["--set", "evaluator.kind=instant", "--set", "run.executor=inline", "--set", "instant.seconds=0.1", "--set", "instant.salt=3"]


@pytest.fixture(autouse=True)
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default program in a lab beside which the test works, a key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVO_LLM_KEY", KEY)
    make_lab(tmp_path / "lab", program=TRAIN)


def run(*arguments: str, evals: int = 8) -> int:
    return main(["run", "--lab", "lab", "--evals", str(evals), "--slots", "4", "--set", "search.final_draws=2", *INSTANT, *arguments])


def explored() -> list[Record]:
    found = snapshot(Path("run")).records
    return [r for r in found if r.operator in EXPLORATIONS and isinstance(r.outcome, Evaluated)]


def kept_model() -> tuple[str, str]:
    limits = json.loads(Path("run/limits.json").read_text())
    return limits["llm.url"], limits["llm.model"]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    return said


def test_a_model_writes_and_lineage_shows_what_it_said(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(competent(lambda text: true_bpb(text, 3))) as server:
        assert run("--llm", server.url) == 0
        assert kept_model() == (server.url, "scripted")  # the only one that it serves
    assert f"model: scripted at {server.url}" in capsys.readouterr().out
    by_model = [r for r in explored() if r.candidate.writer == "scripted"]
    assert by_model
    assert lineage(["run", "show", by_model[0].candidate.genome]) == 0
    shown = capsys.readouterr().out
    assert "written by scripted: 110 tokens" in shown
    assert ">>>>>>> REPLACE" in shown
    assert lineage(["run", "show", by_model[0].candidate.genome, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["tokens"] == 110


def test_prompts_begin_with_what_stays_and_with_a_program_that_was_there_before() -> None:
    """Servers that keep what they have read of earlier prompts (vLLM, llama.cpp, OpenAI) read the rest alone."""
    with ModelServer(competent(lambda text: true_bpb(text, 3))) as server:
        assert run("--llm", server.url, evals=24) == 0
    prompts = ["".join(message["content"] for message in request.messages) for request in server.requests]
    agenda = (Path("lab") / "program.md").read_text()
    stable = prompts[0].partition("## Program to edit")[0]
    assert agenda in stable
    assert all(prompt.startswith(stable) for prompt in prompts)
    shared = [max(len(shared_prefix(earlier, prompt)) for earlier in prompts[:i]) for i, prompt in enumerate(prompts) if i]
    assert sum(shared) > 0.6 * sum(map(len, prompts[1:]))


def test_the_key_is_in_no_file_and_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(lambda request: f"{USELESS['wrong search'](request)}\n{request.headers['authorization']}") as server:
        assert run("--llm", server.url) == 0
    assert any(request.headers["authorization"] == f"Bearer {KEY}" for request in server.requests)
    said = capsys.readouterr()
    assert KEY not in said.out + said.err
    files = [path for path in Path("run").rglob("*") if path.is_file()]
    assert any(path.parent.name == "prompts" for path in files)
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_a_run_whose_endpoint_is_gone_goes_on_without_it_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--llm", unreachable(), "--model", "x") == 0
    assert len(explored()) == 8
    said = capsys.readouterr().out
    assert "cannot be reached" in said
    assert "built-in mutations meanwhile" in said
    last = closing_line(said)
    assert "cannot be reached" in last
    assert "next try" not in last  # the run has ended


def closing_line(said: str) -> str:
    (last,) = (line for line in said.splitlines() if line.startswith("model, this session:"))
    return last


def test_an_endpoint_that_refuses_the_key_is_no_model_that_refuses_and_the_key_is_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(BROKEN["refuses the key"]) as server:
        assert run("--llm", server.url) == 0
    said = capsys.readouterr().out
    (event, *_) = (line for line in said.splitlines() if line.startswith('model="endpoint failed"'))
    last = closing_line(said)
    assert "set EVO_LLM_KEY, else OPENAI_API_KEY" in event
    assert "set EVO_LLM_KEY, else OPENAI_API_KEY" in last
    assert re.search(r"gave nothing usable for 0, .* its endpoint failed for [1-9]", last)


def test_a_name_that_the_endpoint_does_not_have_is_said_before_anything_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(competent(), models=("coder:7b", "phi")) as server:
        assert run("--llm", server.url, "--model", "coder", evals=1) == 0
        assert run("--set", "llm.model=phi", evals=2) == 0
    said = capsys.readouterr().out
    assert said.count("model: coder is none of the 2 that are served there, such as coder:7b\n") == 1
    assert said.index("such as coder:7b") < said.index("elapsed=")
    assert "phi is none" not in said


def test_a_start_does_not_wait_for_an_endpoint_that_hangs_and_what_it_has_to_say_comes_later(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo.run.DOUBT_SECONDS", 0.05)
    monkeypatch.setattr("evo.llm.endpoint.LISTING_SECONDS", 1.0)
    with ModelServer(competent(), models=Answer(hangs=True)) as server:
        assert run("--llm", server.url, "--model", "scripted", evals=20) == 0
    said = capsys.readouterr().out
    assert said.count('notice="model: its models cannot be listed: ') == 1
    assert said.index("elapsed=") < said.index('notice="model: its models cannot be listed: ')


def test_a_context_that_is_too_short_is_said_once_and_the_model_writes_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """And once more in each session, which asks at full length again: its server may have been started anew."""
    context = 9216
    behave = lambda request: short_of_context(context, DIALECTS["OpenAI"], competent())(request)  # noqa: E731
    with ModelServer(behave) as server:
        assert run("--llm", server.url) == 0
        said = capsys.readouterr().out
        notices = [line for line in said.splitlines() if line.startswith("notice=")]
        assert len(notices) == 1
        assert "model: its server holds 9,216 tokens of prompt and reply together" in notices[0]
        assert any(r.candidate.writer == "scripted" for r in explored())
        assert "endpoint failed" not in said
        assert any(json.loads(path.read_text())["left_out"] for path in Path("run/prompts").iterdir())
        context, asked = 32_768, len(server.requests)
        assert main(["run", "--evals", "20", "--slots", "4", "--set", "run.executor=inline"]) == 0
        assert {request.body["max_tokens"] for request in server.requests[asked:]} == {8192}
    assert "notice=" not in capsys.readouterr().out


def test_where_a_context_is_too_short_for_the_program_the_run_says_what_to_set_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(short_of_context(4096, DIALECTS["llama.cpp"], competent())) as server:
        assert run("--llm", server.url) == 0
    said = capsys.readouterr().out
    last = closing_line(said)
    assert len(explored()) == 8
    assert "its server holds 4,096 tokens" in last
    assert "give it a context of 16,384, better 32,768" in last
    assert "notice=" not in said


def test_a_model_that_is_too_slow_for_every_slot_and_for_its_time_counts_once_and_its_setting_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ModelServer(BROKEN["hangs"]) as server:
        assert run("--llm", server.url, "--model", "x", "--set", "llm.timeout_seconds=1.5", evals=16) == 0
        said = capsys.readouterr().out
    (event, *_) = (line for line in said.splitlines() if line.startswith('model="endpoint failed"'))
    last = closing_line(said)
    for line in (event, last):
        assert "if it needs longer: --set llm.timeout_seconds=3" in line
    counted = [int(n) for n in re.findall(r"usable for (\d+), was too slow for (\d+)(?:, its endpoint failed for (\d+))?", last)[0] if n]
    assert sum(counted) <= len(server.requests)


def test_a_model_that_thinks_until_its_tokens_are_used_up_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(USELESS["thoughts alone"]) as server:
        assert run("--llm", server.url, "--set", "llm.max_tokens=500") == 0
    said = capsys.readouterr().out
    (event, *_) = (line for line in said.splitlines() if line.startswith("model=refused"))
    last = closing_line(said)
    for line in (event, last):
        assert "cut off at 500 tokens, thoughts included; raise that with --set llm.max_tokens=1000" in line
    assert "nothing usable for 0" not in last
    assert "endpoint failed" not in last


def test_a_resumed_run_keeps_its_model_until_another_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(competent()) as server:
        run("--llm", server.url, "--model", "first", evals=4)
        asked = len(server.requests)
        assert main(["run", "--evals", "10", "--slots", "4", "--set", "run.executor=inline"]) == 0
        assert len(server.requests) > asked
        assert server.requests[-1].body["model"] == "first"
        assert main(["run", "--model", "second", "--set", "llm.max_tokens=99", "--set", "run.executor=inline"]) == 0
        assert kept_model() == (server.url, "second")
        assert main(["run", "--llm", server.url, "--set", "run.executor=inline"]) == 0
        assert kept_model() == (server.url, "second")  # the same address is no new one
    with ModelServer(competent(), models=("third",)) as other:
        assert main(["run", "--llm", other.url, "--set", "run.executor=inline"]) == 0
        assert kept_model() == (other.url, "third")  # a new address does not keep the old name
    assert main(["run", "--set", "llm.url=", "--set", "run.executor=inline"]) == 0
    assert kept_model() == ("", "")
    assert "model: " not in capsys.readouterr().out.splitlines()[-1]


def test_a_limit_of_tokens_is_said_once_and_what_the_model_brought_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(competent(lambda text: true_bpb(text, 3))) as server:
        assert run("--llm", server.url, "--set", "llm.token_limit=200") == 0
    out = capsys.readouterr().out
    assert out.count('model="no longer asked" why="the limit of 200 tokens is reached"') == 1
    count = sum(bool(r.candidate.writer) for r in explored())
    assert f"model, this session: wrote {count} of {len(explored())} new genomes, gave nothing usable for " in out


def test_tokens_of_earlier_sessions_count_towards_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(competent()) as server:
        run("--llm", server.url, evals=4)
        asked = len(server.requests)
        assert asked
        assert main(["run", "--evals", "8", "--slots", "4", "--set", "run.executor=inline", "--set", "llm.token_limit=100"]) == 0
        assert len(server.requests) == asked
    assert len(explored()) == 8
    *_, last = (line for line in capsys.readouterr().out.splitlines() if line.startswith("model, this session:"))
    assert (
        "wrote 0 of 4 new genomes, gave nothing usable for 0, was too slow for 0, 0 tokens" in last
    )  # of all of them, or of none, and that is said


def test_a_model_that_cannot_be_settled_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(competent(), models=("a", "b")) as server:
        assert "--model NAME" in refused(capsys, "--llm", server.url)
    assert "--model" in refused(capsys, "--llm", unreachable())
    assert "http://localhost:8000/v1" in refused(capsys, "--llm", "localhost:8000")
    monkeypatch.delenv("EVO_LLM_KEY")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "EVO_LLM_KEY" in refused(capsys, "--model", "gpt")
    assert not Path("run").exists()


def test_with_eight_slots_a_competent_model_writes_four_of_five_candidates_and_the_champions_ancestry() -> None:
    """Real HTTP, real Ray, eight slots. The shares of moves are set so that their draw decides nothing: which candidates become parents
    depends on when evaluations end, and of ten ancestors all may be mutations where crossovers are rare."""
    ray = ["--set", "evaluator.kind=instant", "--set", "instant.seconds=0.3", "--set", "instant.salt=3"]
    ray += ["--set", "search.tune_share=0.05", "--set", "search.crossover_share=0.4"]
    with ModelServer(competent(lambda text: true_bpb(text, 3))) as server:
        assert main(["run", "--lab", "lab", "--evals", "64", "--slots", "8", "--llm", server.url, *ray]) == 0
    made = explored()
    by_model = {r.candidate.genome: r for r in made if r.candidate.writer == "scripted"}
    assert len(made) == 64
    assert len(by_model) >= 0.8 * len(made)
    standing = assess(snapshot(Path("run")).records)
    assert standing.champion is not None
    line = ancestors({id_: g.parents for id_, g in standing.history.genomes.items()}, standing.champion)
    operators = {by_model[id_].operator for id_ in line if id_ in by_model}
    assert operators == {MUTATE, CROSSOVER}
