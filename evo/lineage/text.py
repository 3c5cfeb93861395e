"""The answers of evo.lineage as lines for people: pairs of text and a style that only terminals see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evaluator.outcome import SELF_REPORTED
from evo.core.words import counted

Line = tuple[str, str]
SHORT = 8  # characters of an id, where they are unique
BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 60
NOTE_WIDTH = 90


def tree_lines(data: Mapping[str, Any]) -> list[Line]:
    """The tree; a crossover hangs under its first parent and names the other."""
    nodes = {g["genome"]: g for g in data["genomes"]}
    short = shortener(list(nodes))
    children: dict[str | None, list[str]] = {}
    for id_, node in nodes.items():
        parent = next((p for p in node["parents"] if p in nodes), None)
        children.setdefault(parent, []).append(id_)
    told = f", scores {SELF_REPORTED}" if data["self_reported"] else ""
    lines = [(f"{data['run']}: {counted(len(nodes), 'genome')}, noise sd {data['noise_sd']:.4f} val_bpb{told}", "bold")]
    for id_, branches in _walk(children):
        lines.append(_tree_line(nodes[id_], branches, short, id_ == data["champion"]))
    unfinished = ", ".join(f"#{r['index']} {r['operator']}" for r in data["unfinished"]) or "nothing"
    doing = f"running: {unfinished}" if data["goes_on"] else f"no session is working on it; begun but not finished: {unfinished}"
    lines.append((f"{counted(data['duplicates'], 'duplicate')} and {counted(data['unwritten'], 'unwritten proposal')}; {doing}", "dim"))
    return lines


def show_lines(data: Mapping[str, Any]) -> list[Line]:
    """One genome in full."""
    parents = ", ".join(data["parents"]) or "none: the seed genome"
    lines = [
        (f"{data['genome']}  {estimate(data)}", "bold"),
        (f"{data['operator']}: {data['note']}", ""),
        (f"parents {parents}; species {data['species']}; {data['size']} tree nodes; {data['file']}", ""),
        ("", ""),
        *[line for evaluation in data["evaluations"] for line in _evaluation_lines(evaluation)],
    ]
    losses = [(point[0], point[3]) for point in data["curve"] if point[3] is not None]
    if losses:
        shape = f"{losses[0][1]:.3f} {sparkline([loss for _, loss in losses])} {losses[-1][1]:.3f}"
        lines += [("", ""), (f"training loss over {losses[-1][0]:.0f} s: {shape}", "")]
    for difference in data["diffs"]:
        lines += [("", ""), (f"against {difference['parent']}: {difference['edits']}", "bold")]
        lines += [(text, _diff_style(text)) for text in difference["unified"]]
    lines += _model_lines(data["model"], data["writer"])
    if data["log"]:
        lines += [("", ""), ("end of its log:", "bold"), *[(f"  {text}", "dim") for text in data["log"]]]
    return lines


def _model_lines(said: Mapping[str, Any] | None, writer: str) -> list[Line]:
    """What a model had to do with a program, and the end of its last answer."""
    if said is None:
        return [("", ""), (f"written by {writer}", "bold")] if writer else []
    head = f"written by {writer}" if writer else f"{said['model']} was asked but gave nothing usable; a built-in operator wrote it"
    lines = [("", ""), (f"{head}: {said['tokens']:,} tokens, {said['seconds']:.0f} s; {said['file']}", "bold")]
    lines += [(f"  sent back: {trouble}", "yellow") for trouble in said["troubles"]]
    return [*lines, *[(f"  {text}", "dim") for text in said["reply"]]]


def path_lines(data: Mapping[str, Any]) -> list[Line]:
    """Each step with its gain and the sum so far."""
    return _step_lines(data["steps"])


def _step_lines(steps: Sequence[Mapping[str, Any]]) -> list[Line]:
    short = shortener([s["genome"] for s in steps])
    width = max(len(short(s["genome"])) for s in steps)
    told = f" (val_bpb is {SELF_REPORTED})" if steps[0]["self_reported"] else ""
    lines = [(f"{'genome':{width}}  {'val_bpb':>17}  {'gain of the step':>18}  {'gain so far':>18}  what{told}", "bold")]
    for step in steps:
        other = f" (with {step['parents'][1][:SHORT]})" if len(step["parents"]) > 1 else ""
        figures = f"{estimate(step, False):>17}  {_signed(step['gain']):>18}  {_signed(step['total']):>18}"
        lines.append((f"{short(step['genome']):{width}}  {figures}  {step['operator']}: {step['note']}{other}", ""))
    return lines


def best_lines(data: Mapping[str, Any]) -> list[Line]:
    """The champion and what may be said of it."""
    draws = counted(len(data["scores"]), "draw") + (f", {SELF_REPORTED}" if data["self_reported"] else "")
    lines = [(f"{data['genome']}  {data['val_bpb']:.4f} ± {data['sd']:.4f} val_bpb from {draws}; {data['file']}", "bold")]
    lines += _step_lines(data["path"])
    said = data["announcement"]
    if said:
        lines.append((said["sentence"], "green" if said["proven"] else "yellow"))
        if said["heldout"]:
            lines.append((said["heldout"]["sentence"], ""))
    elif data["genome"] == data["seed_genome"]:
        lines.append(("no genome beats the seed genome so far", "yellow"))
    else:
        lines.append((f"believed gain {data['believed_gain']:.4f}; announced only after final draws", "yellow"))
    return lines


def estimate(node: Mapping[str, Any], draws: bool = True) -> str:
    """`0.9911 ± 0.0004 (n 3)`, or what went wrong."""
    if node["val_bpb"] is None:
        return str(node["trouble"]) if draws else "–"
    told = f", {SELF_REPORTED}" if node["self_reported"] else ""
    return f"{node['val_bpb']:.4f} ± {node['sd']:.4f}" + (f" (n {node['n']}{told})" if draws else "")


def cut(note: str, width: int = NOTE_WIDTH) -> str:
    """A note that takes no more than a line; `--json` has it whole."""
    return note if len(note) <= width else f"{note[: width - 1]}…"


def sparkline(values: Sequence[float]) -> str:
    """The shape of a curve in at most `CURVE_WIDTH` characters."""
    step = max(1, -(-len(values) // CURVE_WIDTH))
    picked = [*values[::step]]
    low, high = min(picked), max(picked)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((v - low) * scale)] for v in picked)


def shortener(ids: Sequence[str]) -> Callable[[str], str]:
    """Cuts ids to the shortest length, at least SHORT, at which they differ."""
    length = SHORT
    while len({id_[:length] for id_ in ids}) < len(set(ids)):
        length += 1
    return lambda id_: id_[:length]


def _walk(children: Mapping[str | None, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """(id, branches drawn before it), depth first. Without recursion: a greedy chain is as deep as it is long."""
    open_ = [(id_, "", "") for id_ in reversed(children.get(None, ()))]
    while open_:
        id_, branches, below = open_.pop()
        yield id_, branches
        own = children.get(id_, ())
        for position, child in reversed(list(enumerate(own))):
            last = position == len(own) - 1
            open_.append((child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  ")))


def _tree_line(node: Mapping[str, Any], branches: str, short: Callable[[str], str], champion: bool) -> Line:
    mark, style = ("★ ", "bold green") if champion else ("", "")
    if node["val_bpb"] is None:
        mark, style = "✗ ", "red"
    other = f" (with {short(node['parents'][1])})" if len(node["parents"]) > 1 else ""
    return f"{branches}{mark}{short(node['genome'])}  {estimate(node)}  {node['operator']}: {cut(node['note'])}{other}", style


def _evaluation_lines(row: Mapping[str, Any]) -> list[Line]:
    """What came of an evaluation, and below, what was unusual about it."""
    lines = [(_evaluation_line(row), "red" if row["outcome"] == "Failed" else "")]
    return lines + [(f"  unusual: {flag}", "yellow") for flag in row.get("flags", ())]


def _evaluation_line(row: Mapping[str, Any]) -> str:
    head = f"#{row['index']} {row['operator']}, seed {row['seed']}, {row['slot'] or 'no slot'}: "
    if row["outcome"] == "Scored":
        told = f" ({SELF_REPORTED})" if row["self_reported"] else ""
        heldout = f" ({row['heldout_bpb']:.6f} on the held-out text)" if row["heldout_bpb"] is not None else ""
        outside = f", start+set-up {row['setup_seconds']:.1f} s, scoring {row['score_seconds']:.1f} s" if row["score_seconds"] else ""
        return (
            f"{head}{row['val_bpb']:.6f} val_bpb{told}{heldout}, "
            f"{counted(row['steps'], 'step')}, {row['tokens']:,} tokens in {row['training_seconds']:.1f} s, "
            f"{row['parameters']:,} parameters, {row['peak_memory_gib']:.1f} GiB{outside}"
        )
    if row["outcome"] == "Failed":
        told = f" ({row['circumstances']})" if row["circumstances"] else ""
        return f"{head}failed at {row['phase']}, {row['reason']}: {row['message']}{told}"
    return f"{head}stopped after {row['training_seconds']:.1f} s: {row['message']}"


def _signed(gain: Mapping[str, float] | None) -> str:
    return f"{gain['mean']:+.4f} ± {gain['sd']:.4f}" if gain else "–"


def _diff_style(text: str) -> str:
    if text.startswith(("+++", "---", "@@")):
        return "cyan"
    return {"+": "green", "-": "red"}.get(text[:1], "")
