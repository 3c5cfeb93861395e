"""Cross-entropy of logits in memory that their program can still change: what is judged must be one reading of them.

On a GPU with Triton a kernel reads each number once, since the judge would otherwise take a third of a forward pass. Elsewhere a row is
copied before torch's own functions, which read it several times, see it.
"""

from __future__ import annotations

import functools
from typing import Any

_PER_WARP = 1024  # logits of a row for each warp, so that they stay in registers
_MOST_WARPS = 32


def cross_entropy(logits: Any, targets: Any) -> Any:
    """On a GPU the work is only queued: the logits are read when the stream is done with it.

    Args:
        logits: (rows, T, V) of any float type, finite or not; -inf gives a token no chance.
        targets: (rows, T) int64, on the device of the result.

    Returns:
        (rows, T) nats, -log softmax(logits)[target] in float32, at most what that holds; infinity where the target's logit is -inf; NaN,
        and only there, where one of the V logits is NaN or infinity, or all are -inf.
    """
    kernel = _kernel() if logits.device.type == "cuda" else None
    return _by_rows(logits, targets) if kernel is None else _at_once(kernel, logits, targets)


def _by_rows(logits: Any, targets: Any) -> Any:
    """One row after the other, for the memory that a copy takes."""
    import torch

    nats = []
    for row, target in zip(logits, targets, strict=True):
        own = row.to(target.device, copy=True).float()
        sound = own.amax(-1).isfinite()  # NaN spreads to the largest
        hidden = own.gather(-1, target[:, None])[:, 0].isneginf()
        found = torch.nn.functional.cross_entropy(own, target, reduction="none").clamp(max=torch.finfo(torch.float32).max)
        nats.append(found.masked_fill(hidden, torch.inf).where(sound, torch.nan))
    return torch.stack(nats)


def _at_once(kernel: Any, logits: Any, targets: Any) -> Any:
    import torch

    width = logits.shape[-1]
    block = 1 << (width - 1).bit_length()
    nats = torch.empty(targets.shape, device=targets.device)
    warps = max(1, min(_MOST_WARPS, block // _PER_WARP))
    kernel[(targets.numel(),)](logits.contiguous(), targets.contiguous(), nats, width, BLOCK=block, num_warps=warps)
    return nats


@functools.cache
def _kernel() -> Any:
    """The kernel, or None where Triton is not installed."""
    try:
        from evaluator.nats_kernel import nats_of_rows
    except ImportError:
        return None
    return nats_of_rows
