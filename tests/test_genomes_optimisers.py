"""Mutations of Muon and of the optimisers: each finds its construct, and the seed with it really trains."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from test_genomes_network import SEED, SMALL, prepared, run_steps

import genomes
from genomes.mutations.muon import MUON_MUTATIONS
from genomes.mutations.optimisers import OPTIMISER_MUTATIONS

BOTH = [mutation.name for mutation in (*MUON_MUTATIONS, *OPTIMISER_MUTATIONS)]
BEFORE = {"nesterov": "no-nesterov"}  # the mutation that takes away what this one brings
ELSEWHERE = {"no-bias-correction": "upstream"}  # torch corrects the seed's Adam, which no program can change
VARIANTS = 2


@pytest.fixture(scope="module")
def prepare() -> Iterator[ModuleType]:
    with prepared() as module:
        yield module


def parent_for(name: str, text: str) -> str:
    if name in ELSEWHERE:
        return (Path(__file__).parent / "programs" / f"{ELSEWHERE[name]}.py").read_text(encoding="utf-8")
    return genomes.mutate(text, random.Random(0), [BEFORE[name]]).text if name in BEFORE else text


@pytest.mark.parametrize("name", BOTH)
def test_its_children_are_genomes_of_another_species(name: str) -> None:
    parent = parent_for(name, SEED)
    for seed in range(VARIANTS):
        child = genomes.mutate(parent, random.Random(seed), [name])
        assert genomes.species(child.text) != genomes.species(parent), child.note
        assert set(genomes.check(child.text)) <= set(genomes.check(parent)), child.note


@pytest.mark.parametrize("name", [name for name in BOTH if name not in ELSEWHERE])
def test_the_seed_with_it_takes_its_steps(name: str, prepare: ModuleType) -> None:
    parent = parent_for(name, SMALL)
    for text in {genomes.mutate(parent, random.Random(seed), [name]).text for seed in range(VARIANTS)}:
        run_steps(text, prepare)
