"""Shared parts of the tests: a real lab, small enough for a test, with real data prepared by the real prepare.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from script_lab import make_home

import genomes

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"MAX_SEQ_LEN": 64, "EVAL_TOKENS": 4096, "DEFAULT_VOCAB": 256, "TIME_BUDGET": 1}


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
    prepare = genomes.set_knobs((ROOT / "trainer" / "prepare.py").read_text(), SMALL).replace(
        "VOCAB_SIZES = (8192,)", "VOCAB_SIZES = (256,)"
    )
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
