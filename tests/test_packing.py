"""A vocabulary that was not prepared: packed by the lab's preparation when a program asks for it, while no clock runs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, SmallLab

from evaluator import data as datafolder
from evaluator.evaluate import HarnessError
from evaluator.key import measurement_key
from evaluator.outcome import Interrupted, Scored
from evaluator.packing import Preparation, add_vocabulary
from evaluator.slot import Slot, SlotConfig
from evo import lab

MODULES = lab.load(lab.DEFAULT).modules


@pytest.fixture(scope="module")
def config(small_lab: SmallLab, tmp_path_factory: pytest.TempPathFactory) -> SlotConfig:
    """The small lab with one vocabulary prepared and two offered, in a folder of its own."""
    folder = tmp_path_factory.mktemp("offered")
    prepare = lab.set_constants((ROOT / "trainer" / "prepare.py").read_text(), {**SMALL, "VOCAB_SIZES": [256, 400]}, "prepare.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVO_DATA_DIR", str(folder))
        texts = Path(small_lab.data).parent.parent / "texts"
        data = lab.prepare_data(Preparation(prepare, MODULES), str(texts), lambda line: None)
    return SlotConfig(prepare, data, "test", modules=MODULES)


def test_it_is_packed_once_and_the_score_is_one_like_any_other(config: SlotConfig, small_lab: SmallLab, tmp_path: Path) -> None:
    config = replace(config, data=str(shutil.copytree(config.data, tmp_path / "data")))
    before = datafolder.load(config.data)
    assert [v.size for v in before.vocabularies] == [256]
    program = small_lab.genome.replace("256", "400")
    slot = Slot(config)
    try:
        outcome = slot(program, 0, 1.0)
    finally:
        slot.close()
    after = datafolder.load(config.data)
    assert isinstance(outcome, Scored), outcome
    assert outcome.training_seconds < 2, "packing is not on the clock"
    assert [v.size for v in after.vocabularies] == [256, 400]
    keys = {measurement_key("cpu", "cpu", "a CPU", 1.0, config.prepare, data) for data in (before, after)}
    assert len(keys) == 1, "which vocabularies are packed changes nothing that is measured"


@pytest.mark.parametrize(("device", "installed", "said"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)])
def test_a_package_that_makes_programs_faster_is_part_of_the_key(
    config: SlotConfig, monkeypatch: pytest.MonkeyPatch, device: str, installed: bool, said: bool
) -> None:
    def version(package: str) -> str:
        if package != "torch" and not installed:
            raise metadata.PackageNotFoundError(package)
        return "1.2.3"

    monkeypatch.setattr(metadata, "version", version)
    key = measurement_key("a profile", device, "a device", 1.0, config.prepare, datafolder.load(config.data))
    assert key.endswith("torch 1.2.3 | cudnn-frontend 1.2.3" if said else "torch 1.2.3")


def test_what_cannot_be_packed_is_no_fault_of_the_program(config: SlotConfig, small_lab: SmallLab, tmp_path: Path) -> None:
    config = replace(config, data=str(shutil.copytree(config.data, tmp_path / "data")), modules=())
    slot = Slot(config)
    try:
        outcome = slot(small_lab.genome.replace("256", "400"), 0, 1.0)
    finally:
        slot.close()
    assert isinstance(outcome, Interrupted)
    assert outcome.why.startswith("packing a vocabulary of 400: ModuleNotFoundError")


def test_packing_has_a_limit(config: SlotConfig) -> None:
    with pytest.raises(HarnessError, match=r"more than the 0\.01 s allowed"):
        add_vocabulary(Preparation(config.prepare, MODULES), config.data, 400, (), 0.01)
