"""How much of recorded full runs could be saved by stopping on their curves with hindsight: a yardstick for early stopping, not a rule.

    python scripts/bound_stopping.py [--curves scripts/data/cpu_curves.jsonl.xz|RUN] [--population 16] [--orders 20] [--lost 0.02]

At each checkpoint the final value is predicted linearly from all levels of the curve so far, the tokens so far and the recent pace, by
ridge regression on nine tenths of all runs, for the tenth that is left out. No real run knows as much, since it learns only from what has
finished. The runs come in random orders, as in bench_stopping.py; one is stopped at the first checkpoint where its prediction lies above
the bar by a number of standard deviations. That number is the smallest tried that loses no more than `--lost` of the would-be survivors, so
it is chosen with the answers in view. Runs whose loss code is not the most frequent one are left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from pathlib import Path
from random import Random
from statistics import median

import numpy as np
from bench_stopping import DEFAULT, Recorded, read

from evo.core import stopping
from evo.core.rule import level_at, tokens_at
from evo.core.stopping import WINDOW
from evo.folder import StoreError

CHECKPOINTS = (0.1, *stopping.CHECKPOINTS)  # shares of the budget
LATELY = 0.1  # what counts as recent: share of the budget
MARGINS = np.arange(-1.0, 6.0, 0.1)  # standard deviations
FOLDS = 10
PENALTIES = np.logspace(-1, 4, 11)
EXTREME = 0.02  # share of each feature's values, at either end, that is drawn in


def features(runs: list[Recorded], checkpoint: int) -> np.ndarray:
    """(runs, features), standardised."""
    rows = []
    for run in runs:
        budget, curve = run.budget_seconds, run.curve
        levels = [level_at(curve, share, min(share, WINDOW), budget) for share in CHECKPOINTS[: checkpoint + 1]]
        told = [tokens_at(curve, CHECKPOINTS[checkpoint] - back, budget) for back in (0.0, LATELY)]
        at, before = (0.0 if logarithm is None else math.exp(logarithm) for logarithm in told)
        rows.append([math.nan if level is None else level for level in levels] + [math.log(max(1.0, at)), math.log(max(1.0, at - before))])
    found = np.array(rows)
    found = np.where(np.isnan(found), np.nanmedian(found, axis=0), found)
    found = np.clip(found, np.quantile(found, EXTREME, axis=0), np.quantile(found, 1 - EXTREME, axis=0))
    return (found - found.mean(axis=0)) / (found.std(axis=0) + 1e-12)


def ridge(x: np.ndarray, y: np.ndarray, penalty: float, at: np.ndarray) -> np.ndarray:
    """Predictions for the rows `at`."""
    centre, level = x.mean(axis=0), y.mean()
    weights = np.linalg.solve((x - centre).T @ (x - centre) + penalty * np.eye(x.shape[1]), (x - centre).T @ (y - level))
    return level + (at - centre) @ weights  # type: ignore[no-any-return]


def predictions(runs: list[Recorded], y: np.ndarray) -> np.ndarray:
    """(runs, checkpoints) logarithms of final values, each predicted from other runs, with the penalty that predicts best."""
    aims = np.minimum(y, np.quantile(y, 0.9))  # it does not matter how bad the worst are
    fold = np.random.default_rng(0).permutation(len(runs)) % FOLDS
    columns = []
    for checkpoint in range(len(CHECKPOINTS)):
        x, tried = features(runs, checkpoint), []
        for penalty in PENALTIES:
            found = np.empty(len(runs))
            for k in range(FOLDS):
                found[fold == k] = ridge(x[fold != k], aims[fold != k], penalty, x[fold == k])
            tried.append(found)
        columns.append(min(tried, key=lambda found: float(((found - aims) ** 2).sum())))
    return np.stack(columns, axis=1)


def play(runs: list[Recorded], y: np.ndarray, heights: np.ndarray, orders: list[list[int]], population: int) -> tuple[float, float]:
    """Median share of the training seconds saved, and share of would-be survivors lost.

    Args:
        heights: (runs, checkpoints): a run is stopped where its height lies above the bar.
    """
    shares, survivors, lost = [], 0, 0
    total = sum(run.training_seconds for run in runs)
    for order in orders:
        best, saved = list[float](), 0.0
        for i in order:
            if len(best) >= population:
                survivors += y[i] < best[-1]
                above = np.flatnonzero(heights[i] > best[-1])
                if len(above):
                    saved += runs[i].training_seconds - CHECKPOINTS[above[0]] * runs[i].budget_seconds
                    lost += y[i] < best[-1]
                    continue
            best = sorted([*best, y[i]])[:population]
        shares.append(saved / total)
    return median(shares), lost / max(1, survivors)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--curves", type=Path, default=DEFAULT, metavar="FILE")
    parser.add_argument("--population", type=int, default=16)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--lost", type=float, default=0.02, metavar="SHARE")
    options = parser.parse_args()
    try:
        runs, _ = read(options.curves, 1.0)
    except (StoreError, OSError) as error:
        parser.error(str(error))
    code = Counter(run.trace.loss_code for run in runs).most_common(1)[0][0]
    runs = [run for run in runs if run.trace.loss_code == code]
    y = np.log([run.trace.val_bpb for run in runs])
    foretold, better = predictions(runs, y), y < np.median(y)
    spread = (foretold - y[:, None])[better].std(axis=0)
    orders = [Random(f"{order}").sample(range(len(runs)), len(runs)) for order in range(options.orders)]
    for margin in MARGINS:
        saved, lost = play(runs, y, foretold - margin * spread, orders, options.population)
        if lost <= options.lost:
            correlation = [round(float(np.corrcoef(foretold[better, k], y[better])[0, 1]), 2) for k in (2, 4, 7, 9)]
            print(f"{len(runs)} runs: {saved:.1%} saved with hindsight, {lost:.1%} of would-be survivors lost, margin {margin:.1f}")
            print(f"in the better half predictions and values correlate by {correlation} at 20, 30, 50 and 70 % of the budget")
            return 0
    print(f"{len(runs)} runs: no margin up to {MARGINS[-1]:.1f} loses as little")
    return 0


if __name__ == "__main__":
    sys.exit(main())
