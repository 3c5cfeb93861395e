"""What operators have brought, and how often each is asked again."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from evaluator.outcome import Failed, Phase, Reason
from evo.core.belief import Belief, Estimate
from evo.core.history import Genome
from evo.core.yields import MOST, PATIENCE, STRUCTURAL, factors, reward, yields

OPERATORS = ("mutate", "crossover", "recombine", "ablate", "tune")


def run(children: Sequence[tuple[str, float | None, float]]) -> tuple[dict[str, Genome], Belief]:
    """The seed at 1.0, and a child of it for each (operator, posterior mean or None for a failure, seconds)."""
    genomes = {
        "seed": Genome(id="seed", index=0, species="s", size=10, operator="calibrate", parents=(), scores=(1.0,), failures=0, seconds=100.0)
    }
    of = {"seed": Estimate(1.0, 0.001, 1)}
    for index, (operator, mean, seconds) in enumerate(children, start=1):
        scores = () if mean is None else (mean,)
        flaw = Failed(Reason.CRASH, Phase.TRAIN, "boom") if mean is None else None
        genomes[str(index)] = Genome(
            id=str(index),
            index=index,
            species="s",
            size=10,
            operator=operator,
            parents=("seed",),
            scores=scores,
            failures=int(mean is None),
            flaw=flaw,
            seconds=seconds,
        )
        if mean is not None:
            of[str(index)] = Estimate(mean, 0.001, 1)
    return genomes, Belief(of, 0.001, 20)


def best(genomes: dict[str, Genome], belief: Belief) -> str:
    return min(belief.of, key=lambda id_: belief.of[id_].mean)


def shares(genomes: dict[str, Genome], belief: Belief) -> dict[str, float]:
    return factors(genomes, belief, best(genomes, belief), OPERATORS)


def test_a_child_is_worth_what_it_gains_on_its_best_parent_and_a_worse_or_failed_one_nothing() -> None:
    genomes, belief = run([("mutate", 0.99, 10.0), ("mutate", 1.01, 10.0), ("mutate", None, 30.0), ("tune", 0.98, 5.0)])
    genomes["5"] = Genome(
        id="5", index=5, species="s", size=10, operator="tune", parents=("seed",), scores=(), failures=1, seconds=5.0, foretold=1.2
    )
    found = yields(genomes.values(), belief)
    assert [reward(genomes[id_], belief) for id_ in ("seed", "1", "2", "3")] == pytest.approx([0, 0.01, 0, 0])
    mutate = found["mutate"]
    assert (mutate.children, mutate.failed, mutate.stopped, mutate.better, mutate.seconds) == (3, 1, 0, 1, 50.0)
    tuned = found["tune"]
    assert (tuned.children, tuned.failed, tuned.stopped) == (2, 0, 1)
    assert mutate.rate == pytest.approx(3600 * 0.01 / 50)
    assert set(found) == {"mutate", "tune"}


def test_before_anything_is_known_every_share_stays_as_it_was_set() -> None:
    assert shares(*run([])) == dict.fromkeys(OPERATORS, 1.0)


def test_who_pays_more_for_its_time_is_asked_more_often() -> None:
    even = shares(*run([("mutate", 0.99, 10.0), ("tune", 0.99, 10.0)] * 10))
    assert even["mutate"] == pytest.approx(even["tune"])
    better = shares(*run([("mutate", 0.99, 10.0), ("tune", 0.97, 10.0)] * 10))
    assert better["tune"] > even["tune"] > better["mutate"]
    slower = shares(*run([("mutate", 0.99, 10.0), ("tune", 0.99, 40.0)] * 10))
    assert slower["tune"] < slower["mutate"]
    failing = shares(*run([("mutate", 0.99, 10.0), ("mutate", None, 10.0), ("tune", 0.99, 10.0), ("tune", 0.99, 10.0)] * 10))
    assert failing["mutate"] < failing["tune"]


def test_no_share_leaves_its_bounds_and_none_is_nothing() -> None:
    rng = Random(1)
    for _ in range(50):
        children = [(rng.choice(OPERATORS), rng.choice([None, rng.gauss(1, 0.05)]), rng.choice([0.0, 1.0, 1e4])) for _ in range(60)]
        assert all(1 / MOST <= factor <= MOST for factor in shares(*run(children)).values())


def test_on_a_plateau_operators_that_change_structure_get_more_and_only_then() -> None:
    gains = [("tune", 0.9, 10.0), ("mutate", 0.95, 10.0)]
    nothing = [("tune", 1.01, 10.0), ("mutate", 1.01, 10.0)]
    early, late = (shares(*run(gains + nothing * n)) for n in (PATIENCE // 4, PATIENCE))
    for operator in STRUCTURAL:
        assert late[operator] / late["tune"] > 1.3 * early[operator] / early["tune"]


def test_a_leader_older_than_all_that_is_looked_at_is_a_plateau_too() -> None:
    genomes, belief = run([("tune", 0.9, 10.0)] + [("tune", 1.01, 10.0), ("mutate", 1.01, 10.0)] * 150)
    assert shares(genomes, belief)["mutate"] == MOST
