"""The models of scores over knobs: proposals fit knobs and memory, the mathematics agrees with first principles, beliefs flatter less."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import genomes
from evo.core.belief import believe
from evo.core.history import Genome
from evo.numeric import lore, memory, process
from evo.numeric.model import compressed, expanded, log_expected_improvement
from evo.numeric.moves import Moves
from evo.numeric.propose import Step, propose
from evo.numeric.refine import refine
from evo.numeric.space import Sample, Space

TEXT = (Path(__file__).parent.parent / "trainer" / "train.py").read_text()
KNOBS = genomes.knobs(TEXT)
TUNABLE = [knob for knob in KNOBS if knob.tunable]
BASE = {knob.name: knob.value for knob in TUNABLE}
SMALL = """
MATRIX_LR = 0.04  # range 0.004..0.4 log
WARMDOWN_RATIO = 0.5  # range 0.0..1.0 linear
DEPTH = 8  # range 2..24 linear
TOTAL_BATCH_SIZE = 65536  # power of two, range 4096..1048576 log
DEVICE_BATCH_SIZE = 64  # power of two, range 8..512 log
WINDOW = "S"  # one of S, L
"""
FEW = genomes.knobs(SMALL)
SPACE = Space(FEW)
NOISE_SD = 0.001


def bowl(values: dict[str, genomes.Value]) -> float:
    """A smooth truth whose best lies at half the batch's range, away from the program."""
    place = SPACE.point(values)
    return 1.0 + 0.1 * float(((place[:5] - np.array([0.35, 0.8, 0.5, 0.3, 0.5])) ** 2).sum()) + 0.01 * place[5]


def seen(count: int, seed: int) -> list[Sample]:
    """Members at random places with noisy scores."""
    rng = np.random.default_rng(seed)
    places = SPACE.snapped(rng.random((count, len(SPACE))) * np.array([1, 1, 1, 1, 1, 2.0]) - np.array([0, 0, 0, 0, 0, 0.5]))
    values = [{knob.name: knob.value for knob in FEW} | SPACE.values(place) for place in places]
    return [Sample(v, bowl(v) + NOISE_SD * rng.standard_normal(), memory_gib=1.0) for v in values]


# ---- coordinates


@pytest.mark.parametrize("knob", TUNABLE, ids=lambda knob: knob.name)
def test_a_programs_own_place_stands_for_its_own_value(knob: genomes.Knob) -> None:
    space = Space([knob])
    for dimension, place in zip(space.dimensions, space.here, strict=True):
        back = dimension.value(float(place))
        assert type(back) is type(knob.value)
        assert back == knob.value or math.isclose(float(back), float(knob.value), rel_tol=0.01)
    assert space.values(space.here) == {}


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_snapped_places_are_those_of_the_values_that_are_written(seed: int) -> None:
    points = SPACE.snapped(np.random.default_rng(seed).uniform(-0.2, 1.2, (5, len(SPACE))))
    for point in points:
        again = SPACE.point(SPACE.values(point))
        whole = [d.whole or d.scale == "choice" for d in SPACE.dimensions]
        assert np.allclose(again[whole], point[whole], atol=1e-9)
        assert np.allclose(again, point, atol=0.01)


# ---- proposals


@example(seed=1165, scores=15)  # a factor of 2 that ranges from a quarter became 0
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_whatever_is_proposed_can_be_written_and_stays_within_the_knobs_ranges(seed: int, scores: int) -> None:
    rng = Random(seed)
    known = {knob.name: knob for knob in TUNABLE}
    samples = [Sample(BASE, 1.0)]
    for _ in range(scores):
        knob = rng.choice([k for k in TUNABLE if k.kind == "float" and k.low < k.high])
        samples.append(Sample({**BASE, knob.name: rng.uniform(knob.low, knob.high)}, 1.0 + 0.01 * rng.random()))
    step = propose(KNOBS, samples, NOISE_SD, Random(seed))
    assert step is not None
    for name, value in step.values.items():
        if known[name].kind == "choice":
            assert value in known[name].choices
        elif known[name].kind != "bool":
            assert known[name].low <= float(value) <= known[name].high
    child = genomes.set_knobs(TEXT, step.values)
    assert genomes.species(child) == genomes.species(TEXT)
    assert genomes.identity(child) != genomes.identity(TEXT)
    assert propose(KNOBS, samples, NOISE_SD, Random(seed)) == step


def test_proposals_come_nearer_to_the_best_than_what_was_seen() -> None:
    samples = seen(40, 1)
    found = [bowl({knob.name: knob.value for knob in FEW} | propose(FEW, samples, NOISE_SD, Random(s)).values) for s in range(20)]
    assert float(np.median(found)) < sorted(bowl(s.values) for s in samples)[3]


def test_nothing_is_proposed_twice_and_nothing_that_is_under_way() -> None:
    samples = seen(12, 2)
    for number in range(15):
        step = propose(FEW, samples, NOISE_SD, Random(number))
        assert step is not None
        values = {knob.name: knob.value for knob in FEW} | step.values
        assert values not in [s.values for s in samples]
        samples.append(Sample(values, pending=True))


@pytest.mark.parametrize(("lead", "flat"), [(1, True), (20, False)])
def test_steps_go_anywhere_while_all_scores_are_alike(monkeypatch: pytest.MonkeyPatch, lead: float, flat: bool) -> None:
    """A gain that lies far off along one knob is out of reach of steps that grow from what was best by chance."""
    rng = np.random.default_rng(0)
    places = SPACE.snapped(SPACE.here + 0.05 * rng.standard_normal((12, len(SPACE))))
    values = [{knob.name: knob.value for knob in FEW} | SPACE.values(place) for place in places]
    samples = [Sample(v, 1.0 + NOISE_SD * (0.5 * rng.standard_normal() - lead * (i == 0))) for i, v in enumerate(values)]

    def proposed() -> list[Step | None]:
        return [propose(FEW, samples, NOISE_SD, Random(number)) for number in range(20)]

    far_and_near = proposed()
    monkeypatch.setattr("evo.numeric.propose.ANYWHERE", 0.0)
    assert (far_and_near != proposed()) == flat


def test_a_step_that_goes_anywhere_reaches_the_whole_range() -> None:
    here = np.tile(SPACE.here, (400, 1))
    even = np.full(len(SPACE), 1 / len(SPACE))
    near, far = (Moves(SPACE, even, anywhere).stepped(here, np.random.default_rng(0)) for anywhere in (0.0, 1.0))
    for axis in range(2):  # numbers on a logarithmic and on a linear scale
        moved = far[far[:, axis] != SPACE.here[axis], axis]
        assert np.allclose(np.quantile(moved, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.12)
        assert np.abs(near[:, axis] - SPACE.here[axis]).mean() < np.abs(far[:, axis] - SPACE.here[axis]).mean()


def test_nothing_to_tune_gives_nothing() -> None:
    assert propose([knob for knob in KNOBS if not knob.tunable], [Sample(BASE, 1.0)], NOISE_SD, Random(0)) is None


# ---- what the field knows


def test_roles_are_read_off_the_names_of_the_labs_own_program() -> None:
    roles = {knob.name: lore.role(knob) for knob in TUNABLE}
    expected = {
        "DEPTH": lore.DEPTH,
        "ASPECT_RATIO": lore.WIDTH,
        "HEAD_DIM": lore.HEAD,
        "TOTAL_BATCH_SIZE": lore.BATCH,
        "DEVICE_BATCH_SIZE": lore.ROWS,
        "MATRIX_LR": lore.RATE,
        "WEIGHT_DECAY": lore.DECAY,
        "WARMUP_RATIO": lore.WARMUP,
        "WARMDOWN_RATIO": lore.WARMDOWN,
        "FINAL_LR_FRAC": lore.FINAL,
    }
    assert {name: roles[name] for name in expected} == expected


def test_a_coupled_move_takes_the_rates_along_with_the_batch() -> None:
    moves, rng = Moves(SPACE, np.full(len(SPACE), 1 / len(SPACE))), np.random.default_rng(0)
    batch, rate = (next(i for i, d in enumerate(SPACE.dimensions) if d.knob.name == n) for n in ("TOTAL_BATCH_SIZE", "MATRIX_LR"))
    points = moves.challengers(SPACE.here[None, :], 400, rng)
    together = (points[:, batch] < SPACE.here[batch]) & (points[:, rate] < SPACE.here[rate])
    assert together.mean() > 0.1
    assert {lore.RATE, lore.BATCH} <= set(lore.applicable(FEW)[0].changes)


# ---- memory


def needs(values: dict[str, genomes.Value]) -> float:
    return 0.05 * float(values["DEVICE_BATCH_SIZE"]) * float(values["DEPTH"]) ** 1.5 / 10


def test_what_will_not_fit_is_learned_and_hardly_proposed() -> None:
    """A machine of 12 GiB, half of whose knob ranges do not fit: after a few samples nearly nothing that is proposed fails."""
    base = {knob.name: knob.value for knob in FEW}
    samples = [Sample(base, bowl(base), draws=4, memory_gib=needs(base))]
    failed = []
    for number in range(40):
        values = base | propose(FEW, samples, NOISE_SD, Random(number)).values
        failed.append(needs(values) > 12)
        samples.append(Sample(values, out_of_memory=True) if failed[-1] else Sample(values, bowl(values), memory_gib=needs(values)))
    assert sum(failed[20:]) <= 2


def test_memory_that_nobody_reports_forbids_nothing() -> None:
    model = memory.learn(SPACE, [Sample({knob.name: knob.value for knob in FEW}, 1.0), Sample({}, out_of_memory=True)])
    assert model.fits(np.random.default_rng(0).random((20, len(SPACE)))).all()


# ---- mathematics


def test_the_gradient_of_the_likelihood_is_that_of_differences() -> None:
    rng = np.random.default_rng(3)
    x, y, noise = rng.random((14, 3)) - 0.5, rng.standard_normal(14), np.full(14, 0.01)
    squares, smooth = process._squares(x, np.arange(3), 3), (x @ x.T + 4 * (x * x) @ (x * x).T) / 3
    theta = np.array([-0.3, 0.2, 0.5, 0.1, -0.4, -2.0])

    def likelihood(at: np.ndarray) -> float:
        quadratic, matern, nugget = np.exp(at[-3:])
        kernel = process.Kernel(np.exp(at[:-3]), quadratic, matern, nugget)
        covariance = kernel(x, x) + np.diag(noise + nugget + process.JITTER)
        return float(0.5 * y @ np.linalg.solve(covariance, y) + 0.5 * np.linalg.slogdet(covariance)[1])

    steps = 1e-5 * np.eye(6)
    expected = [(likelihood(theta + s) - likelihood(theta - s)) / 2e-5 for s in steps]
    assert np.allclose(process._gradient(theta, squares, smooth, y, noise), expected, rtol=1e-4, atol=1e-6)


def test_the_likelier_of_smooth_and_rough_comes_first() -> None:
    x = np.random.default_rng(5).random((60, 2))
    noise, groups = np.full(60, 1e-4), np.arange(2)
    smooth = process.fit(x, (x - 0.3).sum(1) ** 2, noise, groups)
    rough = process.fit(x, np.sin(40 * x[:, 0]) * np.sin(40 * x[:, 1]), noise, groups)
    assert len(smooth) == len(rough) == len(process.LENGTHS)
    assert smooth[0].lengths.min() > smooth[1].lengths.max()
    assert rough[0].lengths.max() < rough[1].lengths.min()


def test_the_posterior_goes_through_exact_values_and_is_certain_there() -> None:
    samples = seen(20, 4)
    x = SPACE.features(SPACE.points([s.values for s in samples]))
    y = np.array([bowl(s.values) for s in samples])
    kernel = process.Kernel(np.full(x.shape[1], 1.0), 1.0, 0.5, 0.0)
    mean, sd = process.condition(kernel, x, y, np.zeros(20)).predict(x)
    assert np.allclose(mean, y, atol=2e-4)
    assert sd.max() < 0.02 * y.std() + 1e-3


@pytest.mark.parametrize("mean", [-1.0, 0.0, 0.7, 3.0, 8.0])
def test_expected_improvement_is_the_integral(mean: float) -> None:
    z = np.linspace(-12, 12, 200_001)
    integral = float(np.sum(np.maximum(-(mean + z), 0.0) * np.exp(-z * z / 2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi))
    assert log_expected_improvement(0.0, np.array([mean]), np.array([1.0]))[0] == pytest.approx(math.log(integral), abs=0.1)


@given(st.lists(st.floats(0.9, 3.0), min_size=2, max_size=20))
def test_compressing_keeps_the_order_and_can_be_undone(scores: list[float]) -> None:
    raw = np.array(scores)
    y, slope = compressed(raw)
    assert np.allclose(expanded(y, raw), raw, rtol=1e-6)
    assert ((slope > 0) & (slope <= 1)).all()
    assert (np.diff(y[np.argsort(raw)]) >= -1e-12).all()


# ---- beliefs


class Shelf:
    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def knobs(self, genome: str) -> tuple[genomes.Knob, ...]:
        return FEW

    def values(self, reference: str, genome: str) -> dict[str, genomes.Value]:
        return dict(self.samples[int(genome)].values)


def test_beliefs_that_lean_on_like_programs_flatter_less_than_the_lowest_score() -> None:
    """Forty programs around the optimum, whose true values differ by less than the noise: the lowest score is luck."""
    lowest, refined = [], []
    for salt in range(8):
        rng = np.random.default_rng(salt)
        places = SPACE.snapped(np.array([0.35, 0.8, 0.5, 0.3, 0.5, 0]) + rng.normal(0, 0.1, (40, 6)) * np.array([1, 1, 1, 1, 1, 0]))
        values = [{knob.name: knob.value for knob in FEW} | SPACE.values(place) for place in places]
        draws = [tuple(bowl(v) + rng.normal(0, NOISE_SD, 1 if i else 4)) for i, v in enumerate(values)]
        history = {
            str(i): Genome(
                id=str(i), index=i, species="s", size=10, operator="tune", parents=("0",) if i else (), scores=scores, failures=0
            )
            for i, scores in enumerate(draws)
        }
        belief = refine(history, believe(history), Shelf([Sample(v) for v in values]))
        best = min(belief.of, key=lambda id_: belief.of[id_].mean)
        luckiest = min(history, key=lambda id_: history[id_].mean)
        refined.append(bowl(values[int(best)]) - belief.of[best].mean)
        lowest.append(bowl(values[int(luckiest)]) - history[luckiest].mean)
        assert all(0 < estimate.sd <= 1.001 * belief.noise_sd for estimate in belief.of.values())
    assert np.mean(lowest) > NOISE_SD / 2
    assert abs(np.mean(refined)) < 0.6 * np.mean(lowest)


def test_too_few_members_leave_the_belief_as_it_was() -> None:
    samples = seen(5, 0)
    history = {
        str(i): Genome(id=str(i), index=i, species="s", size=10, operator="tune", parents=(), scores=(s.val_bpb,), failures=0)
        for i, s in enumerate(samples)
    }
    assert refine(history, believe(history), Shelf(samples)) == believe(history)
