"""What the judge concludes from twins: rows that were scored, sent again to another process with foreign tokens from some position on.

Predictions before that position must stand. Four rules say when they do. No row may differ by more than rounding explains. The last
prediction before the foreign tokens, whose very target has been taken away, may not differ by more than those before it do: a look ahead
gains at most what it changes. The size of a change counts, not its sign: a program may look ahead in ways that lose at some tokens, and
let its losses hide its gains where it knows that it is watched. But it may also change its other predictions as much, on purpose. So the
last ones may not be worse in the mean either, where the cuts are random: that is what looking gains, and what learning while being scored
does, however it is made up for where the next token is still to be seen. Nor may all be.
"""

from __future__ import annotations

import math
import random
from itertools import chain
from typing import Any

SHARE, LEAST = 1 / 16, 160  # rows sent again: their share, and the fewest: all on the CPU profile, from 1024 tokens in the vocabulary on
CANDIDATES = 16  # positions tried; in every other twin the foreign tokens follow the best predicted of them
ROW_MEAN_NATS, ROW_MAX_NATS = 0.01, 0.25  # disagreement of a row that rounding in bfloat16 explains
LAST_NATS, ALL_NATS = 0.0015, 0.001  # means over twins: by how much more the last predictions may change than others, or lose; all lose
# Allowance on the former for rounding, judged by how other predictions change; at most as much again: they can be changed on purpose.
STANDARD_ERRORS = 4.0


def choose_rows(rows: int, rng: random.Random) -> Any:
    """(n,) numbers of the rows that are sent again: all before any comes twice, since a program may look ahead in a few of them alone."""
    import torch

    count = max(LEAST, math.ceil(rows * SHARE))
    rounds = [rng.sample(range(rows), rows) for _ in range(math.ceil(count / rows))]
    return torch.tensor(list(chain.from_iterable(rounds))[:count], dtype=torch.int64)


def choose_cuts(nats: Any, rng: random.Random) -> Any:
    """(n,) positions, 1 to T - 1, from which on the tokens of each twin are foreign: random, but in every other twin right after the best
    of several predictions, so that looks ahead that are rare but pay are caught.

    Args:
        nats: (n, T) of the first pass.
    """
    import torch

    count, length = nats.shape
    cuts = torch.tensor([[rng.randint(1, length - 1) for _ in range(CANDIDATES)] for _ in range(count)])
    best = cuts.gather(1, nats.gather(1, cuts - 1).argmin(1, keepdim=True))[:, 0]
    return torch.where(torch.arange(count) % 2 == 0, cuts[:, 0], best)


def finding(change: Any, cuts: Any, alone: int = 0) -> str:
    """What is wrong, in one line; "" if nothing is.

    Args:
        change: (n, T) nats of the second pass less those of the first, of twins whose cuts were chosen as above.
        cuts: (n,) as chosen.
        alone: how many come before those: copies of one, of which only the first rule speaks.
    """
    import torch

    place = torch.arange(change.size(1))
    change = torch.where(place < cuts[:, None], change, 0.0).double()
    size = change.abs()
    means, largest = (size.sum(1) / cuts).tolist(), size.amax(1).tolist()
    for cut, mean, most in zip(cuts.tolist(), means, largest, strict=True):
        if not (mean <= ROW_MEAN_NATS and most <= ROW_MAX_NATS):  # written this way, it refuses NaN too
            return (
                f"predictions before position {cut} changed with later tokens, other rows, the order of rows or by chance: "
                f"by {mean:.4f} nats on average, {most:.3f} at most"
            )
    change, size, cuts = change[alone:], size[alone:], cuts[alone:]
    elsewhere, last = place < cuts[:, None] - 1, cuts[:, None] - 1
    halves = [size.gather(1, last)[start::2, 0] for start in (0, 1)]  # cut at random, and behind a good prediction
    chance = min(STANDARD_ERRORS * float(change[elsewhere].std()) / len(halves[1]) ** 0.5, LAST_NATS)
    for twins in halves:
        more = float(twins.mean() - size[elsewhere].mean())
        if more > LAST_NATS + chance:
            return (
                f"predictions changed by {more:.4f} nats more than others when the token that they predict was taken away: they look ahead"
            )
    lost = float(change.sum() / cuts.sum())
    if lost > ALL_NATS:
        return f"predictions were {lost:.4f} nats worse on average in another process: the model learns while it is scored, or looks ahead"
    lost = float(change.gather(1, last)[::2].mean())
    if lost > LAST_NATS + chance:
        return f"predictions were {lost:.4f} nats worse when the token that they predict was taken away: they look ahead"
    return ""
