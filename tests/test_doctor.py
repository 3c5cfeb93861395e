"""The doctor: looks at this machine for real, and says in words what is missing where something is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_lab import make_checkout
from tiny_lab import make_lab

from evo import doctor, machine, profiles
from evo.doctor import NOTE, OK, SKIPPED, STOP, Check
from evo.machine import Gpu, Machine

ROOT = Path(__file__).resolve().parent.parent
CPU = profiles.load(profiles.FOLDER / "cpu.toml")
H100 = profiles.load(profiles.FOLDER / "h100.toml")


def run_doctor(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "evo.doctor", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **env}, check=False)


def test_this_machine_can_run_what_its_profile_uses(tmp_path: Path) -> None:
    done = run_doctor("--json", "--profile", "cpu", EVO_DATA_DIR=str(tmp_path / "not yet" / "there"))
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["ready"]
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert states["packages"] == states["device"] == states["float32"] == states["bfloat16"] == states["sdpa"] == states["disk: data"] == OK
    assert states["flex"] == states["compile"] == SKIPPED, "the CPU profile's seed uses neither"


def test_without_torch_no_run_can_start_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')\n")
    done = run_doctor("--profile", "cpu", PYTHONPATH=os.pathsep.join([str(ROOT), str(tmp_path)]))
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "libcudart.so.12" in done.stdout
    assert "No run can start" in done.stdout


def test_a_checkout_whose_packages_are_missing_is_told_which(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    assert doctor.lab_check(checkout, CPU)[0].state == OK
    train = (checkout / "train.py").read_text(encoding="utf-8")
    optional = "try:\n    import no_such_kernels\nexcept ImportError:\n    pass\n"
    (checkout / "train.py").write_text(optional + train, encoding="utf-8")
    assert doctor.lab_check(checkout, CPU)[0].state == OK
    (checkout / "train.py").write_text("import no_such_package.inner\n" + train, encoding="utf-8")
    found = doctor.lab_check(checkout, CPU)[0]
    assert found.state == STOP
    assert "imports no_such_package, not installed" in found.found


def test_a_profile_for_another_device_is_no_start() -> None:
    if machine.probe().gpus:
        pytest.skip("there is a GPU here")
    found = list(doctor.examine("h100"))
    assert found[-1] == Check("profile", STOP, found[-1].found, found[-1].remedy)
    assert "--profile cpu" in found[-1].found


@pytest.mark.parametrize(
    ("asked", "state"),
    [
        (["torch>=2.0", "numpy>=1.2"], OK),
        (["torch>=2.0", "no-such-package>=1.0"], STOP),
        (["numpy>=999.1"], STOP),
        (["numpy"], OK),
    ],
)
def test_missing_packages_are_named(asked: list[str], state: str) -> None:
    found = doctor.packages(lambda: asked)
    assert found.state == state
    assert state == OK or (asked[-1] in found.found and found.remedy)


def test_the_projects_own_requirements_are_read() -> None:
    assert "torch>=2.10" in doctor._needed()
    assert doctor.packages().state == OK


def test_one_failing_trial_hides_no_other() -> None:
    found = list(doctor.tried(["nonesuch", "device", "other"], "cpu"))
    assert [(check.name, check.state) for check in found] == [("nonesuch", STOP), ("device", OK), ("other", STOP)]
    assert "KeyError: 'nonesuch'" in found[0].found


def test_what_the_seed_needs_and_does_not_work_is_a_stop_with_the_knob_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TRIED", Path(__file__).parent / "no such file.py")
    found = {check.name: check for check in doctor.trials(H100, doctor.seed_settings(doctor.LAB, H100), everything=False)}
    assert found["flex"].state == STOP
    assert 'ATTENTION = "sdpa"' in found["flex"].remedy
    assert found["sdpa"].state == NOTE, "the H100 seed does not use it"
    assert found["cudnn"].state == STOP, "a package that is there and does not work stands in the seed's way"
    assert "pip uninstall" in found["cudnn"].remedy
    assert {check.name: check.state for check in doctor.trials(CPU, doctor.seed_settings(doctor.LAB, CPU), everything=False)}[
        "compile"
    ] == SKIPPED


def test_a_package_that_would_only_be_faster_is_no_stop_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Check("cudnn", STOP, "tried: ModuleNotFoundError: No module named 'cudnn'")
    monkeypatch.setattr(doctor, "tried", lambda names, device: [missing])
    (found,) = (check for check in doctor.trials(H100, doctor.seed_settings(doctor.LAB, H100), everything=False) if check.name == "cudnn")
    assert found.state == NOTE
    assert "pip install" in found.remedy


OWN = """[profile]
name = "mine"
device = "cpu"
budget_seconds = 1
slots = "one"
threads_per_slot = 1
[knobs]
MATRIX_LR = 0.05
"""


def test_the_seed_program_of_the_lab_that_is_named_is_looked_at(tmp_path: Path) -> None:
    """The default lab's, with a profile that sets none of its knobs, would use what a CPU does not have."""
    profile = tmp_path / "mine.toml"
    profile.write_text(OWN)
    lab = make_lab(tmp_path / "lab")
    found = {check.name: check for check in doctor.examine(str(profile), lab=lab)}
    assert found["lab"] == Check("lab", OK, f"{lab}: the profile sets 1 of its knobs")
    assert "has no knob PRECISION" in found["seed program"].found
    assert not [check for check in found.values() if check.state == STOP]


def test_knobs_that_the_lab_lacks_are_named_as_a_run_names_them(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(f"{OWN}NO_SUCH_KNOB = 3\n")
    lab = make_lab(tmp_path / "lab")
    found = {check.name: check for check in doctor.examine(str(profile), lab=lab)}
    assert found["lab"].state == STOP
    assert "NO_SUCH_KNOB" in found["lab"].found
    assert "--lab" in found["lab"].remedy
    assert not {"float32", "seed program"} & set(found)
    assert "sandbox" in found


def test_a_seed_program_reads_alike_with_and_without_the_package_that_renders_it() -> None:
    for profile in (CPU, H100):
        _, seed = doctor.lab_check(doctor.LAB, profile)
        own = doctor.seed_settings(doctor.LAB, profile)
        assert {name: seed[name] for name in doctor.TOLD_APART} == {name: own[name] for name in doctor.TOLD_APART}


def test_a_driver_without_a_gpu_for_torch_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = doctor.device_check(Machine((0,), "a CPU"), "cpu", Check("device", OK, "torch 2.13"))
    assert found.state == NOTE
    assert "CUDA" in found.remedy


def test_more_memory_than_there_is_is_noticed() -> None:
    assert doctor.host_memory(CPU, 4096).state == NOTE
    two = machine.Machine((0, 1), "two GPUs", (Gpu("H100", 80.0, 9),) * 2)
    said = " ".join(check.found for check in doctor.used(H100, two, 2, {}))
    assert "compute capability 9.x, 80 GiB" in said
    assert "2 at once" in said


def test_a_containers_memory_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       33554432 kB\nMemFree:  1 kB\nMemAvailable:   16777216 kB\nHugePages_Total: 0\n")
    assert machine.host_memory_gib(tmp_path / "meminfo", tmp_path) == (32.0, 16.0)
    (tmp_path / "memory.max").write_text(f"{8 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{3 * 2**30}\n")
    assert machine.host_memory_gib(tmp_path / "meminfo", tmp_path) == (8.0, 5.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.host_memory_gib(tmp_path / "meminfo", tmp_path) == (32.0, 16.0)
    assert machine.host_memory_gib(tmp_path / "none", tmp_path) is None


def test_gpus_of_different_models_are_a_stop_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (Gpu("one", 80.0, 9), Gpu("another", 80.0, 9))
    monkeypatch.setattr(machine, "probe", lambda: Machine((0, 1), "a CPU", gpus))
    found = list(doctor.examine())[-1]
    assert (found.name, found.state) == ("profile", STOP)
    assert "CUDA_VISIBLE_DEVICES" in found.found
