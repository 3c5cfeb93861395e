"""What to try next, and everything around it."""

import os
import sys
from types import TracebackType


def _in_one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print("evo: stopped before anything was started", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# The driver is one thread among many processes: with threads of its own, evo/numeric would spin against whatever trains beside it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is loaded

if sys.argv[:1] == ["-m"]:  # a command, whose imports take a second: Python names the module itself once they are to begin
    sys.excepthook = _in_one_line
