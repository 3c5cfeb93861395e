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
    """What there is."""

    cores: tuple[int, ...]  # that this process may use
    cpu: str  # model
    gpus: tuple[Gpu, ...] = ()
    mps: bool = False

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
    return Machine(_cores(), _cpu_model(), gpus, mps)


def _ask_torch() -> tuple[tuple[Gpu, ...], bool]:
    command = [sys.executable, "-W", "ignore", "-c", _ASK_TORCH]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        return (), False  # torch does not run: whatever needs it will say why
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    return tuple(Gpu(*row) for row in answer["gpus"]), answer["mps"]


def _cores() -> tuple[int, ...]:
    """Cores that this process may run on, no more of them than its container's share of processor time is worth."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota = Path("/sys/fs/cgroup/cpu.max")
    limit, period = quota.read_text().split() if quota.exists() else ("max", "1")
    return tuple(cores if limit == "max" else cores[: max(1, math.ceil(int(limit) / int(period)))])


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
