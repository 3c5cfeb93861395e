"""From settings to something that evaluates: lab, profile, data, slots, measurement key. Shared by every command that evaluates."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import genomes
from evaluator import data as datafolder
from evaluator import sandbox
from evaluator.compat import CompatConfig
from evaluator.evaluate import HarnessError
from evaluator.instant import Instant
from evaluator.key import comparable, compat_key, measurement_key
from evaluator.outcome import SELF_REPORTED
from evaluator.packing import Preparation
from evaluator.slot import SlotConfig
from evaluator.training import Limits
from evo import lab as labs
from evo import profiles
from evo.config import Config
from evo.errors import UserError
from evo.executor import SlotKind, SlotSpec
from evo.machine import Machine, probe

MOST_INSTANT_SLOTS = 128  # a process each
INSTANT_BUDGET_SECONDS = 1.0  # on the instant lab, where it costs nothing
SCORE_PASSES = 3  # most forwarders of one evaluation, each with `score_seconds` (evaluator/slot.py)
OWN_CACHE = Path(".cache") / "autoresearch"  # below the home folder: where autoresearch keeps its data
DOWNLOADS = Path(".cache") / "huggingface" / "hub"
MARGIN_SECONDS = 180.0  # allowance for what has no limit of its own: starting processes, writing files

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """All that is needed to evaluate programs."""

    lab: labs.Lab
    rendered: labs.Rendered
    profile: str  # name; "instant" for the instant lab
    device: str
    measurement_key: str
    evaluators: tuple[SlotKind, ...]  # one per slot
    patience_seconds: float
    on_cluster: bool = False  # slots may be on other machines
    memory_gib: float = 0.0  # memory that a program may use: the GPU's where it has one; 0: not known
    comparable: str = ""  # what each machine of a cluster must be; "" without one

    @property
    def gpus(self) -> tuple[str, ...]:
        """GPUs of this machine that are evaluated on, as values of CUDA_VISIBLE_DEVICES; none where Ray gives out those of a cluster."""
        if self.on_cluster:
            return ()
        return tuple(e.gpu for e in self.evaluators if isinstance(e, SlotConfig | CompatConfig) and e.device == "cuda")

    def specs(self, run_dir: Path) -> tuple[SlotSpec, ...]:
        """The slots of a run."""
        folder, budget = run_dir.resolve(), self.rendered.budget_seconds
        return tuple(
            SlotSpec(f"{self.device}{i}", evaluator, folder, budget, self.patience_seconds, self.comparable)
            for i, evaluator in enumerate(self.evaluators)
        )


@dataclass(frozen=True)
class Plan:
    """What a run will evaluate with, found without changing anything. `build` prepares the data and completes it."""

    config: Config
    lab: labs.Lab
    profile: profiles.Profile | None  # None: the instant lab
    machine: Machine
    slots: int

    @property
    def profile_name(self) -> str:
        return self.profile.head.name if self.profile else "instant"

    @property
    def on_cluster(self) -> bool:
        """Whether slots may be on other machines than this one."""
        return _on_cluster(self.config)

    @property
    def budget_seconds(self) -> float:
        return self.config.run.budget_seconds or (self.profile.head.budget_seconds if self.profile else INSTANT_BUDGET_SECONDS)

    @cached_property
    def rendered(self) -> labs.Rendered:
        """The lab's programs as they will be evaluated.

        Raises:
            UserError: the lab does not fit the profile.
        """
        if self.profile is None:
            return labs.Rendered("", self.lab.train, self.budget_seconds)
        return labs.render(self.lab, self.profile, self.budget_seconds)


def plan(config: Config, machine: Machine | None = None) -> Plan:
    """Loads the lab, chooses the profile, counts the slots.

    Args:
        machine: what there is; None: found by probing.
    Raises:
        UserError: something does not fit; the message says what and what to do.
    """
    run = config.run
    lab = labs.load(Path(run.lab) if run.lab else labs.DEFAULT)
    if config.evaluator.kind == "instant":
        if lab.compat:
            raise UserError(f"the instant lab evaluates programs with build_model() and main(), but {lab.folder / 'train.py'} is a script")
        for name, value in (("gpus", run.gpus), ("profile", run.profile), ("data", run.data)):
            if value:
                raise UserError(f"run.{name} is {value!r}, but the instant lab has no {name}; leave it out")
        if run.slots is not None and run.slots > MOST_INSTANT_SLOTS:
            raise UserError(f"--slots {run.slots}: the instant lab has at most {MOST_INSTANT_SLOTS}; ask for no more")
        return Plan(config, lab, None, Machine((), "", ()), run.slots or 1)
    if run.data and not Path(run.data).exists():
        raise UserError(f"run.data is {run.data!r}: no such file or folder")
    machine = machine or probe()
    profile = profiles.choose(run.profile or ("cpu" if run.gpus == 0 and not machine.mps else ""), machine)
    return Plan(config, lab, profile, machine, profiles.slot_count(profile, machine, run.gpus, run.slots, _on_cluster(config)))


def _on_cluster(config: Config) -> bool:
    return config.run.executor == "ray" and bool(config.run.ray_address or os.environ.get("RAY_ADDRESS"))


def build(planned: Plan, say: Say) -> Assembly:
    """Renders the lab, prepares its data, lays out the slots; writes nothing but the data.

    Raises:
        UserError: the lab does not fit the profile, or its data cannot be prepared or read.
    """
    if planned.profile is None:
        return _instant(planned)
    return _compat(planned, planned.profile, say) if planned.lab.compat else _real(planned, planned.profile, say)


def sandbox_line(planned: Plan) -> str:
    """One line on what confines programs; "" on the instant lab, which runs none."""
    if planned.profile is None:
        return ""
    forced = planned.config.evaluator.sandbox
    level, why = sandbox.level() if forced == "auto" else (forced, "as evaluator.sandbox says")
    return f"sandbox: {level}" if level == "namespaces" else f"sandbox: process only: {why}; programs can read files and use the network"


def patience(limits: Limits, budget_seconds: float) -> float:
    """Longest time that an evaluation can take within its limits; if it takes longer, its slot hangs."""
    training = limits.setup_seconds + limits.pack_seconds + budget_seconds + limits.grace_seconds
    return training + SCORE_PASSES * limits.score_seconds + MARGIN_SECONDS


def _instant(planned: Plan) -> Assembly:
    landscape = planned.config.instant
    return Assembly(
        lab=planned.lab,
        rendered=planned.rendered,
        profile=planned.profile_name,
        device="instant",
        measurement_key=Instant(landscape).measurement_key,
        evaluators=(landscape,) * planned.slots,
        patience_seconds=landscape.seconds + MARGIN_SECONDS,
    )


def _real(planned: Plan, profile: profiles.Profile, say: Say) -> Assembly:
    head, budget = profile.head, planned.budget_seconds
    rendered = planned.rendered
    folder = labs.prepare_data(Preparation(rendered.prepare, planned.lab.modules), planned.config.run.data, say)
    try:
        data = datafolder.load(folder)
    except (HarnessError, KeyError, ValueError) as error:
        raise UserError(f"unreadable data: {error}; delete {folder} and start again") from error
    key = measurement_key(head.name, head.device, planned.machine.model(head.device), budget, rendered.prepare, data)
    evaluators = tuple(
        SlotConfig(
            prepare=rendered.prepare,
            modules=planned.lab.modules,
            data=folder,
            measurement_key=key,
            device=head.device,
            gpu=gpu,
            cpus=cores,
            threads=head.threads_per_slot,
            limits=profile.limits,
            sandbox=planned.config.evaluator.sandbox,
            compile_cache=str(Path(folder).parent / "compiled" / f"{head.device}{i}") if head.compile_cache else "",
            compiles=_compiles(rendered.seed),
            early_start=head.device == "cuda",
        )
        for i, (gpu, cores) in enumerate(_places(planned, head))
    )
    return _assembled(planned, profile, key, evaluators)


def _assembled(planned: Plan, profile: profiles.Profile, key: str, evaluators: tuple[SlotKind, ...]) -> Assembly:
    """An assembly with what the profile says, whichever contract the lab is under."""
    return Assembly(
        lab=planned.lab,
        rendered=planned.rendered,
        profile=profile.head.name,
        device=profile.head.device,
        measurement_key=key,
        evaluators=evaluators,
        patience_seconds=patience(profile.limits, planned.budget_seconds),
        on_cluster=planned.on_cluster,
        memory_gib=_memory_gib(planned, profile),
        comparable=_comparable(planned, profile.head),
    )


def _memory_gib(planned: Plan, profile: profiles.Profile) -> float:
    """Memory that a program may use; 0 on a GPU of a machine that was not looked at."""
    if profile.head.device != "cuda":
        return profile.limits.host_memory_gib
    return max(0.0, planned.machine.gpus[0].memory_gib - profile.limits.gpu_spare_gib) if planned.machine.gpus else 0.0


def _comparable(planned: Plan, head: profiles.Head) -> str:
    return comparable(head.device, planned.machine.model(head.device)) if planned.on_cluster else ""


def _compiles(seed: str) -> bool:
    """Whether the seed program is compiled, as far as its knobs say."""
    return all(knob.value is not False for knob in genomes.knobs(seed) if knob.name == "COMPILE")


def _compat(planned: Plan, profile: profiles.Profile, say: Say) -> Assembly:
    """The assembly for a program that trains and scores itself on data of its own."""
    head, lab, budget, home = profile.head, planned.lab, planned.budget_seconds, Path.home()
    rendered = planned.rendered
    say(f"compat mode: {lab.folder / 'train.py'} is run as it is and scores itself; scores are the program's own word ({SELF_REPORTED})")
    if rendered.skipped:
        say(f"compat mode: prepare.py has no {', '.join(rendered.skipped)}, which profile {head.name} would set; skipped")
    imported = "\0".join([rendered.prepare, *(text for _, text in lab.modules)])
    key = compat_key(head.name, head.device, planned.machine.model(head.device), budget, imported)
    evaluators = tuple(
        CompatConfig(
            prepare=rendered.prepare,
            measurement_key=key,
            home=str(home),
            readable=_readable(lab, home, planned.config.run.data),
            modules=lab.modules,
            device=head.device,
            gpu=gpu,
            cpus=cores,
            threads=head.threads_per_slot,
            limits=profile.limits,
            sandbox=planned.config.evaluator.sandbox,
            compile_cache=str(home / ".cache" / "evo" / "compiled" / f"{head.device}{i}") if head.compile_cache else "",
        )
        for i, (gpu, cores) in enumerate(_places(planned, head))
    )
    return _assembled(planned, profile, key, evaluators)


def _readable(lab: labs.Lab, home: Path, data: str) -> tuple[str, ...]:
    """What a program in compat mode may read beside its own files: its data, and downloads already there that the seed names as
    `owner/name` (autoresearch gets its attention kernel that way)."""
    named = {match.replace("/", "--") for match in re.findall(r"[\"']([\w.-]+/[\w.-]+)[\"']", lab.train)}
    downloads = sorted(str(path) for name in named for path in (home / DOWNLOADS).glob(f"*--{name}"))
    return (str(home / OWN_CACHE), *downloads, *([str(Path(data).resolve())] if data else []))


def _places(planned: Plan, head: profiles.Head) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The GPU (a value of CUDA_VISIBLE_DEVICES within this process's own) and the cores of each slot."""
    given = "" if planned.on_cluster else os.environ.get("CUDA_VISIBLE_DEVICES", "")
    shares = profiles.core_shares(planned.machine, planned.slots, head.threads_per_slot, planned.on_cluster)
    visible = given.split(",") if given else [str(i) for i in range(planned.slots)]
    return zip(visible if head.device == "cuda" else [""] * planned.slots, shares, strict=False)
