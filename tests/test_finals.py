"""The final draws as a whole: who is drawn when, what they may say at which moment, and how often they are wrong."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import FOUNDER, World, drive, finished, improving, scored, search

from evaluator.outcome import Duplicate, Failed, Phase, Reason
from evo.core.finals import STAGES, TRIES, Group, next_draw, standing_group
from evo.core.records import CONFIRM, FINAL, Candidate, Proposal, Record
from evo.core.standing import assess
from evo.core.statistics import Announcement

CRASH = Failed(Reason.CRASH, Phase.TRAIN, "boom")
SIZE = 4
Draw = Callable[[Proposal, int], float | None]  # proposal, slot -> val_bpb; None: it fails


def played(
    draw: Draw, slots: int = 1, seed: int = 0, size: int = SIZE, jitter: float = 0.0, watched: bool = False
) -> tuple[Group, list[Announcement | None]]:
    """All draws of a group on slots that march in step, or by `jitter` not; what was said after each if `watched`, else at the end."""
    drawn, told, said = list[Proposal](), dict[int, Record](), list[Announcement | None]()
    rng, busy, free = Random(seed), list[tuple[float, int, int]](), list(range(slots))
    now, group = 0.0, None
    while True:
        while free and (proposal := next_draw(group, "best", "seed", size, len(drawn), seed)) is not None:
            heapq.heappush(busy, (now + 1 + rng.uniform(0, jitter), free.pop(0), len(drawn)))
            drawn.append(proposal)
            group = Group(tuple(drawn), dict(told), "seed", size)
        if not busy:
            assert group is not None
            return group, said
        now, slot, index = heapq.heappop(busy)
        free.append(slot)
        free.sort()
        value, proposal = draw(drawn[index], slot), drawn[index]
        outcome = CRASH if value is None else scored(value)
        told[index] = Record(Candidate(proposal, proposal.parents[0], "s", 1, ""), outcome, slot=f"slot{slot}")
        group = Group(tuple(drawn), dict(told), "seed", size)
        said.append(group.announcement if watched or not busy else None)


def drawn_from(gain: float, noise_sd: float, seed: int, offsets: tuple[float, ...] = (0.0,)) -> Draw:
    rng = Random(f"draws/{seed}")
    return lambda p, slot: 1.0 - gain * (p.parents[0] == "best") + rng.gauss(0, noise_sd) + offsets[slot % len(offsets)]


def last(said: list[Announcement | None]) -> Announcement:
    assert said[-1] is not None
    return said[-1]


@pytest.mark.parametrize("slots", [1, 3, 6])
def test_slots_that_score_unlike_each_other_are_not_taken_for_a_gain(slots: int) -> None:
    """In step, each slot a noise sd or two from the next: a fixed order has one slot draw one arm alone at some number of slots."""
    wrong = 0
    for seed in range(150):
        offsets = tuple(Random(f"offsets/{seed}").gauss(0, 2.0) for _ in range(slots))
        wrong += last(played(drawn_from(0.0, 1.0, seed, offsets), slots, seed)[1]).proven
    assert wrong / 150 <= 0.06


@pytest.mark.parametrize(("gain", "least", "most"), [(0.0, 0.0, 0.04), (2.0, 0.85, 1.0), (3.0, 0.98, 1.0)])
def test_gains_are_proven_and_noise_is_not(gain: float, least: float, most: float) -> None:
    proven = sum(last(played(drawn_from(gain, 1.0, seed), 4, seed)[1]).proven for seed in range(100)) / 100
    assert least <= proven <= most


def test_nothing_is_said_before_the_end_of_a_stage() -> None:
    """Whoever looks after each draw, and stops when it looks well, would be wrong more often than is promised."""
    ever = 0
    for seed in range(100):
        group, said = played(drawn_from(0.0, 1.0, seed), 4, seed, jitter=0.3, watched=True)
        assert not any(said[: 2 * SIZE - 1])
        assert len({(s.low, s.high) for s in said if s is not None}) <= STAGES
        ever += any(s is not None and s.proven for s in said)
        assert len(said) in (2 * SIZE, 2 * STAGES * SIZE)
        assert len(group.draws) == len(said)
    assert ever / 100 <= 0.05


def test_a_clear_gain_and_a_loss_take_one_stage_and_a_doubtful_gain_two() -> None:
    counts = {gain: [len(played(drawn_from(gain, 1.0, seed), 4, seed)[1]) for seed in range(60)] for gain in (-3.0, 1.5, 8.0)}
    assert set(counts[8.0]) == {2 * SIZE}
    assert counts[-3.0].count(2 * SIZE) >= 57
    assert counts[1.5].count(2 * STAGES * SIZE) >= 30


@given(st.integers(1, 9), st.integers(0, 10**6), st.floats(0, 0.6))
def test_draws_come_in_pairs_of_common_seeds_and_no_arm_gets_more_than_its_tries(slots: int, seed: int, failing: float) -> None:
    rng = Random(seed)
    group, _ = played(lambda p, slot: None if rng.random() < failing else rng.gauss(1, 0.1), slots, seed, jitter=0.5)
    arms = {arm: [p.seed for p in group.draws if p.parents == (arm, "best")] for arm in ("best", "seed")}
    shorter = min(map(len, arms.values()))
    assert arms["best"][:shorter] == arms["seed"][:shorter]
    assert len({*arms["best"], *arms["seed"]}) == max(map(len, arms.values()))
    assert all(len(seeds) <= TRIES * STAGES * SIZE for seeds in arms.values())
    assert {(p.operator, p.group) for p in group.draws} == {(FINAL, 0)}
    assert not group.due
    if not failing:
        assert len(arms["best"]) == len(arms["seed"]) == group.wanted


def test_between_the_stages_it_says_what_is_to_come_and_not_that_noise_explains_it() -> None:
    for seed in range(20):
        group, said = played(drawn_from(1.5, 1.0, seed), 1, seed, watched=True)
        for count, announcement in enumerate(said, 1):
            if announcement is not None and count < len(said):
                assert announcement.to_come == 2 * STAGES * SIZE - count
                assert announcement.sentence().startswith(f"not decided yet, {announcement.to_come} more draws are to come: best has ")
                assert not announcement.proven
        assert last(said).to_come == 0
        assert len(group.draws) == len(said)


def test_an_arm_that_always_fails_uses_up_its_tries_and_nothing_is_said() -> None:
    group, said = played(lambda p, slot: None if p.parents[0] == "best" else 1.0)
    assert sum(p.parents[0] == "best" for p in group.draws) == TRIES * SIZE
    assert not any(said)


def test_looks_are_groups_that_have_said_something() -> None:
    """One that was broken off before the end of a stage has not."""
    told = {}
    for group, count in ((1, 8), (2, 3), (3, 7), (4, 8)):
        for i, arm in enumerate((("best", "seed") * 4)[:count]):
            proposal = Proposal(10 * group + i, FINAL, (arm, "best"), i, 10 * group)
            told[proposal.index] = Record(Candidate(proposal, arm, "s", 1, ""), scored(1.0 + 0.01 * i))
    looks = []
    for group in (1, 2, 3, 4):
        draws = [record.candidate.proposal for record in told.values() if record.candidate.proposal.group <= 10 * group]
        standing = standing_group(draws, told, "seed", SIZE, after=10 * group - 1)
        looks.append(standing.look)
        assert standing_group(draws, told, "seed", SIZE, after=10 * group) is None
    assert looks == [1, 2, 2, 2]
    assert standing.announcement.confidence == pytest.approx(1 - 0.05 / 6)


def test_a_later_look_stops_after_its_first_stage_only_where_it_is_settled_by_its_own_interval() -> None:
    """What the first look would have called proven may need the second stage here."""
    values = {"best": [0.0, 1.0, 0.2, 0.9], "seed": [2.0, 2.9, 2.4, 2.2]}
    told = {}
    for i, arm in enumerate(("best", "seed") * 4):
        told[i] = Record(Candidate(Proposal(i, FINAL, (arm, "best"), i // 2, 0), arm, "s", 1, ""), scored(values[arm][i // 2]))
    draws = tuple(record.candidate.proposal for record in told.values())
    proven = [Group(draws, told, "seed", SIZE, look) for look in range(1, 9)]
    assert proven[0].announcement.proven
    assert not proven[-1].announcement.proven
    assert [group.wanted for group in proven] == [SIZE if group.announcement.proven else STAGES * SIZE for group in proven]


# ---- in a search


def test_who_is_drawn_is_known_whichever_draw_ends_first() -> None:
    """Views know records alone: before the champion's first draw has ended they must not take the seed for it."""
    found = search(evals=30, seed=3)
    world = World(improving, noise_sd=0.0001)
    records = drive(found, world, slots=4)
    drawn = [r for r in records if r.operator == FINAL]
    before = [r for r in records if r.operator != FINAL]
    for order in (drawn, drawn[::-1], sorted(drawn, key=lambda r: r.candidate.genome != FOUNDER)):
        for count in range(1, len(order) + 1):
            standing = assess([*before, *order[:count]])
            assert standing.champion == found.champion
            assert standing.announcement is None or standing.announcement.champion == found.champion
    assert found.announcement is not None
    assert found.announcement.proven


def test_a_champion_has_had_some_draws_before_the_final_ones_and_repeats_have_an_end() -> None:
    for salt in range(12):
        found = search(evals=30, seed=salt)
        records = drive(found, World(improving, noise_sd=0.02, salt=salt), slots=4)
        explored = max(r.index for r in records if r.operator not in (CONFIRM, FINAL))
        late = [r for r in records if r.operator == CONFIRM and r.index > explored]
        assert len(late) <= 8
        if found.champion != FOUNDER:
            genome = found.history.genomes[found.champion or ""]
            fresh = sum(r.operator == FINAL and r.candidate.genome == genome.id for r in records)
            assert len(genome.scores) - fresh >= 3 or len(late) == 8
        assert finished(found)


def test_a_genome_that_fails_under_other_seeds_gives_way_to_one_that_does_not() -> None:
    announced = 0
    for salt in range(10):
        found, world, rng = search(evals=40, seed=salt), World(improving, noise_sd=0.0005, salt=salt), Random(salt)
        running, flaky = list[Proposal](), ""
        while True:
            running += found.ask(4 - len(running))
            if not running:
                break
            proposal = running.pop(rng.randrange(len(running)))
            record = world.evaluate(proposal)
            if not flaky and proposal.index == 20 and record.candidate.genome:
                flaky = record.candidate.genome
                world.truth[flaky] = 0.9  # far ahead, where it gives a score at all
                record = Record(record.candidate, scored(0.9))
            elif flaky and record.candidate.genome == flaky and rng.random() < 0.8:
                record = Record(record.candidate, CRASH)
            found.tell(record)
        announced += found.announcement is not None and found.announcement.proven and found.champion != flaky
    assert announced >= 8


def test_one_failure_does_not_cost_a_leader_its_place() -> None:
    """It is repeated until it has four scores: a slot that breaks just then would else take down one leader after the other."""
    for salt in range(10):
        found, world = search(evals=30, seed=salt), World(improving, noise_sd=0.0005, salt=salt)
        ahead, failed = "", False
        while asked := found.ask(1):
            record = world.evaluate(asked[0])
            genome = record.candidate.genome
            if not ahead and found.history.evaluated == 29 and asked[0].operator != CONFIRM:  # the last one: no child of it leads
                ahead, record = genome, Record(record.candidate, scored(0.9))
                world.truth[genome] = 0.9  # far ahead
            elif asked[0].operator == CONFIRM and genome == ahead and not failed:
                failed, record = True, Record(record.candidate, CRASH)
            found.tell(record)
        assert failed
        assert found.champion == ahead
        assert len(found.history.genomes[ahead].scores) == 4 + SIZE
        assert found.announcement is not None
        assert found.announcement.proven


def test_each_program_that_is_handed_in_has_its_repeats() -> None:
    """Where nothing else is explored (`--evals 0 --add`), those of the ones before are not counted against it."""
    found, world = search(evals=0), World(improving, noise_sd=0.0001)
    drive(found, world)
    for number in range(6):
        proposal = found.introduce()
        record = world.evaluate(proposal)
        value = world.truth[record.candidate.genome] = 0.95 - 0.02 * number
        found.tell(Record(record.candidate, scored(value)))
        told = drive(found, world)
        assert found.champion == record.candidate.genome
        assert sum(r.operator == CONFIRM for r in told) == 2


def test_the_leaders_of_one_species_are_confirmed_in_a_population_of_one() -> None:
    found = search(evals=80, population=1)
    records = drive(found, World(improving, noise_sd=0.01))
    assert sum(r.operator == CONFIRM for r in records) >= 4


def test_a_starved_slot_waits_for_what_the_others_evaluate() -> None:
    """Duplicates come back in no time; a single slot would use up the patience of the run while three others train."""
    found = search(evals=500, seed=1)
    world = World(improving)
    drive(found, world, slots=4, stop_after=20)
    slow = found.pending
    for _ in range(1000):
        asked = found.ask(1)
        if not asked:
            break
        found.tell(Record(Candidate(asked[0], asked[0].parents[0], "species-0", 1, ""), Duplicate(0)))
    assert not found.exhausted
    assert not asked
    for proposal in slow:
        found.tell(world.evaluate(proposal))
    assert found.ask(1)[0].operator != FINAL
