"""Device profiles: the shipped ones fit the shipped lab, the right one is chosen, slots never share what they must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import genomes
from evo import lab, profiles
from evo.errors import UserError
from evo.machine import Gpu, Machine, probe, quota_cores

SHIPPED = sorted(path.stem for path in profiles.FOLDER.glob("*.toml"))
PLAIN = Machine((0, 1), "some processor")
HOPPERS = Machine(tuple(range(16)), "some processor", (Gpu("NVIDIA H100 80GB HBM3", 79.2, 9),) * 2)
SMALL_CARD = Machine((0, 1, 2, 3), "some processor", (Gpu("NVIDIA GeForce RTX 4090", 23.6, 8),))
APPLE = Machine(tuple(range(8)), "Apple M4", (), mps=True)


def test_the_four_profiles_are_shipped() -> None:
    assert SHIPPED == ["cpu", "cuda", "h100", "mps"]


@pytest.mark.parametrize("name", SHIPPED)
def test_each_profile_renders_the_default_lab(name: str) -> None:
    profile = profiles.load(profiles.FOLDER / f"{name}.toml")
    assert profile.head.name == name
    default = lab.load(lab.DEFAULT)
    rendered = lab.render(default, profile, profile.head.budget_seconds)
    assert genomes.check(rendered.seed) == ()
    assert {k.name: k.value for k in genomes.knobs(rendered.seed)}.items() >= dict(profile.knobs).items()
    assert f"TIME_BUDGET = {profile.head.budget_seconds:g}" in rendered.prepare


def test_the_h100_profile_leaves_the_seed_as_it_is() -> None:
    default = lab.load(lab.DEFAULT)
    assert lab.render(default, profiles.load(profiles.FOLDER / "h100.toml"), 300).seed == default.train


@pytest.mark.parametrize(("machine", "name"), [(PLAIN, "cpu"), (HOPPERS, "h100"), (SMALL_CARD, "cuda"), (APPLE, "mps")])
def test_the_profile_suits_the_machine(machine: Machine, name: str) -> None:
    assert profiles.choose("", machine).head.name == name


@pytest.mark.parametrize(
    ("machine", "name", "gpus", "slots", "count"),
    [
        (PLAIN, "cpu", None, None, 2),
        (PLAIN, "cpu", 0, 1, 1),
        (HOPPERS, "h100", None, None, 2),
        (HOPPERS, "h100", 1, None, 1),
        (HOPPERS, "h100", 2, 1, 1),
        (APPLE, "mps", None, None, 1),
    ],
)
def test_slots_follow_the_profile_and_the_wish(machine: Machine, name: str, gpus: int | None, slots: int | None, count: int) -> None:
    assert profiles.slot_count(profiles.choose(name, machine), machine, gpus, slots) == count


@pytest.mark.parametrize(
    ("machine", "name", "gpus", "slots", "said"),
    [
        (PLAIN, "cpu", 1, None, "torch finds 0 GPUs"),
        (HOPPERS, "h100", 3, None, "torch finds 2 GPUs"),
        (HOPPERS, "cpu", 1, None, "runs on cpu"),
        (HOPPERS, "h100", 0, None, "--profile cpu"),
        (HOPPERS, "h100", 1, 2, "at most 1"),
        (PLAIN, "cpu", None, 3, "at most 2"),
    ],
)
def test_more_than_there_is_is_refused(machine: Machine, name: str, gpus: int | None, slots: int | None, said: str) -> None:
    with pytest.raises(UserError, match=said):
        profiles.slot_count(profiles.choose(name, machine), machine, gpus, slots)


def test_on_a_cluster_there_may_be_more_than_here_and_nothing_is_bound_to_the_cores_of_this_machine() -> None:
    assert profiles.slot_count(profiles.choose("h100", HOPPERS), HOPPERS, 16, None, cluster=True) == 16
    assert profiles.slot_count(profiles.choose("cpu", PLAIN), PLAIN, None, 7, cluster=True) == 7
    assert profiles.slot_count(profiles.choose("cpu", PLAIN), PLAIN, None, None, cluster=True) == 2
    assert profiles.core_shares(PLAIN, 2, 1, cluster=True) == ((), ())
    with pytest.raises(UserError, match="at most 4"):
        profiles.slot_count(profiles.choose("h100", HOPPERS), HOPPERS, 4, 5, cluster=True)


def test_gpus_of_different_models_are_not_mixed() -> None:
    mixed = replace(HOPPERS, gpus=(*HOPPERS.gpus, *SMALL_CARD.gpus))
    assert profiles.slot_count(profiles.choose("h100", mixed), mixed, len(HOPPERS.gpus), None) == len(HOPPERS.gpus)
    names = ", ".join(sorted([HOPPERS.gpus[0].name, SMALL_CARD.gpus[0].name]))
    with pytest.raises(UserError, match=f"cannot be compared, and this machine has {names}"):
        profiles.slot_count(profiles.choose("h100", mixed), mixed, None, None)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 4))
def test_slots_never_share_cores(cores: int, slots: int, threads: int) -> None:
    shares = profiles.core_shares(Machine(tuple(range(cores)), ""), slots, threads)
    taken = [core for share in shares for core in share]
    assert len(shares) == slots
    assert len(taken) == len(set(taken))
    assert all(len(share) >= threads or not share for share in shares)


@pytest.mark.parametrize(("name", "said"), [("cpuu", "nearest: cpu"), ("h100", "torch does not find"), ("./none.toml", r"none\.toml")])
def test_a_profile_that_cannot_be_used_is_told(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        profiles.choose(name, PLAIN)


HEAD = '[profile]\nname = "mine"\ndevice = "cpu"\nbudget_seconds = 5\nslots = "one"\nthreads_per_slot = 1\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[profile]\nname = "mine"\n', "lacks device"),
        (HEAD + "colour = 1\n", "no key profile.colour"),
        (HEAD.replace('"cpu"', '"tpu"'), "tpu"),
        (HEAD + "[limit]\n", "nearest: limits"),
        (HEAD + "[limits]\nsetup_secs = 3\n", "setup_seconds"),
        (HEAD + "[limits]\ngrace_seconds = -1\n", r"limits\.grace_seconds is -1"),
        (HEAD + "[limits]\nscore_seconds = nan\n", r"limits\.score_seconds is nan"),
        ("limits = 3\n" + HEAD, r"limits = 3, but it is a section"),
        ("prepare = 3\n" + HEAD, r"prepare = 3, but it is a section"),
        ("profile = 3\n", r"profile = 3, but it is a section"),
    ],
)
def test_a_malformed_profile_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        profiles.choose(str(file), PLAIN)


def test_the_probe_sees_this_machine() -> None:
    machine = probe()
    assert machine.cores
    assert machine.cpu
    assert machine.device in profiles.DEVICES


def test_a_quota_says_how_many_slots_and_binds_none() -> None:
    machine = Machine(tuple(range(16)), "some processor", quota=3)
    slots = profiles.slot_count(profiles.choose("cpu", machine), machine, None, None)
    assert slots == 3
    assert profiles.core_shares(machine, slots, 1) == ((), (), ())


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_quotas_of_both_cgroup_versions_are_read(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert quota_cores(tmp_path) == cores
