"""The dry run: it finds what crashes, it refuses nothing that trains, and what it cannot know it leaves open. Real processes throughout."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SmallLab
from crash_corpus import Crash, corpus, way
from model_server import BLOCK, ModelServer, second_try
from tiny_lab import make_lab

from evaluator.instant import Landscape
from evaluator.outcome import Failed, Phase, Reason
from evaluator.preflight import DryRun, DryRunConfig, Inconclusive, Passed, Trial, Verdict, weighed
from evaluator.slot import SlotConfig
from evo import evaluate, profiles
from evo import lab as labs
from evo.assembly import Assembly
from evo.config import LlmConfig
from evo.core.belief import believe
from evo.core.history import fold
from evo.core.records import MUTATE, Proposal
from evo.core.standing import assess
from evo.llm.brief import Setting
from evo.llm.endpoint import Model
from evo.llm.start import preflight
from evo.llm.writer import ModelWriter
from evo.operators import Library, describe_seed
from evo.preflight import Preflight, trouble

CORPUS = {crash.name: crash for crash in corpus()}
GROUPS_LEAST, CRASHES_LEAST = 6, 60


def rendered(profile: str) -> labs.Rendered:
    return labs.render(labs.load(labs.DEFAULT), profiles.load(profiles.FOLDER / f"{profile}.toml"), 10.0)


H100 = rendered("h100")


@pytest.fixture(scope="module")
def gpu() -> Iterator[Preflight]:
    """As a run on an H100 has it."""
    made = Preflight(H100.prepare, "cuda", DryRunConfig(seconds=60, ahead=True))
    yield made
    made.close()


@pytest.fixture(scope="module")
def small(small_lab: SmallLab) -> Iterator[Preflight]:
    """For the small lab of the tests, at its own size."""
    made = Preflight(small_lab.prepare, "cpu", DryRunConfig(seconds=20, memory_gib=1.5, ahead=True))
    yield made
    made.close()


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def failure(verdict: Verdict) -> Failed:
    assert isinstance(verdict, Failed), verdict
    return verdict


# ---- the corpus


def test_the_corpus_is_large_and_has_no_name_twice() -> None:
    assert len(CORPUS) == len(corpus()) >= CRASHES_LEAST
    assert len({crash.group for crash in corpus()}) >= GROUPS_LEAST


@pytest.mark.parametrize("profile", ["cpu", "h100"])
def test_every_mistake_can_be_made_in_today_s_seed(profile: str) -> None:
    seed = rendered(profile).seed
    for crash in corpus():
        assert crash.program(seed) != seed, crash.name


# ---- what trains passes


def test_a_program_of_another_style_passes(small: Preflight, small_lab: SmallLab) -> None:
    assert isinstance(small(small_lab.genome), Passed)


def test_the_seed_of_an_h100_passes_with_the_rows_and_the_accumulation_of_the_real_run(gpu: Preflight) -> None:
    text = H100.seed.replace(
        "    passes = accumulation()\n", "    passes = accumulation()\n    assert (passes, DEVICE_BATCH_SIZE) == (2, 128)\n"
    )
    assert isinstance(gpu(text), Passed)


# ---- what crashes fails


@pytest.mark.parametrize(
    "crash",
    [CORPUS[name] for name in ("missing_self", "gate_without_a_dimension", "name_used_only_while_saving")],
    ids=lambda crash: crash.name,
)
def test_a_crash_is_found_where_the_evaluation_finds_it(crash: Crash, gpu: Preflight) -> None:
    assert way(failure(gpu(crash.program(H100.seed)))) == crash.fails


@pytest.mark.parametrize(
    ("new", "reason", "phase"),
    [
        ("return self.head(F.silu(x))[:, -1:] if not self.training else self.head(F.silu(x))", Reason.BAD_LOGITS, Phase.SCORE),
        ("return self.head(F.silu(x)) if self.training else self.head(F.silu(x + x.roll(-1, 1)))", Reason.NOT_CAUSAL, Phase.SCORE),
        (
            "y = self.head(F.silu(x if self.training else x + x.roll(-1, 1)))"
            "; return y if self.training else F.pad(y[..., 1:], (1, 0), value=-torch.inf)",
            Reason.NOT_CAUSAL,
            Phase.SCORE,
        ),
        ("return self.head(F.silu(x)) if self.training else self.head(F.silu(x)).log() * 0", Reason.NOT_FINITE, Phase.SCORE),
    ],
)
def test_logits_that_a_judge_would_refuse_are_found(new: str, reason: Reason, phase: Phase, small: Preflight, small_lab: SmallLab) -> None:
    found = failure(small(changed(small_lab.genome, "return self.head(F.silu(x))", new)))
    assert (found.reason, found.phase) == (reason, phase)


# ---- what says nothing is left open


def before_training(program: str, line: str) -> str:
    return changed(program, "    model = build_model()\n", f"    {line}\n    model = build_model()\n")


@pytest.mark.parametrize(
    "line",
    [
        "torch.zeros(1, device='cuda')",
        "raise SystemExit('this program wants eight of them')",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "hoard = [torch.ones(2**27) for _ in range(64)]; import time; time.sleep(5)",
    ],
    ids=["a device that is not here", "an end on purpose", "a signal", "memory"],
)
def test_what_the_machine_or_the_program_s_will_ends_is_no_failure(line: str, small: Preflight, small_lab: SmallLab) -> None:
    assert isinstance(small(before_training(small_lab.genome, line)), Inconclusive)


def test_time_that_runs_out_is_no_failure(small_lab: SmallLab) -> None:
    text = before_training(small_lab.genome, "while True: pass")
    dry = DryRun(DryRunConfig(seconds=2))
    try:
        found = dry(Trial(text, small_lab.prepare, 64))
    finally:
        dry.close()
    assert isinstance(found, Inconclusive)
    assert "setup_timeout" in found.why


def test_what_breaks_only_when_it_is_made_small_is_no_failure(gpu: Preflight) -> None:
    seventh = changed(
        H100.seed, "    optimisers = build_optimisers(model)\n", "    model.blocks[6]\n    optimisers = build_optimisers(model)\n"
    )
    stopping = changed(
        seventh, "    rehearse(model, optimisers, loss_of)\n", "    raise SystemExit('far enough')\n"
    )  # full size takes a while
    found = gpu(stopping)
    assert isinstance(found, Inconclusive)
    assert "made small" in found.why


def test_losses_that_are_no_numbers_count_only_at_low_rates(small: Preflight, small_lab: SmallLab) -> None:
    text = before_training(small_lab.genome, "raise FloatingPointError('the loss is nan')")
    assert failure(small(text)).reason is Reason.NOT_FINITE
    no_rate = changed(text, "LEARNING_RATE = ", "SPEED = ").replace("LEARNING_RATE", "SPEED")
    assert isinstance(small(no_rate), Inconclusive)


def test_a_failure_keeps_its_words_and_the_rest_is_weighed() -> None:
    failed = Failed(Reason.CRASH, Phase.SETUP, "ValueError: 3 heads", 'File "/lab/train.py", line 7, in main')
    assert weighed(failed) is failed
    assert isinstance(weighed(dataclasses.replace(failed, trace='  File "/x/torch/_inductor/a.py", line 1, in f')), Inconclusive)
    assert trouble(failed).endswith("line 7, in main")
    assert trouble(Inconclusive("no", 0.0)) == trouble(Passed(0.0)) == ""


# ---- its use in a run


def test_a_model_is_told_once_how_its_program_crashes(small: Preflight, small_lab: SmallLab) -> None:
    founder, history = describe_seed(small_lab.genome), fold(())
    library = Library(founder=founder, texts=lambda _: small_lab.genome, known={}, seed=0, history=history, belief=believe(history.genomes))
    line = "        return self.head(F.silu(x))  # (B, T, V)"
    crash, sound = (line, line.replace("F.silu(x)", "F.silu(x) + x[:, 1:]")), (line, line.replace("silu", "gelu"))
    with ModelServer(second_try(lambda _: BLOCK.format(*sound), lambda _: BLOCK.format(*crash))) as server:
        model = Model(LlmConfig(url=server.url, model="scripted", timeout_seconds=20.0), "key")
        writer = ModelWriter(model, lambda: Setting("", "small", 1.0), 120_000, lambda program: trouble(small(program)))
        answer = writer(Proposal(1, MUTATE, (founder.genome,), 1), library, assess(()))
    assert answer.written is not None, answer.why
    told = server.requests[1].messages[-1]["content"]
    assert "fails in a dry run on the CPU, in train: RuntimeError: The size of tensor a" in told
    assert "return self.head(F.silu(x) + x[:, 1:])" in told  # the line


@pytest.mark.parametrize(
    ("dry_run", "device", "made"),
    [("auto", "cuda", True), ("auto", "cpu", False), ("always", "cpu", True), ("never", "cuda", False), ("always", "instant", False)],
)
def test_programs_are_run_dry_where_it_takes_no_time_from_a_training(dry_run: str, device: str, made: bool, small_lab: SmallLab) -> None:
    slot = Landscape() if device == "instant" else SlotConfig(small_lab.prepare, small_lab.data, "key", device)
    assembled = Assembly(
        lab=labs.load(labs.DEFAULT),
        rendered=labs.Rendered(small_lab.prepare, small_lab.genome, 1.0),
        profile=device,
        device=device,
        measurement_key="key",
        evaluators=(slot,),
        patience_seconds=60.0,
    )
    with preflight(LlmConfig(model="scripted", dry_run=dry_run), assembled) as found:
        assert (found is not None) == made


# ---- the command


def dry_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    code = evaluate.main([*arguments, "--dry-run", "--json"])
    facts: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, facts


def test_the_command_needs_neither_the_gpu_of_a_profile_nor_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(CORPUS["module_replaced_by_a_list"].program(H100.seed))
    code, facts = dry_run([str(wrong), "--profile", "h100"], capsys)
    assert code == 1
    assert (facts["verdict"], facts["profile"]) == ("failed", "h100")
    wrong.write_text("def main(:\n")
    code, facts = dry_run([str(wrong), "--profile", "h100"], capsys)
    assert (code, facts["by"]) == (1, "static checks")


def test_the_command_runs_the_lab_s_own_program_with_the_profile_s_knobs(
    small_lab: SmallLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(tmp_path / "lab", small_lab.genome, small_lab.prepare)
    code, facts = dry_run([str(lab / "train.py"), "--lab", str(lab), "--profile", str(small_profile(tmp_path))], capsys)
    assert (code, facts["verdict"]) == (0, "passed")


def small_profile(folder: Path) -> Path:
    head = '[profile]\nname = "small"\ndevice = "cpu"\nbudget_seconds = 1\nslots = "one"\nthreads_per_slot = 1\n'
    path = folder / "small.toml"
    path.write_text(f"{head}[knobs]\nLEARNING_RATE = 0.02\n")
    return path


def test_the_command_refuses_what_it_cannot_run_dry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(tmp_path / "lab")
    assert evaluate.main([str(lab / "train.py"), "--lab", str(lab), "--set", "evaluator.kind=instant", "--dry-run"]) == 2
    assert "--dry-run needs" in capsys.readouterr().err


def test_a_setting_that_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match=r"llm\.dry_run is 'often'"):
        LlmConfig(dry_run="often")


def test_a_lab_whose_rows_have_no_known_length_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab, profile = tmp_path / "lab", tmp_path / "mine.toml"
    lab.mkdir()
    for name in labs.FILES:
        (lab / name).write_text((labs.DEFAULT / name).read_text().replace("MAX_SEQ_LEN", "ROW_TOKENS"))
    profile.write_text((profiles.FOLDER / "cpu.toml").read_text().replace("MAX_SEQ_LEN", "ROW_TOKENS"))
    assert evaluate.main([str(lab / "train.py"), "--lab", str(lab), "--profile", str(profile), "--dry-run"]) == 2
    assert "MAX_SEQ_LEN" in capsys.readouterr().err
