"""What this machine has to train on, found by looking once. Imports no torch: GPUs are asked about in a process that ends again."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROBE_SECONDS = 120.0
_ASK_TORCH = """
import json, torch
gpus = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        gpus.append([about.name, about.total_memory / 2**30, about.major])
print(json.dumps({"gpus": gpus, "mps": torch.backends.mps.is_available()}))
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU that this installation of torch can use."""

    name: str
    memory_gib: float
    capability: int  # major: 9 is Hopper


@dataclass(frozen=True)
class Machine:
    """What a machine has to train on."""

    cores: tuple[int, ...]  # those that this process may use
    cpu: str  # model
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False
    quota: int | None = None  # cores' worth of processor time, where a container's share is less than `cores`

    @property
    def core_count(self) -> int:
        """How many cores' worth of work it does at once."""
        return len(self.cores) if self.quota is None else self.quota

    @property
    def device(self) -> str:
        """The best kind of device: "cuda", "mps" or "cpu"."""
        return "cuda" if self.gpus else "mps" if self.mps else "cpu"

    def model(self, device: str) -> str:
        """What makes scores comparable: the model of the GPU or of the processor."""
        return self.gpus[0].name if device == "cuda" and self.gpus else self.cpu


def probe() -> Machine:
    """Looks. Takes seconds where there may be a GPU, milliseconds elsewhere."""
    gpus, mps = _ask_torch() if shutil.which("nvidia-smi") or sys.platform == "darwin" else ((), False)
    cores, quota = _cores(), quota_cores()
    return Machine(cores, _cpu_model(), gpus, mps, quota if quota is not None and quota < len(cores) else None)


def _ask_torch() -> tuple[tuple[Gpu, ...], bool]:
    command = [sys.executable, "-W", "ignore", "-c", _ASK_TORCH]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return (), False  # torch does not run: whatever needs it will say why
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return tuple(Gpu(*row) for row in answer["gpus"]), answer["mps"]


def _cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def quota_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Cores that this container's share of processor time is worth, at least one; None: it has no such limit."""
    v2, v1 = cgroup / "cpu.max", cgroup / "cpu"
    if v2.exists():
        limit, period = v2.read_text().split()
    elif (v1 / "cpu.cfs_quota_us").exists():
        limit, period = (v1 / "cpu.cfs_quota_us").read_text().strip(), (v1 / "cpu.cfs_period_us").read_text().strip()
    else:
        return None
    return None if limit in ("max", "-1") else max(1, math.ceil(int(limit) / int(period)))


def host_memory_gib(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[float, float] | None:
    """Memory that this process may use and what of it is free, in GiB; None where nobody says (macOS)."""
    if not meminfo.exists():
        return None
    fields = {line.partition(":")[0]: int(line.split()[1]) / 2**20 for line in meminfo.read_text().splitlines() if line.endswith(" kB")}
    total, free = fields["MemTotal"], fields["MemAvailable"]
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        allowed = int(limit.read_text()) / 2**30
        total, free = min(total, allowed), min(free, allowed - int(used.read_text()) / 2**30)
    return total, free


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    if sys.platform == "darwin":
        said = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
        if said.stdout.strip():
            return said.stdout.strip()
    return platform.machine()
