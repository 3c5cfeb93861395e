"""Shared parts of the tests: a real lab, small enough for a test, with real data prepared by the real prepare.py."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, whose threads would spin against the other worker's

import pytest
from script_lab import make_home

from evaluator import sandbox
from evo.lab import set_constants

ROOT = Path(__file__).resolve().parent.parent
# Files whose tests take longest, by their sum.
LONG = (
    "test_cheats", "test_preflight", "test_drive", "test_oddities", "test_run_cli", "test_genomes_network", "test_slot",
    "test_genomes_optimisers", "test_evaluate", "test_genomes_mutations", "test_run_llm", "test_berth", "test_genomes_replies",
    "test_compat", "test_executor", "test_trainer_train", "test_doctor", "test_evaluate_cli", "test_packing", "test_dashboard",
    "test_repair_run",
)  # fmt: skip
sys.path.append(str(ROOT / "trainer"))  # the data preparation, as prepare.py beside it finds it
SMALL = {
    "MAX_SEQ_LEN": 64, "EVAL_TOKENS": 2**20, "VOCAB_SIZES": [256], "READY_SIZES": [256], "DEFAULT_VOCAB": 256, "TIME_BUDGET": 1,
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first, so that at the end there are short ones left to share out.

    Two workers of xdist get one half of the list each and work from its front; who is done takes from the back of the other's half. So
    both halves begin with long tests. A file is not torn apart: its fixtures are made once.
    """
    long = [[item for item in items if item.path.stem == name] for name in LONG]
    ours, theirs = ([item for file in long[first::2] for item in file] for first in (0, 1))
    short = [item for item in items if item.path.stem not in LONG]
    fill = max(0, len(items) // 2 - len(ours))
    items[:] = [*ours, *short[:fill], *theirs, *short[fill:]]


def pytest_configure() -> None:
    """Before torch and its like are imported: the collector would walk them again and again."""
    gc.set_threshold(50_000, 20, 100)


def pytest_collection_finish() -> None:
    """What is imported stays, and needs no more walks of the collector: they take a sixth of the time of tests that parse programs."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _template() -> Iterator[None]:
    """The template that most slots of the tests fork from lives as long as the tests do."""
    with sandbox.template(sandbox.level()[0], "cpu", 1):
        yield


@dataclass(frozen=True)
class SmallLab:
    """A lab over the project's own documents, at the size of a test."""

    prepare: str  # text, constants set
    data: str  # folder
    genome: str  # text of a small honest program


@pytest.fixture(scope="session")
def small_lab(tmp_path_factory: pytest.TempPathFactory) -> SmallLab:
    folder = tmp_path_factory.mktemp("lab")
    texts = folder / "texts"
    texts.mkdir()
    for path in sorted([*ROOT.glob("*/*.py"), *ROOT.glob("docs/*.md")]):
        (texts / f"{path.parent.name}-{path.stem}.txt").write_text(path.read_text())
    prepare = set_constants((ROOT / "trainer" / "prepare.py").read_text(), SMALL, "prepare.py")
    for path in (ROOT / "trainer").glob("data_*.py"):
        shutil.copy(path, folder)
    (folder / "prepare.py").write_text(prepare)
    command = [sys.executable, "prepare.py", "--from", str(texts), "--out", str(folder / "data"), "--json"]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "EVO_DATA_DIR": str(folder)}, check=False)
    assert made.returncode == 0, made.stderr
    data = json.loads(made.stdout.splitlines()[-1])["data"]
    return SmallLab(prepare, data, (ROOT / "tests" / "labs" / "bigram.py").read_text())


@pytest.fixture(scope="session")
def script_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the cached data of a checkout in upstream's shape."""
    return make_home(tmp_path_factory.mktemp("script") / "home")
