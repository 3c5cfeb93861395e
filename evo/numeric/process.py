"""A Gaussian process over points in the unit cube: a quadratic along each feature, plus interactions by an ARD Matérn kernel.

    k(a, b) = c² + q² Σᵢ (aᵢ bᵢ + aᵢ² bᵢ²) / f + s² M52(|(a - b) / ℓ|)          a, b centred on the cube's middle

The quadratics carry what few points can tell about many knobs; the Matérn part (Rasmussen & Williams 2006, chapter 4) what they leave.
Length scales have a log-normal prior that grows with the root of the number of knobs (Hvarfner et al. 2024, arXiv 2402.02229) and are set
by maximum a posteriori, by Adam on exact gradients; on a subset, since that is where the cost is. There are two such priors, and a process
for each: a smooth one, which trusts what it has seen over the whole range, and one that trusts it only nearby.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from evo.numeric.space import Array

STEPS = 40  # of Adam
STEP = 0.12
SUBSET = 160  # points that the hyperparameters are set by, at most
LENGTHS, LENGTH_SD = (0.1, 0.35), 0.7  # priors of a length scale: median over the root of the number of knobs, sd of its logarithm
JITTER = 1e-6
ROOT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class Kernel:
    """Hyperparameters, for values of unit scale."""

    lengths: Array  # (f,) of the Matérn part
    quadratic: float  # variance
    matern: float  # variance
    nugget: float  # variance of what no function of the knobs explains, beside the noise of the draws

    def __call__(self, a: Array, b: Array) -> Array:
        """(n, f), (m, f) -> (n, m)."""
        return self.smooth(a, b) + self.matern * _matern(_distance(a / self.lengths, b / self.lengths))

    def smooth(self, a: Array, b: Array) -> Array:
        """The constant and the quadratics."""
        return np.asarray(1.0 + self.quadratic / a.shape[1] * (a @ b.T + 4.0 * (a * a) @ (b * b).T))

    def variance(self, a: Array) -> Array:
        """(n, f) -> (n,): the prior variance at each point."""
        return np.asarray(1.0 + self.quadratic / a.shape[1] * ((a * a).sum(1) + 4.0 * (a**4).sum(1)) + self.matern)


@dataclass(frozen=True)
class Posterior:
    """What is believed at any point, in the scale of the values it was fitted to."""

    kernel: Kernel
    x: Array  # (n, f), centred
    factor: Array  # (n, n), lower Cholesky factor
    weights: Array  # (n,)
    level: float
    scale: float

    def mean(self, features: Array) -> Array:
        """(m, f) -> (m,)"""
        return self.level + self.scale * (self.kernel(features - 0.5, self.x) @ self.weights)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """(m, f) -> mean and sd, (m,) each."""
        b = features - 0.5
        cross = self.kernel(self.x, b)
        half = np.linalg.solve(self.factor, cross)
        variance = np.maximum(self.kernel.variance(b) - (half * half).sum(0), 1e-10)
        return self.level + self.scale * (cross.T @ self.weights), self.scale * np.sqrt(variance)

    def draw(self, features: Array, normal: Array) -> Array:
        """One function drawn at the points. `normal`: (m,) standard normal numbers."""
        b = features - 0.5
        cross = self.kernel(self.x, b)
        half = np.linalg.solve(self.factor, cross)
        covariance = self.kernel(b, b) - half.T @ half
        root = np.linalg.cholesky(covariance + 1e-6 * np.trace(covariance) / len(b) * np.eye(len(b)) + 1e-9 * np.eye(len(b)))
        return np.asarray(self.level + self.scale * (cross.T @ self.weights + root @ normal))


def condition(kernel: Kernel, features: Array, y: Array, noise: Array, pending: Array | None = None) -> Posterior:
    """The posterior given values; pending points are believed to come out at their mean (kriging believer, Ginsbourger et al. 2010).

    Args:
        features: (n, f).
        y: (n,).
        noise: (n,) variances of the values.
        pending: (p, f), if any.
    """
    level, scale = float(np.median(y)), max(float(np.std(y)), 1e-9)
    x, z, v = features - 0.5, (y - level) / scale, noise / scale**2
    found = _solve(kernel, x, z, v, level, scale)
    if pending is None or not len(pending):
        return found
    guessed = (found.mean(pending) - level) / scale
    everywhere, values = np.vstack([x, pending - 0.5]), np.concatenate([z, guessed])
    return _solve(kernel, everywhere, values, np.append(v, np.full(len(pending), v.min())), level, scale)


def at_samples(kernel: Kernel, features: Array, y: Array, noise: Array) -> tuple[Array, Array]:
    """Mean and sd of the samples' values without the noise of their draws; the nugget is part of them."""
    scale = max(float(np.std(y)), 1e-9)
    z, v = (y - np.median(y)) / scale, noise / scale**2 + JITTER
    inverse = np.linalg.inv(kernel(features - 0.5, features - 0.5) + np.diag(v + kernel.nugget))
    variance = np.maximum(v - v * v * np.diag(inverse), 0.0)
    return y - scale * v * (inverse @ z), scale * np.sqrt(variance)


def _solve(kernel: Kernel, x: Array, z: Array, noise: Array, level: float, scale: float) -> Posterior:
    covariance = kernel(x, x) + np.diag(noise + kernel.nugget + JITTER)
    factor: Array = np.linalg.cholesky(covariance)
    weights: Array = np.linalg.solve(factor.T, np.linalg.solve(factor, z))
    return Posterior(kernel, x, factor, weights, level, scale)


def fit(features: Array, y: Array, noise: Array, groups: Array) -> tuple[Kernel, ...]:
    """Hyperparameters by maximum a posteriori under each prior; first those that make the values most likely.

    Args:
        groups: (f,) feature -> knob; the features of one knob share a length.
    """
    x, z = features - 0.5, (y - np.median(y)) / max(float(np.std(y)), 1e-9)
    v = noise / max(float(np.var(y)), 1e-18)
    squares = _squares(x, groups, int(groups.max()) + 1)
    smooth = (x @ x.T + 4.0 * (x * x) @ (x * x).T) / x.shape[1]
    found = [_ascended(length, squares, smooth, z, v) for length in LENGTHS]
    found.sort(key=lambda theta: _surprise(theta, squares, smooth, z, v))
    return tuple(Kernel(np.exp(theta[:-3])[groups], *(float(np.exp(t)) for t in theta[-3:])) for theta in found)


def _ascended(length: float, squares: Array, smooth: Array, z: Array, noise: Array) -> Array:
    """(knobs + 3,) logarithms of the hyperparameters after some steps of Adam, `length` being the median of the prior."""
    knobs = len(squares)
    theta = np.concatenate([np.full(knobs, math.log(length * math.sqrt(knobs))), [math.log(1.0), math.log(0.5), math.log(0.01)]])
    centre, sd = theta.copy(), np.concatenate([np.full(knobs, LENGTH_SD), [1.0, 1.0, 1.0]])
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(1, STEPS + 1):
        gradient = _gradient(theta, squares, smooth, z, noise) + (theta - centre) / sd**2
        first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
        theta = theta - STEP * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.95**step)) + 1e-8)
    return theta


def _surprise(theta: Array, squares: Array, smooth: Array, z: Array, noise: Array) -> float:
    """The negative log marginal likelihood, less its constant (Rasmussen & Williams 2006, equation 5.8)."""
    covariance, _, _ = _covariance(theta, squares, smooth, noise)
    factor = np.linalg.cholesky(covariance)
    half = np.linalg.solve(factor, z)
    return float(0.5 * half @ half + np.log(np.diag(factor)).sum())


def _covariance(theta: Array, squares: Array, smooth: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Covariance of the values; the Matérn part for unit variance and how steeply it falls, of which a length's gradient is made."""
    quadratic, matern, nugget = np.exp(theta[-3:])
    distance = np.sqrt(np.maximum(np.tensordot(np.exp(-2 * theta[:-3]), squares, axes=1), 0.0))
    decay = np.exp(-ROOT5 * distance)
    interacting = (1.0 + ROOT5 * distance + 5.0 / 3.0 * distance**2) * decay
    covariance = 1.0 + quadratic * smooth + matern * interacting
    covariance[np.diag_indices_from(covariance)] += noise + nugget + JITTER
    return covariance, interacting, 5.0 / 3.0 * (1.0 + ROOT5 * distance) * decay


def _gradient(theta: Array, squares: Array, smooth: Array, z: Array, noise: Array) -> Array:
    """Gradient of the negative log marginal likelihood (Rasmussen & Williams 2006, equation 5.9)."""
    inverse_squares = np.exp(-2 * theta[:-3])
    quadratic, matern, nugget = np.exp(theta[-3:])
    covariance, interacting, steepness = _covariance(theta, squares, smooth, noise)
    inverse = np.linalg.inv(covariance)
    weights = inverse @ z
    outer = 0.5 * (inverse - np.outer(weights, weights))
    slope = outer * (matern * steepness)  # d k / d log ℓ = slope × squares / ℓ²
    lengths = np.tensordot(squares, slope, axes=((1, 2), (0, 1))) * inverse_squares
    rest = [quadratic * (outer * smooth).sum(), matern * (outer * interacting).sum(), nugget * np.trace(outer)]
    return np.concatenate([lengths, rest])


def _squares(x: Array, groups: Array, knobs: int) -> Array:
    """(knobs, n, n): squared distances along each knob."""
    found = np.zeros((knobs, len(x), len(x)))
    for feature, knob in enumerate(groups):
        found[knob] += (x[:, None, feature] - x[None, :, feature]) ** 2
    return found


def _distance(a: Array, b: Array) -> Array:
    squares: Array = (a * a).sum(1)[:, None] + (b * b).sum(1)[None, :] - 2.0 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)))


def _matern(distance: Array) -> Array:
    scaled = ROOT5 * distance
    return (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)
