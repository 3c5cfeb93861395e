"""The search as a value machine: order of tells, resume, indices, limits, final draws; what it announces and what it does not."""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import FOUNDER, World, drive, finished, improving, neutral, scored, search

from evaluator.outcome import Duplicate, Evaluated, Failed, Interrupted, Phase, Reason, Scored
from evo.core.history import EXPLORATIONS
from evo.core.records import CALIBRATE, CONFIRM, CROSSOVER, FINAL, REPAIR, TUNE, Candidate, Proposal, Record
from evo.core.standing import assess
from evo.search import Search

POLICIES = ("evo", "greedy", "random", "tune-only")
ROUGH = {"failures": 0.15, "blanks": 0.1, "memory": 0.15}


def operators(records: list[Record]) -> list[str]:
    return [r.operator for r in sorted(records, key=lambda r: r.index)]


def told_again(original: Search, records: list[Record], order: list[Record]) -> Search:
    """A search that waits for everything and is then told `records` in `order`."""
    other = Search(original.config, FOUNDER)
    other.resume((), [*(r.candidate.proposal for r in records), *original.pending])
    for record in order:
        other.tell(record)
    return other


# ---- state is a function of the set of records


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 60), salt=st.integers(0, 5), shuffle=st.randoms(use_true_random=False))
def test_order_of_tells_does_not_matter(policy: str, stop: int, salt: int, shuffle: Random) -> None:
    original = search(policy=policy, evals=40, seed=salt)
    records = drive(original, World(improving, salt=salt, **ROUGH), stop_after=stop)
    order = list(records)
    shuffle.shuffle(order)
    other = told_again(original, records, order)
    assert other.history == original.history
    assert other.belief == original.belief
    assert other.ask(5) == original.ask(5)
    assert other.ask(3, closing=True) == original.ask(3, closing=True)


def test_asking_between_tells_in_any_order_does_not_disturb_the_state() -> None:
    original = search(evals=30)
    records = drive(original, World(improving, **ROUGH), stop_after=25)
    other = Search(original.config, FOUNDER)
    other.resume((), [*(r.candidate.proposal for r in records), *original.pending])
    for record in reversed(records):
        assert not finished(other)
        other.tell(record)
    assert other.ask(4) == original.ask(4)


@pytest.mark.parametrize("policy", POLICIES)
def test_resumed_equals_uninterrupted_wherever_it_is_cut(policy: str) -> None:
    whole = search(policy=policy, evals=25, seed=3)
    expected = drive(whole, World(improving, salt=3, **ROUGH), slots=1)
    assert finished(whole)
    for cut in range(len(expected)):
        world = World(improving, salt=3, **ROUGH)
        first = search(policy=policy, evals=25, seed=3)
        told = drive(first, world, slots=1, stop_after=cut)
        first.ask(1)
        second = Search(first.config, FOUNDER)
        second.resume(reversed(told), first.pending)
        assert told + drive(second, world, slots=1) == expected


def test_resumed_equals_uninterrupted_with_several_pending() -> None:
    first = search(evals=40)
    told = drive(first, World(improving, **ROUGH), slots=6, stop_after=20)
    first.ask(2)
    second = Search(first.config, FOUNDER)
    second.resume(told, first.pending)
    assert second.pending == first.pending
    assert second.ask(8) == first.ask(8)


def test_no_index_is_issued_twice_and_none_is_skipped() -> None:
    found = search(evals=60)
    records = drive(found, World(improving, **ROUGH), slots=7)
    assert sorted(r.index for r in records) == list(range(len(records)))


def test_two_run_seeds_give_two_runs_and_one_seed_gives_one() -> None:
    runs = [drive(search(evals=20, seed=s), World(improving, salt=1), slots=1) for s in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


# ---- what may be told


def test_telling_an_index_twice_is_refused() -> None:
    found = search()
    (proposal,) = found.ask(1)
    record = World(neutral).evaluate(proposal)
    found.tell(record)
    with pytest.raises(ValueError, match="index 0 was told already"):
        found.tell(record)


def test_telling_what_was_never_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="index 7 was never asked"):
        search().tell(World(neutral).evaluate(Proposal(7, CALIBRATE, (), 1)))


def test_telling_another_proposal_under_an_index_is_refused() -> None:
    found = search()
    found.ask(1)
    with pytest.raises(ValueError, match="index 0 was asked as"):
        found.tell(World(neutral).evaluate(Proposal(0, CALIBRATE, (), 1)))


def test_an_interrupted_outcome_is_refused_and_stays_pending() -> None:
    found = search()
    (proposal,) = found.ask(1)
    with pytest.raises(ValueError, match="run it again"):
        found.tell(Record(Candidate(proposal, "seed", "s", 1, ""), Interrupted("worker lost")))
    assert found.pending == (proposal,)


# ---- calibration


def test_calibration_comes_first_on_any_number_of_slots() -> None:
    for slots in (1, 3, 8):
        found = search(evals=10, calibrations=max(4, slots))
        records = drive(found, World(improving), slots=slots)
        assert operators(records)[: max(4, slots)] == [CALIBRATE] * max(4, slots)


def test_slots_beyond_the_calibrations_get_children_of_the_seed() -> None:
    proposals = search(calibrations=4).ask(6)
    assert {p.operator for p in proposals[4:]} <= {"mutate", "tune"}
    assert all(p.parents == (FOUNDER,) for p in proposals[4:])


def test_calibrations_have_distinct_seeds() -> None:
    assert len({p.seed for p in search(calibrations=16).ask(16)}) == 16


def test_a_failed_calibration_is_replaced_and_a_seed_that_always_fails_ends_the_search() -> None:
    found = search(evals=10)
    while proposals := found.ask(1):
        record = World(neutral).evaluate(proposals[0])
        found.tell(Record(record.candidate, Failed(Reason.CRASH, Phase.IMPORT, "boom")))
    assert found.history.calibrations == (0, 16)
    assert "no score in 16 evaluations" in found.exhausted
    assert finished(found)
    assert found.champion is None


# ---- limits


@pytest.mark.parametrize("policy", POLICIES)
def test_the_limit_counts_new_genomes_that_were_evaluated(policy: str) -> None:
    found = search(policy=policy, evals=30)
    records = drive(found, World(improving, **ROUGH), slots=4)
    explored = [r for r in records if r.operator in EXPLORATIONS]
    assert sum(1 for r in explored if isinstance(r.outcome, Evaluated)) == 30
    assert any(isinstance(r.outcome, Duplicate) for r in explored)


def test_no_slot_idles_while_the_limit_is_far() -> None:
    found = search(evals=None)
    world, running = World(improving, **ROUGH), list(found.ask(8))
    for _ in range(100):
        found.tell(world.evaluate(running.pop(0)))
        asked = found.ask(1)
        assert len(asked) == 1
        running += asked


def test_endless_unwritten_proposals_widen_and_then_end_the_search() -> None:
    found = search(evals=100, give_up_after=50)
    world = World(neutral)
    drive(found, world, slots=1, stop_after=4)
    blank = World(neutral, blanks=1.0)
    records = drive(found, blank, slots=1)
    assert len(records) == 50
    assert "50 proposals in a row gave no new program" in found.exhausted
    assert finished(found)


def test_confirmations_stay_within_their_share() -> None:
    found = search(evals=100, confirm_share=0.15)
    records = drive(found, World(neutral), slots=4)
    confirms = operators(records).count(CONFIRM)
    assert 0 < confirms <= 0.15 * (100 + confirms)


def test_no_pair_is_crossed_twice_and_no_genome_with_its_ancestor() -> None:
    found = search(evals=150, crossover_share=0.5)
    records = drive(found, World(improving), slots=8)
    crosses = [frozenset(r.candidate.proposal.parents) for r in records if r.operator == CROSSOVER]
    assert len(crosses) > 20
    assert len(crosses) == len(set(crosses))


def test_greedy_is_a_chain_from_the_lowest_observation() -> None:
    found = search(policy="greedy", evals=30, final_draws=2)
    records = drive(found, World(improving), slots=1)
    first: dict[str, float] = {}
    for record in records:
        proposal = record.candidate.proposal
        if proposal.operator == "mutate":
            assert proposal.parents == (min(first, key=lambda g: first[g]),)
        if proposal.operator != FINAL:
            first.setdefault(record.candidate.genome, record.outcome.val_bpb)  # type: ignore[union-attr]
    assert set(operators(records)) == {CALIBRATE, "mutate", FINAL}


# ---- repairs


def repairs_of(records: list[Record]) -> list[Proposal]:
    ordered = sorted(records, key=lambda r: r.index)
    return [r.candidate.proposal for r in ordered if r.operator == REPAIR]


def test_what_runs_out_of_memory_is_repaired_next_and_once() -> None:
    found = search(evals=60, tune_share=0.0)
    records = drive(found, World(improving, memory=0.3), slots=1)
    by_index = {r.index: r for r in records}
    failed = [r for r in records if isinstance(r.outcome, Failed) and r.operator != REPAIR]
    assert len(failed) > 5
    for record in failed:
        following = by_index.get(record.index + 1)
        if following is not None and following.operator != FINAL:
            assert following.operator == REPAIR
            assert following.candidate.proposal.parents == (record.candidate.genome,)
    parents = [proposal.parents for proposal in repairs_of(records)]
    assert len(parents) == len(set(parents))
    assert any(isinstance(by_index[p.index].outcome, Scored) for p in repairs_of(records))


def test_what_the_tuner_proposed_too_large_teaches_its_model_and_is_not_repaired() -> None:
    found = search(evals=60, tune_share=1.0)
    records = drive(found, World(improving, memory=0.3), slots=1)
    made_by = {r.candidate.genome: r.operator for r in records}
    assert sum(isinstance(r.outcome, Failed) for r in records) > 5
    assert all(made_by[proposal.parents[0]] != TUNE for proposal in repairs_of(records))


def test_a_repair_under_way_is_not_proposed_again() -> None:
    found = search(evals=200, tune_share=0.0)
    world = World(improving, memory=0.5)
    records = drive(found, world, slots=8, stop_after=80)
    parents = [p.parents for p in [*repairs_of(records), *(p for p in found.pending if p.operator == REPAIR)]]
    assert len(parents) == len(set(parents)) > 10


def test_no_more_than_two_repairs_follow_each_other() -> None:
    found = search(evals=80)
    records = drive(found, World(improving, memory=1.0), slots=2)
    made_by = {r.candidate.genome: r.candidate.proposal for r in records}
    chains = []
    for proposal in repairs_of(records):
        length, at = 0, proposal
        while at.operator == REPAIR:
            length, at = length + 1, made_by[at.parents[0]]
        chains.append(length)
    assert set(chains) == {1, 2}


def test_other_failures_and_other_policies_repair_nothing() -> None:
    assert REPAIR not in operators(drive(search(evals=40), World(improving, failures=0.4)))
    for policy in ("greedy", "random", "tune-only"):
        assert REPAIR not in operators(drive(search(policy=policy, evals=40), World(improving, memory=0.4)))


def test_a_score_of_the_repaired_leads_on_from_the_grandparent() -> None:
    """The genome that failed has no estimate; the run goes on with its repair as with any other child."""
    found = search(evals=100)
    drive(found, World(improving, memory=0.5), slots=2)
    scored_repairs = [g for g in found.history.genomes.values() if g.operator == REPAIR and g.scores]
    assert scored_repairs
    for genome in scored_repairs:
        assert genome.id in found.belief.of
        assert not any(p in found.belief.of for p in genome.parents)
    assert any(g.id in found.history.tries for g in scored_repairs)  # as parents


@pytest.mark.parametrize(
    ("reason", "message", "mendable"),
    [
        (Reason.OUT_OF_MEMORY, "MemoryError: ", True),
        (Reason.NOT_FINITE, "FloatingPointError: the loss is nan after 3 steps", True),
        (Reason.NO_MODEL, "main() returned without prepare.save(model)", True),
        (Reason.CRASH, "NameError: name 'math' is not defined", True),
        (Reason.CRASH, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x3)", True),
        (Reason.CONTRACT, "no tokeniser of size 512; prepared are 1024", True),
        (Reason.CRASH, "RuntimeError: this tree crashes in the instant lab", False),
        (Reason.CRASH, "KeyError: 3", False),
        (Reason.OVERRAN, "the weights had not arrived", False),
    ],
)
def test_what_is_repaired_is_read_off_the_failure(reason: Reason, message: str, mendable: bool) -> None:
    found = search(evals=20, tune_share=0.0)
    world = World(improving)
    drive(found, world, slots=1, stop_after=4)
    (proposal,) = found.ask(1)
    found.tell(Record(world.evaluate(proposal).candidate, Failed(reason, Phase.TRAIN, message)))
    assert (found.ask(1)[0].operator == REPAIR) is mendable


# ---- final draws


def finals(records: list[Record]) -> list[Proposal]:
    return [r.candidate.proposal for r in sorted(records, key=lambda r: r.index) if r.operator == FINAL]


def test_final_draws_are_paired_under_common_fresh_seeds() -> None:
    found = search(evals=30)
    records = drive(found, World(improving), slots=4)
    drawn = finals(records)
    champion = found.champion
    arms = {arm: [p.seed for p in drawn if p.parents == (arm, champion)] for arm in (champion, FOUNDER)}
    assert arms[champion] == arms[FOUNDER]
    assert len(set(arms[champion])) == 4
    assert {p.group for p in drawn} == {drawn[0].index}
    assert not {p.seed for p in drawn} & {r.candidate.proposal.seed for r in records if r.operator != FINAL}


def test_final_draws_wait_for_what_is_pending() -> None:
    found = search(evals=None)
    world = World(improving)
    drive(found, world, slots=3, stop_after=30)
    waiting = found.ask(3)
    assert found.ask(3, closing=True) == ()
    for proposal in [*found.pending]:
        found.tell(world.evaluate(proposal))
    assert waiting
    while (asked := found.ask(3, closing=True)) and asked[0].operator == CONFIRM:
        for proposal in asked:
            found.tell(world.evaluate(proposal))
    assert {p.operator for p in asked} == {FINAL}


def test_a_failed_final_draw_is_replaced_but_not_for_ever() -> None:
    found = search(evals=20)
    world = World(improving)
    failed = 0
    running = list(found.ask(1))
    while running:
        proposal = running.pop()
        record = world.evaluate(proposal)
        if proposal.operator == FINAL and proposal.parents == (found.champion, found.champion):
            failed += 1
            record = Record(record.candidate, Failed(Reason.CRASH, Phase.TRAIN, "boom"))
        found.tell(record)
        running += found.ask(1)
    assert failed == 8
    assert found.announcement is None
    assert finished(found)


def test_no_final_draws_when_nothing_beats_the_seed() -> None:
    found = search(evals=20)
    records = drive(found, World(lambda rng: 0.1), slots=2)
    assert FINAL not in operators(records)
    assert found.champion == FOUNDER
    assert found.announcement is None
    assert finished(found)


def test_an_extended_run_explores_on_and_closes_with_fresh_draws() -> None:
    first = search(evals=20)
    world = World(improving)
    records = drive(first, world)
    assert finished(first)
    second = search(evals=40)
    second.resume(records)
    assert second.history.evaluated < 40
    assert second.announcement is not None  # the old one stands until something is explored
    records += drive(second, world)
    groups = {p.group: [] for p in finals(records)}
    for proposal in finals(records):
        groups[proposal.group].append(proposal.seed)
    assert len(groups) == 2
    assert not set.intersection(*(set(seeds) for seeds in groups.values()))
    assert second.history.evaluated == 40


# ---- claims


def announced_share(effect: object, runs: int, noise_sd: float) -> float:
    proven = 0
    for salt in range(runs):
        found = search(evals=40, seed=salt, population=8)
        drive(found, World(effect, noise_sd=noise_sd, salt=salt), slots=4)  # type: ignore[arg-type]
        proven += bool(found.announcement and found.announcement.proven)
    return proven / runs


def test_pure_noise_is_rarely_announced() -> None:
    assert announced_share(neutral, 60, 0.01) <= 0.10


def test_a_gain_of_three_sd_is_announced() -> None:
    def planted(rng: Random) -> float:
        return -0.03 if rng.random() < 0.15 else 0.02

    assert announced_share(planted, 30, 0.01) >= 0.8


def test_evo_beats_the_baseline_without_selection() -> None:
    def reached(policy: str) -> float:
        values = []
        for salt in range(10):
            world = World(improving, noise_sd=0.002, salt=salt)
            found = search(policy=policy, evals=60, seed=salt)
            drive(found, world)
            values.append(world.truth[found.champion or FOUNDER])
        return sum(values) / len(values)

    assert reached("evo") < reached("random") - 0.003


# ---- cost


def test_a_thousand_records_cost_little_per_step() -> None:
    """≤ 15 ms per ask + tell on an idle core; the bound here leaves room for a busy machine."""
    found = search(evals=None)
    records = drive(found, World(improving), stop_after=1000)
    fresh = search(evals=None)
    fresh.resume(records)
    seconds = []
    for _ in range(15):
        started = time.perf_counter()
        (proposal,) = fresh.ask(1)
        fresh.tell(Record(Candidate(proposal, f"new{proposal.index}", "s", 100, ""), scored(1.0)))
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[7] < 0.06


@pytest.mark.parametrize("policy", POLICIES)
def test_a_standing_from_records_presents_whom_the_policy_presents(policy: str) -> None:
    differs = False
    for salt in range(5):
        found = search(policy=policy)
        records = drive(found, World(improving, noise_sd=0.01, salt=salt), stop_after=40)
        assert assess(records, found.config) == found.standing
        differs |= assess(records).champion != found.champion
    assert differs == (policy == "greedy")
