"""One proposal for the numbers of a species: which way to look for it, and the best candidate that way.

    coupled     a coupled move of a leading point, unseen by the model: most of the first proposals, and a few later on, because
                optima that only several knobs together reach lie where a model of the neighbourhood expects nothing
    evolved     a step, crossing or difference of leading points, unseen by the model
    expected    the candidate with the greatest expected improvement over the best posterior mean
    drawn       the candidate that is best in one function drawn from the posterior (Thompson)

The last two ask one of two processes, at random: one believes in smooth functions, the other only trusts what it has seen nearby
(process.py). Which of them explains the scores better says little about which finds better programs: on a smooth landscape the former does,
on a rough one the latter, and together they did about as well as the better of the two on each (docs/log.md).

What the memory model expects not to fit is never proposed. Pure: the same samples and generator give the same proposal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.random import Generator

from evo.numeric import memory, process
from evo.numeric.model import MODELLED_FROM, kernels, log_expected_improvement, scaled
from evo.numeric.moves import Moves
from evo.numeric.space import Array, Sample, Space
from genomes import Knob, Value

BEST, OTHERS = 3, 2  # points that candidates start from: the best, and the best that lie apart
APART = 0.25  # least distance between the latter, as a share of some knob's range
FLAT, FLAT_FROM = 2.0, 6  # noise sds from the best score to the median, below which all are alike; scores needed to say so
ANYWHERE = 0.25  # chance that a step ends anywhere in a knob's range, while all scores are alike
CANDIDATES, DRAWN, REFINED = 700, 300, 150
TRIES = 30  # candidates of a proposal without the model
COUPLED, EVOLVED, EXPECTED, DRAWN_WAY = "coupled", "evolved", "expected", "drawn"
FIRST = {COUPLED: 0.8, EVOLVED: 0.2}  # shares of the ways: until the model is asked,
EARLY = {COUPLED: 0.25, EVOLVED: 0.0, EXPECTED: 0.6, DRAWN_WAY: 0.15}  # then,
LATE = {COUPLED: 0.1, EVOLVED: 0.1, EXPECTED: 0.55, DRAWN_WAY: 0.25}  # and in the end
LATE_FROM = 60  # scores


@dataclass(frozen=True)
class Step:
    """Values that differ from the program's, and how they were found."""

    values: dict[str, Value]
    how: str


def propose(knobs: Sequence[Knob], samples: Sequence[Sample], noise_sd: float, rng: Random) -> Step | None:
    """New values of some knobs; None where nothing can be tuned or nothing new was found.

    Args:
        knobs: of the program that the values go into.
        samples: of its species, itself among them, in an order that does not depend on when they arrived.
        noise_sd: of one draw of a score.
    """
    space = Space(knobs)
    if not len(space):
        return None
    seen = _Seen(space, samples, noise_sd)
    generator = np.random.default_rng(rng.randrange(2**63))
    point, how = _point(seen, generator)
    if point is None:
        return None
    values = space.values(point)
    return Step(values, how) if values else None


@dataclass(frozen=True)
class _Model:
    """What is believed of all points, and the means at those with a score."""

    posterior: process.Posterior
    means: Array  # (n,)


class _Seen:
    """The samples as arrays, and the models of them."""

    def __init__(self, space: Space, samples: Sequence[Sample], noise_sd: float) -> None:
        self.space = space
        scored = [s for s in samples if s.val_bpb is not None]
        self.points = space.points([s.values for s in scored])
        self.pending = space.points([s.values for s in samples if s.pending])
        self.raw = np.array([s.val_bpb for s in scored], dtype=float)
        self.draws = np.array([s.draws for s in scored], dtype=float)
        self.noise_sd = noise_sd
        self.memory = memory.learn(space, samples)
        self.taken = {self.key(point) for point in space.points([s.values for s in samples])}
        self.kernels: tuple[process.Kernel, ...] = ()  # until the model is asked
        self._models: dict[int, _Model] = {}
        ranks = self.raw
        if len(scored) >= MODELLED_FROM:
            self.kernels = kernels(space.features(self.points), self.raw, self.draws, self.noise_sd, space.groups)
            ranks = self.model(0).means
        self.moves = Moves(space, _weights(space), ANYWHERE if self._flat(ranks) else 0.0)
        self.leaders = _leaders(self.points[np.argsort(ranks, kind="stable")]) if len(scored) else space.here[None, :]

    def _flat(self, believed: Array) -> bool:
        """Whether most of what was tried is as good as the best of it: then short steps show nothing."""
        if len(believed) < FLAT_FROM:
            return False
        return float(np.median(self.raw) - believed.min()) < FLAT * self.noise_sd

    def model(self, which: int) -> _Model:
        """The model by one of the kernels, of which the likeliest is the first; made when it is first asked for."""
        if which not in self._models:
            features = self.space.features(self.points)
            pending = self.space.features(self.pending) if len(self.pending) else None
            posterior = process.condition(self.kernels[which], features, *scaled(self.raw, self.draws, self.noise_sd), pending)
            self._models[which] = _Model(posterior, posterior.mean(features))
        return self._models[which]

    def key(self, point: Array) -> bytes:
        return (np.round(point, 6) + 0.0).tobytes()

    def usable(self, points: Array) -> Array:
        """(m, d) -> those that fit in memory and are new."""
        new = np.array([self.key(point) not in self.taken for point in points], dtype=bool)
        return points[self.memory.fits(points) & new] if len(points) else points


def _point(seen: _Seen, rng: Generator) -> tuple[Array | None, str]:
    """The next point, and the way that it was found."""
    scored = len(seen.raw)
    shares = FIRST if not seen.kernels else EARLY if scored < LATE_FROM else LATE
    how = str(rng.choice(list(shares), p=list(shares.values())))
    if how == COUPLED:
        found = _coupled(seen, rng)
        if found is not None:
            return found, how
        how = EVOLVED
    if how == EVOLVED or not seen.kernels:
        return _first_usable(seen, seen.moves.candidates(seen.leaders, TRIES, rng)), EVOLVED
    return _modelled(seen, seen.model(int(rng.integers(len(seen.kernels)))), how, rng), how


def _coupled(seen: _Seen, rng: Generator) -> Array | None:
    return _first_usable(seen, seen.moves.challengers(seen.leaders, TRIES, rng))


def _first_usable(seen: _Seen, points: Array) -> Array | None:
    usable = seen.usable(points)
    return usable[0] if len(usable) else None


def _modelled(seen: _Seen, model: _Model, how: str, rng: Generator) -> Array | None:
    """The best candidate by the model, refined once around itself."""
    found = None
    for count, leaders in ((DRAWN if how == DRAWN_WAY else CANDIDATES, seen.leaders), (REFINED, None)):
        around = leaders if leaders is not None else found[None, :]  # type: ignore[index]
        points = seen.usable(seen.moves.candidates(around, count, rng))
        if leaders is None and found is not None:
            points = np.vstack([found[None, :], points])
        if not len(points):
            return found
        features = seen.space.features(points)
        if how == DRAWN_WAY:
            merit = -model.posterior.draw(features, rng.standard_normal(len(points)))
            return np.asarray(points[int(np.argmax(merit))])
        mean, sd = model.posterior.predict(features)
        found = points[int(np.argmax(log_expected_improvement(float(model.means.min()), mean, sd)))]
    return found


def _leaders(points: Array) -> Array:
    """The best of (n, d) points, given best first, then the best that lie apart from all chosen ones: no basin is forgotten."""
    kept: list[Array] = []
    for count, apart in ((BEST, 1e-9), (BEST + OTHERS, APART)):
        for point in points:
            if len(kept) == count:
                break
            if all(np.abs(point - other).max() > apart for other in kept):
                kept.append(point)
    return np.array(kept)


def _weights(space: Space) -> Array:
    """How often each knob is moved: those of the knob block more often than literals inside expressions."""
    weights = np.array([1.0 if d.knob.name.partition("[")[0].isupper() else 0.2 for d in space.dimensions])
    return np.asarray(weights / weights.sum())
