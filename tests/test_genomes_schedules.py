"""Mutations of schedules: each finds its construct, in whatever hand it is written, and what it writes is a schedule."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import genomes
from genomes.mutations.mutation import program
from genomes.mutations.schedules import SCHEDULE_MUTATIONS

ROOT = Path(__file__).resolve().parent.parent
SEED = (ROOT / "trainer" / "train.py").read_text(encoding="utf-8")
PROGRAMS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "programs").glob("*.py"))} | {"seed": SEED}
ON_THE_SEED = [mutation for mutation in SCHEDULE_MUTATIONS if mutation.name not in ("reshape-cosine", "rate-floor")]  # neither is there
PROGRESS = [k / 20 for k in range(21)]


def children(text: str, mutation: genomes.Mutation, count: int = 4) -> list[genomes.Mutant]:
    return [genomes.mutate(text, random.Random(seed), [mutation.name], genomes.contract_of(text)) for seed in range(count)]


@pytest.mark.parametrize("mutation", SCHEDULE_MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_applies_to_some_program_and_its_children_are_genomes_of_another_species(mutation: genomes.Mutation) -> None:
    fitting = [text for text in PROGRAMS.values() if any(mutation.apply(program(text), random.Random(seed)) for seed in range(4))]
    assert fitting
    for text in fitting:
        for child in children(text, mutation):
            assert genomes.species(child.text) != genomes.species(text), child.note
            contract = genomes.contract_of(text)
            assert set(genomes.check(child.text, contract)) <= set(genomes.check(text, contract)), child.note


@pytest.fixture
def _prepare() -> Iterator[None]:
    """Importing the seed asks for the module alone; schedules use nothing of it."""
    before = sys.modules.get("prepare")
    sys.modules["prepare"] = ModuleType("prepare")
    sys.modules["prepare"].MAX_SEQ_LEN = 64  # type: ignore[attr-defined]
    yield
    del sys.modules["prepare"]
    if before is not None:
        sys.modules["prepare"] = before


def course(text: str) -> list[tuple[float, ...]]:
    """What the seed's `schedule` sets over a run of 400 steps: of an AdamW group and a Muon group, rate, decay, momentum, second beta."""
    names: dict[str, object] = {"__name__": "child"}
    exec(compile(text, "child", "exec"), names)
    schedule = names["schedule"]
    assert callable(schedule)
    found = []
    for progress in PROGRESS:
        adam = {"lr": 1.0, "full_lr": 1.0, "weight_decay": 0.0, "full_weight_decay": 0.0, "betas": (0.8, 0.95), "params": []}
        muon = {"lr": 1.0, "full_lr": 1.0, "weight_decay": 0.2, "full_weight_decay": 0.2, "momentum": 0.9, "params": []}
        schedule([SimpleNamespace(param_groups=[adam]), SimpleNamespace(param_groups=[muon])], progress, round(400 * progress))
        found.append((adam["lr"], muon["lr"], adam["weight_decay"], muon["weight_decay"], muon["momentum"], *adam["betas"]))
    return found


@pytest.mark.usefixtures("_prepare")
@pytest.mark.parametrize("mutation", ON_THE_SEED, ids=lambda mutation: mutation.name)
def test_the_seed_with_it_has_another_course_that_is_finite_and_never_negative(mutation: genomes.Mutation) -> None:
    before = course(SEED)
    for child in children(SEED, mutation):
        after = course(child.text)
        assert after != before, child.note
        assert all(math.isfinite(value) and value >= 0 for row in after for value in row), child.note
        assert all(row[4] < 1 and row[5] < 1 and row[6] < 1 for row in after), child.note
        assert max(row[0] for row in after) > 0.5, child.note


ABSOLUTE = """\
import torch
import prepare

LR = 4e-3


def lr_at(progress):
    return {value}


def main():
    model = torch.nn.Linear(4, 4)
    opt = torch.optim.AdamW([p for p in model.parameters() if p.dim() >= 2], lr=LR, weight_decay=0.1)
    for x, y in prepare.batches(8, 1024):
        progress = prepare.progress()
        for g in opt.param_groups:
            g["lr"] = {rate}
            g["weight_decay"] = 0.1 * (1 - progress)
        model(x).sum().backward()
        opt.step()
"""


@pytest.mark.parametrize(
    ("value", "rate", "fits"),
    [
        ("LR * min(1.0, (1 - progress) / 0.5)", "lr_at(progress)", False),
        ("LR * min(1.0, (1 - progress) / 0.5)", 'g["scale"] * lr_at(progress)', False),
        ("0.004 * (1 - progress)", "lr_at(progress)", False),
        ("min(1.0, (1 - progress) / 0.5)", "LR * lr_at(progress)", True),
        ("min(1.0, (1 - progress) / 0.5)", 'g["initial_lr"] * lr_at(progress)', True),
    ],
)
def test_a_schedule_is_a_share_only_where_it_is_multiplied_by_a_rate_and_is_none_itself(value: str, rate: str, fits: bool) -> None:
    text = ABSOLUTE.format(value=value, rate=rate)
    applied = {
        name: [found for seed in range(20) if (found := mutation.apply(program(text), random.Random(seed)))]
        for mutation in SCHEDULE_MUTATIONS
        if (name := mutation.name) in ("rate-floor", "group-schedule", "decay-schedule")
    }
    assert bool(applied["rate-floor"]) == fits
    assert bool(applied["group-schedule"]) == (rate.startswith('g["initial_lr"]') and fits)
    assert any("as the rates" in child.note for child in applied["decay-schedule"]) == ("LR" not in value and "0.004" not in value)
