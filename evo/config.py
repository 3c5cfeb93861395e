"""Settings of a run: frozen values by section, from a TOML file and from `--set section.key=value`.

Each section is a dataclass whose fields are its keys. Anything unknown, of the wrong type or missing is a `UserError` that names what is
near; nothing is guessed. A `Config` is plain data: it pickles whole, and `from_flat(flat(config)) == config`.
"""

from __future__ import annotations

import dataclasses
import os.path
import reprlib
import tomllib
import types
import typing
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluator.instant import Landscape
from evaluator.outcome import MOST_BPB
from evo.core.policies import SearchConfig
from evo.errors import SettingError, UserError, nearest

EXECUTORS = ("ray", "inline")
LONGEST_BUDGET_SECONDS = 30 * 86400.0
KINDS = ("slot", "instant")
SANDBOXES = ("auto", "namespaces", "process")
DRY_RUNS = ("auto", "always", "never")


@dataclass(frozen=True)
class RunConfig:
    """Where a run evaluates, and for how long. `None` leaves the choice to the profile, or means no limit."""

    lab: str = ""  # folder with prepare.py, train.py and program.md; "": the one that comes with evo
    profile: str = ""  # name of a file in configs/ or path of one; "": chosen by probing the machine
    budget_seconds: float | None = None  # training time of one evaluation
    gpus: int | None = None  # GPUs to use; None: all there are
    slots: int | None = None  # evaluations at once
    hours: float | None = None  # limit of time spent evaluating, over all sessions of the run
    data: str = ""  # text to train on: Parquet, JSONL or text files; "": the lab's default
    executor: str = "ray"  # one of EXECUTORS
    ray_address: str = ""  # address of a running Ray cluster; "": RAY_ADDRESS, else one of our own for this run

    def __post_init__(self) -> None:
        _one_of("run.executor", self.executor, EXECUTORS)
        for name in ("budget_seconds", "hours"):
            _positive(f"run.{name}", getattr(self, name))
        if self.budget_seconds is not None and self.budget_seconds > LONGEST_BUDGET_SECONDS:
            raise ValueError(f"run.budget_seconds is {self.budget_seconds:g}, must be at most {LONGEST_BUDGET_SECONDS:g}: a month")
        _at_least("run.gpus", self.gpus, 0)
        _at_least("run.slots", self.slots, 1)


@dataclass(frozen=True)
class EvaluatorConfig:
    """How a program is evaluated."""

    kind: str = "slot"  # "slot": real training; "instant": the deterministic lab of evaluator/instant.py, set by section `instant`
    sandbox: str = "auto"  # "auto": the strongest that works; or a level by name

    def __post_init__(self) -> None:
        _one_of("evaluator.kind", self.kind, KINDS)
        _one_of("evaluator.sandbox", self.sandbox, SANDBOXES)


@dataclass(frozen=True)
class LlmConfig:
    """The model that writes beside the built-in operators, behind any endpoint that speaks OpenAI's chat completions."""

    url: str = ""  # address of the endpoint, such as http://localhost:8000/v1; "": OpenAI's, if a model is named
    model: str = ""  # its name there; "": the only one that the endpoint serves. Neither url nor model: no model writes
    temperature: float | None = None  # None: the endpoint's
    max_tokens: int = 8192  # limit of one reply, thoughts included
    timeout_seconds: float = 180.0  # longest time that one call may take, retries included
    calls: int | None = None  # most under way at once; None: as many as there are slots
    prompt_bytes: int = 120_000  # limit of one prompt; what it can do without is left out to keep it
    token_limit: int | None = None  # limit of the whole run, prompts and replies; beyond it built-in operators write alone
    dry_run: str = "auto"  # whether what the model writes runs on the CPU before a slot gets it; "auto": where programs train on a GPU

    def __post_init__(self) -> None:
        if self.url:
            _endpoint("llm.url", self.url)
        if any("\ud800" <= character <= "\udfff" for character in self.model):  # how Python reads bytes that are no UTF-8
            raise ValueError(f"llm.model is {self.model!r}, must be a name in UTF-8")
        if self.temperature is not None and not 0 <= self.temperature < float("inf"):
            raise ValueError(f"llm.temperature is {self.temperature:g}, must not be negative or infinite")
        _one_of("llm.dry_run", self.dry_run, DRY_RUNS)
        _positive("llm.timeout_seconds", self.timeout_seconds)
        for name, least in (("max_tokens", 1), ("calls", 1), ("prompt_bytes", 1000), ("token_limit", 0)):
            _at_least(f"llm.{name}", getattr(self, name), least)

    @property
    def writes(self) -> bool:
        """Whether a model writes at all."""
        return bool(self.url or self.model)


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    run: RunConfig = field(default_factory=RunConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    evaluator: EvaluatorConfig = field(default_factory=EvaluatorConfig)
    instant: Landscape = field(default_factory=Landscape)
    llm: LlmConfig = field(default_factory=LlmConfig)

    def __post_init__(self) -> None:
        if self.instant.noise_sd > MOST_BPB:
            raise UserError(f"instant.noise_sd is {self.instant.noise_sd:g}, must be at most {MOST_BPB:g}: no score is larger")


NO_TOML = (ValueError, RecursionError)  # what tomllib raises for a text that is not TOML, or has too many digits or brackets
PATHS = ("run.data", "run.lab", "run.profile")  # `~` is expanded: a shell leaves it alone after an equals sign, TOML knows none
SECTIONS: dict[str, type[Any]] = typing.get_type_hints(Config)


def load(path: Path | None = None, assignments: Iterable[str] = (), flags: Mapping[str, Any] | None = None) -> Config:
    """Settings from all their sources; what none of them gives keeps its default. See `stated`."""
    return from_flat(stated(path, assignments, flags))


def stated(path: Path | None, assignments: Iterable[str], flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a TOML file, then `section.key=value` texts, then `flags` say, as `section.key` -> value; later ones win. `~` is expanded.

    Args:
        flags: `section.key` -> value, already of the right type; None values are not given.
    Raises:
        UserError: the file cannot be read, or an assignment is malformed.
    """
    settings: dict[str, Any] = {}
    for section, table in (read_toml(path) if path else {}).items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {section} = {table!r} is outside any section; the sections are {', '.join(SECTIONS)}")
        settings |= {f"{section}.{key}": value for key, value in table.items()}
    settings |= dict(_assignment(text) for text in assignments)
    settings |= {name: value for name, value in (flags or {}).items() if value is not None}
    return settings | {name: os.path.expanduser(path) for name in PATHS if isinstance(path := settings.get(name), str)}


def from_flat(settings: Mapping[str, Any]) -> Config:
    """Settings from `section.key` -> value.

    Raises:
        UserError: a section, key or value does not fit.
    """
    tables: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        section, _, key = name.partition(".")
        if section not in SECTIONS:
            raise UserError(f"no section {section!r} in the settings; {nearest(section, SECTIONS)}")
        tables.setdefault(section, {})[key] = value
    return Config(**{section: build(SECTIONS[section], section, table) for section, table in tables.items()})


def flat(config: Config) -> dict[str, Any]:
    """Inverse of `from_flat`, JSON-ready."""
    return {f"{section}.{key}": value for section, table in dataclasses.asdict(config).items() for key, value in table.items()}


def build(section: type[Any], name: str, table: Mapping[str, Any]) -> Any:
    """One section from its keys and values.

    Raises:
        UserError: a key is unknown.
        SettingError: a value is of the wrong type or out of range.
    """
    hints = typing.get_type_hints(section)
    values = {}
    for key, value in table.items():
        if key not in hints:
            raise UserError(f"no key {name}.{key}; {nearest(key, hints, f'{name}.')}")
        values[key] = _converted(f"{name}.{key}", value, hints[key])
    try:
        return section(**values)
    except ValueError as error:  # which begins with the setting
        raise SettingError(*str(error).split(maxsplit=1)) from error


def read_toml(path: Path) -> dict[str, Any]:
    """The contents of a TOML file.

    Raises:
        UserError: it cannot be read, or does not parse.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except NO_TOML as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


# ---- values


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals or not dot or not section or not key:
        raise UserError(f"--set wants section.key=value, got {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except NO_TOML:
        return name.strip(), value.strip()  # a bare word is a string


def _converted(name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type wants it: whole numbers may stand for floats, nothing else is converted."""
    wanted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in wanted and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise SettingError(name, f"must be a number that fits in 64 bits, got one of {len(str(value))} digits") from error
    if type(value) in wanted or (value is None and types.NoneType in wanted):
        return value
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    raise SettingError(name, f"must be {' or '.join(names[t] for t in wanted if t in names)}, got {reprlib.repr(value)}")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; {nearest(value, known)}")


def _endpoint(name: str, url: str) -> None:
    """Refuses what is not an address, and an address with secrets in it: settings are stored and shown."""
    try:
        parts = urllib.parse.urlsplit(url)
        _ = parts.port  # raises where it is not a port number
    except ValueError as error:
        raise ValueError(f"{name} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError(f"{name} is {url!r}, must be an address such as http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{name} must be only an address; a key belongs in the environment, as EVO_LLM_KEY")


def _positive(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value:g}, must be more than 0 and finite")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"{name} is {value}, must be at least {least}")
