"""What the calls of a run to its model had in common: what a server that keeps what it has read of prompts need not read anew.

    python scripts/report_prompts.py RUN…

Counts the bytes of each first prompt that it begins with as the one before does, in the order of proposals, or as any before does; and how
often there was no room for a part of it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any


def main() -> None:
    for run in sys.argv[1:]:
        report(run, [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(run, "prompts").glob("*.json"), key=index)])


def index(path: Path) -> int:
    return int(path.name.partition(".")[0])


def report(run: str, exchanges: list[dict[str, Any]]) -> None:
    prompts = ["".join(message["content"] for message in exchange["messages"]).encode() for exchange in exchanges]
    if len(prompts) < 2:
        print(f"{run}: {len(prompts)} prompts")
        return
    before = [shared(one, other) for one, other in pairwise(prompts)]
    any_before = [max(shared(prompts[k], prompt) for k in range(i)) for i, prompt in enumerate(prompts) if i]
    whole = sum(map(len, prompts[1:]))
    print(f"{run}: {len(prompts)} prompts of {median(map(len, prompts)):,.0f} bytes (median)")
    for name, found in (("the prompt before", before), ("any before", any_before)):
        share = sum(found) / whole
        print(f"  as {name}: least {min(found):,}, median {median(found):,.0f}, mean {mean(found):,.0f}, {share:.0%} of all bytes")
    for part, count in Counter(part for exchange in exchanges for part in exchange.get("left_out", ())).most_common():
        print(f"  no room, or not enough, in {count}: {part}")


def shared(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    main()
