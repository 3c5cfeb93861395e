"""How fast genomes are read, compared, merged and checked, against libcst's parse of the same text in the same run.

    python scripts/bench_genomes.py [FILE] [--lines 650] [--repeats 15] [--json]

FILE (default: the seed, trainer/train.py) is made `--lines` long by copies of its own functions under other names. All caches are emptied
before every measurement. One process, one thread; medians, and ratios to the median parse.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import libcst

import genomes

SEED = Path(__file__).resolve().parent.parent / "trainer" / "train.py"
PARSE = "libcst parse"
LIMITS = {"parse and knobs": 2.5, "apply": 2.0, "identity": 2.0, "diff": 5.0, "merge": 8.0, "check": 4.0}  # times a libcst parse
MUTATIONS = 3  # between the program and each of its two children


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=SEED)
    parser.add_argument("--lines", type=int, default=650)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    text = grown(options.file.read_text(encoding="utf-8"), options.lines)
    seconds = measured(text, options.repeats)
    parse = seconds.pop(PARSE)
    rows = {name: {"ms": 1000 * value, "parses": value / parse, "limit": LIMITS[name]} for name, value in seconds.items()}
    lines = len(text.splitlines())
    if options.json:
        print(json.dumps({"lines": lines, "libcst_parse_ms": 1000 * parse, "rows": rows}, indent=2))
        return 0
    print(f"{lines} lines; libcst parse {1000 * parse:.1f} ms; medians of {options.repeats}, caches empty")
    for name, row in rows.items():
        verdict = "" if row["parses"] <= row["limit"] else "  MISSED"
        print(f"{name:16} {row['ms']:7.1f} ms  {row['parses']:5.2f} parses, limit {row['limit']:g}{verdict}")
    return 0


def grown(text: str, lines: int) -> str:
    """The program with copies of its functions ahead of `main` until it is long enough."""
    functions = [part for part in genomes.definitions(text) if re.match(r"def (?!main|build_model)", part)]
    head, main_at, tail = text.partition("def main(")
    count = 0
    while functions and len((head + tail).splitlines()) < lines:
        head += re.sub(r"^def (\w+)", rf"def \1_{count}", functions[count % len(functions)], count=1) + "\n\n"
        count += 1
    return head + main_at + tail


def measured(text: str, repeats: int) -> dict[str, float]:
    """Median seconds of each operation; every repeat has children of its own."""
    taken: dict[str, list[float]] = {}
    for number in range(repeats):
        rng = Random(number)
        a, b = child(text, rng), child(text, rng)
        edits = genomes.diff(text, a)
        operations: dict[str, Callable[[], object]] = {
            PARSE: partial(libcst.parse_module, text),
            "parse and knobs": partial(genomes.knobs, text),
            "apply": partial(genomes.apply, edits, text),
            "identity": partial(genomes.identity, text),
            "diff": partial(genomes.diff, text, a),
            "merge": partial(genomes.merge, text, a, b, genomes.seeded(Random(number))),
            "check": partial(genomes.check, text),
        }
        for name, operation in operations.items():
            forget()
            started = time.perf_counter()
            operation()
            taken.setdefault(name, []).append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in taken.items()}


def child(text: str, rng: Random) -> str:
    for _ in range(MUTATIONS):
        text = genomes.mutate(text, rng).text
    return text


def forget() -> None:
    """Empty every cache of the package."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "genomes":
            for value in vars(module).values():
                if callable(clear := getattr(value, "cache_clear", None)):
                    clear()


if __name__ == "__main__":
    sys.exit(main())
