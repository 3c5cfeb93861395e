"""A GPU belongs to one driver at a time, and to nobody once that has ended, however."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, SmallLab

from evo import assembly, claims
from evo.config import load
from evo.errors import UserError
from evo.machine import Gpu, Machine

HOLDS = """
import pathlib, sys, time
from evo import claims
claims.FOLDER = pathlib.Path(sys.argv[1])
with claims.claimed(sys.argv[2:], 'evo.run there'):
    print(1, flush=True)
    time.sleep(60)
"""
TWO = Machine(tuple(range(16)), "cpu", (Gpu("H100", 80.0, 9),) * 2)


def test_a_gpu_that_another_process_works_on_is_refused_until_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "FOLDER", tmp_path)
    command = [sys.executable, "-c", HOLDS, str(tmp_path), "0", "GPU-8f/x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for gpu, name in (("0", "0"), (" 00", "0"), ("GPU-8f/x", "GPU-8f/x")):
            said = rf"GPU {name} is taken by process {other.pid} \(evo.run there\)"
            with pytest.raises(UserError, match=said), claims.claimed(["1", gpu], "here"):
                pass
        with claims.claimed(["1"], "here"):  # what was refused keeps nothing
            pass
        os.kill(other.pid, signal.SIGKILL)
    with claims.claimed(["0", "1"], "here"):
        pass


def test_slots_on_gpus_of_this_machine_are_claimed_and_others_are_not(small_lab: SmallLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(assembly.labs, "prepare_data", lambda *_: small_lab.data)
    planned = assembly.plan(load(None, ["run.profile=h100"]), TWO)
    assert assembly.build(planned, print).gpus == ("0", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f")
    assert assembly.build(planned, print).gpus == ("3", "GPU-8f")
    cluster = assembly.plan(load(None, ["run.profile=h100", "run.ray_address=there:6379", "run.gpus=16"]), TWO)
    assert len(assembly.build(cluster, print).evaluators) == 16
    assert assembly.build(cluster, print).gpus == ()
    cpu = assembly.plan(load(None, ["run.profile=cpu"]), replace(TWO, gpus=()))
    assert assembly.build(cpu, print).gpus == ()


def test_where_no_lock_can_be_had_nobody_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "FOLDER", tmp_path / "not there")
    with claims.claimed(["0"], "here"):
        pass
