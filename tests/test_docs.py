"""The documents say what is there: options of the commands, files, modules."""

from __future__ import annotations

import ast
import re
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LAYOUT = README.partition("## Layout\n")[2].split("```")[1]
DOCUMENTS = {"README.md": README.replace(LAYOUT, ""), "docs/design.md": (ROOT / "docs" / "design.md").read_text(encoding="utf-8")}
LAB = ROOT / "trainer"  # whose files are named alone, as those of any lab


def options(command: str) -> set[str]:
    """Flags that a command takes."""
    tree = ast.parse((ROOT / f"{command.replace('.', '/')}.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".add_argument")]
    names = [argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)]
    return {name for name in names if name.startswith("--")}


def rows(command: str) -> str:
    """Its rows of README's table; a row that begins with `…` goes on with the command above."""
    found, now = list[str](), ""
    for row in re.findall(r"^\| `.*", README, re.MULTILINE):
        now = now if row.startswith("| `…") else row
        found += [row] if now.startswith(f"| `python -m {command} ") else []
    return "\n".join(found)


@pytest.mark.parametrize("command", ["evo.run", "evo.evaluate", "evo.doctor"])
def test_each_option_is_in_the_table_of_commands(command: str) -> None:
    taken = options(command)
    assert taken - set(re.findall(r"--[a-z-]+", rows(command))) == set()
    assert taken


def paths(text: str) -> set[str]:
    """Python files that a text names, `{a,b}.py` one by one; those of a run folder left out."""
    named = re.findall(r"[\w./*{},]*[\w*}]\.py\b", text)
    return {path for name in named for path in spelt_out(name) if not re.match(r"(RUN/)?best/", path)}


def spelt_out(name: str) -> list[str]:
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return ["".join(choice) for choice in product(*parts)]


def entries() -> list[tuple[str, str]]:
    """Top-level folder and text of each entry of the layout; lines that begin further right go on with the one above."""
    found, folder = list[tuple[str, str]](), ""
    for line in LAYOUT.strip().splitlines():
        folder = line.partition("/")[0] if line[0] != " " else folder
        if len(line) - len(line.lstrip()) <= 2:
            found.append((folder, line))
        else:
            found[-1] = (folder, f"{found[-1][1]} {line.strip()}")
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_file_that_a_document_names_exists(document: str) -> None:
    named = paths(DOCUMENTS[document])
    assert {path for path in named if not any([*ROOT.glob(path), *LAB.glob(path)])} == set()
    assert named


def test_each_file_of_the_layout_exists() -> None:
    """In its top-level folder, or in a package that its entry names."""
    missing = []
    for folder, text in entries():
        homes = [ROOT / folder, *(ROOT / folder / name for name in re.findall(r"\b(\w+)/", text))]
        missing += [f"{folder}/{path}" for path in paths(text) if not any(found for home in homes for found in home.glob(path))]
    assert missing == []


@pytest.mark.parametrize("package", ["genomes", "evaluator", "evo"])
def test_each_module_is_in_the_layout(package: str) -> None:
    text = " ".join(text for folder, text in entries() if folder == package)
    modules = {path.name for path in (ROOT / package).glob("*.py") if not path.name.startswith("__")}
    packages = {f"{path.parent.name}/" for path in (ROOT / package).glob("*/*.py")}
    assert {name for name in modules | packages if not re.search(rf"(?<![\w/]){name}", text)} == set()
