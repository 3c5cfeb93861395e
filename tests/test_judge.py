"""The judge's own work on rows: what it checks, keeps, and sends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import random
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluator import judge, twins
from evaluator.checked import File, Tampered, load
from evaluator.inside import wire
from evaluator.judge import Refused, Scoring
from evaluator.outcome import Reason
from evaluator.scoring import Judge
from evaluator.task import PLACES, Task, Weights

ROWS, LENGTH, VOCAB = 40, 6, 3


@pytest.fixture
def task(tmp_path: Path) -> Task:
    rng = np.random.default_rng(0)
    rng.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype("<u2").tofile(tmp_path / "rows.bin")
    np.array([0, 1, 3], dtype="<i4").tofile(tmp_path / "bytes.bin")
    rows, table = file(tmp_path / "rows.bin"), file(tmp_path / "bytes.bin")
    return Task(rows.path, rows.sha256, ROWS, LENGTH, table.path, table.sha256, VOCAB, "cpu", 60.0)


def file(path: Path) -> File:
    return File(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def test_rows_are_kept_until_their_file_changes_and_then_checked_again(task: Task) -> None:
    rows, table = File(task.rows_file, task.rows_sha256), File(task.bytes_file, task.bytes_sha256)
    kept = load(rows, table, LENGTH)
    assert load(rows, table, LENGTH) is kept
    path, stat = Path(task.rows_file), os.stat(task.rows_file)
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a program would that hides its traces
    with pytest.raises(Tampered, match="prepare the data again"):
        load(rows, table, LENGTH)
    with pytest.raises(Refused) as refused:
        Scoring(task)
    assert refused.value.reason is Reason.TAMPERED
    path.write_bytes(content)
    assert (load(rows, table, LENGTH).rows == kept.rows).all()


def test_only_targets_with_bytes_count(task: Task) -> None:
    checked = load(File(task.rows_file, task.rows_sha256), File(task.bytes_file, task.bytes_sha256), LENGTH)
    targets = np.fromfile(task.rows_file, "<u2").reshape(ROWS, LENGTH + 1)[:, 1:]
    assert checked.bytes == (targets == 1).sum() + 3 * (targets == 2).sum()
    assert (checked.counted.numpy() == (targets != 0)).all()


@pytest.mark.parametrize("rows", [1, ROWS, 4000])
def test_no_row_is_sent_again_twice_before_all_others_are(rows: int) -> None:
    again = twins.choose_rows(rows, random.Random(1))
    assert len(again) == max(160, rows // 16)
    times = torch.bincount(again, minlength=rows)
    assert len(times) == rows
    assert int(times.max() - times.min()) <= 1


def test_a_twin_differs_from_its_row_first_at_the_cut_and_keeps_its_targets(task: Task) -> None:
    scoring = Scoring(task)
    rows, cuts = torch.arange(ROWS).repeat(5), torch.arange(ROWS * 5) % (LENGTH - 1) + 1
    inputs, targets = scoring._tokens(rows, cuts)
    original = scoring.data.tokens(rows)
    assert (targets == original[:, 1:]).all()
    assert ((inputs >= 0) & (inputs < VOCAB)).all()
    for row, cut, own in zip(inputs, cuts.tolist(), original[:, :-1], strict=True):
        assert (row[:cut] == own[:cut]).all()
        assert row[cut] != own[cut]


class Scripted:
    """A forwarder that predicts nothing in particular, and trusts a token that does not count by `shy` nats less."""

    def __init__(self, shy: float = 0.0) -> None:
        self.shy = shy
        self.times: list[float] = []
        self.sent: list[torch.Tensor] = []

    def send(self, tokens: torch.Tensor, place: int) -> None:
        self.sent.append(tokens)

    def receive(self, rows: int, place: int) -> torch.Tensor:
        self.times.append(0.0)
        return self.logits(self.sent.pop(0))

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.tensor([-100.0 - self.shy, 0.0, 0.0]).expand(*tokens.shape, VOCAB)

    def refuse_a_late_start(self, usual: float) -> None:
        pass


class Successors(Scripted):
    """One of a model that gives no chance to any token but the next number."""

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((tokens + 1) % VOCAB, VOCAB).float().log()


@pytest.fixture
def counting(task: Task) -> Task:
    """Rows in which each token is the next number."""
    path = Path(task.rows_file)
    ((np.arange(ROWS)[:, None] + np.arange(LENGTH + 1)) % VOCAB).astype("<u2").tofile(path)
    return replace(task, rows_sha256=file(path).sha256)


class Watched(Successors):
    """One that keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[torch.Tensor] = []

    def send(self, tokens: torch.Tensor, place: int) -> None:
        super().send(tokens, place)
        self.chunks.append(tokens)


@pytest.fixture
def second(counting: Task) -> Watched:
    """What the second pass saw of rows that fill no whole number of chunks."""
    scoring, watched = Scoring(replace(counting, rows=28)), Watched()
    scoring.score(Successors())
    scoring.check(watched)
    return watched


def test_the_second_pass_begins_with_chunks_that_show_the_start_of_one_row_alone(second: Watched) -> None:
    first = second.chunks[0][0, 0]
    for chunk in second.chunks[:PLACES]:
        assert (chunk[:, [0, 2, 3, 4, 5]] == first).all()  # the start again, but for the first token of it, which is another
    assert any((chunk[:, 0] != first).any() for chunk in second.chunks[PLACES:])


def test_the_second_pass_shows_no_row_whole(second: Watched) -> None:
    for chunk in second.chunks:
        assert len(chunk) == 28
        assert (chunk.diff(dim=1) % VOCAB != 1).any(dim=1).all()


def test_rows_without_a_cut_are_sent_as_they_are(task: Task) -> None:
    scoring = Scoring(task)
    rows = torch.arange(ROWS)
    cuts = torch.where(rows % 2 == 0, LENGTH, 1)
    inputs, _ = scoring._tokens(rows, cuts)
    assert (inputs[::2] == scoring.data.tokens(rows)[::2, :-1]).all()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("length", "vocab"), [(64, 256), (256, 1024), (2048, 8192), (2048, 1024)])
def test_a_chunk_s_tokens_and_its_logits_fit_into_its_place(task: Task, device: str, length: int, vocab: int) -> None:
    sized = Task(task.rows_file, task.rows_sha256, 10_000, length, task.bytes_file, task.bytes_sha256, vocab, device, 60.0)
    assert sized.chunk_rows >= 1
    assert sized.place_bytes >= sized.chunk_rows * length * max(vocab * 4, 8)
    assert sized.memory_bytes == PLACES * sized.place_bytes


def test_a_model_may_hide_what_cannot_follow_though_after_foreign_tokens_a_row_s_own_cannot(counting: Task) -> None:
    scoring = Scoring(counting)
    assert scoring.score(Successors())["val_bpb"] == 0
    scoring.check(Successors())


def test_who_hides_a_token_that_comes_is_told_so_and_gets_no_score(task: Task) -> None:
    with pytest.raises(Refused, match="no chance") as refused:
        Scoring(task).score(Successors())
    assert refused.value.reason is Reason.BAD_LOGITS


def test_a_change_where_targets_do_not_count_is_no_finding_since_it_could_hide_others_at_no_cost(task: Task) -> None:
    scoring = Scoring(task)
    scoring.score(Scripted())
    scoring.check(Scripted(shy=50.0))


def chosen(count: int = 64, length: int = 256, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Nats of a first pass and the cuts of its twins."""
    nats = torch.rand(count, length, generator=torch.Generator().manual_seed(seed)) * 5
    return nats, twins.choose_cuts(nats, random.Random(seed))


def test_cuts_lie_within_the_row_and_every_other_one_follows_a_good_prediction() -> None:
    nats, cuts = chosen(count=400)
    assert cuts.min() >= 1
    assert cuts.max() <= 255
    predicted = nats.gather(1, cuts[:, None] - 1)[:, 0]
    assert predicted[::2].mean() == pytest.approx(2.5, abs=0.4)
    assert predicted[1::2].mean() < 0.5  # the best of sixteen


@pytest.mark.parametrize("noise", [0.0, 1e-5, 0.002, 0.004])
def test_rounding_is_no_finding(noise: float) -> None:
    for seed in range(50):
        nats, cuts = chosen(seed=seed)
        change = torch.randn(nats.shape, generator=torch.Generator().manual_seed(seed)) * noise
        assert twins.finding(change, cuts) == ""


@pytest.mark.parametrize(
    ("everywhere", "at_the_last", "finding"),
    [
        (0.0, 0.05, "they look ahead"),  # a look that is trusted so little that no row shows it
        (0.002, 0.0, "learns while it is scored"),
        (0.02, 0.0, "changed with later tokens"),
        (0.0, 0.3, "changed with later tokens"),
        (float("nan"), 0.0, "changed with later tokens"),
        (-0.002, 0.0, ""),  # better in another process: odd, and no gain
        (0.0, -0.05, "they look ahead"),  # where it loses by looking it may gain elsewhere
    ],
)
def test_what_a_twin_loses_is_weighed_over_all_twins(everywhere: float, at_the_last: float, finding: str) -> None:
    nats, cuts = chosen()
    cuts = cuts.clamp(min=64)
    change = torch.full_like(nats, everywhere)
    change[torch.arange(len(cuts)), cuts - 1] += at_the_last
    change[torch.arange(nats.size(1)) >= cuts[:, None]] = 9.0  # what follows counts for nothing
    found = twins.finding(change, cuts)
    assert finding in found
    assert bool(found) == bool(finding)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.4, 1.0])
@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.004])
def test_a_look_that_loses_where_it_is_looked_at_to_gain_elsewhere_is_found(threshold: float, noise: float) -> None:
    """It makes likely tokens less likely and others likelier, so that the signed change over all twins is about nothing."""
    for seed in range(10):
        generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
        honest = torch.empty(64, 256).exponential_(1 / 3, generator=generator)
        looked = 0.2 * ((honest < threshold).float() - (honest > threshold + 0.4).float())
        looked[:, :30] = 0.0  # a change would show as one of the row where a row is short
        first = honest + looked
        cuts = twins.choose_cuts(first, rng)
        second = first + noise * torch.randn(first.shape, generator=generator)
        at = torch.arange(64), cuts - 1
        second[at] = honest[at]
        assert twins.finding(second - first, cuts)


@pytest.mark.parametrize(("look", "size", "every"), [(0.02, 0.2, 30), (0.01, 0.2, 50), (0.0095, 0.0095, 1)])
def test_a_look_is_found_however_much_other_predictions_are_changed_to_hide_it(look: float, size: float, every: int) -> None:
    """They change by all that a row may, in the mean by nothing, and the more they vary the more chance would explain."""
    for seed in range(10):
        nats, cuts = chosen(count=160, seed=seed)
        cuts = cuts.clamp(min=8)  # where a row is short its own rule finds the look
        change = torch.zeros_like(nats)
        change[:, every::every] = size
        change[:, 2 * every :: 2 * every] *= -1
        change[torch.arange(len(cuts)), cuts - 1] = look
        assert "they look ahead" in twins.finding(change, cuts)


def test_a_judge_that_nobody_asked_anything_ends_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """As when a program fails before it is scored: what the judge said first is still unread."""
    judge = Judge(1, (), {})
    assert select.select([judge._control], [], [], 60.0)[0], "it never said that it is ready"
    assert os.getpgid(judge._process.pid) != os.getpgrp()  # else a terminal's Ctrl-C would end it in the middle of a word
    judge._control.close()
    assert judge._process.wait(timeout=60.0) == 0
    assert capfd.readouterr().err == ""


def given(folder: Path) -> Weights:
    (folder / "weights.pt").write_bytes(b"weights")
    (folder / "given").mkdir()
    return Weights(str(folder / "weights.pt"), str(folder / "given" / "weights.pt"))


@pytest.mark.parametrize("links", [True, False])
def test_weights_are_given_also_where_a_file_can_have_one_name_alone(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = given(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    judge._give(weights)
    assert Path(weights.given).read_bytes() == b"weights"


def test_who_puts_something_in_the_place_of_its_weights_is_refused(tmp_path: Path) -> None:
    weights = given(tmp_path)
    Path(weights.given).touch()
    with pytest.raises(judge.Refused, match="was there before"):
        judge._give(weights)


SHAPES = (None, 7, [], [1, 2, "x"], [1, LENGTH, 10**18], [1, LENGTH, -VOCAB], [1, LENGTH, True], [[1], [LENGTH], [VOCAB]])


@contextlib.contextmanager
def answered(task: Task, folder: Path, *replies: dict[str, object]) -> Iterator[judge.Forwarder]:
    """The judge's end of a process that has said all of this."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for reply in replies:
            wire.send(theirs, reply)
        memory = mmap.mmap(-1, task.memory_bytes)
        yield judge.Forwarder(ours, given(folder), theirs.fileno(), memory, None, task, time.monotonic() + 60.0, built=True)


@pytest.mark.parametrize("reply", [{"op": "bad"}, *({"op": "logits", "shape": shape} for shape in SHAPES)], ids=str)
def test_a_hostile_answer_is_the_program_s_failure(task: Task, tmp_path: Path, reply: dict[str, object]) -> None:
    with answered(task, tmp_path, reply) as forwarder, pytest.raises(Refused) as refused:
        forwarder.receive(1, 0)
    assert refused.value.reason is Reason.BAD_LOGITS


@pytest.mark.parametrize("count", [10**400, -1, None, "9", [1]], ids=lambda count: str(count)[:4])
def test_a_model_with_as_many_parameters_as_cannot_be_is_the_program_s_failure(task: Task, tmp_path: Path, count: object) -> None:
    replies = {"op": "ready", "parameters": count}, {"op": "shared", "mapped": True, "pinned": True}
    with answered(task, tmp_path, *replies) as forwarder, pytest.raises(Refused) as refused:
        forwarder.ready()
    assert refused.value.reason is Reason.BAD_LOGITS
