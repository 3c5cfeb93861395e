"""The Gaussian process on scores: how they are scaled, when its hyperparameters are set, and what a candidate may improve."""

from __future__ import annotations

import math

import numpy as np

from evo.numeric import process
from evo.numeric.space import Array

MODELLED_FROM = 8  # scores before the model is asked
KEPT = 16  # kernels


def compressed(y: Array) -> tuple[Array, Array]:
    """Scores with the bad end compressed, logarithmically beyond the distance from best to median, and the slope at each.

    Bad scores are not worth telling apart: a few ruinous ones would set the scale of everything.
    """
    low, scale = _scale(y)
    return low + scale * np.log1p((y - low) / scale), 1 / (1 + (y - low) / scale)


def expanded(y: Array, raw: Array) -> Array:
    """Inverse of `compressed`, by the scores that set its scale."""
    low, scale = _scale(raw)
    return low + scale * np.expm1((y - low) / scale)


def _scale(raw: Array) -> tuple[float, float]:
    """The best score, and its distance to the median."""
    low = float(np.min(raw))
    return low, max(float(np.median(raw)) - low, 1e-9)


def log_expected_improvement(best: float, mean: Array, sd: Array) -> Array:
    """Log expected improvement of a minimised value: in logarithms, hopeless candidates are still ordered (Ament et al. 2023, arXiv
    2310.20708)."""
    z = (best - mean) / sd
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    tail = 0.5 * _erfc(-z / math.sqrt(2))
    plain = np.log(np.maximum(density + z * tail, 1e-300))
    far = -0.5 * z * z - 0.5 * math.log(2 * math.pi) - 2 * np.log(np.maximum(np.abs(z), 1.0))  # asymptote for z -> -inf
    return np.log(sd) + np.where(z > -5, plain, far)


def _erfc(x: Array) -> Array:
    """Complementary error function, to 1.2e-7 (Numerical Recipes 3rd ed., section 6.2)."""
    t = 1 / (1 + 0.5 * np.abs(x))
    high = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807)
    low = (-0.18628806, 0.09678418, 0.37409196, 1.00002368, -1.26551223)
    polynomial = np.zeros_like(x)
    for c in (*high, *low):
        polynomial = polynomial * t + c
    value = t * np.exp(-x * x + polynomial)
    return np.asarray(np.where(x >= 0, value, 2 - value))


_KERNELS: dict[bytes, tuple[process.Kernel, ...]] = {}


def scheduled(count: int) -> int:
    """The largest of 8, 10, 13, 16, 20 … not above `count`: hyperparameters are set anew when there are a fifth more scores."""
    reached = MODELLED_FROM
    while int(reached * 1.2 + 1) <= count:
        reached = int(reached * 1.2 + 1)
    return min(reached, count)


def kernels(features: Array, raw: Array, draws: Array, noise_sd: float, groups: Array) -> tuple[process.Kernel, ...]:
    """Hyperparameters under each prior, the likeliest first; remembered. They are set by the first `scheduled` scores; if these are many,
    by the better ones and the latest of them.

    Args:
        features: (n, f).
        raw: (n,) mean scores.
        draws: (n,) number of draws behind each.
        noise_sd: of one draw; two significant digits of it count.
        groups: (f,) feature -> knob.
    """
    count = scheduled(len(raw))
    rows = np.arange(count)
    if count > process.SUBSET:
        better = np.argsort(raw[:count], kind="stable")[: process.SUBSET // 2]
        rows = np.union1d(better, rows[-process.SUBSET // 2 :])
    noise_sd = float(f"{noise_sd:.2g}")
    key = b"".join(a.tobytes() for a in (features[rows], raw[rows], draws[rows], np.array([noise_sd]), groups))
    if key not in _KERNELS:
        while len(_KERNELS) >= KEPT:
            del _KERNELS[next(iter(_KERNELS))]
        y, noise = scaled(raw[rows], draws[rows], noise_sd)
        _KERNELS[key] = process.fit(features[rows], y, noise, groups)
    return _KERNELS[key]


def scaled(raw: Array, draws: Array, noise_sd: float) -> tuple[Array, Array]:
    """Scores as the process sees them, and their variances."""
    y, slope = compressed(raw)
    return y, (noise_sd * slope) ** 2 / draws
