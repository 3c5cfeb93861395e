"""What is believed about each genome: posterior mean and sd of its true val_bpb, from its own scores and its parents'.

Empirical Bayes, one pass over the genomes in the order of their introduction (parents first). With s² the noise of one draw,

    own scores   mean of n draws ~ N(truth, s²/n)
    prior        truth ~ parents' posterior mean + shift, with the parents' variance and a mixture of two normal spreads:
                 narrow (most edits do little; MAD of the run's own child-parent differences) and, with weight WIDE_SHARE,
                 wide (a few edits do much; the 90th percentile of the differences)

The wide part keeps a gain of many sd from being explained away as luck, which one normal would do; two-component shrinkage as in
Johnstone & Silverman, "Needles and straw in haystacks", Annals of Statistics 32 (2004). A genome without a score has no estimate:
a failure is never a number. A pure function, recomputed from all genomes: 2 ms at 1,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from evo.history import Genome

MAD_TO_SD = 1.4826  # of a normal
Z90 = 1.645  # 90 % of a normal's |z| lie below
WIDE_SHARE = 0.1  # prior weight of "this edit did much"
NOISE_FLOOR = 1e-5  # of the level of the scores: repeats of a deterministic lab agree exactly
NOISE_UNKNOWN = 5e-3  # of the level of the scores, until two draws of one genome exist
FEW = 8  # child-parent differences below which their spread is not trusted


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a genome's true val_bpb."""

    mean: float
    sd: float
    n: int  # own scores behind it


@dataclass(frozen=True)
class Belief:
    """Estimates of all scored genomes, and what they rest on. All in bits per byte."""

    of: Mapping[str, Estimate]
    noise_sd: float  # of one draw
    shift: float  # typical child minus parent
    narrow_sd: float  # spread of most children around parent + shift
    wide_sd: float  # spread of the few that differ much


def believe(genomes: Mapping[str, Genome]) -> Belief:
    """Estimates for every genome with a score. `genomes` has parents before children, as `history.fold` gives them."""
    noise = noise_sd(g.scores for g in genomes.values())
    own = {g.id: math.fsum(g.scores) / len(g.scores) for g in genomes.values() if g.scores}
    shift, narrow, wide = _spread(genomes, own, noise)
    estimates: dict[str, Estimate] = {}
    for genome in genomes.values():
        if not genome.scores:
            continue
        n = len(genome.scores)
        parents = [estimates[p] for p in genome.parents if p in estimates]
        if not parents:
            estimates[genome.id] = Estimate(own[genome.id], noise / math.sqrt(n), n)
            continue
        centre = sum(p.mean for p in parents) / len(parents) + shift
        uncertainty = sum(p.sd * p.sd for p in parents) / len(parents) ** 2
        spreads = (narrow * narrow + uncertainty, wide * wide + uncertainty)
        mean, sd = _posterior(own[genome.id], noise * noise / n, centre, spreads)
        estimates[genome.id] = Estimate(mean, sd, n)
    return Belief(estimates, noise, shift, narrow, wide)


def noise_sd(scores: Iterable[tuple[float, ...]]) -> float:
    """Pooled within-genome sd of one draw: root of the summed squares over the summed degrees of freedom."""
    squares, freedom, level, count = 0.0, 0, 0.0, 0
    for draws in scores:
        level += math.fsum(draws)
        count += len(draws)
        if len(draws) >= 2:
            mean = math.fsum(draws) / len(draws)
            squares += math.fsum((x - mean) ** 2 for x in draws)
            freedom += len(draws) - 1
    scale = abs(level) / count if count else 1.0
    if not freedom:
        return NOISE_UNKNOWN * scale
    return max(math.sqrt(squares / freedom), NOISE_FLOOR * scale)


def _spread(genomes: Mapping[str, Genome], own: Mapping[str, float], noise: float) -> tuple[float, float, float]:
    """(shift, narrow sd, wide sd) of children around their parents, robust to the many ruinous edits."""
    differences, error = [], []
    for id_, mean in own.items():
        parents = [p for p in genomes[id_].parents if p in own]
        if parents:
            differences.append(mean - sum(own[p] for p in parents) / len(parents))
            inverse = sum(1 / len(genomes[p].scores) for p in parents) / len(parents) ** 2
            error.append(1 / len(genomes[id_].scores) + inverse)
    if len(differences) < FEW:
        return 0.0, 2 * noise, 10 * noise
    shift = median(differences)
    distances = sorted(abs(d - shift) for d in differences)
    excess = (MAD_TO_SD * median(distances)) ** 2 - noise * noise * median(error)
    narrow = math.sqrt(max(excess, (noise / 2) ** 2))
    wide = max(distances[int(0.9 * (len(distances) - 1))] / Z90, 3 * narrow)
    return max(shift, 0.0), narrow, wide


def _posterior(own: float, own_variance: float, centre: float, spreads: tuple[float, float]) -> tuple[float, float]:
    """Mean and sd of the truth: each component's conjugate update, weighted by how well it foretold `own`."""
    gap = own - centre
    logs = [-0.5 * (math.log(s + own_variance) + gap * gap / (s + own_variance)) for s in spreads]
    top = max(logs)
    weights = [(1 - WIDE_SHARE) * math.exp(logs[0] - top), WIDE_SHARE * math.exp(logs[1] - top)]
    total = sum(weights)
    means = [centre + gap * s / (s + own_variance) for s in spreads]
    mean = sum(w * m for w, m in zip(weights, means, strict=True)) / total
    second = sum(w * (s * own_variance / (s + own_variance) + (m - mean) ** 2) for w, s, m in zip(weights, spreads, means, strict=True))
    return mean, math.sqrt(second / total)
