"""The crash corpus of tests/crashes: mistakes in training programs, each as an edit of the seed and the way in which it really fails.

Every entry was evaluated on the CPU profile (`python scripts/report_preflight.py --verify`), and `fails` is what came of it: the phase, and
the exception's class or, where nothing was raised, the outcome's reason.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import genomes
from evaluator.outcome import Failed

FOLDER = Path(__file__).resolve().parent / "crashes"


@dataclass(frozen=True)
class Crash:
    """One mistake."""

    group: str
    name: str
    edits: tuple[tuple[str, str], ...]  # (a text that the seed has once, what comes in its place)
    knobs: Mapping[str, genomes.Value]  # of the seed, set before
    fails: str

    def program(self, seed: str) -> str:
        """The seed with the mistake.

        Args:
            seed: rendered for a profile.
        """
        text = genomes.set_knobs(seed, self.knobs)
        for old, new in self.edits:
            if text.count(old) != 1:
                raise ValueError(f"{self.group}/{self.name}: the seed has {text.count(old)} times {old!r}, expected 1")
            text = text.replace(old, new)
        return text


def corpus() -> tuple[Crash, ...]:
    """All entries, by group."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["crash"]:
            edits = tuple((old, new) for old, new in entry.get("edits", ()))
            found.append(Crash(path.stem, entry["name"], edits, entry.get("knobs", {}), entry["fails"]))
    return tuple(found)


def way(failed: Failed) -> str:
    """How a program failed, as the corpus writes it."""
    raised = failed.message.partition(":")[0] if failed.trace else ""
    return f"{failed.phase} {raised or failed.reason}"
