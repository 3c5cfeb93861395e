"""Programs that fail or misbehave in ways that tests/test_cheats.py has not, each with its real training process."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SmallLab
from programs_of import nest

from evaluator import sandbox
from evaluator.evaluate import HarnessError
from evaluator.outcome import Failed, Outcome, Phase, Reason, Scored, from_dict, to_dict
from evaluator.scratch import Evaluations, Kept, Scratch
from evaluator.slot import Slot, SlotConfig
from evaluator.training import Limits

needs_namespaces = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")


@pytest.fixture(scope="module")
def config(small_lab: SmallLab) -> SlotConfig:
    limits = Limits(setup_seconds=30, grace_seconds=1.5, host_memory_gib=1.5, weights_gib=0.1, file_gib=0.01)
    return SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", limits=limits)


@pytest.fixture(scope="module")
def slot(config: SlotConfig) -> Iterator[Slot]:
    made = Slot(config)
    yield made
    made.close()


def changed(lab: SmallLab, old: str, new: str) -> str:
    assert old in lab.genome
    return lab.genome.replace(old, new)


def failure(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


def test_logits_whose_cross_entropy_overflows_are_no_score(slot: Slot, small_lab: SmallLab) -> None:
    huge = "return self.head(F.silu(x)) if self.training else (self.head(F.silu(x)).sign() * 3.3e38)"
    assert failure(slot(changed(small_lab, "return self.head(F.silu(x))", huge), 1, 1.0)).reason is Reason.NOT_FINITE


def test_logits_that_hide_a_token_of_the_text_are_no_score(slot: Slot, small_lab: SmallLab) -> None:
    """Lower rates would not mend it."""
    hiding = "return self.head(F.silu(x)) if self.training else F.pad(self.head(F.silu(x))[..., :32], (0, 224), value=-torch.inf)"
    found = failure(slot(changed(small_lab, "return self.head(F.silu(x))", hiding), 1, 0.5))
    assert (found.reason, found.phase) == (Reason.BAD_LOGITS, Phase.SCORE)
    assert "no chance" in found.message


def test_predictions_that_have_diverged_are_no_score(slot: Slot, small_lab: SmallLab) -> None:
    """The logits are finite; a score of millions would drown what is known of the noise."""
    wild = "return self.head(F.silu(x)) if self.training else (self.head(F.silu(x)) * 1e9)"
    found = failure(slot(changed(small_lab, "return self.head(F.silu(x))", wild), 1, 0.5))
    assert (found.reason, found.phase) == (Reason.NOT_FINITE, Phase.SCORE)
    assert "have diverged" in found.message


SPEAK = "import json, os, socket, struct\n    s = socket.socket(fileno=os.dup(int(os.environ['EVO_CHANNEL'])))\n    b = {body}\n"
SEND = "    s.sendall(struct.pack('>I', len(b)) + b)\n    import time\n    time.sleep(2)\n"


def test_a_program_that_ends_while_it_is_spoken_to_is_a_crash(slot: Slot, small_lab: SmallLab) -> None:
    body = """b'{"op": "start", "batch_size": 1, "vocab_size": 256}'"""
    text = changed(small_lab, "model = build_model()", SPEAK.format(body=body) + SEND.replace("time.sleep(2)", "os._exit(0)"))
    assert failure(slot(text, 1, 0.5)).reason is Reason.CRASH


def limited(slot: Slot, monkeypatch: pytest.MonkeyPatch, **limits: float) -> Slot:
    """The same slot with other limits, until the test is over."""
    monkeypatch.setattr(slot, "config", replace(slot.config, limits=replace(slot.config.limits, **limits)))
    return slot


def test_a_model_that_is_too_slow_to_be_scored_is_refused_in_time(slot: Slot, small_lab: SmallLab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = changed(
        small_lab, "x = self.embedding(tokens)", "import time; time.sleep(0 if self.training else 1000); x = self.embedding(tokens)"
    )
    assert failure(limited(slot, monkeypatch, score_seconds=1)(text, 1, 0.5)).reason is Reason.SCORE_TIMEOUT


@pytest.mark.parametrize(
    ("old", "new", "reason", "phase"),
    [
        ("return self.head(F.silu(x))", "return self.head(F.silu(x)) / 0", Reason.NOT_FINITE, Phase.SCORE),
        ("prepare.save(model)", "pass", Reason.NO_MODEL, Phase.TRAIN),
        ("prepare.save(model)", "import os\n    os._exit(3)", Reason.CRASH, Phase.TRAIN),
        ("prepare.save(model)", "import os\n    os.abort()", Reason.CRASH, Phase.TRAIN),
        ("prepare.save(model)", "1 / 0", Reason.CRASH, Phase.TRAIN),
        (
            "model = build_model()",
            "model = nn.Linear(8192, 4096)\n    next(prepare.batches(1, 256))\n    prepare.save(model)",
            Reason.TOO_BIG,
            Phase.SAVE,
        ),
        ("VOCAB_SIZE = 256", "VOCAB_SIZE = 300", Reason.CRASH, Phase.SETUP),
    ],
)
def test_a_failure_has_its_reason_and_phase(slot: Slot, small_lab: SmallLab, old: str, new: str, reason: Reason, phase: Phase) -> None:
    outcome = failure(slot(changed(small_lab, old, new), 1, 0.5))
    assert (outcome.reason, outcome.phase) == (reason, phase), outcome


def test_a_crash_is_explained_by_class_message_and_last_frames(slot: Slot, small_lab: SmallLab) -> None:
    outcome = failure(slot(changed(small_lab, "prepare.save(model)", "raise KeyError('\\x1b[31mred')"), 1, 0.5))
    assert outcome.message == "KeyError: '\\x1b[31mred'"
    assert 'train.py", line' in outcome.trace
    assert "\x1b" not in outcome.trace + outcome.log
    assert outcome.error == "KeyError"
    assert outcome.where == f"train at step {outcome.steps}"
    assert outcome.steps > 0
    assert outcome.losses == tuple(point.loss for point in outcome.curve)[-3:]
    assert 0.05 < outcome.peak_memory_gib < 1.5  # torch alone takes more than the former
    assert all(word in outcome.circumstances for word in ("last losses", "peak memory"))
    assert from_dict(json.loads(json.dumps(to_dict(outcome)))) == outcome


def test_set_up_that_takes_too_long_is_ended(slot: Slot, small_lab: SmallLab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = changed(small_lab, "model = build_model()", "import time\n    time.sleep(60)")
    assert failure(limited(slot, monkeypatch, setup_seconds=1)(text, 1, 0.5)).reason is Reason.SETUP_TIMEOUT


@pytest.fixture(scope="module")
def exposed(config: SlotConfig) -> Iterator[Slot]:
    """One whose programs can reach files."""
    made = Slot(replace(config, sandbox="process"))
    yield made
    made.close()


@pytest.mark.parametrize("level", ["namespaces", "process"])
def test_each_sandbox_level_scores_the_honest_program_and_is_recorded(slot: Slot, exposed: Slot, small_lab: SmallLab, level: str) -> None:
    if level == "namespaces" and sandbox.level()[0] != "namespaces":
        pytest.skip(f"no namespaces here: {sandbox.level()[1]}")
    stray = "import subprocess\n    subprocess.Popen(['sleep', '86398'], start_new_session=True)\n    prepare.save(model)"
    outcome = (slot if level == "namespaces" else exposed)(changed(small_lab, "prepare.save(model)", stray), 1, 0.5)
    assert isinstance(outcome, Scored), outcome
    assert outcome.sandbox == level
    assert "sleep 86398" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_program_that_changes_its_constitution_is_refused_where_files_are_open(exposed: Slot, small_lab: SmallLab) -> None:
    text = changed(small_lab, "prepare.save(model)", "open(prepare.__file__, 'a').write('#')\n    prepare.save(model)")
    assert failure(exposed(text, 1, 0.5)).reason is Reason.TAMPERED


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_slot_leaves_no_descriptor_and_no_folder_behind(
    config: SlotConfig, small_lab: SmallLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/test_berth.py says the same of one that starts processes early."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    slot = Slot(config)
    slot(small_lab.genome, 1, 0.3)
    before = open_descriptors()
    slot("import nothing_of_that_name", 2, 0.3)
    slot(small_lab.genome, 2, 0.3)
    assert open_descriptors() == before
    slot.close()
    assert list(tmp_path.iterdir()) == []


def test_a_kept_folder_that_has_grown_too_large_is_emptied_by_who_comes_first_and_by_no_one_beside(tmp_path: Path) -> None:
    path = tmp_path / "kernels" / "cuda0"
    first = Kept(str(path), 1 << 20)
    (path / "inner").mkdir()
    (path / "inner" / "block").write_bytes(os.urandom(2 << 20))
    second = Kept(str(path), 1 << 20)
    first.close()
    third = Kept(str(path), 1 << 20)
    assert (path / "inner" / "block").exists()
    second.close()
    third.close()
    Kept(str(path), 4 << 20).close()
    assert (path / "inner" / "block").exists()
    Kept(str(path), 1 << 20).close()
    assert list(path.iterdir()) == []


def test_the_folder_of_a_killed_owner_goes_and_that_of_a_living_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "from evaluator.scratch import Scratch; import os; Scratch(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    assert len(list(tmp_path.iterdir())) == 1
    mine = Scratch()
    other = Scratch()
    assert sorted(tmp_path.iterdir()) == sorted([mine.path, other.path])
    mine.close()
    other.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_whatever_a_program_has_left_in_it_and_what_its_links_name_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outside = tmp_path / "outside" / "lock"
    outside.parent.mkdir()
    outside.touch()
    link = tmp_path / "evo-slot-link"
    link.symlink_to(outside.parent)  # as if somebody had died who held the lock
    with contextlib.ExitStack() as held:
        held.callback(sys.setrecursionlimit, sys.getrecursionlimit())
        folder = held.enter_context(held.enter_context(contextlib.closing(Evaluations())).folder())
        (folder / "link").symlink_to(outside.parent)
        (folder / "shut" / "inner").mkdir(parents=True)
        (folder / "shut" / "inner").chmod(0)
        (folder / "shut").chmod(0)
        nest(folder, 150)
        sys.setrecursionlimit(len(inspect.stack()) + 100)  # so that it need not be deeper
    assert {*tmp_path.iterdir()} == {outside.parent, link}
    assert [*outside.parent.iterdir()] == [outside]


def test_a_folder_without_data_is_the_harness_s_error(config: SlotConfig, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="prepare"):
        Slot(replace(config, data=str(tmp_path)))
