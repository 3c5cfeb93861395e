"""`python -m evo.lineage RUN effects`: what each edit is worth, by the model of evo/numeric/attribution.py, as data and as lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import genomes
from evaluator.outcome import SELF_REPORTED
from evo.core.standing import Standing
from evo.core.words import counted
from evo.lineage.text import NOTE_WIDTH, Line, cut
from evo.numeric.attribution import CLEAR, Effect, Observed, attribute, diverged
from evo.traits import Edits, traits

FEW = 12  # scored genomes below which nobody should believe an estimate
SHOWN_INTERACTIONS = 8


def effects(standing: Standing, texts: Callable[[str], str]) -> dict[str, Any]:
    """All edits with their worth, best first, and the interactions, the clearest first. Negative is better: fewer bits per byte."""
    found = traits(Edits(standing.founder or "", texts), standing.history.genomes)
    out = diverged(found.observed, standing.belief.noise_sd)
    result = attribute([row for row in found.observed if row.genome not in out], standing.belief.noise_sd, standing.champion)
    champion = next((row for row in found.observed if row.genome == standing.champion), None)
    described = {effect: _described(effect, found.edits) for effect in result.effects}
    rows = [{"edit": described[e], **_worth(e), "values": e.values, "in_champion": _in(e, champion)} for e in result.effects]
    pairs = [
        {"edits": [described[e] for e in i.pair], "worth": i.worth, "sd": i.sd, "genomes": i.together, "clear": _clear(i.worth, i.sd)}
        for i in result.interactions
    ]
    return {
        "scored": result.scored,
        "diverged": len(out),
        "noise_sd": standing.belief.noise_sd,
        "unexplained_sd": result.unexplained_sd,
        "self_reported": standing.history.self_reported,
        "verdict": _verdict(result.scored, sum(row["clear"] for row in rows), len(rows)),
        "effects": rows,
        "interactions": pairs,
    }


def effects_lines(data: Mapping[str, Any]) -> list[Line]:
    """Lines on the effects that are more than their sd from zero, and on what kind of statement this is."""
    told = f" ({SELF_REPORTED})" if data["self_reported"] else ""
    lines = [(f"{'val_bpb changes by' + told:>18}  genomes  edit of the seed genome (★ the champion has it)", "bold")]
    shown = [row for row in data["effects"] if abs(row["worth"]) > row["sd"]]
    lines += [_effect_line(row) for row in shown]
    rest = len(data["effects"]) - len(shown)
    if rest:
        lines.append((f"{rest} more within one sd of zero: --json lists them", "dim"))
    notable = [pair for pair in data["interactions"] if pair["clear"]][:SHOWN_INTERACTIONS]
    if notable:
        lines += [("", ""), ("together, beyond the sum of the two:", "bold")]
        for pair in notable:
            edits = " WITH ".join(cut(edit, NOTE_WIDTH // 2) for edit in pair["edits"])
            lines.append((f"{_figures(pair)}  {pair['genomes']:>7}  {edits}", ""))
    lines += [("", ""), (data["verdict"], "yellow" if data["scored"] < FEW else "")]
    if data["diverged"]:
        lines.append((f"left out: {data['diverged']} more, with scores so bad that their training must have broken down", "dim"))
    if data["effects"]:
        lines.append((f"noise sd of one draw {data['noise_sd']:.4f}, not explained by edits {data['unexplained_sd']:.4f}", "dim"))
    return lines


def _verdict(scored: int, clear: int, count: int) -> str:
    if not count:
        return f"nothing to compare: {counted(scored, 'scored genome')}, and no edit of the seed genome among them"
    nature = f"An additive estimate from {counted(scored, 'scored genome')}, not proof: `best` shows what fresh draws prove."
    if scored < FEW:
        return f"too little data: {counted(scored, 'scored genome')}, and an estimate means little with fewer than {FEW}. {nature}"
    if not clear:
        return f"no edit is further than {CLEAR:g} sds from zero. {nature}"
    return f"{clear} of {counted(count, 'edit')} {'is' if clear == 1 else 'are'} further than {CLEAR:g} sds from zero. {nature}"


def _worth(effect: Effect) -> dict[str, Any]:
    return {"worth": effect.worth, "sd": effect.sd, "genomes": effect.genomes, "clear": _clear(effect.worth, effect.sd)}


def _clear(worth: float, sd: float) -> bool:
    return abs(worth) > CLEAR * sd


def _in(effect: Effect, row: Observed | None) -> bool:
    return row is not None and all(edit in row.edits for edit in effect.edits)


def _described(effect: Effect, edits: Mapping[tuple[str, float], genomes.Edit]) -> str:
    """An effect's edit in words, as the first genome had it; for a knob with several values, the value that the worth holds at."""
    if effect.values > 1:
        return genomes.describe([edits[name, effect.amount] for name in effect.edits])
    return genomes.describe(edit for (name, _), edit in edits.items() if name in effect.edits)


def _effect_line(row: Mapping[str, Any]) -> Line:
    mark = "★ " if row["in_champion"] else "  "
    several = f" (of {row['values']} values)" if row["values"] > 1 else ""
    style = "" if not row["clear"] else "green" if row["worth"] < 0 else "red"
    return f"{_figures(row)}  {row['genomes']:>7}  {mark}{cut(row['edit'])}{several}", style


def _figures(row: Mapping[str, Any]) -> str:
    return f"{row['worth']:+.4f} ± {row['sd']:.4f}".rjust(18)
