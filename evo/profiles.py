"""Device profiles: the constants that suit a kind of machine, as TOML files in configs/.

    [profile]   name, device, budget_seconds, slots, threads_per_slot, compile_cache
    [prepare]   constants to set in prepare.py
    [knobs]     knobs to set in train.py, for the seed genome of this machine
    [limits]    what a program may use (evaluator.training.Limits)

A profile is chosen by probing the machine once, named (`--profile cpu`), or given as a file of your own (`--profile mine.toml`), which
a lab with other constants than the default one's needs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluator.training import Limits
from evo.config import build, read_toml
from evo.core.words import counted
from evo.errors import UserError, nearest
from evo.machine import Machine

FOLDER = Path(__file__).resolve().parent.parent / "configs"
DEVICES = ("cpu", "cuda", "mps")
SLOT_RULES = ("per_core", "per_gpu", "one")
HOPPER, HOPPER_GIB = 9, 70  # compute capability and memory from which the h100 profile fits


@dataclass(frozen=True)
class Head:
    """Section [profile]."""

    name: str
    device: str  # one of DEVICES
    budget_seconds: float  # training time of one evaluation
    slots: str  # how many there are unless said otherwise; one of SLOT_RULES; per_core: cores / threads_per_slot
    threads_per_slot: int  # CPU threads of one evaluation
    compile_cache: bool = False  # keep compiled kernels between the programs of a slot

    def __post_init__(self) -> None:
        for name, value, known in (("device", self.device, DEVICES), ("slots", self.slots, SLOT_RULES)):
            if value not in known:
                raise ValueError(f"profile.{name} is {value!r}; {nearest(value, known)}")
        if not 0 < self.budget_seconds < math.inf or self.threads_per_slot < 1:
            raise ValueError("profile.budget_seconds must be more than 0 and profile.threads_per_slot at least 1")


@dataclass(frozen=True)
class Profile:
    """A profile file."""

    head: Head
    prepare: Mapping[str, Any] = field(default_factory=dict)  # constant -> value
    knobs: Mapping[str, Any] = field(default_factory=dict)  # knob -> value
    limits: Limits = field(default_factory=Limits)


def choose(wanted: str, machine: Machine) -> Profile:
    """The profile of that name or file; "" means the one that suits the machine.

    Raises:
        UserError: there is none, it is not well-formed, or it needs a device that the machine lacks.
    """
    profile = find(wanted, machine)
    device = profile.head.device
    if (device == "cuda" and not machine.gpus) or (device == "mps" and not machine.mps):
        raise UserError(f"profile {profile.head.name} needs {device}, which torch does not find here; use --profile cpu")
    return profile


def find(wanted: str, machine: Machine) -> Profile:
    """The profile of that name or file, whether or not the machine has its device; "" means the one that suits the machine."""
    return load(_path(wanted or suitable(machine)))


def suitable(machine: Machine) -> str:
    """Name of the profile that suits the machine."""
    if machine.device != "cuda":
        return machine.device
    gpu = machine.gpus[0]
    return "h100" if gpu.capability >= HOPPER and gpu.memory_gib >= HOPPER_GIB else "cuda"


def load(path: Path) -> Profile:
    """Reads a profile file.

    Raises:
        UserError: it is missing or not well-formed.
    """
    tables = read_toml(path)
    known = ("profile", "prepare", "knobs", "limits")
    for name in tables:
        if name not in known:
            raise UserError(f"{path}: no section {name!r} in a profile; {nearest(name, known)}")
        if not isinstance(tables[name], dict):
            raise UserError(f"{path}: {name} = {tables[name]!r}, but it is a section: [{name}] with key = value lines")
    missing = [k for k in ("name", "device", "budget_seconds", "slots", "threads_per_slot") if k not in tables.get("profile", {})]
    if missing:
        raise UserError(f"{path}: section [profile] lacks {', '.join(missing)}")
    head, limits = build(Head, "profile", tables["profile"]), build(Limits, "limits", tables.get("limits", {}))
    for name, value in dataclasses.asdict(limits).items():
        if not 0 <= value < math.inf:
            raise UserError(f"{path}: limits.{name} is {value:g}, must not be negative or infinite")
    return Profile(head, tables.get("prepare", {}), tables.get("knobs", {}), limits)


def slot_count(profile: Profile, machine: Machine, gpus: int | None, slots: int | None, cluster: bool = False) -> int:
    """How many evaluations run at once.

    Args:
        gpus, slots: as asked for; None leaves it to the profile's rule.
        cluster: this machine is one of several, whose number the executor knows.
    Raises:
        UserError: there are fewer GPUs or cores than asked for, or the GPUs differ.
    """
    rule, threads = profile.head.slots, profile.head.threads_per_slot
    if gpus and gpus > len(machine.gpus) and not cluster:
        raise UserError(f"--gpus {gpus}: torch finds {len(machine.gpus)} GPUs here; ask for no more, or leave --gpus out")
    if gpus and profile.head.device != "cuda":
        raise UserError(f"--gpus {gpus}: profile {profile.head.name} runs on {profile.head.device}; use --gpus 0 or another --profile")
    if rule == "per_gpu":
        if gpus == 0:
            raise UserError(f"--gpus 0: profile {profile.head.name} needs a GPU per slot; add --profile cpu")
        most, why = gpus or len(machine.gpus), "one per GPU"
    elif rule == "per_core":
        most, why = max(1, machine.core_count // threads), f"{counted(machine.core_count, 'core')}, {threads} for each slot"
    else:
        most, why = 1, "one for the device"
    if slots is not None and slots > most and (not cluster or gpus):
        raise UserError(f"--slots {slots}: at most {most} here ({why}), since evaluations must not share them; ask for no more")
    models = {gpu.name for gpu in machine.gpus[: slots or most]} if profile.head.device == "cuda" else set()
    if len(models) > 1:
        raise UserError(
            f"scores on GPUs of different models cannot be compared, and this machine has {', '.join(sorted(models))}: "
            "choose one model with CUDA_VISIBLE_DEVICES"
        )
    return slots or most


def core_shares(machine: Machine, slots: int, threads: int, cluster: bool = False) -> tuple[tuple[int, ...], ...]:
    """Disjoint sets of cores, one per slot, with `threads` cores each or an equal share where a GPU does the work.

    Under a quota all are empty: containers of one host see the same core numbers, and would all be bound to the first ones. On a cluster
    too, where nobody knows which slots share a machine.
    """
    cores = machine.cores if machine.quota is None and not cluster else ()
    share = max(threads, len(cores) // slots) if slots * threads <= len(cores) else 0
    return tuple(cores[i * share : (i + 1) * share] for i in range(slots))  # share 0: empty, bound to no core in particular


def _path(wanted: str) -> Path:
    if wanted.endswith(".toml") or "/" in wanted:
        return Path(wanted)
    names = sorted(p.stem for p in FOLDER.glob("*.toml"))
    if wanted not in names:
        raise UserError(f"no profile {wanted!r}; {nearest(wanted, names)}; or a file of your own: --profile mine.toml")
    return FOLDER / f"{wanted}.toml"
