"""What the study says in words: the note of a trial, of the overview, of a tuned species. Markdown, as optuna-dashboard shows it.

What a program or a model wrote stands in code spans and fences, so that none of it is taken for Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import unified_diff

from evaluator.outcome import SELF_REPORTED, Failed, Scored, Stopped
from evo.core.records import REPEATS, Record
from evo.core.standing import Standing
from evo.core.words import counted
from evo.errors import one_line

DIFF_LINES, DIFF_WIDTH = 80, 200
DESCRIPTION_LENGTH = 300
LUCK = "is the luckiest draw of a noisy metric; who is best is a matter of belief, see the note"

Texts = Callable[[str], str]  # genome -> program; "" where it is missing


def trial_note(record: Record, standing: Standing, texts: Texts) -> str:
    """Operator, parents, description, what went wrong, and the difference to the first parent; for repeats, what is repeated."""
    candidate, proposal = record.candidate, record.candidate.proposal
    if proposal.operator in REPEATS:
        parts = [f"**{proposal.operator}**: a fresh draw of {_named(candidate.genome, standing)} under seed {proposal.seed}"]
    else:
        written = f", written by {code(candidate.writer)}" if candidate.writer else ""
        parents = " and ".join(_named(parent, standing) for parent in proposal.parents)
        parts = [f"**{proposal.operator}** of {parents}: genome {code(candidate.genome)}{written}", code(candidate.note)]
    parts += _trouble(record)
    if proposal.operator not in REPEATS and proposal.parents:
        parts.append(difference(proposal.parents[0], candidate.genome, texts))
    parts.append(f"More: {code(f'python -m evo.lineage RUN show {candidate.genome}')}")
    return "\n\n".join(parts) + "\n"


def overview_note(standing: Standing) -> str:
    """What this study is, who leads by belief, how to read it."""
    lines = [
        "# Every evaluation of this run",
        _champion(standing),
        "How to read it:",
        "- A trial is one **draw** of a noisy metric: *Best trial* is the luckiest draw, not the best program. "
        f"One draw of the same program varies by about {standing.belief.noise_sd:.4f} (sd).\n"
        "- Who is best is a matter of belief over all draws of a genome and of its relatives; a gain is announced only after fresh draws.\n"
        "- Value: validation bits per byte, lower is better. Curves: training loss in nats over steps, "
        "comparable only between programs with the same loss.\n"
        "- Failed trials have no value. The note of a trial has its operator, parents and difference.\n"
        "- Parameters are those named constants of the seed program that had moved when the trial was written; numbers inside the code "
        "are in the notes, and in the studies of tuned species.",
        "A view of `run.sqlite`: changes made here change nothing in the run. `python -m evo.views RUN` rebuilds it, "
        "after which all trials have all parameters that have moved so far, "
        "`python -m evo.lineage RUN` shows how the genomes came to be.",
    ]
    return "\n\n".join(lines) + "\n"


def overview_facts(standing: Standing) -> dict[str, str]:
    """What stands beside the dashboard's best trial on its first page."""
    return {
        "Best trial": LUCK,
        "champion": _known(standing.champion, standing),
        "seed program": _known(standing.founder, standing),
        "noise of one draw": f"{standing.belief.noise_sd:.4f} (sd)",
        "announcement": standing.announcement.sentence() if standing.announcement else "none yet",
    }


def species_note(species: str, names: Sequence[str], standing: Standing) -> str:
    """Which programs these are, what moved, and the best of them by belief."""
    lines = [
        f"# Programs that differ in values alone (species {code(species)})",
        f"Parameters are the values that moved: {', '.join(map(code, names)) or 'none so far'}.",
        f"Best of them by belief: {_known(_best(species, standing), standing)}.",
        "*Best trial* is the luckiest draw, not the best program; see the overview's note.",
    ]
    return "\n\n".join(lines) + "\n"


def species_facts(species: str, standing: Standing) -> dict[str, str]:
    """What stands beside the dashboard's best trial of a tuned species."""
    best = _known(_best(species, standing), standing)
    return {"Best trial": LUCK, "best by belief": best, "champion of the run": _known(standing.champion, standing)}


def difference(parent: str, id_: str, texts: Texts) -> str:
    """A fenced unified diff, cut where it is long."""
    before, after = texts(parent), texts(id_)
    if not before or not after:
        return f"The program {code(id_ if before else parent)} is missing from the run folder."
    lines = [line[:DIFF_WIDTH] for line in unified_diff(before.splitlines(), after.splitlines(), parent, id_, lineterm="", n=2)]
    kept = "\n".join(lines[:DIFF_LINES])
    fence = "`" * max(3, _longest_ticks(kept) + 1)
    more = f"\n\n… and {counted(len(lines) - DIFF_LINES, 'more line')}" if len(lines) > DIFF_LINES else ""
    return f"{fence}diff\n{kept}\n{fence}{more}"


def code(text: str) -> str:
    """Any text as a code span of one line."""
    text = one_line(text)[:DESCRIPTION_LENGTH]
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}" if text else ""


def _champion(standing: Standing) -> str:
    if standing.champion is None:
        return "Nothing has a score yet."
    genome = standing.history.genomes[standing.champion]
    seed = f"; the seed program has {_estimate(standing.founder, standing)}" if standing.founder in standing.belief.of else ""
    who = "the seed program itself" if standing.champion == standing.founder else f"made by {genome.operator}, index {genome.index}"
    said = standing.announcement.sentence() if standing.announcement else "Not confirmed by fresh draws yet."
    return f"**Champion by belief**: {code(standing.champion)} ({who}), {_estimate(standing.champion, standing)}{seed}.\n\n{said}"


def _best(species: str, standing: Standing) -> str | None:
    members = [id_ for id_, genome in standing.history.genomes.items() if genome.species == species and id_ in standing.belief.of]
    return min(members, key=lambda id_: standing.belief.of[id_].mean, default=None)


def _known(id_: str | None, standing: Standing) -> str:
    return f"{id_}, {_estimate(id_, standing)}" if id_ in standing.belief.of else "none has a score yet"


def _estimate(id_: str | None, standing: Standing) -> str:
    estimate = standing.belief.of[id_ or ""]
    draws = len(standing.history.genomes[id_ or ""].scores)
    word = f" ({SELF_REPORTED})" if standing.history.self_reported else ""
    return f"val_bpb{word} {estimate.mean:.4f} ± {estimate.sd:.4f} from {counted(draws, 'draw')}"


def _named(id_: str, standing: Standing) -> str:
    """A genome with the index of the trial that introduced it."""
    if id_ == standing.founder:
        return f"the seed program {code(id_)}"
    genome = standing.history.genomes.get(id_)
    return f"{code(id_)} (index {genome.index}, {genome.operator})" if genome else code(id_)


def _trouble(record: Record) -> list[str]:
    outcome = record.outcome
    if isinstance(outcome, Failed):
        return [f"**Failed** at {outcome.phase}, {outcome.reason}: {code(outcome.message)}"]
    if isinstance(outcome, Stopped):
        return [f"**Stopped** after {outcome.training_seconds:.0f} s: {code(outcome.note)}"]
    if isinstance(outcome, Scored) and outcome.self_reported:
        return ["**Self-reported**: the score is the program's own word."]
    return []


def _longest_ticks(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
