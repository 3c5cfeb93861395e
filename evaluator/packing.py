"""Packs a vocabulary that no program has asked for before, by the lab's own preparation, while no clock runs.

A data folder takes one process at a time, so slots of one machine that ask for the same vocabulary wait for each other and find it done.
The work stays on the slot's own cores, since others may be training on the rest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from evaluator.evaluate import HarnessError


class PackingError(HarnessError):
    """A vocabulary that is offered could not be packed: no fault of the program that asked for it, which gets another try."""


@dataclass(frozen=True)
class Preparation:
    """The lab's prepare.py, constants set, and the modules beside it that its data preparation imports."""

    prepare: str
    modules: tuple[tuple[str, str], ...] = ()  # (file name, text)

    def write(self, folder: Path) -> Path:
        """Writes the files and returns the script to run."""
        for name, text in (("prepare.py", self.prepare), *self.modules):
            (folder / name).write_text(text, encoding="utf-8")
        return folder / "prepare.py"


def add_vocabulary(preparation: Preparation, folder: str, size: int, cpus: tuple[int, ...], seconds: float) -> None:
    """Completes the data folder.

    Args:
        cpus: cores to work on; empty: any.
    Raises:
        PackingError: it cannot be had, or not within `seconds`; the message has the last line that the preparation printed.
    """
    with tempfile.TemporaryDirectory(prefix="evo-pack-") as home:
        script = preparation.write(Path(home))
        command = [sys.executable, str(script), "--folder", folder, "--vocabulary", str(size)]
        environment = {name: value for name, value in os.environ.items() if name != "EVO_CHANNEL"}
        process = subprocess.Popen(
            command, cwd=home, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with process:
            if cpus and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, cpus)
            try:
                said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise PackingError(f"packing takes more than the {seconds:g} s allowed") from None
            finally:
                process.kill()  # does nothing where it has ended
    if process.returncode:
        lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
        raise PackingError(f"packing a vocabulary of {size}: {lines[-1]}")
