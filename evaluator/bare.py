"""Modules of the evaluator as processes that start in milliseconds: an interpreter without site packages, without the user's paths."""

from __future__ import annotations

import sys
from pathlib import Path

_PROJECT = str(Path(__file__).resolve().parent.parent)


def command(module: str, *arguments: str) -> list[str]:
    """The command to start. The module imports the standard library alone, and its `main()` finds the arguments in sys.argv[1:]."""
    code = f"import sys; sys.path.insert(0, {_PROJECT!r}); from evaluator import {module}; {module}.main()"
    return [sys.executable, "-I", "-S", "-B", "-c", code, *arguments]
