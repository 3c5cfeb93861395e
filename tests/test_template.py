"""A copy of a template is confined as what is started from nothing, and scores the same."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SmallLab

from evaluator import sandbox
from evaluator.evaluate import HarnessError
from evaluator.meter import descendants
from evaluator.outcome import Scored
from evaluator.slot import Slot, SlotConfig
from evaluator.template import Template

pytestmark = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")

LOOK = """
def main():
    import json, os, signal, sys
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
    names = [name for name in sys.modules if name.partition(".")[0] == "evaluator"]
    facts = {
        "status": {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")},
        "environment": dict(os.environ), "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "argv": sys.argv, "modules": names, "path": sys.path, "main": sys.modules["__main__"].__file__, "folder": os.getcwd(),
        "limits": open("/proc/self/limits").read(),
        "signals": {str(int(n)): getattr(signal.getsignal(n), "__name__", str(signal.getsignal(n))) for n in signal.valid_signals()},
    }
    print("FACTS", json.dumps(facts))
    train_plainly()
"""


@pytest.fixture(scope="module")
def config(small_lab: SmallLab) -> SlotConfig:
    return SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", sandbox="namespaces")


@pytest.fixture(scope="module")
def copied(config: SlotConfig) -> Iterator[Slot]:
    with contextlib.closing(Slot(config)) as made:
        assert made._template is not None
        yield made


@pytest.fixture(scope="module")
def plain(config: SlotConfig) -> Iterator[Slot]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "template", lambda *_: contextlib.nullcontext())
        made = Slot(config)
    with contextlib.closing(made):
        yield made


@pytest.fixture(scope="module", params=["copied", "plain"])
def slot(request: pytest.FixtureRequest) -> Slot:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def facts(slot: Slot, small_lab: SmallLab) -> dict:
    outcome = slot(small_lab.genome.replace("def main():", "def train_plainly():", 1) + LOOK, 1, 1.0)
    assert isinstance(outcome, Scored), outcome
    (line,) = [line for line in outcome.log.splitlines() if line.startswith("FACTS ")]
    return json.loads(line.removeprefix("FACTS "))


def test_it_has_no_privileges_and_cannot_get_any(facts: dict) -> None:
    status = facts["status"]
    assert {int(status[name], 16) for name in status if name.startswith("Cap")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_signals_reach_it_as_they_reach_a_fresh_interpreter(facts: dict) -> None:
    assert facts["signals"][str(int(signal.SIGINT))] == "default_int_handler"
    code = "import signal\nprint([int(n) for n in signal.valid_signals() if signal.getsignal(n) not in (0, signal.default_int_handler)])"

    def as_launched() -> None:
        """Whatever this suite was started under, such as nohup."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, preexec_fn=as_launched).stdout
    handled = {
        int(number) for number, handler in facts["signals"].items() if handler not in ("0", "Handlers.SIG_DFL", "default_int_handler")
    }
    assert handled == set(json.loads(fresh))


def test_it_sees_the_environment_that_it_was_given_alone(facts: dict, config: SlotConfig) -> None:
    given = dict(sandbox.environment(config.threads))
    own = {name: value for name, value in facts["environment"].items() if name not in given}
    assert {name for name in own if not name.startswith("EVO_")} <= {"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
    assert {**given, **own} == facts["environment"]


def test_it_has_its_channel_and_its_output_and_no_other_descriptor(facts: dict) -> None:
    # the channel twice, since it duplicates it; the folder that is listed
    assert len(facts["descriptors"]) <= 3 + 2 + 1, facts["descriptors"]
    assert int(facts["environment"]["EVO_CHANNEL"]) in facts["descriptors"]


def test_nothing_of_the_harness_can_be_imported(facts: dict) -> None:
    assert facts["modules"] == []
    assert str(ROOT) not in facts["path"]


def test_it_looks_like_the_script_that_it_is(facts: dict) -> None:
    assert facts["argv"] == [facts["main"]] == [str(sandbox.INSIDE / "trainee.py")]
    assert Path(facts["folder"]).name == "work"


def test_a_copy_scores_as_what_is_started_from_nothing(copied: Slot, plain: Slot, small_lab: SmallLab) -> None:
    five = ("in prepare.batches(BATCH_SIZE, VOCAB_SIZE):", "in (b for b, _ in zip(prepare.batches(BATCH_SIZE, VOCAB_SIZE), range(5))):")
    found = []
    for slot in (copied, plain):
        outcome = slot(small_lab.genome.replace(*five), 3, 20.0)
        assert isinstance(outcome, Scored), outcome
        found.append((outcome.val_bpb, outcome.steps, [point.loss for point in outcome.curve]))
    assert found[0] == found[1]


def templates() -> list[int]:
    return [pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/comm").read_text().strip() == "template"]


def test_a_template_that_was_killed_is_replaced(copied: Slot, small_lab: SmallLab) -> None:
    assert isinstance(copied(small_lab.genome, 1, 0.5), Scored)
    for pid in templates():
        os.kill(pid, signal.SIGKILL)
    assert isinstance(copied(small_lab.genome, 2, 0.5), Scored)


def test_a_closed_template_forks_no_more_and_says_so() -> None:
    template = Template(sandbox.environment(1, EVO_DEVICE="cpu"))
    template.close()
    with pytest.raises(HarnessError, match="closed"):
        template.fork({}, 0, 1, 2, None)


def test_it_ends_with_the_last_who_holds_it() -> None:
    with sandbox.template("namespaces", "cpu", 3) as one:
        with sandbox.template("namespaces", "cpu", 3) as other:
            assert one is other
        assert one._process.poll() is None
        pid = one._process.pid
    assert not Path(f"/proc/{pid}").exists()


def test_there_is_none_where_a_program_could_reach_it() -> None:
    with sandbox.template("process", "cpu", 1) as template:
        assert template is None


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ("import subprocess; subprocess.Popen(['sleep', '60'])", "starts a process"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "starts a thread"),
    ],
)
def test_what_copies_would_share_is_never_copied(starts: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("libraries", "work", "root"):
        (tmp_path / name).mkdir()
    (tmp_path / "libraries" / "eager.py").write_text(f"{starts}\nspare_the_compiler = print\n")
    given = dict(sandbox.environment(1, EVO_DEVICE="cpu"))
    given["PYTHONPATH"] = f"{tmp_path / 'libraries'}{os.pathsep}{given['PYTHONPATH']}"
    with contextlib.closing(Template(tuple(given.items()))) as template, open(tmp_path / "log", "wb") as log:
        work, root = str(tmp_path / "work"), str(tmp_path / "root")
        what = sandbox.Confined("probe.py", work, (), (work,), (), sandbox.environment(1), (), 1 << 30, 0, 64, 1 << 20, "namespaces", root)
        ended = sandbox.Process(replace(what, template=template), log.fileno()).wait()
        left = [*descendants(template._process.pid)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert ended.code == 0
    assert said in capfd.readouterr().err


def test_it_dies_with_the_harness() -> None:
    code = (
        "import sys, time; from evaluator import sandbox\n"
        "with sandbox.template('namespaces', 'cpu', 1) as made: print(made._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as harness:
        assert harness.stdout is not None
        pid = int(harness.stdout.readline())
        harness.kill()
    deadline = time.monotonic() + 30  # it may be importing still
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)
