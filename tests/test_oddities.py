"""Honest programs that are built in unusual ways (tests/oddities): each is scored, and as its weights deserve."""

from __future__ import annotations

import importlib
import io
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SmallLab
from programs_of import Keeping, names, read

from evaluator import data as datafolder
from evaluator.outcome import Scored
from evaluator.slot import SlotConfig

BUDGET_SECONDS = 20.0  # more than their steps take, however busy the machine is
ROUNDING_BPB = 1e-4
NEEDS_CUDA = ("triton_kernel",)
LEAST = 13


@pytest.fixture(scope="module")
def slot(small_lab: SmallLab) -> Iterator[Keeping]:
    on = {"device": "cuda", "gpu": "0"} if torch.cuda.is_available() else {"device": "cpu"}
    made = Keeping(SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", **on))
    yield made
    made.close()


def direct_bpb(program: str, weights: bytes, lab: SmallLab, folder: Path, monkeypatch: pytest.MonkeyPatch) -> float:
    """Bits per byte of the weights on the validation rows, in this process and in double precision."""
    monkeypatch.syspath_prepend(folder)
    for name, text in (("prepare", lab.prepare), ("train", program)):
        (folder / f"{name}.py").write_text(text)  # Triton reads the source of its kernels
        monkeypatch.setitem(sys.modules, name, None)  # so that it is forgotten after the test
        del sys.modules[name]
    model = importlib.import_module("train").build_model()
    model.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    (vocabulary,) = datafolder.load(lab.data).vocabularies
    rows = torch.from_numpy(np.fromfile(vocabulary.val.file, "<u2").reshape(vocabulary.val.rows, -1).astype(np.int64))
    sizes = torch.from_numpy(np.fromfile(vocabulary.bytes_file, "<i4"))[rows[:, 1:]]  # (rows, T)
    with torch.no_grad():
        logits = model.eval()(rows[:, :-1].to(next(model.parameters()).device)).cpu().double()
    nats = -logits.log_softmax(-1).gather(2, rows[:, 1:, None])[:, :, 0]
    return float(nats[sizes > 0].sum()) / math.log(2) / int(sizes.sum())


def test_there_are_enough_of_them() -> None:
    assert len(names("oddities")) >= LEAST


@pytest.mark.parametrize("name", names("oddities"))
def test_an_honest_oddity_scores_what_its_weights_are_worth(
    slot: Keeping, name: str, small_lab: SmallLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS_CUDA and slot.config.device != "cuda":
        pytest.skip("no CUDA device here")
    outcome = slot(read("oddities", name), 1, BUDGET_SECONDS)
    assert isinstance(outcome, Scored), outcome
    assert outcome.steps > 0
    assert outcome.val_bpb < 8  # less than a model that knows nothing has: eight bits for each byte
    worth = direct_bpb(read("oddities", name), slot.weights, small_lab, tmp_path, monkeypatch)
    assert outcome.val_bpb == pytest.approx(worth, abs=ROUNDING_BPB)
