"""Mutations of the loss, the loop, initial values and statements, and joint moves: children do what their notes say, on real programs."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_genomes_network import SEED, SMALL, T, loaded, prepared

import genomes
from genomes.mutations.initial import INITIAL_MUTATIONS
from genomes.mutations.loop import LOOP_MUTATIONS
from genomes.mutations.mutation import program
from genomes.mutations.objectives import OBJECTIVE_MUTATIONS
from genomes.mutations.statements import STATEMENT_MUTATIONS

PROGRAMS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "programs").glob("*.py"))}
PROGRAMS["seed"] = SMALL
PROGRAMS["upstream"] = genomes.set_knobs(PROGRAMS["upstream"], {"TOTAL_BATCH_SIZE": 128})  # one pass of its four rows, which are short here
NEW = [m.name for m in (*OBJECTIVE_MUTATIONS, *LOOP_MUTATIONS, *INITIAL_MUTATIONS, *STATEMENT_MUTATIONS)]
BATCHES = 6
ROWS = 2
# Where each applies among these programs, at the least: the construct occurs there.
FITTING = [
    *(("smooth-labels", name) for name in ("seed", "upstream", "annotated", "grouped", "llama")),
    *(("z-loss", name) for name in ("seed", "upstream", "annotated", "functional", "recurrent", "terse")),
    *(("token-after-next", name) for name in ("seed", "upstream", "annotated", "grouped")),
    *(("average-weights", name) for name in ("seed", "upstream", "annotated", "grouped")),
    *(("growing-batch", name) for name in ("seed", "upstream", "grouped")),
    *(("orthogonal-init", name) for name in ("seed", "upstream", "grouped")),
    *(("init-by-depth", name) for name in ("seed", "upstream", "grouped")),
    *(("swap-statements", name) for name in ("upstream", "grouped")),
    *(("delete-unused", name) for name in ("grouped", "recurrent")),
    *(("drop-statement", name) for name in ("functional", "grouped")),
    *(("drop-part", name) for name in ("functional", "upstream", "recurrent")),
]


@pytest.fixture(scope="module")
def prepare() -> Iterator[ModuleType]:
    """The lab's prepare.py, with a few random batches for training and a progress that goes with them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small networks are faster so, by far where the machine is busy
    with prepared() as module:
        done = [0]

        def batches(rows: int, vocab: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            torch.manual_seed(1)
            for done[0] in range(BATCHES):
                tokens = torch.randint(0, vocab, (ROWS, T + 1))
                yield tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

        module.batches = module.warmup_batches = batches  # type: ignore[attr-defined]
        module.progress = lambda: done[0] / BATCHES  # type: ignore[attr-defined]
        yield module
    torch.set_num_threads(threads)


def trained(text: str, prepare: ModuleType) -> tuple[ModuleType, Any, list[dict[str, torch.Tensor]]]:
    """Runs a program's main; the module, the model that it saves, and the weights after each step, as they were reported."""
    train, saved, models, courses = loaded(text), list[Any](), list[Any](), list[dict[str, torch.Tensor]]()
    made = train.build_model

    def build_model(*arguments: Any) -> Any:
        models.append(made(*arguments))
        return models[-1]

    def report(loss: Any = None) -> float:
        courses.append({name: weight.detach().clone() for name, weight in models[-1].state_dict().items()})
        return float(torch.as_tensor(loss).detach())

    train.build_model = build_model  # type: ignore[attr-defined]
    prepare.save, prepare.report = saved.append, report  # type: ignore[attr-defined]
    with contextlib.redirect_stdout(io.StringIO()):
        train.main()
    return train, saved[0].eval(), courses


def child_of(text: str, name: str, seed: int = 0) -> genomes.Mutant:
    return genomes.mutate(text, random.Random(seed), [name])


@pytest.mark.parametrize(("name", "where"), FITTING)
def test_a_child_of_a_program_in_any_style_trains_and_can_be_scored(name: str, where: str, prepare: ModuleType) -> None:
    child = child_of(PROGRAMS[where], name)
    train, model, _ = trained(child.text, prepare)
    with torch.no_grad():
        logits = model(torch.randint(0, 256, (ROWS, T)))
    assert torch.isfinite(logits).all(), child.note
    assert logits.dtype == torch.float32
    assert logits.shape[:2] == (ROWS, T)
    train.build_model().load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", NEW)
def test_it_applies_wherever_it_is_said_to_and_what_is_left_is_in_the_contract(name: str) -> None:
    for where in (where for other, where in FITTING if other == name):
        for seed in range(3):
            child = child_of(PROGRAMS[where], name, seed)
            assert genomes.species(child.text) != genomes.species(PROGRAMS[where]) or name == "delete-unused", child.note
            assert set(genomes.check(child.text)) <= set(genomes.check(PROGRAMS[where])), child.note


def test_what_is_saved_is_the_mean_of_the_weights_after_each_step(prepare: ModuleType) -> None:
    """Of the first steps it is the plain mean, whatever the share."""
    text = child_of(PROGRAMS["annotated"], "average-weights").text.replace("max(0.1,", "max(0.01,")
    _, model, after = trained(text, prepare)
    assert len(after) == BATCHES
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, torch.stack([weights[name] for weights in after]).mean(dim=0), atol=1e-6), name


def test_a_growing_batch_takes_fewer_steps_for_the_same_batches(prepare: ModuleType) -> None:
    plain = trained(PROGRAMS["upstream"], prepare)[2]
    grown = {child_of(PROGRAMS["upstream"], "growing-batch", seed).text for seed in range(4)}
    counts = {len(trained(text, prepare)[2]) for text in grown}
    assert len(plain) == BATCHES
    assert all(BATCHES / 2 <= count < BATCHES for count in counts)


def test_two_heads_learn_in_training_and_one_is_scored(prepare: ModuleType) -> None:
    before, after = loaded(SMALL), loaded(child_of(SMALL, "token-after-next").text)
    torch.manual_seed(0)
    model = after.build_model()
    with torch.no_grad():
        model.later_head.weight.normal_()
    parent = before.build_model()
    parent.load_state_dict({name: value for name, value in model.state_dict().items() if not name.startswith("later_head")})
    x, y = next(prepare.batches(ROWS, 256))
    assert torch.equal(model(x), parent(x))
    after.mean_loss(model, x, y).backward()
    assert model.later_head.weight.grad.abs().sum() > 0
    changed = y.clone()
    changed[:, 0] = (y[:, 0] + 1) % 256  # the first target is the first head's alone
    loss = after.mean_loss(model, x, y) - before.mean_loss(parent, x, y)
    other = after.mean_loss(model, x, changed) - before.mean_loss(parent, x, changed)
    assert loss.item() == pytest.approx(other.item(), abs=1e-4)


def test_the_z_loss_is_the_squared_logarithm_of_the_normaliser(prepare: ModuleType) -> None:
    child = next(c for c in (child_of(SMALL, "z-loss", seed) for seed in range(20)) if "0.001" in c.note)
    before, after = loaded(SMALL), loaded(child.text)
    model = before.build_model()
    x, y = next(prepare.batches(ROWS, 256))
    expected = 0.001 * model(x).logsumexp(-1).square().mean()
    assert (after.mean_loss(model, x, y) - before.mean_loss(model, x, y)).item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.usefixtures("prepare")
def test_orthogonal_matrices_are_of_the_size_that_they_had() -> None:
    torch.manual_seed(0)
    before, after = loaded(SMALL).build_model(), loaded(child_of(SMALL, "orthogonal-init").text).build_model()
    old, new = (model.blocks[0].attention.query.weight for model in (before, after))
    assert new.std().item() == pytest.approx(old.std().item(), rel=0.1)
    products = new @ new.T
    assert torch.allclose(products, products[0, 0] * torch.eye(len(new)), atol=1e-4)


@pytest.mark.usefixtures("prepare")
def test_branches_start_smaller_the_more_blocks_there_are() -> None:
    child = child_of(SMALL, "init-by-depth").text
    shallow, deep = (loaded(genomes.set_knobs(child, {"DEPTH": blocks})).build_model() for blocks in (2, 8))
    first, second = (model.blocks[0].attention.out.weight.std().item() for model in (shallow, deep))
    assert 0 < second < first / 1.7


def test_only_what_nothing_uses_is_deleted() -> None:
    dead = "\n\ndef helper(x):\n    spare = x\n    return x\n    x += 1\n\n\nSPARE = 3\n"
    with pytest.raises(genomes.MutationError):
        child_of(SEED, "delete-unused")
    text = SEED.replace("\n\ndef build_model", f"{dead}\n\ndef build_model")
    gone = {child_of(text, "delete-unused", seed).note for seed in range(30)}
    assert gone == {"unused: def helper(x):", "unused: spare = x", "unused: x += 1", "unused: SPARE = 3"}
    for _ in range(9):
        try:
            text = child_of(text, "delete-unused").text
        except genomes.MutationError:
            break
    assert genomes.identity(text) == genomes.identity(SEED)


NO_OPS_OF_ONE_BLOCK = [
    "mlp-width-by-depth", "share-mlp", "some-rotary", "window-by-depth", "value-residual", "grouped-queries", "share-value-embeddings",
    "alternate-layers",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_OPS_OF_ONE_BLOCK)
def test_where_one_block_of_one_head_leaves_nothing_to_change_it_does_not_apply(name: str) -> None:
    small = genomes.set_knobs(SEED, {"DEPTH": 1, "ASPECT_RATIO": 64, "HEAD_DIM": 64})
    mutation = next(m for m in genomes.MUTATIONS if m.name == name)
    assert mutation.apply(program(SEED), random.Random(0)) is not None
    assert [child.note for seed in range(8) if (child := mutation.apply(program(small), random.Random(seed)))] == []


def test_one_block_keeps_or_loses_its_value_embedding_and_its_window() -> None:
    small = genomes.set_knobs(SEED, {"DEPTH": 1, "ASPECT_RATIO": 64, "HEAD_DIM": 64})
    assert {child_of(small, "value-embedding-layers", seed).note for seed in range(8)} == {"has_value_embedding: in no block"}
    kept = {child_of(small, "drop-condition", seed).note.split(" → ")[1] for seed in range(8)}
    assert len(kept) == 1
    assert "WINDOW_PATTERN" in kept.pop()


def test_an_embedding_without_a_norm_is_scaled_by_names_that_its_function_knows() -> None:
    bare = SEED.replace("x = x0 = norm(self.embedding(tokens))", "x = x0 = self.embedding(tokens)")
    mutation = next(m for m in genomes.MUTATIONS if m.name == "embedding-scale")
    assert bare != SEED
    assert mutation.apply(program(bare), random.Random(0)) is None  # `width` is a name of the constructor
    known = mutation.apply(
        program(bare.replace("nn.Embedding(VOCAB_SIZE, width)", "nn.Embedding(VOCAB_SIZE, HEAD_DIM)", 1)), random.Random(0)
    )
    assert known is not None
    assert genomes.check(known.text) == ()


def values(text: str) -> dict[str, Any]:
    return {knob.name: knob.value for knob in genomes.knobs(text)}


def test_depth_and_width_move_against_each_other() -> None:
    for seed in range(20):
        after = values(child_of(PROGRAMS["annotated"], "depth-with-width", seed).text)
        before = values(PROGRAMS["annotated"])
        products = [v["ModelConfig.layers"] * v["ModelConfig.width"] ** 2 for v in (before, after)]
        assert products[1] == pytest.approx(products[0], rel=0.25)
        assert after["ModelConfig.width"] % (2 * after["ModelConfig.heads"]) == 0
        shape = values(child_of(SEED, "depth-with-width", seed).text)
        sizes = [v["DEPTH"] * (v["DEPTH"] * v["ASPECT_RATIO"]) ** 2 for v in (values(SEED), shape)]
        assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


def test_rows_times_passes_stays() -> None:
    text = genomes.set_knobs(PROGRAMS["annotated"], {"TrainConfig.accumulation": 2})
    for seed in range(8):
        after = values(child_of(text, "rows-with-passes", seed).text)
        assert after["TrainConfig.batch"] != 8
        assert after["TrainConfig.batch"] * after["TrainConfig.accumulation"] == 16


def test_the_mean_rate_stays_when_the_fall_grows_longer() -> None:
    before = values(SEED)
    for seed in range(8):
        after = values(child_of(SEED, "fall-with-rates", seed).text)
        mean = [v["MATRIX_LR"] * (1 - v["WARMDOWN_RATIO"] / 2) for v in (before, after)]
        assert after["WARMDOWN_RATIO"] != before["WARMDOWN_RATIO"]
        assert mean[1] == pytest.approx(mean[0], rel=0.01)


def test_rates_follow_a_doubled_batch_by_its_root_or_in_proportion() -> None:
    factors = set()
    for seed in range(30):
        after = values(child_of(SEED, "batch-with-rates", seed).text)
        if after["TOTAL_BATCH_SIZE"] == 2 * values(SEED)["TOTAL_BATCH_SIZE"]:
            factors.add(after["SCALAR_LR"] / values(SEED)["SCALAR_LR"])
    assert sorted(factors) == pytest.approx([2**0.5, 2.0], rel=0.02)


def test_logits_without_a_cap_get_pytorchs_loss() -> None:
    """The seed's own is for capped ones."""
    children = [genomes.mutate(SEED, random.Random(number), ["soft-cap"]) for number in range(12)]
    for child in children:
        assert ("return F.cross_entropy(model(x)" in child.text) == ("no soft-cap" in child.note)
    assert {"no soft-cap" in child.note for child in children} == {True, False}
    nameless = SEED.replace("import torch\n", "from torch import nn\n").replace("import torch.nn.functional as F\n", "")
    assert all("no soft-cap" not in genomes.mutate(nameless, random.Random(number), ["soft-cap"]).note for number in range(12))
    ahead = genomes.mutate(SEED, random.Random(0), ["token-after-next"]).text
    assert "F.cross_entropy(later[" in ahead
    assert "return cross_entropy(logits" in ahead
