"""One session of a run: which folder, which settings, and whether they agree with what the folder was started with.

The meta of a run (in its store) has the settings that its scores depend on; `limits.json` has what may change: its limits, and the model
that writes. New limits replace all old ones; each of a model's settings is kept until it is given anew, but a new address needs a new name.
Precedence: what is given now, then what the run was started with, then defaults.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import genomes
from evo.assembly import Assembly, Plan
from evo.config import Config, LlmConfig, flat, from_flat, stated
from evo.errors import SettingError, UserError
from evo.folder import DAMAGE, DATABASE, LOCK, StoreError, held, read_program, refuse_foreign, write_atomically
from evo.store import snapshot

FLAGS = {
    "pop": "search.population",
    "seed": "search.seed",
    "evals": "search.evals",
    "gpus": "run.gpus",
    "slots": "run.slots",
    "budget": "run.budget_seconds",
    "hours": "run.hours",
    "lab": "run.lab",
    "profile": "run.profile",
    "llm": "llm.url",
    "model": "llm.model",
}
LIMITS = ("search.evals", "run.hours")  # may change; kept in limits.json
MODEL = tuple(f"llm.{field.name}" for field in fields(LlmConfig))  # who writes may change as well; kept beside the limits
PASSING = ("run.gpus", "run.slots", "run.executor", "run.ray_address")  # settings of one session; not kept
MEASURED = ("run.lab", "run.profile", "run.budget_seconds", "run.data")  # the values they come to must agree, not how they are written
LIMITS_FILE = "limits.json"
KEY_SEPARATOR = " | "  # between the parts of a measurement key (evaluator/key.py)
TUNE_SHARE_BESIDE_MODEL = 0.15  # search.tune_share of a run that starts with a model


@dataclass(frozen=True)
class Session:
    """One session: its folder and its settings."""

    run_dir: Path
    resumed: bool
    config: Config
    meta: Mapping[str, Any]  # the store's; empty for a new run until `settle`
    lifted: str = ""  # limits of earlier sessions that no longer hold, as flags


def resolve(options: argparse.Namespace, here: Path) -> Session:
    """The run folder and the settings, from the command line and the folder. Changes nothing.

    Raises:
        UserError: settings that do not fit, or contradict the run's own.
    """
    said = stated(options.config, options.set, {name: getattr(options, flag) for flag, name in FLAGS.items()})
    config = from_flat(said)  # wrong keys and values are reported before anything else
    run_dir = Path(options.run_dir) if options.run_dir else fresh_folder(here)
    try:
        refuse_foreign(run_dir)
        if held(run_dir / LOCK):
            raise UserError(f"{run_dir} is being written by process {(run_dir / LOCK).read_text()}: wait for it, or stop it first")
        if not (run_dir / DATABASE).exists():
            return Session(run_dir, False, _suited_to_model(config, said), {})
        found = snapshot(run_dir)
        meta, started_with = found.meta, found.settings
        kept = _stored_limits(run_dir)
    except StoreError as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"cannot use {run_dir} as a run folder: {error.strerror}; name another one") from error
    limits_given, moved = any(name in said for name in LIMITS), said.get("llm.url", kept.get("llm.url")) != kept.get("llm.url")
    dropped = {*(LIMITS if limits_given else ()), *(("llm.model",) if moved else ())}
    stored: dict[str, Any] = {**flat(Config()), **started_with}  # a run that is older than a setting went by its default
    if said.get("search.calibrations", math.inf) < stored["search.calibrations"]:  # raised to the number of slots when the run began
        said = {**said, "search.calibrations": stored["search.calibrations"]}
    for name, value in said.items():
        if name not in (*LIMITS, *MODEL, *PASSING, *MEASURED) and value != stored[name]:
            raise SettingError(name, f"is {value!r}, but {run_dir} was started with {stored[name]!r}; leave it out, or name a new folder")
    lifted = shlex.join(word for name in LIMITS if name in dropped - set(said) for word in _flag(name, kept.get(name)))
    kept = {name: value for name, value in kept.items() if name not in dropped}
    return Session(run_dir, True, from_flat({**stored, **kept, **said}), meta, lifted)


def _flag(name: str, value: object) -> tuple[str, ...]:
    """The flag that gives a setting this value; none where it has no flag, or no value."""
    flag = next((flag for flag, setting in FLAGS.items() if setting == name), None)
    return () if value is None or flag is None else (f"--{flag}", str(value))


def other_limit(now: Session, name: str) -> tuple[str, ...]:
    """The limit besides this one, as a flag, to be given together with it: what is given replaces both."""
    settings = flat(now.config)
    return tuple(word for other in LIMITS if other != name for word in _flag(other, settings[other]))


def _suited_to_model(config: Config, said: Mapping[str, Any]) -> Config:
    """The settings; with a smaller share for tuning if a model writes and no share is given: a model makes more of evaluations than
    built-in mutations do."""
    if "search.tune_share" in said or not config.llm.writes:
        return config
    return replace(config, search=replace(config.search, tune_share=TUNE_SHARE_BESIDE_MODEL))


def begun(now: Session) -> bool:
    """Whether there is a run to go on with."""
    return (now.run_dir / DATABASE).exists()


def check(now: Session, planned: Plan) -> None:
    """Checks, before anything is built, that lab, profile and budget are those of a resumed run.

    Raises:
        UserError: they are not.
    """
    if not now.resumed:
        return
    identity = _planned_identity(planned)
    if now.meta.get("lab") != planned.lab.hash:
        _refuse_other_lab(now, planned)
        del identity["lab"]
    _agree(now, identity)


def _refuse_other_lab(now: Session, planned: Plan) -> None:
    """Raises UserError, unless only comments and layout of its train.py have changed: then the seed genome is the same."""
    was, lab = now.meta.get("lab_files"), planned.lab
    own = str(now.meta.get("settings", {}).get("run.lab", ""))
    if own and Path(own) != lab.folder.resolve():
        raise UserError(f"{now.run_dir} belongs to the lab {own}, not to {lab.folder}; leave --lab out, or name a new folder for that lab")
    if not isinstance(was, dict):
        raise UserError(f"{now.run_dir} was started with another lab, or another version of {lab.folder}; name a new folder")
    changed = sorted(name for name in {*was, *lab.hashes} if was.get(name) != lab.hashes.get(name))
    if changed != ["train.py"] or genomes.identity(planned.rendered.seed) != now.meta.get("seed_genome"):
        raise UserError(
            f"{now.run_dir} was started with another lab: {', '.join(changed)} of {lab.folder} changed since then, and scores cannot "
            "be compared; name a new folder, or undo the change and go on"
        )


def with_stored_seed(now: Session, assembled: Assembly) -> Assembly:
    """The assembly with the seed program as the run has it; in the lab, comments and layout may have changed since."""
    genome = genomes.identity(assembled.rendered.seed)
    if not now.resumed or not (now.run_dir / "genomes" / f"{genome}.py").exists():
        return assembled
    return replace(assembled, rendered=replace(assembled.rendered, seed=read_program(now.run_dir, genome)))


def settle(now: Session, planned: Plan, assembled: Assembly) -> Session:
    """Completes a new run's settings, or checks that a resumed one measures what it measured before.

    Raises:
        UserError: it measures something else.
    """
    identity = {"seed_genome": genomes.identity(assembled.rendered.seed), "measurement_key": assembled.measurement_key}
    if now.resumed:
        _agree_on_measurement(now, assembled.measurement_key)
        _agree(now, identity)
        return now
    search = replace(now.config.search, calibrations=max(now.config.search.calibrations, planned.slots))
    given_data = now.config.run.data
    run = replace(
        now.config.run,
        lab=str(planned.lab.folder.resolve()),
        profile=_lasting(now.config.run.profile, planned),
        data=str(Path(given_data).resolve()) if given_data else "",
    )
    config = replace(now.config, search=search, run=run)
    settings = {name: value for name, value in flat(config).items() if name not in (*LIMITS, *MODEL, *PASSING)}
    return replace(
        now, config=config, meta={**_planned_identity(planned), **identity, "lab_files": planned.lab.hashes, "settings": settings}
    )


def save_limits(now: Session) -> None:
    """Stores what may change, for sessions that do not give it."""
    settings = flat(now.config)
    text = json.dumps({name: settings[name] for name in (*LIMITS, *MODEL)}, indent=2) + "\n"
    path = now.run_dir / LIMITS_FILE
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def command_alone(config: Config, program: Path | None = None) -> str:
    """The command that evaluates a program as this run does, to be pasted into a shell; None: the lab's own."""
    words = ["python", "-m", "evo.evaluate", str(program or Path(config.run.lab) / "train.py")]
    defaults = flat(Config())
    for name, value in flat(config).items():
        if value == defaults[name] or name.startswith("search.") or name in (*LIMITS, *MODEL, *PASSING):
            continue
        words += _flag(name, value) or ("--set", f"{name}={json.dumps(value, ensure_ascii=False)}")
    return shlex.join(words)


def command_further(now: Session, *more: str) -> str:
    """The command that goes on with the run, with the slots of this session, which are not kept."""
    words, defaults, settings = ["python", "-m", "evo.run", str(now.run_dir)], flat(Config()), flat(now.config)
    for name in PASSING:
        if settings[name] != defaults[name]:
            words += _flag(name, settings[name]) or ("--set", f"{name}={settings[name]}")
    return shlex.join([*words, *more])


def present(run_dir: Path) -> frozenset[Path]:
    """What there is of a run folder before a session: its content, itself, the folders above it."""
    return frozenset([*run_dir.rglob("*"), *(path for path in (run_dir, *run_dir.parents) if path.exists())])


def remove_new(run_dir: Path, before: frozenset[Path]) -> None:
    """Undoes a session: what was not present before it goes."""
    for path in sorted(run_dir.rglob("*"), reverse=True):
        if path not in before:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for folder in (run_dir, *run_dir.parents):
        if folder not in before:
            folder.rmdir()


def fresh_folder(here: Path) -> Path:
    """The next free dated folder, such as runs/2026-11-22-01; not made yet."""
    day, number = datetime.date.today().isoformat(), 1
    while (here / "runs" / f"{day}-{number:02d}").exists():
        number += 1
    return Path("runs") / f"{day}-{number:02d}"


def _planned_identity(planned: Plan) -> dict[str, Any]:
    return {"lab": planned.lab.hash, "profile": planned.profile_name, "budget_seconds": planned.budget_seconds}


def _agree_on_measurement(now: Session, key: str) -> None:
    """Raises UserError if the measurement keys differ. A key has a dozen parts, of which only those that differ are named."""
    was = str(now.meta.get("measurement_key"))
    before, after = was.split(KEY_SEPARATOR), key.split(KEY_SEPARATOR)
    if was == key or len(before) != len(after):
        return
    differing = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    if {old.partition(" ")[0] for old, _ in differing} <= {"data", "tokenisers"}:
        raise UserError(_other_text(now, *differing[0]))
    told = "; ".join(f"{new} here, {old} there" for old, new in differing)
    raise UserError(
        f"{now.run_dir} was measured differently ({told}), and scores cannot be compared; go on where it was started, or name a new folder"
    )


def _other_text(now: Session, before: str, after: str) -> str:
    """What is wrong with the text that programs would train on: it has changed, or is another one."""
    own, given_now = (str(text or "") for text in (now.meta["settings"].get("run.data"), now.config.run.data))
    values = f"({after}, was {before.partition(' ')[2]}), and scores cannot be compared"
    if own == given_now or (own and given_now and Path(own).resolve() == Path(given_now).resolve()):
        text = f"the text under {own}" if own else "the lab's own text, which comes from installed packages,"
        return f"{text} has changed {values}; put it back, or name a new run folder"
    named = [f"the text under {text}" if text else "the lab's own text" for text in (own, given_now)]
    return f"{now.run_dir} trains on {named[0]}, not on {named[1]} {values}; leave run.data out, or name a new run folder"


def _agree(now: Session, identity: Mapping[str, Any]) -> None:
    """Raises UserError if the run was started with anything else."""
    for name, value in identity.items():
        if now.meta.get(name) != value:
            what = name.replace("_", " ")
            raise UserError(
                f"{now.run_dir} was started with {what} {now.meta.get(name)!r}, but this would be {value!r}, and their scores cannot be "
                "compared; name a new folder, or go on as it was started"
            )


def _stored_limits(run_dir: Path) -> dict[str, Any]:
    path = run_dir / LIMITS_FILE
    try:
        limits = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except DAMAGE as error:
        raise UserError(f"{path} does not parse ({error}); delete it and give the limits again") from error
    if not isinstance(limits, dict) or not set(limits) <= {*LIMITS, *MODEL}:
        raise UserError(f"{path} holds more than limits and the model's settings; delete it and give them again")
    return limits


def _lasting(profile: str, planned: Plan) -> str:
    """The profile as a later session, started elsewhere, finds it; "" on the instant lab."""
    if planned.profile is None:
        return ""
    return str(Path(profile).resolve()) if profile.endswith(".toml") or "/" in profile else planned.profile_name
