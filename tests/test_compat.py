"""Compat mode: a checkout in upstream's shape, sandboxed, seeded by the harness, its score marked as its own word wherever it is shown."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import simulated
from hypothesis import given
from hypothesis import strategies as st
from script_lab import LIMITS, SCRIPT, TRAIN, compat_config, make_checkout

import genomes
from evaluator import sandbox
from evaluator.compat import Compat, CompatConfig, read_summary, with_seed
from evaluator.outcome import CurvePoint, Failed, Outcome, Phase, Reason, Scored
from evo import assembly, evaluate, run
from evo.config import load
from evo.core.records import CALIBRATE, FINAL, Candidate, Proposal, Record
from evo.core.standing import assess
from evo.core.statistics import announce
from evo.errors import SeedIgnoredError, UserError
from evo.lineage import __main__ as lineage
from evo.machine import Machine
from evo.progress import Best, Progress
from evo.proof import refuse_ignored_seed
from evo.store import snapshot
from evo.table import headline
from evo.views.notes import overview_note

PREPARE = "TIME_BUDGET = 1\n"
SHORT = """from prepare import TIME_BUDGET
def manual_seed(n): global seed; seed = n
manual_seed(42)
{body}
print('---')
print(f'val_bpb:          {{1 + seed / 1000:.6f}}')
"""  # a checkout without torch: starts in no time
STEPS = """RATE = 0.5
for step in range(12):
    print(f'step {step:05d} | loss: {6 - RATE * step + seed % 97 / 100:.6f}', flush=True)
seed = seed % 97 + RATE
"""
WORD = "self-reported"
needs_namespaces = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compat]:
    """Evaluates programs that need no data."""
    limits = replace(LIMITS, host_memory_gib=0.5)
    made = Compat(replace(compat_config(tmp_path_factory.mktemp("home")), prepare=PREPARE, modules=(), limits=limits))
    yield made
    made.close()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


def failed(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


# ---- the seed


@given(seed=st.integers(0, 2**31 - 1))
def test_the_seed_is_spliced_into_every_seeding_call_and_nothing_else_changes(seed: int) -> None:
    program = (
        "import torch  # «é»\ntorch.manual_seed(42); torch.cuda.manual_seed_all(  # all\n    SEED + 1,\n)\ng = f(manual_seed(seed=7), 42)\n"
    )
    expected = program.replace("(42);", f"({seed});").replace("SEED + 1", str(seed)).replace("seed=7", f"seed={seed}")
    assert with_seed(program, seed) == expected
    assert with_seed(expected, 42) == with_seed(program, 42)


@pytest.mark.parametrize("program", ["x = 42\n", "torch.manual_seed()\n", "torch.seed(42)\n", "# manual_seed(42)\n"])
def test_a_program_that_seeds_nothing_has_no_place_for_the_seed(program: str, short: Compat) -> None:
    assert with_seed(program, 1) is None
    assert failed(short(program, 1, 1)).reason is Reason.CONTRACT


def test_the_program_runs_with_the_seed_of_the_harness(short: Compat) -> None:
    outcome = short(SHORT.format(body=""), 123, 1)
    assert isinstance(outcome, Scored), outcome
    assert outcome.val_bpb == 1.123


# ---- the score


def test_the_summary_is_what_stands_after_the_last_rule() -> None:
    printed = (
        "val_bpb: 1\n---\nval_bpb:   2\n---\nval_bpb: 0.9979\nnum_steps:        953\nval_bpb: 0.9978\nval_bpb: well\nnote: none\n---more\n"
    )
    assert read_summary(printed) == {"val_bpb": 0.9978, "num_steps": 953}
    assert read_summary("val_bpb: 0.9\n") == read_summary("--- done\nval_bpb: 0.9\n") == {}


FIGURES = """training_seconds: 1.2
peak_vram_mb:     45060.2
total_tokens_M:   499.6
num_steps:        953
num_params_M:     nan
"""


def test_figures_are_taken_from_the_summary_and_what_is_none_is_0(short: Compat) -> None:
    program = SHORT.format(body="print('---'); print('val_bpb: 0.5')") + f"print({FIGURES!r})\nraise SystemExit(0)\n"
    outcome = short(program, 7, 1)
    assert isinstance(outcome, Scored), outcome
    assert (outcome.val_bpb, outcome.training_seconds, outcome.steps, outcome.tokens) == (1.007, 1.2, 953, 499_600_000)
    assert outcome.parameters == 0
    assert outcome.peak_memory_gib == pytest.approx(45060.2 / 1024)
    assert outcome.self_reported
    assert outcome.log.endswith(FIGURES + "\n")


@pytest.mark.parametrize(
    ("body", "reason", "phase", "said"),
    [
        ("raise SystemExit", Reason.CONTRACT, Phase.SCORE, "val_bpb"),
        ("print('val_bpb: 1.0'); exit()", Reason.CONTRACT, Phase.SCORE, "after a line `---`"),
        ("seed = -1000", Reason.CRASH, Phase.SCORE, "0.000000 is not a score"),
        ("seed = float('nan')", Reason.NOT_FINITE, Phase.SCORE, "nan"),
        ("seed = float('inf')", Reason.NOT_FINITE, Phase.SCORE, "inf"),
        ("seed = 1e160", Reason.NOT_FINITE, Phase.SCORE, "1e+157 is not a score; one lies between 1e-06 and 1000"),
        ("print('---'); print('val_bpb: 1e-300'); raise SystemExit", Reason.NOT_FINITE, Phase.SCORE, "1e-300 is not a score"),
        ("1 / 0", Reason.CRASH, Phase.SETUP, "ZeroDivisionError"),
        ("print('step 1 | loss: 2.5'); 1 / 0", Reason.CRASH, Phase.TRAIN, "ZeroDivisionError"),
        ("print('\\rstep 9  ', end=''); print('FAIL'); exit(1)", Reason.CRASH, Phase.SETUP, "SystemExit: 1, after printing 'step 9 FAIL'"),
        ("import os; os._exit(3)", Reason.CRASH, Phase.SETUP, "exit status 3"),
        ("import os; os.abort()", Reason.CRASH, Phase.SETUP, "signal 6"),
        ("raise RuntimeError('CUDA out of memory')", Reason.OUT_OF_MEMORY, Phase.SETUP, "out of memory"),
        ("block = b'x' * (1 << 30)\nimport time; time.sleep(30)", Reason.OUT_OF_MEMORY, Phase.SETUP, "0.5 GiB allowed"),
        ("import nothing_of_that_name", Reason.CRASH, Phase.SETUP, "nothing_of_that_name"),
        ("import atexit, os; atexit.register(os._exit, 4)", Reason.CRASH, Phase.SETUP, "exit status 4"),
        ("open('mine', 'w').write('x' * 20_000_000)", Reason.TOO_BIG, Phase.SETUP, "File too large"),
    ],
)
def test_what_is_no_score_has_its_reason_and_phase(short: Compat, body: str, reason: Reason, phase: Phase, said: str) -> None:
    outcome = failed(short(SHORT.format(body=body), 1, 1))
    assert (outcome.reason, outcome.phase) == (reason, phase), outcome
    assert said in outcome.message


def test_a_program_that_says_that_it_overran_its_budget_is_refused(short: Compat) -> None:
    outcome = failed(short(SHORT.format(body="") + "print('training_seconds: 99.0')\n", 1, 1))
    assert outcome.reason is Reason.OVERRAN
    assert "99 s" in outcome.message


def test_a_crash_shows_the_frames_of_the_program_alone(short: Compat) -> None:
    outcome = failed(short(SHORT.format(body="def inner(): raise KeyError('\\x1b[31mred')\ninner()"), 1, 1))
    assert outcome.trace.count("File ") == 2
    assert 'train.py", line 5' in outcome.trace
    assert "\x1b" not in outcome.trace + outcome.message


def test_a_program_that_does_not_end_is_ended_with_all_that_it_started(short: Compat) -> None:
    limits = replace(LIMITS, setup_seconds=1, grace_seconds=0.2, score_seconds=0.3)
    impatient = Compat(replace(short.config, limits=limits))
    mark = f"86398.{os.getpid()}"  # no other process of the tests leaves the same one behind
    body = f"import subprocess, time\nsubprocess.Popen(['sleep', '{mark}'], start_new_session=True)\ntime.sleep(60)"
    try:
        outcome = failed(impatient(SHORT.format(body=body), 1, 0.5))
    finally:
        impatient.close()
    assert (outcome.reason, outcome.phase) == (Reason.OVERRAN, Phase.SETUP)
    assert "still ran after 2 s" in outcome.message
    assert f"sleep {mark}" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


# ---- what a program sees

PROBE = """
import os, socket, sys
def tried(what):
    try: return str(what())
    except Exception as error: return type(error).__name__
print("secret", tried(lambda: os.environ["SECRET_KEY"]))
print("ours", sorted(name for name in os.environ if name.startswith("EVO_")), "wire" in sys.modules)
print("home", sorted(os.listdir(os.path.expanduser("~"))), sorted(os.listdir(os.path.expanduser("~/.cache"))))
print("cache", open(os.path.expanduser("~/.cache/autoresearch/text")).read())
print("given", tried(lambda: os.listdir(%(given)r)))
print("write", tried(lambda: open(os.path.expanduser("~/.cache/autoresearch/text"), "w")))
print("checkout", tried(lambda: os.listdir(%(checkout)r)))
print("network", tried(lambda: socket.create_connection(("127.0.0.1", %(port)d), timeout=1)))
print("main", __name__, sorted(os.listdir(os.path.dirname(__file__))), os.getcwd() == os.path.dirname(__file__), sys.argv == [__file__])
"""


@needs_namespaces
def test_a_program_sees_its_data_and_nothing_else_of_its_users(short: Compat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    home, given_data = tmp_path / "home", tmp_path / "given"
    for path in (
        home / ".cache" / "autoresearch" / "text",
        home / ".cache" / "other" / "text",
        home / ".ssh" / "key",
        given_data / "shard",
    ):
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    readable = (str(home / ".cache" / "autoresearch"), str(given_data), str(tmp_path / "not there"))
    here = Compat(replace(short.config, home=str(home), readable=readable))
    with socket.create_server(("127.0.0.1", 0)) as server:
        probe = PROBE % {"given": str(given_data), "checkout": str(SCRIPT), "port": server.getsockname()[1]}
        outcome = here(SHORT.format(body=probe), 1, 1)
    here.close()
    assert isinstance(outcome, Scored), outcome
    found = dict(line.split(" ", 1) for line in outcome.log.splitlines() if " " in line)
    assert found["secret"] == "KeyError"
    assert found["ours"] == "[] False"
    assert found["home"] == "['.cache'] ['autoresearch']"
    assert found["cache"] == "mine"
    assert found["given"] == "['shard']"
    assert found["write"] == "OSError"
    assert found["checkout"] == "FileNotFoundError"
    assert found["network"] in ("OSError", "ConnectionRefusedError")
    assert found["main"] == "__main__ ['prepare.py', 'train.py'] True True"


@pytest.mark.parametrize("level", ["namespaces", "process"])
def test_each_sandbox_level_is_recorded(short: Compat, level: str) -> None:
    if level == "namespaces" and sandbox.level()[0] != level:
        pytest.skip(f"no namespaces here: {sandbox.level()[1]}")
    here = Compat(replace(short.config, sandbox=level))
    outcome = here(SHORT.format(body=""), 1, 1)
    here.close()
    assert isinstance(outcome, Scored), outcome
    assert outcome.sandbox == level


def test_nothing_is_left_behind(short: Compat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    here = Compat(short.config)
    here(SHORT.format(body=""), 1, 1)
    here(SHORT.format(body="1 / 0"), 1, 1)
    here.close()
    here.close()
    assert list(tmp_path.iterdir()) == []


# ---- the lab


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("train.py", "manual_seed", "seed_all", "has no manual_seed(…) call"),
        ("prepare.py", "TIME_BUDGET = 300", "time_budget = 300", "no constant TIME_BUDGET"),
        ("train.py", "val_bpb", "loss", "prints a line `val_bpb: NUMBER`"),
        ("train.py", "from prepare", "from preparation", "defines no top-level function build_model()"),
        ("schedule.py", "def warmdown(", "def warmdown((", "does not parse"),
        ("program.md", "", "", "has no program.md (the research agenda)"),
    ],
)
def test_a_checkout_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, name: str, old: str, new: str, said: str) -> None:
    folder = make_checkout(tmp_path / "checkout")
    if old:
        (folder / name).write_text((folder / name).read_text().replace(old, new))
    else:
        (folder / name).unlink()
    with pytest.raises(UserError) as refused:
        plan_of(folder)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def plan_of(folder: Path, *settings: str) -> assembly.Plan:
    return assembly.plan(load(None, [f"run.lab={folder}", "run.profile=cpu", *settings]), Machine((), "", (0,)))


def slot_of(assembled: assembly.Assembly) -> CompatConfig:
    (slot,) = assembled.evaluators
    assert isinstance(slot, CompatConfig)
    return slot


def test_constants_are_set_in_a_copy_and_what_the_checkout_lacks_is_said(tmp_path: Path) -> None:
    folder = make_checkout(tmp_path / "checkout")
    before, said = tree(folder), list[str]()
    assembled = assembly.build(plan_of(folder, "run.budget_seconds=7", f"run.data={tmp_path}"), said.append)
    slot = slot_of(assembled)
    assigned = [node for node in ast.parse(slot.prepare).body if isinstance(node, ast.Assign)]
    constants = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in assigned}
    assert (constants["TIME_BUDGET"], constants["MAX_SEQ_LEN"], constants["EVAL_TOKENS"]) == ("7", "256", "32768")
    assert "READY_SIZES" not in constants
    assert assembled.rendered.seed == TRAIN
    assert str(tmp_path) in slot.readable
    assert f"| {WORD} |" in slot.measurement_key == assembled.measurement_key
    assert f"own word ({WORD})" in said[0]
    assert "READY_SIZES" in said[1]
    assert len(said) == 2
    assert tree(folder) == before


def test_another_module_that_is_imported_makes_another_lab(tmp_path: Path) -> None:
    folder = make_checkout(tmp_path / "checkout")

    def built() -> set[str]:
        planned = plan_of(folder)
        return {planned.lab.hash, assembly.build(planned, lambda line: None).measurement_key}

    before = built()
    (folder / "plot.py").write_text("not python at all")
    assert built() == before
    (folder / "schedule.py").write_text("def warmdown(progress, ratio): return 1.0\n")
    assert not built() & before


def test_downloads_that_the_seed_names_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = tmp_path / ".cache" / "huggingface" / "hub"
    for name in ("models--owner--kernel", "models--owner--private"):
        (hub / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = make_checkout(tmp_path / "checkout")
    (folder / "train.py").write_text(f"{TRAIN}\nkernel = 'owner/kernel'\n")
    slot = slot_of(assembly.build(plan_of(folder), lambda line: None))
    assert slot.readable == (str(tmp_path / ".cache" / "autoresearch"), str(hub / "models--owner--kernel"))


def test_the_instant_lab_refuses_a_script() -> None:
    with pytest.raises(UserError, match="is a script"):
        assembly.plan(load(None, [f"run.lab={SCRIPT}", "evaluator.kind=instant"]))


# ---- genomes


def test_a_script_may_change_anything_at_module_level_but_its_import_and_seeding() -> None:
    script = genomes.Contract.SCRIPT
    assert genomes.contract_of(TRAIN) is script
    assert genomes.check(TRAIN, script) == ()
    changed = TRAIN.replace("while True:", "while step < 500:").replace("model.eval()", "model.eval(); print(3)")
    assert genomes.check(changed, script) == ()
    assert genomes.check(changed)
    assert genomes.check(TRAIN.replace("manual_seed", "seed"), script)
    assert genomes.check(TRAIN.replace("from prepare", "from elsewhere"), script)
    assert genomes.contract_of("import prepare\ndef build_model(): pass\ndef main(): pass\n") is genomes.Contract.LAB
    assert genomes.contract_of("x = 1\n") is genomes.contract_of("def (") is genomes.Contract.LAB


def test_children_of_a_script_keep_its_contract_and_reach_into_its_loop() -> None:
    script = genomes.Contract.SCRIPT
    children = {genomes.mutate(TRAIN, random.Random(seed), contract=script).text for seed in range(60)}
    assert all(genomes.check(child, script) == () and child.count("manual_seed(42)") == 2 for child in children)
    assert [knob.tunable for knob in genomes.knobs(TRAIN) if knob.name == "while"] == [False]
    loop = TRAIN[TRAIN.index("# Training loop") :]
    assert any(loop not in child for child in children)


# ---- whole commands


def checkout_with(folder: Path, train: str) -> Path:
    folder.mkdir()
    for name, text in (("train.py", train), ("prepare.py", PREPARE), ("program.md", "Lower it.\n")):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A complete run on a checkout, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    lab = checkout_with(folder / "checkout", SHORT.format(body=STEPS) + "print('num_steps: 12')\n")
    before = tree(lab)
    command = [str(folder / "run"), "--lab", str(lab), "--profile", "cpu", "--budget", "0.5", "--evals", "1", "--slots", "1"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run.main([*command, "--set", "run.executor=inline", "--set", "search.final_draws=2"]) == 0
    assert tree(lab) == before
    return folder / "run", out.getvalue()


def test_a_run_leaves_the_checkout_as_it_is_and_ends(finished: tuple[Path, str]) -> None:
    records = snapshot(finished[0]).records
    scored = [r.outcome for r in records if isinstance(r.outcome, Scored)]
    assert len({outcome.val_bpb for outcome in scored[:4]}) == 4
    assert all(outcome.self_reported and outcome.steps == 12 for outcome in scored)
    assert assess(records).history.evaluated == 1


def test_every_place_that_shows_a_score_says_whose_word_it_is(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, printed = finished
    assert f"own word ({WORD})" in printed
    assert all(WORD in line for line in printed.splitlines() if " val_bpb" in line)
    standing = assess(snapshot(run_dir).records)
    champion = standing.champion
    assert f"val_bpb ({WORD})" in overview_note(standing)
    for question in (["tree"], ["best"], ["show", str(champion)], ["path", str(champion)]):
        assert lineage.main([str(run_dir), *question]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert WORD in lines[0]
        assert all(WORD in line for line in lines if "val_bpb" in line and line.startswith("#"))
        assert lineage.main([str(run_dir), *question, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["self_reported"] is True
    rows = [line.split("\t") for line in (run_dir / "results.tsv").read_text().splitlines()[1:]]
    assert all(row[4].endswith(f"({WORD})") for row in rows if row[1])
    assert json.loads((run_dir / "best" / "best.json").read_text())["self_reported"] is True


def as_final(record: Record, genome: str, val_bpb: float) -> Record:
    candidate = replace(record.candidate, proposal=replace(record.candidate.proposal, operator=FINAL, parents=(genome,)))
    assert isinstance(record.outcome, Scored)
    return replace(record, candidate=candidate, outcome=replace(record.outcome, val_bpb=val_bpb))


@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_the_announcement_says_whose_word_it_is(gain: float) -> None:
    seeds = repeats((2.0,) * 4)
    finals = [as_final(r, "seed", 2.0 + k / 100) for k, r in enumerate(seeds)]
    finals += [as_final(r, "champion", 2.0 - gain + k / 100) for k, r in enumerate(seeds)]
    said = announce(finals, "champion")
    assert said is not None
    assert said.proven is (gain > 0)
    assert f"({WORD})" in said.sentence()


def test_the_live_table_says_whose_word_it_is() -> None:
    best = Best("champion", 1.0, 0.001)
    now = Progress("explore", 1, None, (0, 0), 0, 5.0, None, best, best, 0.01, (), (), 0, 10.0, 0.5, None, self_reported=True)
    assert f"1.0000 ± 0.0010 {WORD}" in headline(now)
    assert WORD not in headline(replace(now, self_reported=False))


def test_one_program_of_a_checkout_is_evaluated_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = checkout_with(tmp_path / "lab", SHORT.format(body=""))
    command = [str(lab / "train.py"), "--lab", str(lab), "--profile", "cpu", "--budget", "1", "--seed", "5"]
    assert evaluate.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert (answer["program"], answer["val_bpb"], answer["self_reported"]) == ("as it is", 1.005, True)
    assert "compat mode" in printed.err
    assert evaluate.main(command) == 0
    assert f"1.005000 ({WORD})" in capsys.readouterr().out


def repeats(scores: tuple[float, ...], own_word: bool = True) -> list[Record]:
    told = [replace(simulated.scored(score), self_reported=own_word) for score in scores]
    return [Record(Candidate(Proposal(k, CALIBRATE, (), k), "seed", "s", 1, ""), outcome) for k, outcome in enumerate(told)]


def losses(*values: float | None) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(float(step), step, 0, value) for step, value in enumerate(values))


@pytest.mark.parametrize(
    ("scores", "own_word", "refused"),
    [((1.0,) * 4, True, True), ((1.0,) * 3, True, False), ((1.0, 1.0, 1.0, 1.000001), True, False), ((1.0,) * 4, False, False)],
)
def test_equal_scores_at_the_end_of_the_calibration_say_that_the_seed_is_ignored(
    scores: tuple[float, ...], own_word: bool, refused: bool
) -> None:
    with pytest.raises(SeedIgnoredError, match=r"4 runs .* val_bpb 1\.000000") if refused else contextlib.nullcontext():
        refuse_ignored_seed(repeats(scores, own_word), 4, lambda index: ())


@pytest.mark.parametrize(
    ("one", "other", "refused"),
    [
        (losses(*range(9), 7), losses(*range(9), 8), True),  # a clock in the schedule shows later
        (losses(*range(9)), losses(*range(3), 3.1, *range(4, 9)), False),
        (losses(9, 9, 9, 8), losses(9, 9, 9, 8), False),  # too few to tell
        (losses(None, *range(9)), losses(5.0, *range(9)), True),
        ((), (), False),
    ],
)
def test_equal_losses_over_the_first_steps_say_it_too(one: tuple[CurvePoint, ...], other: tuple[CurvePoint, ...], refused: bool) -> None:
    with pytest.raises(SeedIgnoredError, match=r"2 runs .* same losses") if refused else contextlib.nullcontext():
        refuse_ignored_seed(repeats((1.0, 1.1)), 2, (one, other).__getitem__)


def test_a_real_training_that_seeds_itself_again_is_refused(
    tmp_path: Path, script_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its clock makes its scores differ; its losses do not."""
    monkeypatch.setenv("HOME", str(script_home))
    lab = make_checkout(tmp_path / "lab")
    again = "torch.random.default_generator.set_state(torch.Generator().get_state())"
    (lab / "train.py").write_text(TRAIN.replace("torch.cuda.manual_seed(42)", again))
    command = [str(tmp_path / "run"), "--lab", str(lab), "--profile", "cpu", "--budget", "0.5", "--slots", "1"]
    assert run.main([*command, "--set", "run.executor=inline", "--evals", "1"]) == 2
    assert "ignores its seed: 4 runs under different seeds all had the same losses" in capsys.readouterr().err


def test_a_checkout_that_ignores_its_seed_is_refused_and_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = checkout_with(tmp_path / "lab", SHORT.format(body="seed = 42  # seeds itself again, its own way"))
    command = [str(tmp_path / "run"), "--lab", str(lab), "--profile", "cpu", "--evals", "3", "--slots", "1", "--set", "run.executor=inline"]
    assert run.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ignores its seed: 4 runs under different seeds all gave val_bpb 1.042000" in line
    assert not (tmp_path / "run").exists()
