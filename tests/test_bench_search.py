"""The benchmark of search policies: the real core and Optuna's samplers run on it, and it reports what a user would be handed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: str) -> str:
    """Standard output of the command."""
    command = [sys.executable, str(ROOT / "scripts" / "bench_search.py"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout


def test_policies_and_samplers_are_measured_alike_and_reproducibly() -> None:
    arguments = ("--landscape", "interactions", "--evals", "25", "--seeds", "2", "--policy", "evo", "optuna-random", "--json")
    said = bench(*arguments)
    found = json.loads(said)["interactions"]
    assert set(found) == {"evo", "optuna-random"}
    for figures in found.values():
        assert figures["25"]["low"] <= figures["25"]["true"] <= figures["25"]["high"]
        assert figures["infeasible"] == 0.0
        assert figures["lowest"] <= figures["25"]["true"]
    assert found["evo"]["25"]["true"] < 1.0143  # the seed's value
    assert bench(*arguments) == said


def test_a_planted_gain_is_announced() -> None:
    said = json.loads(bench("--landscape", "planted", "--evals", "30", "--announced", "2"))
    assert said["announced"] >= 1
