"""Repairs that need no model: they turn a program that failed, or would fail, into one that may not.

    repair   after an evaluation: out of memory, a rate that explodes, a missing import, slips of shape, type, device and keyword
    mend     before any: what `check` finds, where a rule makes all of it go away

A rule proposes rewrites in order of preference; the first that gives another program and no new problem counts. A failure belongs to
the program that it happened to: for any other text, the repaired one included, there is nothing to repair. Rules for what can be seen in
a text find nothing to do once it is mended; memory and rates cannot be seen, so each failure halves them once more. Left out: what a rule
would have to guess, such as the meaning of a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from genomes.canonical import identity
from genomes.checks.problem import Problem
from genomes.contract import Contract, check
from genomes.errors import GenomeError
from genomes.repairs import keywords, names, numbers, tensors
from genomes.repairs.case import Case, Failure, Repaired, case

__all__ = ["Failure", "Repaired", "mend", "repair"]

_ROUNDS = 4  # problems that are mended one after another

Rule = Callable[..., Iterable[Repaired]]  # of the case, and of what the groups of its pattern match
_BY_MESSAGE: tuple[tuple[str, Rule], ...] = (
    (r"name '(\w+)' is not defined", names.undefined),
    (r"(\w+)'? (?:object )?has no (?:attribute )?'(\w+)'", names.misspelt_attribute),
    (r"these values stop the program at", numbers.guard),
    (r"none of prepare\.VOCAB_SIZES: ([\d, ]+)", numbers.vocabulary),
    (r"no tokeniser of size \d+; prepared are ([\d, ]+)", numbers.vocabulary),
    (r"(?:got an unexpected keyword argument|has no argument) '(\w+)'", keywords.unexpected),
    (r"fused", keywords.fused),
    (r"hands over nothing", keywords.save),
    (r"does not call super\(\)\.__init__\(\)", keywords.unstarted),
    (r"view size is not compatible", tensors.view),
    (r"(?:query, key, and value|mat1 and mat2|m1 and m2|self and mat2).* same dtype", tensors.dtype),
    (r"tensors to be on the same device|indices should be either on", tensors.device),
    (r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x(\d+)\)", tensors.swapped),
    (r"leaf Variable that requires grad", tensors.in_place),
    (r"implicitly created only for scalar outputs", tensors.scalar_loss),
)
_BY_REASON: dict[str, Rule] = {
    "out_of_memory": numbers.memory,
    "not_finite": numbers.rates,
    "no_model": keywords.save,
}


@dataclass(frozen=True)
class _Lab:
    contract: Contract
    prepare: str

    def problems(self, text: str) -> tuple[Problem, ...]:
        return check(text, self.contract, self.prepare)


def repair(text: str, failure: Failure, contract: Contract = Contract.LAB, prepare: str = "") -> Repaired | None:
    """The program with the cause of a failure taken out; None where no rule applies, or the failure is another program's.

    Args:
        prepare: text of the lab's prepare.py; "" where it is not at hand.
    """
    lab = _Lab(contract, prepare)
    try:
        if identity(text) != failure.genome:
            return None
        found = case(text, failure, prepare)
    except GenomeError:
        return None
    before = {problem.message for problem in lab.problems(text)}
    for repaired in _candidates(found):
        if {problem.message for problem in lab.problems(repaired.text)} <= before and identity(repaired.text) != failure.genome:
            return repaired
    return None


def mend(text: str, contract: Contract = Contract.LAB, prepare: str = "", accepted: Iterable[str] = ()) -> Repaired | None:
    """The program without what `check` finds in it; None where there is nothing to do, or something would remain.

    Args:
        accepted: messages of problems that may stay, such as a parent's.
    """
    lab, allowed, notes = _Lab(contract, prepare), set(accepted), list[str]()
    for _ in range(_ROUNDS):
        problems = [problem for problem in lab.problems(text) if problem.message not in allowed]
        if not problems:
            break
        better = next(_mended(text, problems, allowed, lab), None)
        if better is None:
            return None
        text = better.text
        notes.append(better.note)
    left = [problem for problem in lab.problems(text) if problem.message not in allowed]
    return Repaired(text, ", ".join(notes)) if notes and not left else None


def _mended(text: str, problems: list[Problem], allowed: set[str], lab: _Lab) -> Iterator[Repaired]:
    """Rewrites with fewer problems, and no new one."""
    before = {problem.message for problem in problems}
    for problem in problems:
        failure = Failure("", "contract", problem.message, (problem.line,))
        try:
            found = case(text, failure, lab.prepare)
        except GenomeError:
            return
        for repaired in _candidates(found):
            after = {problem.message for problem in lab.problems(repaired.text)} - allowed
            if after < before:
                yield repaired


def _candidates(found: Case) -> Iterator[Repaired]:
    by_reason = _BY_REASON.get(found.failure.reason)
    if by_reason is not None:
        yield from by_reason(found)
    for pattern, rule in _BY_MESSAGE:
        if match := re.search(pattern, found.failure.message):
            yield from rule(found, *match.groups())
