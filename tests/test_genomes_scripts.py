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
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from script_lab import SCRIPT, make_home

import genomes
from genomes.mutations import STRUCTURAL_MUTATIONS

TEXT = (Path(__file__).parent / "programs" / "script.py").read_text(encoding="utf-8")
CONTRACT = genomes.contract_of(TEXT)
BUDGET_SECONDS, EVAL_TOKENS = 0.02, 2048


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


def child_of(name: str, draw: int = 0) -> genomes.Mutant | None:
    try:
        return genomes.mutate(TEXT, random.Random(f"{name}/{draw}"), [name], CONTRACT)
    except genomes.MutationError:
        return None


def test_the_script_runs(home: types.ModuleType) -> None:
    assert os.environ["HOME"] in home.CACHE_DIR
    val_bpb, module = run(TEXT)
    assert 1 < val_bpb < 8
    assert module.step > 10


@pytest.mark.parametrize("name", STRUCTURAL_MUTATIONS)
def test_a_child_of_the_script_runs_to_a_finite_score(name: str, home: types.ModuleType) -> None:
    child = child_of(name)
    if child is None:
        pytest.skip("does not apply")
    val_bpb, _ = run(child.text)
    assert math.isfinite(val_bpb), child.note
