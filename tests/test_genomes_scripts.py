"""Mutations of a script in upstream's shape (tests/programs/script.py), as people have it in a checkout: children really run.

Memory that nobody has written is NaN here: a new weight that is left without a value, after the model came from the meta device, shows.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
import os
import random
import re
import sys
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from script_lab import SCRIPT, make_home
from test_genomes_network import NETWORK_MUTATIONS, UNTRAINED, looks_ahead
from torch.nn import functional as F

import genomes
from genomes.mutations import STRUCTURAL_MUTATIONS
from genomes.mutations.draft import Draft, MisfitError
from genomes.mutations.mutation import program
from genomes.mutations.network import remember, stack

TEXT = (Path(__file__).parent / "programs" / "script.py").read_text(encoding="utf-8")
CONTRACT = genomes.contract_of(TEXT)
NETWORK = tuple(mutation.name for mutation in NETWORK_MUTATIONS if not mutation.name.startswith("drop-"))
# What does not apply to the script: its construct is not there, or is there already.
ABSENT = {
    "plain-mlp": "no gate",
    "window-by-depth": "no function that gives a window",
    "re-inject-embedding": "it is added already",
    "add-soft-cap": "there is a cap",
    "drop-condition": "no conditions joined",
    "reshape-cosine": "no cosine",
    "rate-floor": "there is a knob for it",
    "nesterov": "it looks ahead already",
    "other-adam": "its own AdamW",
    "lion": "its own AdamW",
    "delete-unused": "everything is used",
}
BUDGET_SECONDS, EVAL_TOKENS = 0.02, 2048
ALL_COUNTED = "assert len(list(self.parameters())) == "
TWO_WAYS = TEXT[TEXT.index("        if flash is None:\n") : TEXT.index("        y = y.contiguous()")]
ONE_WAY = "        y = flash.flash_attn_func(q, k, v, causal=True, window_size=window)\n"
LINEAGES = {
    "what is added": ("norm-gain", "smear", "bigram-embedding", "value-residual", "output-gate", "u-net", "token-shift"),
    "what goes, and what is added then": ("remove-factor", "remove-factor", "re-inject-embedding", "tie-weights"),
    "hidden channels, whose number changes": ("hidden-gain", "mlp-width-by-depth"),
    "hidden channels behind a gate": ("hidden-gain", "gated-mlp", "plain-mlp"),
    "keys that queries share": ("grouped-queries", "exclusive-attention", "query-gain", "output-gate"),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[types.ModuleType]:
    """The checkout's prepare.py as programs import it, its data prepared; nothing is compiled, and memory starts as NaN."""
    folder = make_home(tmp_path_factory.mktemp("scripts") / "home")
    found = types.ModuleType("prepare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        exec(compile((SCRIPT / "prepare.py").read_text(encoding="utf-8"), "prepare.py", "exec"), found.__dict__)
        found.__dict__.update(TIME_BUDGET=BUDGET_SECONDS, EVAL_TOKENS=EVAL_TOKENS)
        patch.setitem(sys.modules, "prepare", found)
        patch.setattr(torch, "compile", lambda made=None, **_: made if made is not None else lambda function: function)
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        patch.setattr(gc, "collect", lambda: 0)  # of all that the tests before have left
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        yield found
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)


def run(text: str) -> tuple[float, types.ModuleType]:
    """Runs a program to its end: its val_bpb, and what it left at module level."""
    module, printed = types.ModuleType("script"), io.StringIO()
    sys.modules["script"] = module  # dataclasses look their module up
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(text, "script.py", "exec"), module.__dict__)
    finally:
        del sys.modules["script"]
        gc.enable()
        gc.unfreeze()
    found = re.search(r"^val_bpb: +(\S+)$", printed.getvalue(), re.MULTILINE)
    assert found, printed.getvalue()[-300:]
    return float(found[1]), module


def child_of(name: str, draw: int = 0, text: str = TEXT) -> genomes.Mutant | None:
    try:
        return genomes.mutate(text, random.Random(f"{name}/{draw}"), [name], CONTRACT)
    except genomes.MutationError:
        return None


def test_the_script_runs(home: types.ModuleType) -> None:
    assert os.environ["HOME"] in home.CACHE_DIR
    val_bpb, module = run(TEXT)
    assert 1 < val_bpb < 8
    assert module.step > 10


@pytest.mark.parametrize("name", ABSENT)
def test_what_has_no_place_in_the_script_does_not_apply(name: str) -> None:
    assert [child_of(name, draw) for draw in range(4)] == [None] * 4


@pytest.mark.parametrize("name", [name for name in STRUCTURAL_MUTATIONS if name not in (*NETWORK, *ABSENT)])
def test_a_child_of_the_script_runs_to_a_finite_score(name: str, home: types.ModuleType) -> None:
    child = child_of(name)
    assert child is not None
    val_bpb, _ = run(child.text)
    assert math.isfinite(val_bpb), child.note


class Flash:
    """What a kernel of FlashAttention takes and gives, (B, T, H, D), by PyTorch's own attention."""

    def flash_attn_func(self, q: Any, k: Any, v: Any, **_: Any) -> Any:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


@pytest.fixture(scope="module")
def known(home: types.ModuleType) -> set[str]:
    """Names of the script's own weights."""
    return {name for name, _ in run(TEXT)[1].model.named_parameters()}


def require_sound(text: str, known: set[str]) -> None:
    """Runs a child: it trains each weight once, gives new ones their values, looks not ahead, and attends alike in either way."""
    val_bpb, module = run(genomes.set_knobs(text, {"TOTAL_BATCH_SIZE": 512}))  # one pass a step
    assert math.isfinite(val_bpb)
    model, groups = module.model, module.optimizer.param_groups
    trained = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in model.parameters())
    assert all(parameter.ndim == 2 for group in groups if group["kind"] == "muon" for parameter in group["params"])
    require_values(module, known)
    assert not looks_ahead(model, module.vocab_size)
    tokens = torch.randint(0, module.vocab_size, (2, 16))
    with torch.no_grad():
        here = model(tokens)
        module.flash = Flash()
        assert torch.allclose(here, model(tokens), atol=1e-3, rtol=1e-3)


def require_values(module: types.ModuleType, known: set[str]) -> None:
    """What the script does not have starts as its constructor says, or at zero if it is of a layer; and it has moved since."""
    with torch.device("meta"):
        emptied = module.GPT(module.config)
    emptied.to_empty(device="cpu").init_weights()
    said, start, now = (dict(model.named_parameters()) for model in (module.GPT(module.config), emptied, module.model))
    assert all(torch.isfinite(value).all() for value in start.values())
    for name in sorted(start.keys() - known):
        if not name.startswith("value_embeds."):  # the one that blocks share starts as each did
            of_a_layer = name.endswith((".weight", ".bias"))
            assert torch.equal(start[name], torch.zeros_like(start[name]) if of_a_layer else said[name]), name
            assert name.endswith(UNTRAINED) or not torch.equal(start[name], now[name]), name


@pytest.mark.parametrize("name", [name for name in NETWORK if name not in ABSENT])
def test_a_child_of_the_script_trains_each_weight_once_from_its_value_in_either_way_it_attends(name: str, known: set[str]) -> None:
    children = {child.text for child in (child_of(name, draw) for draw in range(2)) if child}
    assert children
    for text in sorted(children):
        assert ALL_COUNTED in text
        require_sound(text, known)


@pytest.mark.parametrize("names", LINEAGES.values(), ids=LINEAGES)
def test_descendants_count_their_weights_as_they_come_and_go(names: tuple[str, ...], known: set[str]) -> None:
    text = genomes.set_knobs(TEXT, {"HEAD_DIM": 8})  # four heads
    for name in names:
        child = child_of(name, text=text)
        assert child is not None, name
        text = child.text
    require_sound(text, known)


def test_a_script_that_counts_its_weights_in_another_way_gets_no_new_ones() -> None:
    text = TEXT.replace(ALL_COUNTED, "assert sum(1 for _ in self.parameters()) == ")
    assert child_of("smear") is not None
    assert child_of("smear", text=text) is None
    assert child_of("norm-gain", text=text) is None


def test_a_script_whose_values_come_from_elsewhere_gets_no_new_weights() -> None:
    text = TEXT.replace("model.init_weights()", "torch.manual_seed(1)")
    assert [name for name in ("smear", "norm-gain", "add-bias", "bigram-embedding", "output-gate") if child_of(name, text=text)] == []


def test_a_new_layer_whose_value_nobody_says_is_refused() -> None:
    draft = Draft(program(TEXT))
    module = stack(draft.parent).module
    with pytest.raises(MisfitError, match="no value"):
        remember(draft, module, "probe", "self.probe = nn.Linear(8, 8)")


@pytest.mark.parametrize(
    "name",
    ["log-scaled-queries", "query-gain", "token-shift", "value-residual", "output-gate", "exclusive-attention", "qk-norm", "value-norm"],
)
def test_a_script_that_attends_in_one_way_is_edited_like_the_one_with_two(name: str) -> None:
    alone = TEXT.replace(TWO_WAYS, ONE_WAY)
    for draw in range(3):
        one, two = child_of(name, draw, alone), child_of(name, draw)
        assert one is not None
        assert two is not None
        assert one.note == two.note
        added = [Counter(child.text.splitlines()) - Counter(parent.splitlines()) for child, parent in ((one, alone), (two, TEXT))]
        assert added[0] == added[1]


def test_a_program_that_compiles_for_each_shape_is_allowed_more_of_them_with_a_new_weight_once(home: types.ModuleType) -> None:
    first = child_of("smear")
    assert first is not None
    assert first.text.count("recompile_limit = ") == 1
    assert not [knob.name for knob in genomes.knobs(first.text) if knob.tunable and "limit" in knob.name]
    second = genomes.mutate(first.text, random.Random(1), ["u-net"], CONTRACT)
    assert second.text.count("recompile_limit = ") == 1
    before = torch._dynamo.config.recompile_limit
    with torch._dynamo.config.patch(recompile_limit=before):
        run(second.text)
        assert torch._dynamo.config.recompile_limit == 64


def test_a_tensor_that_a_mutation_makes_is_where_the_others_of_its_function_are() -> None:
    """On a GPU the two would not go together."""
    child = child_of("partial-rotary")
    assert child is not None
    assert ".numel(), device=frequencies.device)" in child.text
