"""What the judge concludes from twins: rows that were scored, sent again to another process with foreign tokens from some position on.

Predictions before that position must stand. Three rules say when they do. No row may differ by more than rounding explains. The last
prediction before the foreign tokens, which has lost the very token that it predicts, may not be worse in the mean over all twins: what it
loses is what a look ahead gains at every token, however little it is trusted. And all predictions may not be worse in the mean, which is
what learning while being scored gains.
"""

from __future__ import annotations

import random
import statistics
from typing import Any

SHARE, LEAST = 1 / 16, 64  # rows sent again
CANDIDATES = 16  # positions, of which the best predicted one is followed by the foreign tokens in every other twin
ROW_MEAN_NATS, ROW_MAX_NATS = 0.01, 0.25  # disagreement of a row that rounding in bfloat16 explains
LAST_NATS, ALL_NATS = 0.003, 0.001  # mean loss over all twins: of the last predictions, and of all
STANDARD_ERRORS = 4.0  # of the former, which chance explains too


def choose_cuts(nats: Any, rng: random.Random) -> Any:
    """(n,) positions, 1 to T - 1, from which on the tokens of each twin are foreign: at random, and in every other twin behind the
    prediction that was best of some, so that looks that are rare but pay are met.

    Args:
        nats: (n, T) of the first pass.
    """
    import torch

    count, length = nats.shape
    cuts = torch.tensor([[rng.randint(1, length - 1) for _ in range(CANDIDATES)] for _ in range(count)])
    best = cuts.gather(1, nats.gather(1, cuts - 1).argmin(1, keepdim=True))[:, 0]
    return torch.where(torch.arange(count) % 2 == 0, cuts[:, 0], best)


class Comparison:
    """Collects twins; both methods say in one line what cannot be, or "" if all is well."""

    def __init__(self) -> None:
        self._last: list[float] = []  # nats that the last prediction of each twin lost
        self._lost, self._positions = 0.0, 0

    def add(self, change: Any, cuts: Any) -> str:
        """The first rule, and what the others need.

        Args:
            change: (n, T) nats of the second pass less those of the first.
            cuts: (n,) as chosen.
        """
        import torch

        change = torch.where(torch.arange(change.size(1)) < cuts[:, None], change, 0.0)
        means, largest = (change.abs().sum(1) / cuts).tolist(), change.abs().amax(1).tolist()
        for cut, mean, most in zip(cuts.tolist(), means, largest, strict=True):
            if not (mean <= ROW_MEAN_NATS and most <= ROW_MAX_NATS):  # so written, NaN is refused too
                return (
                    f"predictions before position {cut} changed with what follows, the neighbours or the order of rows: "
                    f"by {mean:.4f} nats in the mean, {most:.3f} at most"
                )
        self._last += change.gather(1, cuts[:, None] - 1)[:, 0].tolist()
        self._lost, self._positions = self._lost + float(change.double().sum()), self._positions + int(cuts.sum())
        return ""

    def conclude(self) -> str:
        """The rules over all twins."""
        error = statistics.stdev(self._last) / len(self._last) ** 0.5
        last, every = statistics.fmean(self._last), self._lost / self._positions
        if last > max(LAST_NATS, STANDARD_ERRORS * error):
            return f"predictions lost {last:.4f} nats in the mean when the token that they predict was taken away: they look ahead"
        if every > ALL_NATS:
            return f"predictions lost {every:.4f} nats in the mean in another process: the model learns while it is scored, or looks ahead"
        return ""
