"""The desk: calls beside the driver, failing endpoints left alone for a while, answers taken when they have arrived."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_run import PROGRAM

from evo.core.belief import believe
from evo.core.history import fold
from evo.core.records import CROSSOVER, MUTATE, Proposal
from evo.core.standing import Standing, assess
from evo.llm.desk import PAUSE_SECONDS, Answer, Aside, Desk, NoDesk
from evo.operators import Library, describe_seed
from evo.table import PlainLines

FOUNDER = describe_seed(PROGRAM)
STANDING = assess(())
HISTORY = fold(())
LIBRARY = Library(founder=FOUNDER, texts=lambda _: PROGRAM, known={}, seed=0, history=HISTORY, belief=believe(HISTORY.genomes))
PATIENCE = 10.0


def proposal(index: int) -> Proposal:
    return Proposal(index, MUTATE, (FOUNDER.genome,), index)


def answer(index: int, endpoint_failed: bool = False, tokens: int = 7) -> Answer:
    return Answer(proposal(index), None, "it said nothing useful", endpoint_failed, tokens, "")


def desk(author: Callable[[Proposal], Answer], **settings: int) -> Desk:
    return Desk(lambda asked, library, standing, beside: author(asked), **{"calls": 2, **settings})  # type: ignore[arg-type]


def taken(from_: Desk, count: int) -> list[Answer]:
    """The next answers, waited for."""
    found: list[Answer] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < count and time.monotonic() < deadline:
        found += from_.answers(wait_seconds=0.1)
    return found


def test_calls_run_beside_each_other_and_no_more_than_allowed() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def author(asked: Proposal) -> Answer:
        both.wait()  # breaks unless the other call runs at the same time
        return answer(asked.index)

    subject = desk(author)
    for index in (1, 2):
        assert subject.open
        subject.start(proposal(index), LIBRARY, STANDING)
    assert not subject.open
    assert {a.proposal.index for a in taken(subject, 2)} == {1, 2}
    assert subject.open
    assert subject.busy == 0


def test_a_call_knows_how_many_others_write_about_the_same_parents() -> None:
    gate, seen = threading.Event(), dict[int, int]()

    def author(asked: Proposal, library: Library, standing: Standing, beside: int) -> Answer:
        seen[asked.index] = beside
        gate.wait(PATIENCE)
        return answer(asked.index)

    subject = Desk(author, calls=4)
    crossing = Proposal(3, CROSSOVER, (FOUNDER.genome, "another"), 3)
    for one in (proposal(1), proposal(2), crossing, proposal(4)):
        subject.start(one, LIBRARY, STANDING)
    gate.set()
    taken(subject, 4)
    assert seen == {1: 0, 2: 1, 3: 0, 4: 2}


def test_where_no_model_writes_there_is_nothing_to_ask_or_take() -> None:
    subject = NoDesk()
    assert not any([subject.staffed, subject.open, subject.busy, subject.spent])
    assert subject.take_back() is None
    assert subject.answers(wait_seconds=PATIENCE) == subject.too_late() == []
    assert desk(lambda asked: answer(asked.index)).staffed


def test_nothing_is_waited_for_unless_asked() -> None:
    gate = threading.Event()

    def author(asked: Proposal) -> Answer:
        gate.wait(PATIENCE)
        return answer(asked.index)

    subject = desk(author)
    subject.start(proposal(1), LIBRARY, STANDING)
    assert subject.answers() == []
    assert subject.busy == 1
    gate.set()
    assert len(taken(subject, 1)) == 1


def test_what_people_should_know_is_told_once_whatever_became_of_the_answers() -> None:
    subject = desk(
        lambda asked: replace(answer(asked.index), notice=f"model: holds {asked.index},000" if asked.index < 4 else "model: longer")
    )
    told: list[str] = []
    for index in range(1, 6):
        subject.start(proposal(index), LIBRARY, STANDING)
        if index == 2:
            subject.take_back()
        while subject.answers(0.1) == [] and subject.busy:
            pass
        told += subject.news()
    assert sorted(told) == ["model: holds 1,000", "model: longer"]


def test_a_doubt_is_told_when_it_is_known_and_nobody_waits_for_it() -> None:
    known = threading.Event()

    def doubt() -> str:
        known.wait(PATIENCE)
        return "x is none of those"

    aside = Aside(doubt)
    assert aside.answer(wait_seconds=0.01) == ""
    subject = Desk(lambda asked, *_: answer(asked.index), calls=2, doubt=aside)
    assert subject.news() == []
    known.set()
    deadline = time.monotonic() + PATIENCE
    while not (news := subject.news()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert news == ["model: x is none of those"]
    assert subject.news() == []


def test_a_failing_endpoint_is_left_alone_and_then_tried_with_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = desk(lambda asked: answer(asked.index, endpoint_failed=True))
    for index in (1, 2):
        subject.start(proposal(index), LIBRARY, STANDING)
    taken(subject, 2)
    assert not subject.open
    assert "next try in 5 s" in subject.trouble  # two calls under way together are one failure
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + PAUSE_SECONDS + 1)
    assert subject.open
    subject.start(proposal(3), LIBRARY, STANDING)
    assert not subject.open  # one call, though two would be allowed


def test_failures_of_the_endpoint_are_not_counted_as_refusals_of_the_model() -> None:
    subject = desk(lambda asked: answer(asked.index, endpoint_failed=asked.index == 3), calls=3)
    for index in (1, 2, 3):
        subject.start(proposal(index), LIBRARY, STANDING)
    taken(subject, 3)
    assert (subject.refused, subject.failed) == (2, 1)


def test_an_endpoint_that_answers_again_gets_all_calls_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = {1}
    subject = desk(lambda asked: answer(asked.index, endpoint_failed=asked.index in fails))
    subject.start(proposal(1), LIBRARY, STANDING)
    taken(subject, 1)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + PAUSE_SECONDS + 1)
    subject.start(proposal(2), LIBRARY, STANDING)
    while subject.busy:
        subject.answers()
    subject.start(proposal(3), LIBRARY, STANDING)
    assert subject.open


def test_tokens_are_counted_and_the_limit_ends_the_asking() -> None:
    subject = desk(lambda asked: answer(asked.index, tokens=40), token_limit=100, tokens=30)
    for index in (1, 2):
        assert subject.open
        subject.start(proposal(index), LIBRARY, STANDING)
        taken(subject, 1)
    assert subject.tokens == 110
    assert not subject.open
    assert "100 tokens" in subject.trouble


def test_calls_under_way_count_against_the_limit_as_if_they_were_as_large_as_the_largest() -> None:
    gate = threading.Event()

    def author(asked: Proposal) -> Answer:
        assert asked.index == 1 or gate.wait(PATIENCE)
        return answer(asked.index, tokens=40)

    subject = desk(author, token_limit=100, calls=8)
    subject.start(proposal(1), LIBRARY, STANDING)
    assert not subject.open  # nobody knows yet what a call takes
    taken(subject, 1)
    for index in (2, 3):
        assert subject.open
        subject.start(proposal(index), LIBRARY, STANDING)
    assert not subject.open  # 120 tokens, once both have come
    assert not subject.spent
    gate.set()
    taken(subject, 2)
    assert subject.spent


def test_a_bug_in_a_call_is_raised_where_the_driver_sees_it() -> None:
    def author(asked: Proposal) -> Answer:
        raise ZeroDivisionError(asked.index)

    subject = desk(author)
    subject.start(proposal(1), LIBRARY, STANDING)
    with pytest.raises(ZeroDivisionError):
        taken(subject, 1)


def test_what_is_taken_back_comes_to_nothing_more_but_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def author(asked: Proposal) -> Answer:
        if asked.index == 1:
            gate.wait(PATIENCE)
        return answer(asked.index)

    subject = desk(author)
    for index in (1, 2):
        subject.start(proposal(index), LIBRARY, STANDING)
    assert subject.take_back() == proposal(1)  # the one that is out for longest
    assert [a.proposal.index for a in taken(subject, 1)] == [2]
    assert subject.busy == 0
    subject.start(proposal(3), LIBRARY, STANDING)
    assert not subject.open  # its call is still under way
    gate.set()
    deadline = time.monotonic() + PATIENCE
    seen: list[int] = []
    while subject.tokens < 21 and time.monotonic() < deadline:
        seen += [a.proposal.index for a in subject.answers(wait_seconds=0.1)]
    assert seen == [3]
    assert [late.proposal.index for late in subject.too_late()] == [1]
    assert subject.too_late() == []
    assert subject.take_back() is None


@pytest.mark.parametrize("endpoint_failed", [False, True])
def test_what_is_taken_back_counts_once_whatever_comes_of_it_and_its_trouble_is_told(endpoint_failed: bool) -> None:
    gate = threading.Event()

    def author(asked: Proposal) -> Answer:
        gate.wait(PATIENCE)
        return answer(asked.index, endpoint_failed)

    subject = desk(author)
    for index in (1, 2):
        subject.start(proposal(index), LIBRARY, STANDING)
    subject.take_back()
    gate.set()
    deadline = time.monotonic() + PATIENCE
    while subject.tokens < 14 and time.monotonic() < deadline:
        subject.answers(wait_seconds=0.1)
    assert subject.late + subject.refused + subject.failed == 2
    assert subject.late == 1
    assert "nothing useful" in subject.trouble
    assert subject.open != endpoint_failed


def test_of_several_answers_that_arrive_together_each_is_told_with_its_own_reason() -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def author(asked: Proposal) -> Answer:
        both.wait()
        return replace(answer(asked.index, endpoint_failed=asked.index == 3), why=f"reason {asked.index}")

    lines: list[str] = []
    subject, watcher = desk(author), PlainLines(lines.append)
    for pair in ((1, 2), (3, 4)):
        for index in pair:
            subject.start(proposal(index), LIBRARY, STANDING)
        while subject._arrived.qsize() < 2:
            time.sleep(0.01)
        for each in subject.answers():
            watcher.answered(each, SimpleNamespace(desk=subject))  # type: ignore[arg-type]
    told = [dict(part.split("=", 1) for part in shlex.split(line)) for line in lines]
    assert {fields["index"]: fields["why"][:8] for fields in told} == {str(index): f"reason {index}" for index in (1, 2, 3, 4)}
