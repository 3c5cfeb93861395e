"""Mutations of the network: each really runs. Shapes hold, new parameters learn, nothing looks ahead, no line changes without need."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_trainer_train import CONSTANTS, KNOBS, TRAINER, VOCAB, T, rendered

import genomes
from genomes.mutations.attention import ATTENTION_MUTATIONS
from genomes.mutations.edges import EDGE_MUTATIONS
from genomes.mutations.mlp import MLP_MUTATIONS
from genomes.mutations.model import MODEL_MUTATIONS
from genomes.mutations.mutation import Mutation, program
from genomes.mutations.norms import NORM_MUTATIONS
from genomes.mutations.stream import STREAM_MUTATIONS
from genomes.mutations.values import VALUE_MUTATIONS

NETWORK_MUTATIONS = (
    *MODEL_MUTATIONS,
    *NORM_MUTATIONS,
    *MLP_MUTATIONS,
    *ATTENTION_MUTATIONS,
    *VALUE_MUTATIONS,
    *STREAM_MUTATIONS,
    *EDGE_MUTATIONS,
)
SEED = (TRAINER / "train.py").read_text(encoding="utf-8")
SMALL = rendered(TRAINER / "train.py", KNOBS)
OTHERS = {name: (Path(__file__).parent / "programs" / name).read_text(encoding="utf-8") for name in ("upstream.py", "llama.py")}
DRAWS = 2  # of each mutation: two variants where it has some
# What the seed has already, or has not yet: the mutation that makes it another program, on which they apply.
BEFORE = {
    "plain-mlp": ("gated-mlp", "gated"),
    "re-inject-embedding": ("remove-factor", "without x0_factors"),
    "add-soft-cap": ("soft-cap", "no soft-cap"),
}
STEPS = 2  # after the first, what starts at zero no longer hides the rest
UNTRAINED = ("value_share",)  # the first block's: its values are the first ones


def of_name(name: str) -> Mutation:
    return next(mutation for mutation in NETWORK_MUTATIONS if mutation.name == name)


def parent_for(mutation: Mutation, text: str) -> str:
    """The text, or its first child on which the mutation can work; with an even number of heads where they are shared by two."""
    if mutation.name == "grouped-queries":
        return genomes.set_knobs(text, {"HEAD_DIM": 8})
    if mutation.name not in BEFORE:
        return text
    name, note = BEFORE[mutation.name]
    children = (of_name(name).apply(program(text), random.Random(seed)) for seed in range(50))
    return next(child.text for child in children if child and (note in child.note or note == "gated"))


def children(mutation: Mutation, text: str) -> list[tuple[str, str]]:
    """Distinct children with their notes."""
    found = (mutation.apply(program(text), random.Random(f"{mutation.name}/{seed}")) for seed in range(DRAWS))
    return sorted({(child.text, child.note) for child in found if child})


@contextmanager
def prepared() -> Iterator[ModuleType]:
    """The lab's own prepare.py with short rows, as programs import it."""
    before, sys.modules["prepare"] = sys.modules.get("prepare"), loaded(rendered(TRAINER / "prepare.py", CONSTANTS), "prepare")
    yield sys.modules["prepare"]
    del sys.modules["prepare"]
    if before is not None:
        sys.modules["prepare"] = before


@pytest.fixture(scope="module")
def prepare() -> Iterator[ModuleType]:
    with prepared() as module:
        yield module


def loaded(text: str, name: str = "train") -> ModuleType:
    module = ModuleType(name)
    module.__file__ = f"{name}.py"
    before, sys.modules[name] = sys.modules.get(name), module  # dataclasses look their module up
    try:
        exec(compile(text, f"{name}.py", "exec"), module.__dict__)
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
    return module


def looks_ahead(model: Any, vocabulary: int) -> bool:
    """Does another end of a row change what is said about its beginning? Weights are shaken first: zeros would hide it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        tokens = torch.randint(0, vocabulary, (2, T))
        other = torch.cat([tokens[:, : T // 2], torch.randint(0, vocabulary, (2, T // 2))], dim=1)
        here, there = model(tokens)[:, : T // 2], model(other)[:, : T // 2]
    assert torch.isfinite(here).all()
    return not torch.allclose(here, there, atol=1e-3, rtol=1e-3)


def run_steps(text: str, prepare: ModuleType) -> None:
    """Builds the model and takes two steps as the seed does; asserts what must hold of any network."""
    torch.manual_seed(0)
    train = loaded(text)
    model = train.build_model()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimisers = train.build_optimisers(model)
    moved: set[str] = set()  # at any step: two steps of Lion can cancel
    for step, (x, y) in zip(range(STEPS), prepare.warmup_batches(2, VOCAB), strict=False):
        loss = train.mean_loss(model, x, y)
        assert torch.isfinite(loss)
        loss.backward()
        train.schedule(optimisers, 0.1, step)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        moved |= {name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])}
    still = [name for name in start if name not in moved]
    assert [name for name in still if not name.endswith(UNTRAINED)] == []
    logits = model(x)
    assert (logits.shape, logits.dtype) == ((2, T, VOCAB), torch.float32)
    train.build_model().load_state_dict(model.state_dict())
    assert not looks_ahead(model, VOCAB)


@pytest.mark.parametrize("mutation", [m for m in NETWORK_MUTATIONS if not m.name.startswith("drop-")], ids=lambda mutation: mutation.name)
def test_a_child_of_the_seed_trains_and_so_does_its_child(mutation: Mutation, prepare: ModuleType) -> None:
    found = children(mutation, parent_for(mutation, SMALL))
    assert found
    for text, _ in found:
        run_steps(text, prepare)
    again = mutation.apply(program(found[0][0]), random.Random("again"))
    if again is not None and genomes.identity(again.text) != genomes.identity(found[0][0]):
        run_steps(again.text, prepare)


@pytest.mark.parametrize("mutation", NETWORK_MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_child_keeps_the_contract_and_every_line_that_needs_no_change(mutation: Mutation) -> None:
    parent = parent_for(mutation, SEED)
    found = children(mutation, parent)
    assert found
    for text, note in found:
        assert genomes.check(text) == ()
        assert genomes.identity(text) != genomes.identity(parent)
        assert note == " ".join(note.split())
        old, new = parent.splitlines(), text.splitlines()
        gone = list((Counter(old) - Counter(new)).elements())
        assert len(gone) <= 8, note
        assert all(line.strip() and not line.strip().startswith("#") for line in gone), note
        assert len(new) - len(old) <= 7, note


@pytest.mark.parametrize("name", sorted(BEFORE))
def test_what_the_seed_has_already_is_not_added_again(name: str) -> None:
    assert of_name(name).apply(program(SEED), random.Random(0)) is None


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("qk-norm", 0),
        ("sub-norm", 1),
        ("value-norm", 1),
        ("move-norm", 2),
        ("embedding-scale", 0),
        ("gated-mlp", 0),
        ("grouped-queries", 0),
    ],
)
def test_nothing_is_done_twice_in_one_place(name: str, count: int) -> None:
    """However often it is drawn, there are at most so many norms more than the seed's, and no norm of a norm."""
    text = SEED
    for seed in range(12):
        child = of_name(name).apply(program(text), random.Random(seed))
        text = child.text if child else text
        assert "norm(norm(" not in text
        assert text.count("norm(") - SEED.count("norm(") <= max(2, count)
        assert all(
            text.count(once) <= 1 for once in (".chunk(2, dim=-1)\n        return", "repeat_interleave", "0.5 * norm(", "2.0 * norm(")
        )


@pytest.mark.parametrize("name", sorted(OTHERS))
@pytest.mark.parametrize("mutation", [m for m in NETWORK_MUTATIONS if not m.name.startswith("drop-")], ids=lambda mutation: mutation.name)
def test_a_child_of_a_program_in_another_style_runs_and_trains_all_it_has(mutation: Mutation, name: str, prepare: ModuleType) -> None:
    for text, note in children(mutation, OTHERS[name])[:1]:
        assert genomes.check(text) == ()
        train = loaded(text)
        model = train.build_model()
        tokens = torch.randint(0, 1024, (2, T))
        model(tokens).square().mean().backward()
        groups = train.groups(model) if name == "llama.py" else model.setup_optimizer().param_groups
        trained = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(trained) == sorted({id(parameter) for parameter in model.parameters()}), note
        assert all(parameter.ndim == 2 for group in groups if group.get("kind") == "muon" for parameter in group["params"])


def test_new_vectors_of_the_blocks_go_to_adam_once_and_muon_keeps_the_matrices() -> None:
    text = SEED
    for name in ("layer-scale", "norm-gain", "token-shift", "query-gain", "add-bias"):
        child = of_name(name).apply(program(text), random.Random(1))
        assert child is not None, name
        text = child.text
    assert text.count("[p for p in model.blocks.parameters() if p.ndim != 2]") == 1
    assert text.count("Muon([p for p in model.blocks.parameters() if p.ndim == 2], MATRIX_LR, WEIGHT_DECAY)") == 1


def test_a_removed_factor_takes_its_group_its_initial_value_and_its_knobs_with_it() -> None:
    parent = parent_for(of_name("re-inject-embedding"), SEED)
    for gone in ("x0_factors", "X0_INIT", "X0_BETAS"):
        assert gone in SEED
        assert gone not in parent
    assert "RESIDUAL_INIT" in parent


def test_a_program_without_a_network_of_modules_is_left_alone() -> None:
    text = (Path(__file__).parent / "programs" / "odd.txt").read_text(encoding="utf-8")
    added = [mutation for mutation in NETWORK_MUTATIONS if mutation.name not in ("drop-part", "drop-statement")]
    assert [mutation.name for mutation in added if mutation.apply(program(text), random.Random(0))] == []


def test_the_network_has_its_share_of_the_catalogue() -> None:
    assert len(NETWORK_MUTATIONS) >= 40
    assert {mutation.kind for mutation in NETWORK_MUTATIONS} == {"structural"}
