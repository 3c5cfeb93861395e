"""Optuna's samplers as proposers, on the same problem and box. They claim what they have observed lowest, as `study.best_trial` does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from searchbench.course import Job
from searchbench.problem import Dial, Problem, Truth, Value, with_values

optuna.logging.set_verbosity(optuna.logging.ERROR)
FACTOR, SHARE, STEPS = 3.0, 0.25, 1  # half-width of the narrow box: on a log scale, of a linear range, of powers of two


class Rival:
    """A study that is asked and told. The default is its first trial, as a user would enqueue it; failures are reported as such."""

    def __init__(self, problem: Problem, sampler: optuna.samplers.BaseSampler, seed: int, narrow: bool = False) -> None:
        self.problem, self.seed = problem, seed
        self.text = problem.text
        self.space = {dial.name: _distribution(dial, narrow) for dial in problem.dials}
        self.study = optuna.create_study(sampler=sampler)
        self.study.enqueue_trial({dial.name: _inward(dial.default, dial) for dial in problem.dials})
        self.best: tuple[float, str] = (math.inf, self.text)

    def ask(self) -> Job:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask(self.space)
        values = {dial.name: _outward(trial.params[dial.name], dial) for dial in self.problem.dials}
        return Job(trial, with_values(self.text, values), f"noise/{self.seed}/{trial.number}")

    def tell(self, job: Job, truth: Truth, val_bpb: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not truth.feasible:
                self.study.tell(job.key, state=TrialState.FAIL)
                return
            self.study.tell(job.key, val_bpb)
        self.best = min(self.best, (val_bpb, job.text))

    def claim(self) -> tuple[str, float]:
        return self.best[1], self.best[0]


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _cmaes(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed)


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(seed=seed)


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


RIVALS: dict[str, tuple[Callable[[int], optuna.samplers.BaseSampler], bool]] = {
    "optuna-tpe": (_tpe, False),
    "optuna-tpe-narrow": (_tpe, True),
    "optuna-cmaes": (_cmaes, False),
    "optuna-gp": (_gp, False),
    "optuna-random": (_random, False),
}


def rival(name: str, problem: Problem, seed: int) -> Rival:
    """One of `RIVALS`."""
    make, narrow = RIVALS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Rival(problem, make(seed), seed, narrow)


def _distribution(dial: Dial, narrow: bool) -> BaseDistribution:
    """A dial as Optuna has it: powers of two by their exponents. The narrow box lies around the default."""
    if dial.kind == "choice":
        return CategoricalDistribution(dial.options)  # type: ignore[arg-type]
    low, high = _ends(dial, narrow)
    if dial.kind == "power":
        return IntDistribution(round(math.log2(low)), round(math.log2(high)))
    return IntDistribution(round(low), round(high)) if dial.kind == "int" else FloatDistribution(low, high, log=dial.log)


def _ends(dial: Dial, narrow: bool) -> Sequence[float]:
    if not narrow:
        return dial.low, dial.high
    here = float(dial.default)
    if dial.kind == "power":
        around = here / 2**STEPS, here * 2**STEPS
    else:
        reach = SHARE * (dial.high - dial.low)
        around = (here / FACTOR, here * FACTOR) if dial.log else (here - reach, here + reach)
    return max(dial.low, around[0]), min(dial.high, around[1])


def _inward(value: Value, dial: Dial) -> Any:
    return round(math.log2(float(value))) if dial.kind == "power" else value


def _outward(value: Any, dial: Dial) -> Value:
    return 2**value if dial.kind == "power" else value
