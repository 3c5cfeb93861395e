"""A checkout in upstream's shape: the files of tests/labs/script, with its data prepared by its own prepare.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from evaluator.compat import CompatConfig
from evaluator.training import Limits
from evo import lab as labs

SCRIPT = Path(__file__).resolve().parent / "labs" / "script"
TRAIN = (SCRIPT / "train.py").read_text(encoding="utf-8")
LIMITS = Limits(setup_seconds=40, grace_seconds=3, score_seconds=20, host_memory_gib=2, file_gib=0.01)


def make_checkout(folder: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(SCRIPT, folder, ignore=shutil.ignore_patterns("__pycache__"))


def make_home(folder: Path) -> Path:
    """A home folder with the data that prepare.py leaves in its cache."""
    folder.mkdir()
    command = [sys.executable, str(SCRIPT / "prepare.py")]
    subprocess.run(command, env={**os.environ, "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}, check=True)
    return folder


def compat_config(home: Path, budget_seconds: float = 1) -> CompatConfig:
    """What assembly makes of the checkout, at the limits of a test."""
    lab = labs.load(SCRIPT)
    prepare = labs.set_constants(lab.prepare, {"TIME_BUDGET": budget_seconds}, "prepare.py")
    data = str(home / ".cache" / "autoresearch")
    return CompatConfig(prepare=prepare, measurement_key="test", home=str(home), readable=(data,), modules=lab.modules, limits=LIMITS)
