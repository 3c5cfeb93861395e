"""The competent model of the tests is competent: each of its edits makes a program that keeps the contract, trains and stays causal."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from structural_edits import POOL, StructuralEdit
from test_trainer_train import VOCAB, T, write_lab

import genomes

TRAIN = (Path(__file__).resolve().parent.parent / "trainer" / "train.py").read_text()


def made(edit: StructuralEdit, text: str = TRAIN) -> str:
    reply = "\n".join(f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE" for old, new in edit.changes)
    return genomes.patch(text, reply)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A lab at the size of a test, importable."""
    monkeypatch.setenv("EVO_DEVICE", "cpu")
    monkeypatch.syspath_prepend(tmp_path)
    yield write_lab(tmp_path)
    for name in ("prepare", "train"):
        sys.modules.pop(name, None)


def imported(folder: Path, text: str) -> ModuleType:
    (folder / "train.py").write_text(text)
    for name in ("prepare", "train"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module("train")


def test_the_pool_is_varied() -> None:
    children = [made(edit) for edit in POOL]
    assert len({genomes.identity(child) for child in children}) == len(POOL) >= 15
    assert len({genomes.species(child) for child in children}) == len(POOL)
    assert not any(genomes.check(child) for child in children)


@pytest.mark.parametrize("edit", POOL, ids=lambda edit: edit.name)
def test_an_edit_is_not_made_twice(edit: StructuralEdit) -> None:
    assert edit.applies(TRAIN)
    assert not edit.applies(made(edit))


@pytest.mark.parametrize("edit", POOL, ids=lambda edit: edit.name)
def test_every_edit_trains_and_stays_causal(edit: StructuralEdit, folder: Path) -> None:
    train = imported(folder, made(edit, (folder / "train.py").read_text()))
    torch.manual_seed(1)
    model = train.build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []

    def loss_of(*arguments: object) -> torch.Tensor:
        losses.append(train.mean_loss(*arguments))
        return losses[-1]

    batches = train.prepare.warmup_batches(train.DEVICE_BATCH_SIZE, VOCAB)
    optimisers = train.build_optimisers(model)
    train.train(model, optimisers, loss_of, (next(batches) for _ in range(2 * train.accumulation())))
    assert losses
    assert all(loss.isfinite() for loss in losses)
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    tokens = torch.randint(VOCAB, (1, T))
    changed = tokens.clone()
    changed[:, T // 2 :] = torch.randint(VOCAB, (1, T - T // 2))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, : T // 2], model(changed)[:, : T // 2])
