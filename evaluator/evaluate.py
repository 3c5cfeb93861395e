"""The one way to be evaluated: `Evaluate: (program, seed, budget) -> Outcome`.

Implementations: `slot.Slot` (a GPU or CPU slot; sandboxed training, trusted judge), `compat.Compat` (a sandboxed program in
autoresearch's shape that scores itself) and `instant.Instant` (the deterministic lab: a program's score is a known function of its
tree). One suite, tests/test_evaluate.py, holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from evaluator.outcome import CurvePoint, Outcome

Watch = Callable[[CurvePoint], str | None]
"""Sees each point of the running curve; returns None to go on or a one-line note to stop the run."""


class Evaluate(Protocol):
    """Evaluates one program after another. Whatever a call raises, the next call finds it in working order."""

    measurement_key: str  # the key of every score it gives

    def __call__(
        self,
        program: str,
        seed: int,
        budget_seconds: float,
        watch: Watch | None = None,
        heldout: bool = False,
        trained: Callable[[], None] | None = None,
    ) -> Outcome:
        """Trains and scores `program`, never raises for what the program does.

        Args:
            heldout: score it on the held-out text too, where there is one. For champions: the search fits a text that every program is
                scored on, so its verdict on the best of thousands flatters.
            trained: called at most once, when the program has trained. From then on the next call may come, from another thread: that
                program is set up while this one is scored.
        Returns:
            Scored, Stopped, Failed or Interrupted.
        Raises:
            HarnessError: the harness itself is broken (no disk, no judge); not the program's fault.
        """
        ...

    def close(self) -> None:
        """Ends all helper processes. Idempotent."""
        ...


class HarnessError(RuntimeError):
    """The evaluation could not be made for a reason that is not the program's: stop and tell the user."""
