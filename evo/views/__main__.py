"""`python -m evo.views RUN`: makes the views of a run anew from its store. One that is going on is refused."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from evo.cli import Parser, entry
from evo.core.words import counted
from evo.errors import StudyError
from evo.folder import StoreError
from evo.views.current import rebuild
from evo.views.study import FILE as STUDY


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="python -m evo.views", description="Rebuilds the views of a run from its store.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", type=Path, help="run folder")
    run_dir = parser.parse_args(arguments).run
    try:
        standing = rebuild(run_dir)
    except (StoreError, StudyError) as error:
        print(f"evo.views: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"evo.views: cannot write the views of {run_dir}: {error.strerror}", file=sys.stderr)
        return 2
    made = f"results.tsv, best/ and {STUDY} of {run_dir} made from {counted(len(standing.records), 'record')}"
    print(f"{made}; restart any optuna-dashboard that is open")
    return 0


if __name__ == "__main__":
    sys.exit(entry("evo.views", main))
