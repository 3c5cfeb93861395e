"""Candidates around the better points: steps along a few knobs, coupled moves, crossings, differences. Many at once, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator

from evo.numeric import lore
from evo.numeric.scales import LINEAR, LOG
from evo.numeric.space import CHOICE, Array, Space

MOST_AXES = 4  # most knobs that one step moves, usually one or two
REACH = (0.02, 0.3)  # length of a step, as a share of the range; drawn in between on a logarithmic scale
STRENGTH = (0.5, 1.5)  # factor on a coupled move
FARTHER = 0.6  # chance that another coupled move follows
SINGLE = 0.35  # chance that a step follows another kind of move
LEADING = 0.4  # chance that a candidate starts from the best, else from the next, and so on
ANYONE = 0.2  # chance that it starts from any leader, all equally likely
CHALLENGED = 0.65  # LEADING for a challenge by a coupled move
BEYOND = 0.1  # steps that go farther than this beyond the lower end stop there: zero is special
STEP, COUPLED, CROSSED, DIFFERENCE = range(4)
SHARES = (0.5, 0.25, 0.15, 0.1)  # of candidates, by kind of move


@dataclass(frozen=True)
class Moves:
    """How points of a space move.

    weights: (d,) how often each knob is moved, summing to 1.
    anywhere: chance that a step along a knob ends anywhere in its range.
    """

    space: Space
    weights: Array
    anywhere: float = 0.0

    def candidates(self, leaders: Array, count: int, rng: Generator) -> Array:
        """(count, d) points around `leaders`, (k, d), best first."""
        points = self._from(leaders, count, rng)
        kinds = rng.choice(4, size=count, p=SHARES)
        if len(leaders) < 3:
            kinds[kinds >= CROSSED] = STEP
        if not len(self._drawn_by):
            kinds[kinds == COUPLED] = STEP
        for kind, move in ((COUPLED, self.coupled), (CROSSED, self._crossed), (DIFFERENCE, self._moved_by_difference)):
            rows = kinds == kind
            points[rows] = move(points[rows], leaders, rng)
        rows = (kinds == STEP) | (rng.random(count) < SINGLE)
        points[rows] = self.stepped(points[rows], rng)
        return self.space.snapped(points)

    def challengers(self, leaders: Array, count: int, rng: Generator) -> Array:
        """(count, d): coupled moves of leaders, and nothing else."""
        points = self._from(leaders, count, rng, CHALLENGED)
        return self.space.snapped(self.coupled(points, leaders, rng)) if len(self._drawn_by) else points[:0]

    def _from(self, leaders: Array, count: int, rng: Generator, share: float = LEADING) -> Array:
        best_first = np.minimum(rng.geometric(share, count) - 1, len(leaders) - 1)
        return leaders[np.where(rng.random(count) < ANYONE, rng.integers(len(leaders), size=count), best_first)].copy()

    def stepped(self, points: Array, rng: Generator) -> Array:
        """Each point moved along a few knobs."""
        m, d = points.shape
        axes = np.minimum(rng.geometric(0.5, m), min(MOST_AXES, d))
        keys = rng.gumbel(size=(m, d)) + np.log(self.weights)  # the largest k of them are a draw without replacement
        chosen = keys.argsort(1).argsort(1) >= d - axes[:, None]
        low, high = np.log(REACH)
        reach = np.maximum(np.exp(rng.uniform(low, high, (m, d))), self._grain(points))
        moved = points + reach * rng.standard_normal((m, d))
        moved = np.where(moved < 0, np.where(moved < -BEYOND, 0.0, -moved / 2), np.minimum(moved, 1.0))
        if self.anywhere:
            moved = np.where(rng.random((m, d)) < self.anywhere, rng.random((m, d)), moved)
        others = np.floor(rng.random((m, d)) * (self._choices - 1))
        moved = np.where(self._choices > 1, others + (others >= points), moved)
        return np.where(chosen, moved, points)

    def coupled(self, points: Array, leaders: Array, rng: Generator) -> Array:
        """Each point moved by one coupled move, or by a few in a row."""
        rows = np.ones(len(points), dtype=bool)
        while rows.any():
            count = int(rows.sum())
            which = rng.choice(len(self._drawn_by), size=count, p=self._drawn_by)
            strength = np.where(self._doubling, 1.0, rng.uniform(*STRENGTH, count)[:, None])
            change = self._changes[which]
            here = np.where(self._scaled, self._low + points[rows] * self._span, 1.0)
            scaled = (here * np.exp(strength * change) - self._low) / self._span
            shifted = points[rows] + strength * (change / self._span)
            points[rows] = np.clip(np.where(self._scaled & (change != 0), scaled, shifted), 0.0, self._most)
            rows[rows] = rng.random(count) < FARTHER
        return points

    def _crossed(self, points: Array, leaders: Array, rng: Generator) -> Array:
        other = leaders[rng.integers(len(leaders), size=len(points))]
        return np.where(rng.random(points.shape) < 0.5, other, points)

    def _moved_by_difference(self, points: Array, leaders: Array, rng: Generator) -> Array:
        """Differential evolution, Storn & Price 1997."""
        a, b = (leaders[rng.integers(len(leaders), size=len(points))] for _ in range(2))
        return np.where(self._choices > 1, points, points + rng.uniform(0.3, 1.0, (len(points), 1)) * (a - b))

    def _grain(self, points: Array) -> Array:
        """(m, d) distance to the next whole number, which a smaller step would not reach."""
        return np.where(self._growing, self._grains / np.exp(np.minimum(self._low + points * self._span, 50.0)), self._grains)

    # ---- what never changes, by dimension

    @cached_property
    def _low(self) -> Array:
        return np.array([d.low for d in self.space.dimensions])

    @cached_property
    def _span(self) -> Array:
        return np.array([d.high - d.low for d in self.space.dimensions])

    @cached_property
    def _choices(self) -> Array:
        return np.array([len(d.choices) if d.scale == CHOICE else 1 for d in self.space.dimensions], dtype=float)

    @cached_property
    def _most(self) -> Array:
        return np.asarray(np.maximum(self._choices - 1, 1.0))

    @cached_property
    def _doubling(self) -> Array:
        return np.array([d.knob.kind == "power_of_two" for d in self.space.dimensions])

    @cached_property
    def _growing(self) -> Array:
        """Which dimensions are whole numbers on a logarithmic scale."""
        return np.array([d.whole and d.scale == LOG and d.knob.kind != "power_of_two" for d in self.space.dimensions])

    @cached_property
    def _grains(self) -> Array:
        double = np.where(self._doubling, np.log(2), 1.0)
        return np.where([d.whole for d in self.space.dimensions], double / self._span, 0.0)

    @cached_property
    def _scaled(self) -> Array:
        """Which dimensions a coupled move scales by a factor: numbers on a linear scale, unless they are shares. All others it shifts."""
        return np.array([d.scale == LINEAR and lore.role(d.knob) not in lore.SHIFTED for d in self.space.dimensions])

    @cached_property
    def _lore(self) -> tuple[lore.Coupled, ...]:
        return lore.applicable([d.knob for d in self.space.dimensions])

    @cached_property
    def _drawn_by(self) -> Array:
        weights = np.array([move.weight for move in self._lore])
        return weights / weights.sum() if len(weights) else weights

    @cached_property
    def _changes(self) -> Array:
        """(moves, d) what a coupled move does to each dimension: the logarithm of a factor, or a shift."""
        moved = [(lore.role(d.knob), d.scale in (LINEAR, LOG)) for d in self.space.dimensions]
        return np.array([[move.changes.get(role, 0.0) if may else 0.0 for role, may in moved] for move in self._lore])
