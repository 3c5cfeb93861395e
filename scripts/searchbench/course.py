"""One run in simulated time, whoever proposes: K slots, each of which takes one simulated second for an evaluation.

What counts is every evaluation that occupies a slot: calibrations, repeats and failures too. A failure for lack of memory ends early.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from searchbench.problem import Problem, Truth

FAILURE_SECONDS = 0.15  # for a lack of memory, which shows in the first steps; a scored evaluation takes 1
JITTER = 0.1  # evaluations take 1 ± this share, so that slots do not march in step


@dataclass(frozen=True)
class Job:
    """A program under way. `key` is for the proposer's use."""

    key: Any
    text: str
    noise_seed: str


class Proposer(Protocol):
    """A policy, as the simulation sees it."""

    def ask(self) -> Job | None:
        """The next program; None at the end."""
        ...

    def tell(self, job: Job, truth: Truth, val_bpb: float) -> None:
        """Takes in what came of a job; `val_bpb` means nothing where the truth is infeasible."""
        ...

    def claim(self) -> tuple[str, float]:
        """The program that a user would be handed now, and the val_bpb that it is said to have."""
        ...


@dataclass
class Course:
    """What happened in a run, by number of evaluations."""

    true: dict[int, float] = field(default_factory=dict)  # evaluations -> noise-free value of the claimed best
    gap: dict[int, float] = field(default_factory=dict)  # … -> noise-free value minus the claim: positive flatters
    seconds: dict[int, float] = field(default_factory=dict)  # … -> simulated time
    feasible: list[bool] = field(default_factory=list)  # whether each evaluation fitted, in the order of their ends
    lowest: float = float("inf")  # true value of the best program that was evaluated at all


@dataclass(frozen=True)
class Oddity:
    """How scores differ from what a policy may take for granted."""

    uneven_sd: float = 0.0  # sd over slots of what a slot adds to each of its scores
    seed_noise: float = 1.0  # factor by which the seed program's scores scatter more


def run(
    proposer: Proposer,
    problem: Problem,
    slots: int,
    marks: Sequence[int],
    seed: int,
    stop: Callable[[Course], bool] | None = None,
    oddity: Oddity | None = None,
) -> Course:
    """Runs until the last of `marks` evaluations have ended."""
    oddity = oddity or Oddity()
    course, rng = Course(), Random(f"course/{seed}")
    running: list[tuple[float, int, Job, Truth, int]] = []
    free, offsets = list(range(slots)), [Random(f"slot/{seed}/{i}").gauss(0.0, oddity.uneven_sd) for i in range(slots)]
    now, begun = 0.0, 0
    while len(course.feasible) < max(marks):
        while len(running) < slots and (job := proposer.ask()) is not None:
            truth = problem.truth(job.text)
            length = rng.uniform(1 - JITTER, 1 + JITTER) * (1.0 if truth.feasible else FAILURE_SECONDS)
            heapq.heappush(running, (now + length, begun, job, truth, free.pop()))
            begun += 1
        if not running:
            break
        now, _, job, truth, slot = heapq.heappop(running)
        free.append(slot)
        noise_sd = problem.noise_sd * (oddity.seed_noise if job.text == problem.text else 1.0)
        proposer.tell(job, truth, truth.val_bpb + offsets[slot] + Random(job.noise_seed).gauss(0.0, noise_sd))
        course.feasible.append(truth.feasible)
        if truth.feasible:
            course.lowest = min(course.lowest, truth.val_bpb)
        if len(course.feasible) in marks:
            _mark(course, proposer, problem, now)
        if stop is not None and stop(course):
            break
    return course


def _mark(course: Course, proposer: Proposer, problem: Problem, now: float) -> None:
    text, claimed = proposer.claim()
    count, true = len(course.feasible), problem.truth(text).val_bpb
    course.true[count], course.gap[count], course.seconds[count] = true, true - claimed, now
