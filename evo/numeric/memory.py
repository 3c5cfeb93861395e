"""What a program will need, from what its relatives reported: linear and quadratic in the logarithms of its sizes.

Bayesian regression around what the field knows (`lore.MEMORY`), so that four samples are enough to start. A program that ran out of memory
needed more than any that did not: it enters as censored, at what the model says or a little above the largest that fitted. Where nothing
has failed yet, the largest that fitted may be exceeded by `DARING` at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evo.numeric import lore
from evo.numeric.scales import LOG
from evo.numeric.space import CHOICE, Array, Sample, Space

DARING = math.log(1.5)
MARGIN = 1.0  # predictive sds below the limit
CENSORED = 0.05  # least distance of a failure above the largest that fitted, on a logarithmic scale
NOISE = 0.02  # sd of a reported peak, on a logarithmic scale
CURVED, CHOSEN = 0.15, 0.15  # prior sds of quadratic terms and of choices


@dataclass(frozen=True)
class Memory:
    """A fitted model. Without reports everything fits."""

    space: Space
    mean: Array  # coefficients
    covariance: Array
    misfit: float  # sd of what the model leaves, on a logarithmic scale
    limit: float  # logarithm of GiB; inf where nothing is known

    def fits(self, points: Array) -> Array:
        """(m, d) -> (m,) bool."""
        if math.isinf(self.limit):
            return np.ones(len(points), dtype=bool)
        mean, sd = self.predict(points)
        return mean + MARGIN * sd <= self.limit

    def predict(self, points: Array) -> tuple[Array, Array]:
        """(m, d) -> mean and sd of the logarithm of GiB."""
        x = _terms(self.space, points)
        return x @ self.mean, np.sqrt(((x @ self.covariance) * x).sum(1) + self.misfit**2)


def learn(space: Space, samples: Sequence[Sample]) -> Memory:
    """The model that `samples` support."""
    known = [s for s in samples if s.memory_gib > 0]
    failed = [s for s in samples if s.out_of_memory]
    prior, spread = _prior(space)
    if not known:
        return Memory(space, prior, np.diag(spread**2), 0.0, math.inf)
    y = np.log([s.memory_gib for s in known])
    x = _terms(space, space.points([s.values for s in known]))
    largest = float(y.max())
    mean, covariance, misfit = _regress(x, y, prior, spread)
    if not failed:
        return Memory(space, mean, covariance, misfit, largest + DARING)
    beyond = _terms(space, space.points([s.values for s in failed]))
    for _ in range(3):  # censored values move with the model that they correct
        guessed = np.maximum(beyond @ mean, largest + CENSORED)
        mean, covariance, misfit = _regress(np.vstack([x, beyond]), np.concatenate([y, guessed]), prior, spread)
    lowest = float(np.maximum(beyond @ mean, largest + CENSORED).min())
    return Memory(space, mean, covariance, misfit, min((largest + lowest) / 2, largest + DARING))


def _regress(x: Array, y: Array, prior: Array, spread: Array) -> tuple[Array, Array, float]:
    """Coefficients, their covariance and the residual sd; twice, since the misfit weighs the data against the prior."""
    misfit = 3 * NOISE
    for _ in range(2):
        precision = np.diag(1 / spread**2) + x.T @ x / misfit**2
        covariance = np.linalg.inv(precision)
        mean = covariance @ (prior / spread**2 + x.T @ y / misfit**2)
        misfit = max(NOISE, float(np.sqrt(np.mean((y - x @ mean) ** 2))))
    return mean, covariance, misfit


def _terms(space: Space, points: Array) -> Array:
    """(m, d) -> (m, terms): one, logarithm of each size against the program's own, its square, and each choice."""
    columns = [np.ones(len(points))]
    for i, dimension in enumerate(space.dimensions):
        if dimension.whole:
            logs = _logarithm(space, i, points[:, i]) - _logarithm(space, i, space.here[i : i + 1])
            columns += [logs, logs**2]
        elif dimension.scale == CHOICE:
            columns += [1.0 * (points[:, i] == k) for k in range(len(dimension.choices)) if k != space.here[i]]
    return np.column_stack(columns)


def _prior(space: Space) -> tuple[Array, Array]:
    mean, spread = [0.0], [10.0]
    for i, dimension in enumerate(space.dimensions):
        if dimension.whole:
            slope, sd = lore.MEMORY.get(lore.role(dimension.knob), lore.MEMORY[lore.OTHER])
            mean += [slope, 0.0]
            spread += [sd, CURVED]
        elif dimension.scale == CHOICE:
            others = sum(1 for k in range(len(dimension.choices)) if k != space.here[i])
            mean += [0.0] * others
            spread += [CHOSEN] * others
    return np.array(mean), np.array(spread)


def _logarithm(space: Space, i: int, places: Array) -> Array:
    dimension = space.dimensions[i]
    at = dimension.low + places * (dimension.high - dimension.low)
    return at if dimension.scale == LOG else np.log(np.maximum(at, 1.0))
