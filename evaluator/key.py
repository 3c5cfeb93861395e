"""The measurement key: what must be equal for two scores to be compared. Recorded at the start of a run and not probed again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from importlib import metadata

from evaluator import judge
from evaluator.data import Data
from evaluator.outcome import SELF_REPORTED


def measurement_key(profile: str, device: str, device_model: str, budget_seconds: float, prepare: str, data: Data) -> str:
    """One line that people can read and compare, such as
    `cpu | AMD EPYC | 10 s | data 3f2a… | tokenisers 91bc… | prepare 77de… | judge 1 | torch 2.13.0+cpu`."""
    return " | ".join(
        (
            profile,
            device_model,
            f"{budget_seconds:g} s",
            f"data {data.sha256[:12]}",
            f"tokenisers {data.tokeniser_sha256[:12]}",
            f"prepare {_short_hash(prepare)}",
            f"judge {judge.VERSION}",
            *_packages(device),
        )
    )


def compat_key(profile: str, device: str, device_model: str, budget_seconds: float, prepare: str) -> str:
    """The key in compat mode, where neither data nor judge are ours:
    `cpu | AMD EPYC | 10 s | prepare 77de… | self-reported | torch 2.13.0+cpu`.

    Args:
        prepare: text of all that the program imports from its lab.
    """
    named = (profile, device_model, f"{budget_seconds:g} s", f"prepare {_short_hash(prepare)}", SELF_REPORTED)
    return " | ".join((*named, *_packages(device)))


def comparable(device: str, device_model: str) -> str:
    """The part of a key that the machine decides: `AMD EPYC | torch 2.13.0+cpu`. Asked by each machine of a cluster about itself."""
    return " | ".join((device_model, *_packages(device)))


def _packages(device: str) -> Iterator[str]:
    """The packages that decide how fast a program is: torch, and on an NVIDIA GPU cuDNN's front end where it is installed."""
    yield f"torch {metadata.version('torch')}"
    if device != "cuda":
        return
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield f"cudnn-frontend {metadata.version('nvidia-cudnn-frontend')}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
