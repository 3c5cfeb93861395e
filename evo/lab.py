"""The lab: three files that say what is evolved. Read as text, rendered for a profile, never imported.

Rendering sets constants of prepare.py (the whole right-hand side of a top-level assignment) and knobs of train.py (single literals,
through `genomes`). The data are prepared by running the rendered prepare.py in a process of its own, beside the modules that it imports
from the lab's folder or the default lab's; a genome gets prepare.py alone.

A lab whose train.py is a script in karpathy/autoresearch's shape (genomes.Contract.SCRIPT) is in compat mode: its train.py is the seed
genome as it is, constants are set in a copy of its prepare.py, and its data are its own affair.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import genomes
from evaluator.packing import Preparation
from evaluator.splice import spliced
from evo.errors import UserError, nearest
from evo.profiles import Profile

DEFAULT = Path(__file__).resolve().parent.parent / "trainer"
FILES = {
    "prepare.py": "constants, data and batches: the constitution",
    "train.py": "the program that is evolved",
    "program.md": "the research agenda",
}
BUDGET = "TIME_BUDGET"  # the constant of prepare.py that holds the seconds of training
SHOWN_PROBLEMS = 4  # problems that are listed of a train.py that is not a genome
MODULE_BYTES = 1 << 20  # largest module that is taken along
OFFERED, OFFERED_CHARACTERS = 30, 100  # most constants and functions that a model is shown, and longest value of a constant


@dataclass(frozen=True)
class Lab:
    """The files of a lab folder, as text."""

    folder: Path
    prepare: str
    train: str
    program: str
    contract: genomes.Contract = genomes.Contract.LAB
    modules: tuple[tuple[str, str], ...] = ()  # (file name, text) of what prepare.py, in compat mode train.py too, imports from the folder

    @property
    def hash(self) -> str:
        """Hash of what makes two runs comparable. The agenda is left out: people edit it while a run goes on."""
        return _short_hash("\0".join([self.prepare, self.train, *(text for _, text in self.modules)]))

    @property
    def hashes(self) -> dict[str, str]:
        """Hash of each of these files."""
        return {name: _short_hash(text) for name, text in (("prepare.py", self.prepare), ("train.py", self.train), *self.modules)}

    @property
    def compat(self) -> bool:
        return self.contract is genomes.Contract.SCRIPT


@dataclass(frozen=True)
class Rendered:
    """The lab for one profile and budget."""

    prepare: str  # as the programs see it; "" on the instant lab, which runs none
    seed: str  # train.py with the profile's knobs: the seed genome
    budget_seconds: float  # of one evaluation
    skipped: tuple[str, ...] = ()  # constants of the profile that prepare.py lacks; compat mode alone allows that


def load(folder: Path) -> Lab:
    """Reads a lab.

    Raises:
        UserError: a file is missing, unreadable, or no Python where it should be.
    """
    if not folder.is_dir():
        raise UserError(f"no lab folder {folder}; --lab needs a folder with {', '.join(FILES)}")
    if missing := [f"{name} ({role})" for name, role in FILES.items() if not (folder / name).exists()]:
        raise UserError(f"the lab {folder} has no {', '.join(missing)}; a lab is a folder with {', '.join(FILES)}")
    texts = {name: _read(folder, name, role) for name, role in FILES.items()}
    lab = Lab(folder, texts["prepare.py"], texts["train.py"], texts["program.md"], genomes.contract_of(texts["train.py"]))
    _parsed(lab.prepare, folder / "prepare.py")
    _parsed(lab.train, folder / "train.py")
    problems = genomes.check(lab.train, lab.contract)
    if problems:
        neither = f"; nor is it one by the lab's contract: {genomes.check(lab.train)[0]}" if lab.compat else ""
        raise UserError(f"{folder / 'train.py'} is not a genome: {'; '.join(map(str, problems[:SHOWN_PROBLEMS]))}{neither}")
    lab = replace(lab, modules=_imported(lab))
    return _checked_script(lab) if lab.compat else lab


def _checked_script(lab: Lab) -> Lab:
    """Checks a lab in compat mode."""
    if BUDGET not in _constants(lab.prepare):
        raise UserError(f"{lab.folder / 'prepare.py'} has no constant {BUDGET} at top level, which tells train.py how long to train")
    if not any("val_bpb" in text for text in (lab.train, lab.prepare, *(text for _, text in lab.modules))):
        raise UserError(f"{lab.folder / 'train.py'} is not a genome: neither it nor what it imports prints a line `val_bpb: NUMBER`")
    return lab


def _imported(lab: Lab) -> tuple[tuple[str, str], ...]:
    """The modules beside prepare.py that it or one of them imports; in compat mode those of train.py too.

    A lab can do with three files: modules that its prepare.py imports and its folder lacks are taken from the default lab's preparation.
    """
    found: dict[str, str] = {}
    folders = (lab.folder,) if lab.compat else (lab.folder, DEFAULT)
    unread = [lab.prepare, *([lab.train] if lab.compat else [])]
    while unread:
        for name in sorted(f"{module}.py" for module in _packages(ast.parse(unread.pop()))):
            path = next((folder / name for folder in folders if (folder / name).is_file()), lab.folder / name)
            if name not in (*FILES, *found) and path.is_file() and path.stat().st_size <= MODULE_BYTES:
                found[name] = _read(path.parent, name, "imported by it")
                _parsed(found[name], path)
                unread.append(found[name])
    return tuple(sorted(found.items()))


def _packages(tree: ast.AST) -> set[str]:
    """What is imported anywhere in a program, up to the first dot."""
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {module.partition(".")[0] for module in modules} - {""}


def missing(lab: Lab) -> list[str]:
    """Packages that the lab's programs cannot do without, imported at top level, and that this machine lacks."""
    own = {name.removesuffix(".py") for name in (*FILES, *(name for name, _ in lab.modules))}
    texts = (lab.prepare, lab.train, *(text for _, text in lab.modules))
    imports = [node for text in texts for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    wanted = {package for node in imports for package in _packages(node)}
    return sorted(name for name in wanted - own if importlib.util.find_spec(name) is None)


def render(lab: Lab, profile: Profile, budget_seconds: float) -> Rendered:
    """The lab's programs for a profile, with the budget written where prepare.py keeps it.

    Raises:
        UserError: the lab lacks a constant or knob that the profile sets.
    """
    budget = int(budget_seconds) if budget_seconds == int(budget_seconds) else budget_seconds
    name, values = profile.head.name, {**profile.prepare, BUDGET: budget}
    what = f"{lab.folder / 'prepare.py'} for profile {name}"
    if lab.compat:
        known = _constants(lab.prepare)
        prepare = set_constants(lab.prepare, {name: value for name, value in values.items() if name in known}, what)
        return Rendered(prepare, lab.train, budget_seconds, tuple(name for name in values if name not in known))
    knobs = [knob.name for knob in genomes.knobs(lab.train)]
    lacking = [_lacking("constant", what, values, _constants(lab.prepare))]
    lacking += [_lacking("knob", f"{lab.folder / 'train.py'} for profile {name}", profile.knobs, knobs)]
    if any(lacking):
        raise UserError(f"{'; '.join(filter(None, lacking))}; name a profile of its own with --profile FILE")
    prepare = set_constants(lab.prepare, values, what)
    try:
        return Rendered(prepare, genomes.set_knobs(lab.train, dict(profile.knobs)), budget_seconds)
    except genomes.GenomeError as error:
        raise UserError(
            f"{lab.folder / 'train.py'} does not fit profile {name}: {error}; name a profile of its own with --profile FILE"
        ) from error


def _lacking(kind: str, what: str, wanted: Iterable[str], known: Iterable[str]) -> str:
    """All that is missing, in words; "" if nothing is."""
    missing, there = [name for name in wanted if name not in set(known)], list(known)
    if len(missing) > 1:
        return f"{what}: no {kind}s {', '.join(missing)}"
    return f"{what}: no {kind} {missing[0]}, {nearest(missing[0], there)}" if missing else ""


def fitted(program: str, lab: Lab, profile: Profile | None) -> str:
    """A changed copy of the lab's train.py, made to fit the profile: it gets the profile's knobs where it still has the lab's. Any other
    program stays as it is, such as one of a run, which has more knobs of the profile's than of the lab's."""
    if profile is None or lab.compat:
        return program
    try:
        own, theirs = ({knob.name: knob.value for knob in genomes.knobs(text)} for text in (program, lab.train))
    except genomes.GenomeError:
        return program
    differ = {name: value for name, value in profile.knobs.items() if name in own and name in theirs and theirs[name] != value}
    unset = {name: value for name, value in differ.items() if own[name] == theirs[name]}
    set_already = sum(own[name] == value for name, value in differ.items())
    return genomes.set_knobs(program, unset) if len(unset) > set_already else program


def set_constants(text: str, values: Mapping[str, Any], what: str) -> str:
    """The program with top-level constants set; nothing else in it changes, comments included.

    Args:
        values: constant -> value; a list becomes a tuple.
        what: named in the error.
    Raises:
        UserError: a constant is not assigned at top level.
    """
    found, changes = _constants(text), []
    for name, value in values.items():
        if name not in found:
            raise UserError(f"{what}: no constant {name} at top level; {nearest(name, found)}")
        changes.append((found[name], repr(tuple(value) if isinstance(value, list) else value)))
    return spliced(text, changes)


def _constants(text: str) -> dict[str, ast.expr]:
    """What is assigned at top level, by name."""
    return {
        node.targets[0].id: node.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }


def offers(rendered: Rendered) -> tuple[str, ...]:
    """What a program may use of prepare.py, a line each: its constants with their values, and the functions that the seed program uses."""
    constants = [
        f"{name} = {value}"
        for name, node in _constants(rendered.prepare).items()
        if name.isupper() and not name.startswith("_") and len(value := ast.unparse(node)) <= OFFERED_CHARACTERS
    ]
    used = _used_of_prepare(rendered.seed)
    functions = [_signature(node) for node in ast.parse(rendered.prepare).body if isinstance(node, ast.FunctionDef) and node.name in used]
    return (*constants, *functions)[:OFFERED]


def _used_of_prepare(program: str) -> set[str]:
    found = set[str]()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "prepare":
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and node.module == "prepare":
            found |= {alias.name for alias in node.names}
    return found


def _signature(function: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    about = (ast.get_docstring(function) or "").partition("\n")[0]
    return f"{function.name}({ast.unparse(function.args)}){returns}" + (f"  # {about}" if about else "")


def prepare_data(preparation: Preparation, source: str, say: Callable[[str], None]) -> str:
    """Runs prepare.py, which builds the data once and checks them afterwards.

    Args:
        preparation: prepare.py, rendered, and its modules.
        source: text to use instead of the lab's default; "" for the default.
        say: is told that it begins, and gets each line that it prints.
    Returns:
        The data folder.
    Raises:
        UserError: it failed; the message has its last line.
    """
    say(f"preparing data from {source or 'the text that the lab brings'}; they are only checked if that was done before")
    with tempfile.TemporaryDirectory(prefix="evo-prepare-") as folder:
        script = preparation.write(Path(folder))
        command = [sys.executable, "-u", str(script), "--json", *(["--from", os.path.abspath(source)] if source else [])]
        environment = {name: value for name, value in os.environ.items() if name != "EVO_CHANNEL"}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )
        last = ""
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    last = line.strip()
                    if not last.startswith("{"):
                        say(last)
    if process.returncode:
        raise UserError(f"the lab's prepare.py fails with exit code {process.returncode}: {last or 'no output'}")
    try:
        return str(json.loads(last)["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f'prepare.py --json must end with a line {{"data": folder, …}}, it ended with {last[:200]!r}') from error


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(folder: Path, name: str, role: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"the lab {folder} has no readable {name} ({role}): {why}") from error


def _parsed(text: str, path: Path) -> None:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} does not parse: {error}") from error
