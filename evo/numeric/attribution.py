"""What each edit is worth, by an additive model with interactions over all scored genomes of a run.

Bayesian linear regression, conjugate (Bishop, "Pattern Recognition and Machine Learning", section 3.3). With s the noise of one draw:

    score of a genome   mean of n draws ~ N(base + Σ effects of its edits + Σ interactions of its pairs, s²/n + u²)
    effect              ~ N(0, t²): the prior that keeps what was seen once in a noisy score near nothing
    interaction         ~ N(0, (PAIR_SHARE t)²): shrunk harder
    t, u                not fixed: a grid of values, each point weighted by its marginal likelihood. Where there is little to learn
                        from, many points remain likely, and the sds are accordingly wide

`u` is what edits leave unexplained, so that a run that is not additive shows in wider sds instead of in confident nonsense.

An edit is there (1) or not (0). A knob that took several values is a distance from the seed's value, on the knob's own scale, and what it
is worth is a random walk outwards from there: linear between at most KNOTS knots on either side, with independent increments whose
variance grows with the width of the step. One value on either side is then the same as two independent edits, and an optimum may lie
anywhere (a line and its square were too stiff: on the instant lab, whose worths are known, fewer of them lay where the sds said).
Edits that only ever occur together are one effect: nothing can tell them apart.

Scores more than RUINOUS times as far above the usual one (the worse of the seed's and the median) as the best is below it are compressed
logarithmically, and count for less the further out they lie: how bad a ruinous edit is does not matter, and would set the scale of
everything.

Pure, and independent of the order of the genomes, to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evo.core.belief import MAD_TO_SD
from evo.numeric.space import Array

TOGETHER = 2  # least genomes with both edits, and with either alone, for a pair to be looked at
PAIRS = 100  # at most: those with the most evidence
RUINOUS = 4.0  # times the distance from the best score to the usual one
PRIOR_STEPS, UNEXPLAINED_STEPS = 8, 5  # points of the grid
DIVERGED_SDS, DIVERGED_SHARE = 10.0, 0.1  # distance above the usual score: robust sds of scores, and a share of the median; both
DOUBT = 0.05  # sd of a ruinous score, as a share of what lies beyond the usual
KNOTS = 4  # most knots of a knob's walk, on either side
PAIR_SHARE = 0.7  # prior sd of an interaction, as a share of an effect's: at 0.5, a pair that did as much as an edit was denied
BASE_SDS = 30.0  # prior sd of the base, in sds of the scores: as good as unknown
CLEAR = 2.0  # sds from zero, beyond which a worth is more than doubt
NEGLIGIBLE = 1e-4  # weight of a grid point, as a share of the likeliest one's


@dataclass(frozen=True)
class Observed:
    """A scored genome, as edits of the seed genome."""

    genome: str
    val_bpb: float  # mean of its draws
    draws: int
    edits: Mapping[str, float]  # edit -> 1, or the distance of a knob's value from the seed's; absent edits are left out


@dataclass(frozen=True)
class Effect:
    """What edits that only occur together are worth, in bits per byte: negative is better."""

    edits: tuple[str, ...]
    amount: float  # amount of the first edit that the worth holds at: 1, or a knob's distance
    worth: float
    sd: float
    genomes: int  # scored ones that have it
    values: int  # distinct amounts among them


@dataclass(frozen=True)
class Interaction:
    """What two effects are worth together beyond their sum, in bits per byte, at the amounts of the effects."""

    pair: tuple[Effect, Effect]
    worth: float
    sd: float
    together: int  # genomes that have both


@dataclass(frozen=True)
class Attribution:
    """Effects, best first, and interactions, the clearest first."""

    effects: tuple[Effect, ...]
    interactions: tuple[Interaction, ...]
    scored: int  # genomes it rests on
    unexplained_sd: float  # sd of a genome's score that neither edits nor noise explain


@dataclass(frozen=True, eq=False)
class _Term:
    """Edits that cannot be told apart, as columns."""

    edits: tuple[str, ...]
    amounts: Array  # (n,) per genome, 0 where it is not there; at most 1 in size
    columns: Array  # (n, k): how much of each step of the walk a genome has gone
    variances: Array  # (k,) prior variances of the steps, in units of t²
    shown: int  # row of the genome at whose amount it is shown

    @property
    def present(self) -> Array:
        """(n,) truth values."""
        return np.asarray(self.amounts != 0)


@dataclass(frozen=True, eq=False)
class _Design:
    """The regression's columns: base, terms, pairs."""

    matrix: Array  # (n, p)
    variances: Array  # (p,) prior variances: the base's, then those of terms and pairs in units of t²


@dataclass(frozen=True, eq=False)
class _Fit:
    """The posterior at one point of the grid."""

    log_likelihood: float
    precision: Array  # (p, p)
    projected: Array  # (p,): precision times the posterior mean
    unexplained: float


def attribute(observed: Sequence[Observed], noise_sd: float, leader: str | None = None) -> Attribution:
    """Effects and interactions of all edits.

    Args:
        observed: scored genomes, the seed genome among them, each once.
        noise_sd: of one draw, in bits per byte, above 0.
        leader: a knob is shown at this genome's value; at that of the best genome that moved it where this one did not.
    """
    rows = sorted(observed, key=lambda row: row.genome)
    terms = _terms(rows, leader)
    if not terms:
        return Attribution((), (), len(rows), 0.0)
    scores, noise = _drawn(rows, noise_sd)
    pairs = _pairs(terms)
    spread = max(float(np.std(scores)), noise_sd)
    design = _design(terms, pairs, len(rows), BASE_SDS * spread)
    asked = _asked(terms, pairs)
    mean, sd, unexplained = _posterior(design, asked, (scores - scores.mean(), noise), (noise_sd, spread))
    effects = [
        Effect(t.edits, rows[t.shown].edits[t.edits[0]], float(m), float(s), int(t.present.sum()), len(set(t.amounts[t.present])))
        for t, m, s in zip(terms, mean, sd, strict=False)
    ]
    interactions = [
        Interaction((effects[i], effects[j]), float(m), float(s), int((terms[i].present & terms[j].present).sum()))
        for (i, j), m, s in zip(pairs, mean[len(terms) :], sd[len(terms) :], strict=True)
    ]
    return Attribution(
        tuple(sorted(effects, key=lambda e: (e.worth, e.edits))),
        tuple(sorted(interactions, key=lambda i: (-abs(i.worth) / i.sd, i.pair[0].edits, i.pair[1].edits))),
        len(rows),
        unexplained,
    )


def diverged(observed: Sequence[Observed], noise_sd: float) -> frozenset[str]:
    """Genomes whose score no longer shows the worth of an edit: further above the usual one than both the spread and the size of scores
    explain.

    Even compressed, such a score counts against every edit in it, though all it shows is that training broke.
    """
    if not observed:
        return frozenset()
    raw = np.array([row.val_bpb for row in observed])
    centre = float(np.median(raw))
    usual = max([centre, *(row.val_bpb for row in observed if not row.edits)])
    spread = max(MAD_TO_SD * float(np.median(np.abs(raw - centre))), noise_sd)
    limit = usual + max(DIVERGED_SDS * spread, DIVERGED_SHARE * centre)
    return frozenset(row.genome for row in observed if row.val_bpb > limit)


def _drawn(rows: Sequence[Observed], noise_sd: float) -> tuple[Array, Array]:
    """(n,) scores with the ruinous ones compressed, and (n,) their variances: from noise, and from what lies beyond the usual."""
    raw, draws = np.array([row.val_bpb for row in rows]), np.array([row.draws for row in rows])
    usual = max([float(np.median(raw)), *(row.val_bpb for row in rows if not row.edits)])
    band = RUINOUS * max(usual - float(raw.min()), 3 * noise_sd)
    beyond = band * np.log1p(np.maximum(raw - usual - band, 0.0) / band)
    return np.minimum(raw, usual + band) + beyond, noise_sd**2 / draws + (DOUBT * beyond) ** 2


def _terms(rows: Sequence[Observed], leader: str | None) -> list[_Term]:
    """All edits as columns, those with equal columns as one; in the order of their names."""
    alike: dict[bytes, tuple[list[str], Array]] = {}
    for edit in sorted({edit for row in rows for edit in row.edits}):
        amounts = np.array([row.edits.get(edit, 0.0) for row in rows])
        if not amounts.any():
            continue
        values = set(amounts[amounts != 0])
        column = amounts if len(values) > 1 else (amounts != 0).astype(float)
        alike.setdefault(column.tobytes(), ([], column))[0].append(edit)
    order = sorted(range(len(rows)), key=lambda i: (rows[i].genome != leader, rows[i].val_bpb, i))
    return [_term(tuple(edits), amounts, order) for edits, amounts in alike.values()]


def _term(edits: tuple[str, ...], amounts: Array, order: Sequence[int]) -> _Term:
    scaled = amounts / np.abs(amounts).max()
    steps = [(side * lower, side * upper) for side in (1, -1) for lower, upper in _steps(np.unique(side * scaled[side * scaled > 0]))]
    columns = np.column_stack([np.clip((scaled - start) / (end - start), 0.0, 1.0) for start, end in steps])
    variances = np.array([abs(end - start) for start, end in steps])
    return _Term(edits, scaled, columns, variances, next(i for i in order if amounts[i] != 0))


def _steps(distances: Array) -> list[tuple[float, float]]:
    """The steps of a walk from 0 outwards to the furthest of the ascending distances, by at most KNOTS of them, spread evenly."""
    picked = distances[np.unique(np.linspace(0, len(distances) - 1, KNOTS).round().astype(int))] if len(distances) > KNOTS else distances
    return list(zip([0.0, *picked[:-1]], picked, strict=True)) if len(picked) else []


def _pairs(terms: Sequence[_Term]) -> list[tuple[int, int]]:
    """Pairs that occur together and apart; those with the most genomes in the rarest case, in the order of terms."""
    present = np.array([t.present for t in terms], dtype=float)  # (t, n)
    both = present @ present.T
    alone = present.sum(axis=1)[:, None] - both  # the first without the second
    evidence = np.minimum(both, np.minimum(alone, alone.T))
    found = [(i, j) for i, j in zip(*np.nonzero(evidence >= TOGETHER), strict=True) if i < j]
    found.sort(key=lambda pair: (-evidence[pair], pair))
    return sorted((int(i), int(j)) for i, j in found[:PAIRS])


def _design(terms: Sequence[_Term], pairs: Sequence[tuple[int, int]], n: int, base_sd: float) -> _Design:
    """The regression's columns. Those of interactions are centred: an effect is then what it is worth on average over the run, not on the
    seed genome alone."""
    centred = [t.amounts - t.amounts.mean() for t in terms]
    columns: list[Array] = [np.ones((n, 1)), *(t.columns for t in terms), *((centred[i] * centred[j])[:, None] for i, j in pairs)]
    variances = [np.array([base_sd**2]), *(t.variances for t in terms), np.full(len(pairs), PAIR_SHARE**2)]
    return _Design(np.hstack(columns), np.concatenate(variances))


def _asked(terms: Sequence[_Term], pairs: Sequence[tuple[int, int]]) -> Array:
    """(terms + pairs, p): the combinations of coefficients that are reported."""
    width = 1 + sum(len(t.variances) for t in terms) + len(pairs)
    asked, at = np.zeros((len(terms) + len(pairs), width)), 1
    for row, term in enumerate(terms):
        asked[row, at : at + len(term.variances)] = term.columns[term.shown]
        at += len(term.variances)
    for row, (i, j) in enumerate(pairs):
        asked[len(terms) + row, at + row] = terms[i].amounts[terms[i].shown] * terms[j].amounts[terms[j].shown]
    return asked


def _posterior(design: _Design, asked: Array, data: tuple[Array, Array], scales: tuple[float, float]) -> tuple[Array, Array, float]:
    """(mean, sd) of what is asked, and the unexplained sd: mixtures over the grid.

    Args:
        data: (n,) centred scores, and (n,) variances of their noise.
        scales: sd of the noise and of the scores: the grid lies around and between them.
    """
    noise_sd, spread = scales
    priors = np.geomspace(noise_sd / 4, 4 * spread, PRIOR_STEPS)
    unexplained = (0.0, *np.geomspace(noise_sd / 4, spread, UNEXPLAINED_STEPS - 1))
    fits = [fit for u in unexplained for fit in _fits(design, data, u, priors)]
    weights = np.exp(np.array([f.log_likelihood for f in fits]) - max(f.log_likelihood for f in fits))
    likely = [(w, f) for w, f in zip(weights / weights.sum(), fits, strict=True) if w > NEGLIGIBLE * weights.max() / weights.sum()]
    total = sum(w for w, _ in likely)
    mean, square, left = np.zeros(len(asked)), np.zeros(len(asked)), 0.0
    for weight, fit in likely:
        solved = np.linalg.solve(fit.precision, np.column_stack([fit.projected, asked.T]))  # (p, 1 + asked)
        centre = asked @ solved[:, 0]
        mean += weight / total * centre
        square += weight / total * (np.einsum("kp,pk->k", asked, solved[:, 1:]) + centre**2)
        left += weight / total * fit.unexplained**2
    return mean, np.sqrt(np.maximum(square - mean**2, 1e-300)), math.sqrt(left)


def _fits(design: _Design, data: tuple[Array, Array], unexplained: float, prior_sds: Array) -> list[_Fit]:
    """One fit for each prior sd of an effect."""
    y, noise = data
    variances = noise + unexplained**2
    weighted = design.matrix / variances[:, None]
    gram, projected = weighted.T @ design.matrix, weighted.T @ y
    constant = float(np.log(variances).sum() + (y * y / variances).sum())
    fits = []
    for prior_sd in prior_sds:
        prior = np.concatenate([design.variances[:1], design.variances[1:] * prior_sd**2])
        precision = gram + np.diag(1 / prior)
        root = np.linalg.cholesky(precision)
        explained = float(projected @ np.linalg.solve(precision, projected))
        determinant = 2 * float(np.log(np.diag(root)).sum()) + float(np.log(prior).sum())
        fits.append(_Fit(-0.5 * (constant + determinant - explained), precision, projected, unexplained))
    return fits
