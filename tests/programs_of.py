"""The programs in a folder of the tests, a slot that shows what a program's weights were, and a folder as a program can leave it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from evaluator.scoring import Verdict
from evaluator.slot import Ready, Slot

FOLDER = Path(__file__).resolve().parent


def names(folder: str) -> tuple[str, ...]:
    """Of all programs in tests/`folder`, sorted."""
    return tuple(sorted(path.stem for path in (FOLDER / folder).glob("*.py")))


def read(folder: str, name: str) -> str:
    """A program's text."""
    return (FOLDER / folder / f"{name}.py").read_text(encoding="utf-8")


def nest(top: Path, levels: int, name: str = "inner") -> None:
    """Folders in folders, perhaps down to where no path reaches."""
    code = f"import os\nfor _ in range({levels}): os.mkdir({name!r}); os.chdir({name!r})"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=top, check=True)


class Keeping(Slot):
    """A slot that keeps the weights of the last program that it scored."""

    weights: bytes = b""

    def _score(self, ready: Ready, seed: int, heldout: bool) -> Verdict:
        self.weights = ready.berth.files.weights.read_bytes()
        return super()._score(ready, seed, heldout)
