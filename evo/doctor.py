"""`python -m evo.doctor`: what this machine has, what of it works, what a run will use and why, what is missing and how to get it.

What programs use (bfloat16, compilation, attention) is tried: really run, each in a process of its own with a time limit, and compared with
exact results (evaluator/tried.py). Imports nothing that may be missing. Exit code 0: a run can start; 1: it cannot.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import evaluator
from evaluator import sandbox
from evo import machine, profiles
from evo.cli import Parser, entry, folded, width_of
from evo.core.words import counted
from evo.errors import UserError, one_line

PROJECT = Path(__file__).resolve().parent.parent
LAB = PROJECT / "trainer"
TRIED = Path(evaluator.__file__).parent / "tried.py"
TRIAL_SECONDS = 180.0
DISK_GIB, DISK_GPU_GIB = 1.0, 20.0  # a run needs the first; shards, rows and compiled kernels of a GPU run fill the second
OK, NOTE, STOP, SKIPPED = "ok", "note", "stop", "skipped"  # as it should be; runs, but worse; no run can start; not looked at
INSTALL = "run `make run`, or install with `pip install -e .` in the project's folder"
FASTER_WINDOWS = "`pip install 'nvidia-cudnn-frontend>=1.30'` makes the seed program's steps 4 % faster; FlexAttention is used without it"
BROKEN_WINDOWS = "`pip uninstall nvidia-cudnn-frontend`: without it, the seed program uses FlexAttention"
TOLD_APART = ("PRECISION", "ATTENTION", "COMPILE")  # knobs that say what a seed program uses of the device
MEND_LAB = "fix it, or name another lab with --lab"
INSTALL_LABS = "install what the lab needs into the environment that evo runs in; an autoresearch checkout lists it in its pyproject.toml"
OTHER_LAB = "name the lab that the profile is for with --lab, or a profile for this lab with --profile"
OWN_PROFILE = "copy configs/{}.toml, set {} = {} under [knobs] there and name the copy with --profile"


Settings = Mapping[str, Any]  # settings of a seed program: constant at top level -> value


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    state: str  # OK, NOTE, STOP or SKIPPED
    found: str
    remedy: str = ""  # what to do about it


def examine(wanted: str = "", everything: bool = False, lab: Path = LAB) -> Iterator[Check]:
    """All checks, one by one as they are done.

    Args:
        wanted: profile to look for; "" for the one that suits the machine.
        everything: also try what the profile's seed program does not use.
        lab: the lab whose seed program is asked what it uses.
    """
    yield Check("python", OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield packages()
    here = machine.probe()
    yield cores(here)
    try:
        profile = profiles.choose(wanted, here)
        slots = profiles.slot_count(profile, here, None, None)
    except UserError as error:
        yield Check("profile", STOP, str(error), "leave --profile out, or name one that fits")
        return
    device = profile.head.device
    (torch,) = tried(["device"], device)
    yield device_check(here, device, torch)
    fits, seed = lab_check(lab, profile)
    yield fits
    yield from used(profile, here, slots, seed)
    if torch.state == OK and fits.state != STOP:
        yield from trials(profile, seed, everything)
    yield confinement()
    yield host_memory(profile, slots)
    yield from disks(device)


def packages(needed: Callable[[], list[str]] | None = None) -> Check:
    """Whether everything that the project asks for is installed, in the versions that it asks for."""
    asked = (needed or _needed)()
    missing = [line for line in asked if not _satisfied(line)]
    if missing:
        return Check("packages", STOP, f"missing or too old: {', '.join(missing)}", INSTALL)
    return Check("packages", OK, f"all {len(asked)} are installed")


def cores(here: machine.Machine) -> Check:
    quota = "" if here.quota is None else f", worth {here.quota} by this container's quota"
    return Check("cores", OK, f"{len(here.cores)}{quota}: {here.cpu}")


def device_check(here: machine.Machine, device: str, torch: Check) -> Check:
    """The device that torch trains on."""
    if torch.state != OK:
        return dataclasses.replace(torch, name=f"torch on {device}", state=STOP, remedy=INSTALL)
    if device == "cpu" and shutil.which("nvidia-smi") and not here.gpus:
        remedy = "install a build of torch for CUDA, and a driver that it works with (`nvidia-smi` shows the driver's version)"
        return Check("device", NOTE, f"cpu, {torch.found}; there is an NVIDIA driver, but torch finds no GPU", remedy)
    count = f"{len(here.gpus)} × " if device == "cuda" and len(here.gpus) > 1 else ""
    return Check("device", OK, f"{device}: {count}{torch.found}")


def lab_check(lab: Path, profile: profiles.Profile) -> tuple[Check, Settings]:
    """Whether the lab can be read and has what the profile sets; and what its seed program is set to."""
    try:
        from evo import lab as labs  # parses programs with a package that may be missing
    except ImportError as error:
        return Check("lab", SKIPPED, f"not looked at: {error}"), seed_settings(lab, profile)
    remedy = MEND_LAB
    try:
        read = labs.load(lab)
        remedy = OTHER_LAB
        rendered = labs.render(read, profile, profile.head.budget_seconds)
    except UserError as error:
        return Check("lab", STOP, str(error), remedy), {}
    if lacking := labs.missing(read):
        return Check("lab", STOP, f"{lab} imports {', '.join(lacking)}, not installed here", INSTALL_LABS), _assigned(rendered.seed)
    kind = "a script that scores itself" if read.compat else f"the profile sets {len(profile.knobs)} of its knobs"
    return Check("lab", OK, f"{lab}: {kind}"), _assigned(rendered.seed)


def used(profile: profiles.Profile, here: machine.Machine, slots: int, seed: Settings) -> Iterator[Check]:
    """What a run will use, and why."""
    head = profile.head
    why = {"cuda": "the GPU", "mps": "Apple's GPU", "cpu": "no GPU that torch can use"}[head.device]
    if head.device == "cuda" and here.gpus:
        why = f"compute capability {here.gpus[0].capability}.x, {here.gpus[0].memory_gib:.0f} GiB"
    if head.device == "cpu" and here.device != "cpu":
        why = "asked for"
    said = f"{head.name} ({why}): {slots} at once, {counted(head.threads_per_slot, 'thread')} each, {head.budget_seconds:g} s of training"
    known = ", ".join(f"{name} {seed[name]}" for name in TOLD_APART if name in seed)
    yield Check("profile", OK, said)
    if seed:
        yield Check("seed program", OK, known or f"has no knob {' or '.join(TOLD_APART)}, so what it uses is unknown")


def trials(profile: profiles.Profile, seed: Settings, everything: bool) -> Iterator[Check]:
    """Tries what the seed program uses; of the rest, what is quick, or everything if that is wanted."""
    precision, attention, compiled = (seed.get(name) for name in TOLD_APART)
    uses = {"float32": True, "bfloat16": precision == "bfloat16", "sdpa": attention == "sdpa", "flex": attention == "flex"}
    uses |= {"cudnn": uses["flex"] and precision == "bfloat16", "compile": compiled is True}
    instead = {"bfloat16": ("PRECISION", '"float32"'), "flex": ("ATTENTION", '"sdpa"'), "compile": ("COMPILE", "false")}
    skipped = [name for name in ("flex", "cudnn", "compile") if not uses[name] and not everything]
    for found in tried([name for name in uses if name not in skipped], profile.head.device):
        if found.state == STOP and found.name == "cudnn" and uses["cudnn"]:
            state, remedy = (NOTE, FASTER_WINDOWS) if "ModuleNotFoundError" in found.found else (STOP, BROKEN_WINDOWS)
            found = dataclasses.replace(found, state=state, remedy=remedy)
        elif found.state == STOP and not uses[found.name]:
            found = dataclasses.replace(found, state=NOTE, remedy="programs that use it will fail; the seed program does not")
        elif found.state == STOP and found.name in instead:
            found = dataclasses.replace(found, remedy=OWN_PROFILE.format(profile.head.name, *instead[found.name]))
        yield found
    for name in skipped:
        yield Check(name, SKIPPED, "not tried: the profile's seed program does not use it (--all tries it)")


def tried(names: list[str], device: str) -> Iterator[Check]:
    """Trials, each OK or STOP. One process makes them in a row; if a trial ends it, another process goes on with the next."""
    with tempfile.TemporaryDirectory(prefix="evo-doctor-") as cache:  # nothing compiled earlier may take the place of a trial
        env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{cache}/inductor", "TRITON_CACHE_DIR": f"{cache}/triton"}
        while names:
            command = [sys.executable, "-P", "-W", "ignore", str(TRIED), device, *names]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS, env=env, check=False)
                said, reason = done.stdout, _reason(done)
            except subprocess.TimeoutExpired as late:
                said, reason = (late.stdout or b"").decode(), f"not finished after {TRIAL_SECONDS:g} s"
            answers = [json.loads(line) for line in said.splitlines() if line.startswith('{"trial": ')]
            yield from (Check(answer["trial"], OK, _told(answer)) for answer in answers)
            names = names[len(answers) :]
            if names:
                yield Check(names[0], STOP, f"tried: {reason}")
                names = names[1:]


def confinement() -> Check:
    """How well programs are confined."""
    level, why = sandbox.level()
    if level == "namespaces":
        return Check("sandbox", OK, "namespaces: programs see no files but their own and the system's, no network, no other process")
    remedy = "use Linux, locally or in a container" if sys.platform != "linux" else (
        "be root, or allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu 24.04 also"
        " `kernel.apparmor_restrict_unprivileged_userns=0`); in Docker: `--cap-add SYS_ADMIN --security-opt seccomp=unconfined"
        " --security-opt apparmor=unconfined`"
    )  # fmt: skip
    return Check("sandbox", NOTE, f"process only, programs can read files and use the network: {one_line(why)}", remedy)


def host_memory(profile: profiles.Profile, slots: int) -> Check:
    """Whether the memory that the profile lets programs use is there."""
    found = machine.host_memory_gib()
    if found is None:
        return Check("memory", OK, "not measured on this system")
    total, free = found
    needed = slots * profile.limits.host_memory_gib
    said = f"{total:.0f} GiB, {free:.0f} free"
    if needed > free:
        return Check("memory", NOTE, f"{said}; {slots} programs may use {needed:g} GiB", "use fewer slots (--slots), or free some memory")
    return Check("memory", OK, said)


def disks(device: str) -> Iterator[Check]:
    """Room for data, runs and scratch files, where they will lie."""
    data = Path(os.environ.get("EVO_DATA_DIR") or Path.home() / ".cache" / "evo")
    places = {"data": data, "runs": Path.cwd() / "runs", "scratch": Path(tempfile.gettempdir())}
    for name, path in places.items():
        there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        free, wanted = shutil.disk_usage(there).free / 2**30, DISK_GPU_GIB if device == "cuda" else DISK_GIB
        state = STOP if free < DISK_GIB or not os.access(there, os.W_OK) else NOTE if free < wanted else OK
        writable = "" if os.access(there, os.W_OK) else ", not writable"
        how = {"data": "set EVO_DATA_DIR to a folder elsewhere", "runs": "start from another folder", "scratch": "set TMPDIR"}[name]
        yield Check(f"disk: {name}", state, f"{path}: {free:.0f} GiB free{writable}", "" if state == OK else f"make room, or {how}")


# ---- particulars


def _needed() -> list[str]:
    """Requirements from pyproject.toml or, if only the installed package is there, from its metadata."""
    file = PROJECT / "pyproject.toml"
    if file.exists():
        block = re.search(r"^dependencies = \[\n(.*?)^\]", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        return re.findall(r'^\s*"([^"]+)"', block.group(1), re.MULTILINE) if block else []
    return [line for line in metadata.requires("evo-autoresearch") or [] if "extra ==" not in line]


def _satisfied(asked: str) -> bool:
    """Whether a requirement such as `torch>=2.10` is met."""
    name, _, least = asked.partition(">=")
    try:
        version = metadata.version(name.strip())
    except metadata.PackageNotFoundError:
        return False
    return _numbers(version) >= _numbers(least)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def seed_settings(lab: Path, profile: profiles.Profile) -> Settings:
    """Settings of the lab's seed program under the profile, read without any package; nothing if it does not read."""
    try:
        own = _assigned((lab / "train.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return {}
    return {name: profile.knobs.get(name, value) for name, value in own.items()}


def _assigned(program: str) -> Settings:
    """Constants at top level, by name."""
    return {
        node.targets[0].id: node.value.value
        for node in ast.parse(program).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant)
    }


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    return one_line(lines[-1])[:300] if lines else f"exit code {done.returncode} and no message"


def _told(answer: dict[str, Any]) -> str:
    """A trial's answer in words."""
    parts = [str(answer["name"])] if "name" in answer else []
    parts += [f"torch {answer['torch']}"] if "torch" in answer else []
    parts += [f"capability {answer['capability']}"] if "capability" in answer else []
    parts += [f"{answer['memory_gib']:.0f} GiB, {answer['free_gib']:.0f} free"] if "memory_gib" in answer else []
    parts += [f"{answer['tflops']:.3g} TFLOP/s"] if "tflops" in answer else []
    parts += [f"{answer['compile_seconds']:.1f} s for a small function"] if "compile_seconds" in answer else []
    parts += [f"nvidia-cudnn-frontend {answer['package']}"] if "package" in answer else []
    return ", ".join(parts) if "torch" in answer else ", ".join(["tried: works", *parts])


# ---- the command

_MARKS = {OK: ("✓", "32"), NOTE: ("!", "33"), STOP: ("✗", "31"), SKIPPED: ("–", "2")}


def _text(check: Check, colour: bool, width: int) -> str:
    """A line on a check and one on its remedy, which break between words where a terminal of `width` columns would break them."""
    mark, code = _MARKS[check.state]
    lines = [f" {mark} {check.name:15s}{check.found}", *([f"{' ' * 18}→ {check.remedy}"] if check.remedy else [])]
    text = "\n".join(folded(line, width) for line in lines)
    return text.replace(mark, f"\x1b[{code}m{mark}\x1b[0m", 1) if colour else text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    checks = []
    for check in examine(options.profile or "", options.all, options.lab or LAB):
        checks.append(check)
        if not options.json:
            print(_text(check, colour, width_of(sys.stdout)), flush=True)
    ready = all(check.state != STOP for check in checks)
    if options.json:
        print(json.dumps({"ready": ready, "checks": [dataclasses.asdict(check) for check in checks]}))
    else:
        asked = [word for flag, value in (("--lab", options.lab), ("--profile", options.profile)) if value for word in (flag, str(value))]
        how = shlex.join(["python", "-m", "evo.run", *asked]) if asked else "make run"
        print(f"\nA run can start: `{how}`." if ready else "\nNo run can start: see ✗ above.")
    return 0 if ready else 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m evo.doctor", description="Shows what a run will use here, and what is missing.", allow_abbrev=False)
    parser.add_argument("--profile", metavar="P", help="device profile by name or file (default: the one that suits the machine)")
    parser.add_argument("--lab", metavar="DIR", type=Path, help="folder with prepare.py, train.py, program.md (default: evo's trainer)")
    parser.add_argument("--all", action="store_true", help="also try what the profile's seed program does not use")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(entry("evo.doctor", main))
