"""Looks at a model after its dry run: builds it anew, loads the weights that the training process saved, predicts on random tokens, and
says what a judge would refuse. Untrusted code shares this process: what it says helps to find mistakes early and proves nothing."""

from __future__ import annotations

import os
import socket
from typing import Any

import wire
from forwarder import build, device_of, load
from trainee import on_word, open_lab

SPREAD = 0.3  # standard deviation of what is added to each weight, over the root of its last dimension: zeros hide a look ahead
LEAK = 0.05  # change of a logit, over the standard deviation of all, that its future explains and rounding does not


class Refused(Exception):  # noqa: N818  a finding about the program, not an error of ours
    """A judge would refuse the model; the first argument is the outcome's reason."""


def examine(told: dict[str, Any]) -> None:
    """Makes all checks, in the order in which a program is likely to fail them.

    Raises:
        Refused: with reason and message.
    """
    import torch

    rows, length, vocab = told["rows"], told["length"], told["vocab"]
    tokens = torch.randint(vocab, (rows, length), generator=torch.Generator().manual_seed(0))
    model = build()
    load(model, os.environ["EVO_WEIGHTS"])
    predict(model, tokens, vocab)
    look_ahead(model, tokens, vocab)


def predict(model: Any, tokens: Any, vocab: int) -> Any:
    """(rows, T, V) float32 logits, of the right shape and finite, but that -inf may hide tokens."""
    import torch

    with torch.no_grad():
        logits = model(tokens.to(device_of(model), copy=True))
    if not isinstance(logits, torch.Tensor):
        raise Refused("bad_logits", f"model(tokens) gave a {type(logits).__name__}, expected logits of shape (rows, T, V)")
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape or logits.size(2) < vocab:
        raise Refused("bad_logits", f"model(tokens) gave shape {tuple(logits.shape)}, expected {(*tokens.shape, vocab)}")
    logits = logits.float()
    if not bool(logits.amax(-1).isfinite().all()):  # NaN spreads to the largest
        raise Refused("not_finite", "logits hold NaN or infinity, or are -inf for all tokens, after a few steps")
    return logits


def look_ahead(model: Any, tokens: Any, vocab: int) -> None:
    """Refuses a model whose predictions in the first row's first half change with the second half and the other rows. The weights are
    scattered first; where the logits are not finite then, nothing is said."""
    import torch

    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            spread = torch.randn(weight.shape, generator=noise) * SPREAD / max(1, weight.shape[-1] if weight.ndim else 1) ** 0.5
            weight.add_(spread.to(weight.device, weight.dtype))
    cut = tokens.size(1) // 2
    other = (tokens + 1) % vocab
    other[0, :cut] = tokens[0, :cut]
    try:
        before, after = (predict(model, some, vocab)[0, :cut] for some in (tokens, other))
    except Refused:
        return
    change = float((before - after).where(before != after, 0.0).abs().max())  # what is hidden twice has not changed
    scale = float(before[before.isfinite()].std())
    if change > LEAK * max(scale, 1e-6):
        raise Refused("not_causal", f"logits changed by up to {change:.2g} with tokens after them or in other rows")


def look(channel: socket.socket, told: dict[str, Any], _: list[int]) -> None:
    """Looks, and says what it found."""
    open_lab(told["seed"])
    try:
        examine(told)
    except Refused as refusal:
        reason, message = refusal.args
        wire.send(channel, {"op": "refused", "reason": reason, "message": message})
    else:
        wire.send(channel, {"op": "sound"})


if __name__ == "__main__":
    on_word(look)
