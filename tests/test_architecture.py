"""The arrows of docs/design.md, read off the imports of every module, nested ones included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("evaluator", "evo", "genomes", "trainer")
ALLOWED = {"evaluator": set(), "genomes": set(), "trainer": set(), "evo": {"genomes", "evaluator"}}
CORE = (ROOT / "evo" / "search.py", ROOT / "evo" / "lineage" / "offsets.py", *sorted((ROOT / "evo" / "core").glob("*.py")))
IMPURE = {"os", "time", "pathlib", "subprocess", "logging", "sqlite3", "threading", "datetime", "socket", "shutil", "tempfile", "io"}
IMPURE |= {"secrets", "uuid", "asyncio", "multiprocessing", "ray", "numpy", "torch", "rich", "libcst"}
OPTUNA = ("evo/tuner.py", "evo/views/book.py", "evo/views/study.py")
NUMERIC = "evo.numeric"  # models of scores over knobs: pure as the core is, in numpy
CORE_NEIGHBOURS = {"evaluator.outcome", "evaluator.plain", f"{NUMERIC}.refine", "evo.core"}


def modules(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file. Every test looks at every file: each is read once."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, wherever in it."""
    for node in parsed(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the package's name"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


@cache
def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=name)
def test_packages_import_only_along_the_arrows(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    assert tops(path) & set(PACKAGES) <= ALLOWED[own] | {own}


def test_nobody_imports_the_trainer() -> None:
    for path in modules("evaluator", "evo", "genomes"):
        assert "trainer" not in tops(path), name(path)


def test_each_heavy_library_has_one_home() -> None:
    for path in modules(*PACKAGES):
        package, used = path.relative_to(ROOT).parts[0], tops(path)
        assert "ray" not in used or name(path) == "evo/cluster.py", name(path)
        assert "libcst" not in used or package == "genomes", name(path)
        assert not used & {"optuna", "optuna_dashboard"} or name(path) in OPTUNA, name(path)
        assert "openai" not in used or name(path) == "evo/llm/endpoint.py", name(path)
        assert "sqlite3" not in used or name(path) in ("evo/store.py", "evo/database.py"), name(path)
        if package in ("evo", "genomes"):
            assert "torch" not in used, name(path)
            assert "numpy" not in used or name(path).startswith("evo/numeric/"), name(path)


@pytest.mark.parametrize("path", CORE, ids=name)
def test_the_core_is_pure(path: Path) -> None:
    names = set(imports(path))
    assert not {n.split(".")[0] for n in names} & IMPURE
    ours = {n for n in names if n.split(".")[0] in PACKAGES}
    assert all(any(n == allowed or n.startswith(f"{allowed}.") for allowed in CORE_NEIGHBOURS) for n in ours), ours
    assert not {"open", "print", "input"} & {node.id for node in parsed(path) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("path", sorted((ROOT / "evo" / "numeric").glob("*.py")), ids=name)
def test_the_models_are_as_pure_as_the_core_but_for_numpy(path: Path) -> None:
    assert not tops(path) & (IMPURE - {"numpy"})
    ours = {n for n in imports(path) if n.split(".")[0] in PACKAGES}
    assert all(n.startswith((NUMERIC, "genomes", "evo.core.belief", "evo.core.history")) for n in ours), ours
    used = {ast.unparse(node) for node in parsed(path) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith(("np.random.", "numpy.random."))} <= {"np.random.default_rng"}, "a shared generator"


@pytest.mark.parametrize("path", modules("evo", "genomes"), ids=name)
def test_no_global_randomness(path: Path) -> None:
    """`random.Random(...)` alone: a function of the module draws from a generator that everybody shares."""
    for node in parsed(path):
        if isinstance(node, ast.ImportFrom) and node.module == "random":
            assert {alias.name for alias in node.names} <= {"Random"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"{name(path)}:{node.lineno}: random.{node.attr}"


def test_genomes_touch_no_files_and_no_clock() -> None:
    """But for the command, whose job it is to read them."""
    for path in modules("genomes"):
        assert path.name == "__main__.py" or not tops(path) & (IMPURE - {"libcst"}), name(path)
