"""What each operator has brought, as plain data and as lines: `python -m evo.lineage RUN operators`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluator.outcome import SELF_REPORTED
from evo.core.policies import SHARED, SearchConfig
from evo.core.population import population
from evo.core.standing import Standing
from evo.core.yields import WINDOW, factors, yields
from evo.lineage.text import Line


def operators(standing: Standing, config: SearchConfig) -> dict[str, Any]:
    """Yields over the whole run, and what the policy `evo`, which looks at survivors alone, now multiplies the configured shares by."""
    genomes, belief = standing.history.genomes, standing.belief
    found = yields(genomes.values(), belief)
    survivors = population(standing.history, belief, config.population, config.species_share).survivors
    factor = factors(genomes, belief, survivors[0] if survivors else None, SHARED)
    rows = [
        {
            "operator": name,
            "children": each.children,
            "failed": each.failed,
            "stopped": each.stopped,
            "better": each.better,
            "reward": each.reward,
            "hours": each.seconds / 3600,
            "rate": each.rate,
            "factor": factor.get(name),
        }
        for name, each in found.items()
    ]
    return {"operators": rows, "window": WINDOW, "self_reported": standing.history.self_reported}


def operators_lines(data: Mapping[str, Any]) -> list[Line]:
    """A table, and what its columns mean."""
    if not data["operators"]:
        return [("no genome has been made and evaluated yet", "")]
    told = f" ({SELF_REPORTED})" if data["self_reported"] else ""
    lines = [
        (
            f"{'operator':9}  {'children':>8}  {'failed':>6}  {'stopped':>7}  {'better':>6}  {'gain':>7}  {'hours':>6}  {'gain/hour':>9}"
            f"  {'share ×':>7}",
            "bold",
        )
    ]
    for row in data["operators"]:
        counts = f"{row['operator']:9}  {row['children']:>8}  {row['failed']:>6}  {row['stopped']:>7}  {row['better']:>6}"
        factor = "" if row["factor"] is None else f"{row['factor']:.2f}"  # repairs are made when they are due
        lines.append((f"{counts}  {row['reward']:>7.4f}  {row['hours']:>6.2f}  {row['rate']:>9.4f}  {factor:>7}", ""))
    lines.append(("", ""))
    lines.append((f"gain: val_bpb{told} by which children are believed to be better than their best parent, summed; not proof", "dim"))
    lines.append(("hours: of slots; gain/hour: for one of them", "dim"))
    lines.append(
        (f"share ×: what the policy evo multiplies the configured share by, judging by the latest {data['window']} genomes", "dim")
    )
    return lines
