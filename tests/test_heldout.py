"""The held-out text is read for champions alone: looked at thousands of times, a text stops telling how good the best of thousands is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SmallLab
from programs_of import read

from evaluator import data as datafolder
from evaluator.instant import Instant, Landscape
from evaluator.outcome import Scored
from evaluator.slot import Slot, SlotConfig

BUDGET_SECONDS = 20.0  # more than the program's twenty steps take


@pytest.fixture(scope="module")
def slot(small_lab: SmallLab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slot]:
    """On a copy of the data, which a test may change."""
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(small_lab.data, folder)
    made = Slot(SlotConfig(prepare=small_lab.prepare, data=str(folder), measurement_key="test"))
    yield made
    made.close()


def test_an_ordinary_evaluation_does_not_read_it_and_a_champion_s_does(slot: Slot) -> None:
    (vocabulary,) = datafolder.load(slot.config.data).vocabularies
    hidden = Path(vocabulary.heldout.file)
    content = hidden.read_bytes()
    hidden.unlink()
    ordinary = slot(read("cheats", "honest"), 1, BUDGET_SECONDS)
    assert isinstance(ordinary, Scored), ordinary
    assert ordinary.heldout_bpb is None
    hidden.write_bytes(content)
    champion = slot(read("cheats", "honest"), 1, BUDGET_SECONDS, heldout=True)
    assert isinstance(champion, Scored), champion
    assert champion.val_bpb == pytest.approx(ordinary.val_bpb, abs=1e-4)
    assert champion.heldout_bpb is not None
    assert champion.heldout_bpb != champion.val_bpb
    assert champion.heldout_bpb == pytest.approx(champion.val_bpb, abs=1.0)  # other text of the same kind


def test_the_instant_lab_has_one_with_noise_of_its_own() -> None:
    lab = Instant(Landscape(noise_sd=0.01))
    program = "def build_model(): pass\ndef main(): pass\n"
    without, outcome = (lab(program, 1, 1.0, heldout=heldout) for heldout in (False, True))
    assert isinstance(without, Scored)
    assert isinstance(outcome, Scored)
    assert without.heldout_bpb is None
    assert outcome.val_bpb == without.val_bpb != outcome.heldout_bpb
