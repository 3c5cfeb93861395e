"""Preflight: what is wrong with a program, found in milliseconds by reading it and in seconds by running it small, before a GPU is touched.

A program for a GPU is made small for the dry run by setting knobs and constants that have the field's usual names: fewer and narrower
blocks, short rows, rates at which nothing explodes; the number of rows stays. What is small may break what holds at full size: a block
asked for by number, a width written down. So a failure is final only where it cannot depend on sizes, or where the program at its full
size, with few rows, fails in the same way. What small sizes hide, such as divisibility, is for the static checks (genomes.check).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import genomes
from evaluator import data as datafolder
from evaluator.outcome import Failed, Reason
from evaluator.preflight import DryRun, DryRunConfig, Inconclusive, Trial, Verdict
from evaluator.slot import SlotConfig
from evo import lab as labs
from evo.errors import UserError

THREADS = 2
LENGTH = "MAX_SEQ_LEN"  # the constant of prepare.py that holds the tokens of a row
SHORT = 64  # tokens of a row
FEW = 2  # rows
CALM = 1 / 64  # factor on the rates: what is not a number at these is wrong, not unlucky
_SIZES = (
    (re.compile(r"depth|n_?layers?|num_layers|layers"), 4),
    (re.compile(r"aspect_ratio"), 16),
    (re.compile(r"head_dim|head_size"), 32),
)
_VOCABULARY = re.compile(r"vocab|vocabulary|vocab_size|vocabulary_size")
_ROWS = re.compile(r"(device_|micro_)?batch(_size)?|rows")
_TOKENS = re.compile(r"total_batch(_size|_tokens)?|(batch_tokens|tokens_per_(step|batch))")
_RATE = re.compile(r"(.*_)?(lr|learning_rate|rate)")
_REHEARSAL = re.compile(r"dry_steps")
_FAST_ATTENTION = re.compile(r"attention(_\w+)?")
_PORTABLE = "sdpa"  # the attention that every device has
_WHATEVER_THE_SIZE = ("NameError", "SyntaxError", "IndentationError", "ImportError", "ModuleNotFoundError", "ContractError")
_LINE = re.compile(r'[\\/]train\.py", line (\d+)')


class Preflight:
    """Dry runs of the programs of one lab and profile, one at a time, from any thread."""

    def __init__(self, prepare: str, device: str, config: DryRunConfig) -> None:
        """
        Args:
            prepare: text of prepare.py, rendered for the profile.
            device: the profile's; on "cpu" a program is run at its own size.
        Raises:
            UserError: prepare.py does not say how long a row is.
        """
        self._prepare, self._device = prepare, device
        self._constants: dict[str, Any] = {knob.name: knob.value for knob in genomes.knobs(prepare)}
        if LENGTH not in self._constants:
            raise UserError(f"a dry run needs prepare.py's constant {LENGTH}, the tokens of a row; a run does without: llm.dry_run=never")
        self._run = DryRun(config)

    def __call__(self, program: str) -> Verdict:
        """The dry run's verdict on a program that the static checks let pass. Never raises for what the program is like."""
        began = time.monotonic()
        verdict: Verdict | None = None
        for text, prepare, calm in self._versions(program):
            length = next(int(knob.value) for knob in genomes.knobs(prepare) if knob.name == LENGTH)
            found = self._run(Trial(text, prepare, length))
            if isinstance(found, Failed) and found.reason is Reason.NOT_FINITE and not calm:
                found = Inconclusive(f"{found.message}, at rates that could not be lowered for the dry run", 0.0)
            verdict = found if verdict is None else _agreed(verdict, found)
            if not isinstance(found, Failed) or _class(found) in _WHATEVER_THE_SIZE:
                break
        assert verdict is not None, "there is a version of every program"
        seconds = time.monotonic() - began
        return replace(verdict, total_seconds=seconds) if isinstance(verdict, Failed) else replace(verdict, seconds=seconds)

    def close(self) -> None:
        """Ends what waits. Idempotent."""
        self._run.close()

    def _versions(self, program: str) -> Iterator[tuple[str, str, bool]]:
        """The program as it is run, first small, then at its full size: its text, prepare.py's, and whether its rates are low."""
        prepare, full = self._prepare, int(self._constants[LENGTH])
        knobs = genomes.knobs(program)
        rates = {knob.name: knob.value * CALM for knob in knobs if isinstance(knob.value, float) and _RATE.fullmatch(_label(knob))}
        if self._device == "cpu":
            yield genomes.set_knobs(program, rates), prepare, bool(rates)
            return
        common = {**rates, **_for_a_cpu(knobs)}
        short = SHORT if full % SHORT == 0 else full
        small = genomes.set_knobs(program, {**common, **self._smaller(knobs), **_tokens(knobs, short, full)})
        yield small, labs.set_constants(prepare, {LENGTH: short}, "prepare.py"), bool(rates)
        yield genomes.set_knobs(program, {**common, **_few_rows(knobs, full)}), prepare, bool(rates)

    def _smaller(self, knobs: tuple[genomes.Knob, ...]) -> dict[str, genomes.Value]:
        prepared = [int(value) for name, value in self._constants.items() if name.startswith("VOCAB_SIZES[")]
        sizes = (*_SIZES, (_VOCABULARY, min(prepared))) if prepared else _SIZES
        return {knob.name: least for knob in knobs for name, least in sizes if name.fullmatch(_label(knob)) and _above(knob, least)}


def static_problems(program: str, contract: genomes.Contract, prepare: str) -> str:
    """What the static checks find, in one line; "" where they find nothing."""
    return "; ".join(map(str, genomes.check(program, contract, prepare)))


def for_slot(slot: SlotConfig) -> Preflight:
    """The dry run that belongs to a slot.

    Raises:
        HarnessError: its data cannot be read.
    """
    masked = datafolder.load(slot.data).masked
    return Preflight(slot.prepare, slot.device, DryRunConfig(THREADS, masked=masked, sandbox=slot.sandbox, ahead=True))


def trouble(verdict: Verdict) -> str:
    """What is wrong, in words for a writer, with the last frames; "" unless the program failed."""
    if not isinstance(verdict, Failed):
        return ""
    return f"the program fails in a dry run on the CPU, in {verdict.phase}: {verdict.message}\n{verdict.trace}".rstrip()


def _agreed(small: Verdict, full: Verdict) -> Verdict:
    """A failure that both versions of a program share; what the small one alone does says nothing."""
    if isinstance(small, Failed) and isinstance(full, Failed) and _way(small) == _way(full):
        return full
    said = small.message if isinstance(small, Failed) else ""
    return Inconclusive(f"it fails when it is made small ({said}), but not in that way at its full size", 0.0)


def _way(failed: Failed) -> tuple[object, ...]:
    """What tells two failures apart, sizes aside."""
    return failed.reason, failed.phase, _class(failed), _LINE.findall(failed.trace)[-1:]


def _class(failed: Failed) -> str:
    """Class of the exception, if there was one."""
    return failed.message.partition(":")[0] if failed.trace else ""


def _for_a_cpu(knobs: tuple[genomes.Knob, ...]) -> dict[str, genomes.Value]:
    """What only a GPU has is replaced, and one rehearsal is enough."""
    attention = {k.name: _PORTABLE for k in knobs if _FAST_ATTENTION.fullmatch(_label(k)) and _PORTABLE in k.choices}
    return {**attention, **{k.name: 1 for k in knobs if _REHEARSAL.fullmatch(_label(k)) and _above(k, 1)}}


def _tokens(knobs: tuple[genomes.Knob, ...], short: int, full: int) -> dict[str, genomes.Value]:
    """Tokens of a batch that has as many rows, but shorter ones."""
    return {k.name: k.value * short // full for k in knobs if _TOKENS.fullmatch(_label(k)) and type(k.value) is int}


def _few_rows(knobs: tuple[genomes.Knob, ...], length: int) -> dict[str, genomes.Value]:
    """One pass of few rows for each step."""
    rows = {k.name: FEW for k in knobs if _ROWS.fullmatch(_label(k)) and _above(k, FEW)}
    return {**rows, **{k.name: FEW * length for k in knobs if rows and _TOKENS.fullmatch(_label(k)) and _above(k, FEW * length)}}


def _label(knob: genomes.Knob) -> str:
    return knob.name.rpartition(".")[2].lower()


def _above(knob: genomes.Knob, value: int) -> bool:
    return type(knob.value) is int and knob.value > value
