"""How fast the machine was in each run, and by how much that is believed to have moved the score.

Under a budget of seconds a score is as good as the tokens that the program got through, and on a machine that others use too that varies
with them: most of the noise of repeats is throughput. What can be told of it is taken off the scores before programs are compared:

    log tokens of a draw = centre of its cost class + what the program's own cost differs + pace of the machine
    score of a draw      = truth + slope * pace + noise

A cost class has the genomes with as many parameters and tokens per step as one another: most edits of numbers do not change what a step
costs. Its centre is the median of its members, drawn towards what a line through all classes expects of those two. A genome that differs
from its class by more than paces do is taken to cost that (two normals, as in evo/belief.py), so that a
program is not praised for being slow; where nothing is like it it keeps its scores. The slope is that of least squares over repeats of one
genome or, where that is surer, the seasonal Kendall one (Hirsch, Slack and Smith, Water Resources Research 18, 1982) over siblings, whose
median no ruinous edit and no trend of the run bends. Nothing is taken off before one of the two has shown it, and before repeats have shown
how the machine's pace varies.

Tokens are the program's word. What a lie of it can move is the search's opinion, within a few standard deviations of the pace and until it
is drawn again; announcements compare fresh scores as they are. Pure: a function of all genomes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from evo.belief import MAD_TO_SD, Z90, trust_in_wide, within
from evo.history import Genome, History
from evo.numeric.model import scheduled

LATEST = 200  # genomes that the slope is learned from: the cost stays bounded
KNOWN = 2000  # genomes that the rest is learned from, the latest: likewise
Z = 2.33  # of a normal, exceeded at one end by chance in 1 of 100
LEAST_FREEDOM = 5  # of repeats that tell the machine's pace
LEAST_MEMBERS = 4  # of a class that tells how costs differ in it
LEAST_CLASSES = 6  # that tell how cost goes by size
GRID = 0.1  # in logarithms, of what is learned: it is to stay where it is while little is learned
CENTRE_STEPS = 8  # of a class's centre in an sd of the pace
LEAST_COST_SHARE = 0.25  # programs of a class differ in cost by at least this share of a pace, as an sd; so do classes from the line


@dataclass(frozen=True)
class Pace:
    """What a run knows of its machines. Logarithms are natural, of tokens in one budget."""

    slope: float  # val_bpb per unit of log tokens that the machine gives or takes; below 0
    sd: float  # of log tokens among draws of one program
    cost_sd: float  # of what most programs of a class cost, in log tokens
    odd_sd: float  # of what the odd ones cost
    noise_sd: float  # of a draw, its pace known
    classes: Mapping[tuple[int, int], tuple[float, float]]  # cost -> centre of its log tokens, and the sd of that
    line: tuple[float, float, float] | None  # log tokens of any class by `_terms`; None where too few classes are known
    line_sd: float  # of classes around it


def fit(genomes: Mapping[str, Genome]) -> Pace | None:
    """None where the run's own data do not show that pace moves scores. Learned when there are a fifth more genomes, and coarsely: what was
    taken off a score is to stay."""
    scored = [genome for genome in genomes.values() if genome.amounts]
    known = scored[: scheduled(len(scored))][-KNOWN:]
    slope = _slope(known)
    squares, freedom = within(genome.amounts for genome in known)
    if slope is None or freedom < LEAST_FREEDOM or not squares:
        return None
    sd = math.sqrt(squares / freedom)
    members = _classes(known)
    gaps = sorted(abs(gap) for m in members.values() if len(m) >= LEAST_MEMBERS for gap in _gaps(m)) or [0.0]
    narrow = math.sqrt(max((MAD_TO_SD * gaps[len(gaps) // 2]) ** 2 - sd**2, (LEAST_COST_SHARE * sd) ** 2))
    wide = max(gaps[int(0.9 * (len(gaps) - 1))] / Z90, 3 * narrow, 3 * sd)
    noise = _noise([_draws(genome)[bool(genome.parents) :] for genome in known], slope)
    line, line_sd = _line(members, sd**2 + narrow**2, LEAST_COST_SHARE * sd)
    classes = {}
    for cost, found in members.items():
        variance = (sd**2 + narrow**2) * math.pi / 2 / len(found)  # of a median
        centre, share = median(map(_mean, found)), variance / (variance + line_sd**2)  # that the line has in it
        if line is not None or len(found) > 1:
            centre = centre if line is None else (1 - share) * centre + share * _on(line, cost)
            classes[cost] = _gridded(centre, sd), _coarse(math.sqrt((1 - share) * variance))
    return Pace(-_coarse(-slope), _coarse(sd), _coarse(narrow), _coarse(wide), _coarse(noise), classes, line, _coarse(line_sd))


def _noise(repeats: Sequence[Sequence[tuple[float, float]]], slope: float) -> float:
    """Sd of a draw, its pace known; doubted by one draw as it was, as in evo/belief.py."""
    raw, freedom = within([score for _, score in draws] for draws in repeats)
    left, _ = within([score - slope * amount for amount, score in draws] for draws in repeats)
    return math.sqrt((left + raw / freedom) / freedom) if freedom else 0.0


def _line(
    classes: Mapping[tuple[int, int], Sequence[Genome]], within: float, least: float
) -> tuple[tuple[float, float, float] | None, float]:
    """Least squares of the classes' medians on `_terms`, weighted by members, and the sd of classes around it; (None, inf) with too few.

    Args:
        within: variance of a genome around its class.
        least: the sd is at least this.
    """
    if len(classes) < LEAST_CLASSES:
        return None, math.inf
    counts = np.array([len(members) for members in classes.values()])
    medians = np.array([median(map(_mean, members)) for members in classes.values()])
    terms, weights = np.array([_terms(cost) for cost in classes]), np.sqrt(counts)
    found = np.linalg.lstsq(terms * weights[:, None], medians * weights, rcond=None)[0]
    around = MAD_TO_SD * float(np.median(np.abs(medians - terms @ found)))
    sd = math.sqrt(max(around**2 - within * float(np.median(1 / counts)), least**2))
    return (float(found[0]), float(found[1]), float(found[2])), sd


def _terms(cost: tuple[int, int]) -> tuple[float, float, float]:
    return 1.0, math.log(max(1, cost[0])), math.log(max(1, cost[1]))


def _on(line: Sequence[float], cost: tuple[int, int]) -> float:
    """Log tokens that a line expects of a class."""
    return math.fsum(a * b for a, b in zip(line, _terms(cost), strict=True))


def _gridded(centre: float, sd: float) -> float:
    return round(centre / sd * CENTRE_STEPS) * sd / CENTRE_STEPS


def _coarse(value: float) -> float:
    """On a grid of steps of a tenth."""
    return math.exp(round(math.log(value) / GRID) * GRID) if 0 < value < math.inf else value


class Leveller:
    """Takes what is believed to be the machine's doing off the scores of one growing history; remembers whom it levelled how."""

    def __init__(self) -> None:
        self._pace: Pace | None = None
        self._done: dict[str, tuple[Genome, Genome]] = {}  # id -> as told, levelled

    def __call__(self, history: History) -> History:
        """The history with the `excess` of each score, and what the draws are then worth; as it is where nothing is known."""
        pace = fit(history.genomes)
        if pace is None:
            return history
        if pace != self._pace:
            self._pace, self._done = pace, {}
        for id_, genome in history.genomes.items():
            if self._done.get(id_, (None,))[0] is not genome:
                self._done[id_] = genome, _level(genome, pace)
        return dataclasses.replace(history, genomes={id_: self._done[id_][1] for id_ in history.genomes})


def _level(genome: Genome, pace: Pace) -> Genome:
    if not genome.amounts:
        return genome
    n, mean = len(genome.amounts), _mean(genome)
    machine, variance = 0.0, pace.sd**2 / n
    if genome.cost in pace.classes:
        centre, sd = pace.classes[genome.cost]
        machine, known = _machine(mean - centre, n, pace, pace.cost_sd)
        variance = min(variance, known + sd**2)
    elif pace.line is not None:
        centre = _gridded(_on(pace.line, genome.cost), pace.sd)
        machine, variance = _machine(mean - centre, n, pace, math.hypot(pace.cost_sd, pace.line_sd))
    worth = 1 / (1 / n + pace.slope**2 * variance / pace.noise_sd**2) if pace.noise_sd else float(n)
    excess = tuple(pace.slope * (machine + amount - mean) for amount in genome.amounts)
    return dataclasses.replace(genome, excess=excess, draws=worth)


def _machine(gap: float, draws: int, pace: Pace, usual: float) -> tuple[float, float]:
    """Posterior mean and variance of the mean pace of a genome's draws.

    What it differs from its class by is the machine's doing, less the usual difference of costs (an sd); an odd program's is all its own.
    """
    noise = pace.sd**2 / draws
    odd = trust_in_wide(gap, noise, usual**2, max(pace.odd_sd, 3 * usual) ** 2)
    own = usual**2 / (usual**2 + noise)
    mean = (1 - odd) * (1 - own) * gap
    square = (1 - odd) * (own * noise + ((1 - own) * gap) ** 2) + odd * noise
    return mean, square - mean**2


def _gaps(members: Sequence[Genome]) -> list[float]:
    """Their log tokens less the median."""
    means = [_mean(genome) for genome in members]
    centre = median(means)
    return [mean - centre for mean in means]


def _classes(genomes: Iterable[Genome]) -> dict[tuple[int, int], list[Genome]]:
    """Those that cost alike, as far as can be seen."""
    found: dict[tuple[int, int], list[Genome]] = {}
    for genome in genomes:
        found.setdefault(genome.cost, []).append(genome)
    return found


def _draws(genome: Genome) -> list[tuple[float, float]]:
    """(log tokens, score) of each."""
    return list(zip(genome.amounts, genome.scores, strict=True))


def _mean(genome: Genome) -> float:
    """Of its log tokens."""
    return math.fsum(genome.amounts) / len(genome.amounts)


def _slope(genomes: Sequence[Genome]) -> float | None:
    """val_bpb per unit of log tokens, None unless likely below 0: of repeats or of siblings, whichever are surer."""
    repeats: list[list[tuple[float, float]]] = []
    siblings: dict[object, list[tuple[float, float]]] = {}
    for genome in genomes[-LATEST:]:
        draws = _draws(genome)
        if genome.parents:  # who is drawn again was lucky in its first draw
            siblings.setdefault((genome.parents[0], genome.cost), []).append(draws[0])
            draws = draws[1:]
        repeats.append(draws)
    z, slope = min(_least_squares(repeats), _kendall(siblings.values()))
    return slope if z <= -Z and slope < 0 else None


def _least_squares(families: Iterable[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """(z, slope) of y on x within families. Of a t with f degrees of freedom, z by Wallace, Annals of Mathematical Statistics 30 (1959)."""
    left, freedom = [], -1
    for family in families:
        if len(family) >= 2:
            left.append(np.array(family) - np.mean(family, axis=0))
            freedom += len(family) - 1
    if freedom < 1:
        return 0.0, 0.0
    x, y = np.concatenate(left).T
    xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    if not xx or not yy:
        return 0.0, 0.0
    unexplained = max(yy - xy * xy / xx, 1e-12 * yy)
    z = math.sqrt(freedom * math.log1p(xy * xy / xx / unexplained)) * (8 * freedom + 1) / (8 * freedom + 3)
    return math.copysign(z, xy), xy / xx


def _kendall(families: Iterable[Sequence[tuple[float, float]]]) -> tuple[float, float]:
    """(z of the concordance of x and y within families, median of the slopes of y on x)."""
    slopes, concordance, variance = [], 0, 0.0
    for family in families:
        n = len(family)
        if n >= 2:
            x, y = np.array(family).T
            first, second = np.triu_indices(n, 1)
            dx, dy = x[first] - x[second], y[first] - y[second]
            concordance += int(np.sum(np.sign(dx) * np.sign(dy)))
            variance += n * (n - 1) * (2 * n + 5) / 18
            slopes.append(dy[dx != 0] / dx[dx != 0])
    found = np.concatenate(slopes) if slopes else np.array([])
    return (concordance / math.sqrt(variance), float(np.median(found))) if len(found) else (0.0, 0.0)
