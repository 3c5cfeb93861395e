"""The surrogate of a table of real evaluations as a problem. Needs pandas and scikit-learn, which nothing else of this project does.

The model itself is the pinned one (`surrogate.py` beside the table): fitted by its own code. Its forests are then read into arrays,
because scikit-learn's `predict` of one row takes 60 ms and a search asks for 300; the answers are the same to the last bits.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from searchbench.problem import Dial, Truth, constants, seed_program

# Search ranges of the table's source: ferreirafabio/autoresearch-automl, arXiv 2603.24647.
WINDOWS = ("SSSL", "SSLL", "SLSL", "LLLL", "SSSS", "LSSL")
DIALS = (
    Dial("DEPTH", 8, 4, 24, "int", meaning="transformer blocks"),
    Dial("ASPECT_RATIO", 64, 32, 128, "int", meaning="width per block"),
    Dial("HEAD_DIM", 128, 64, 256, "power", meaning="channels of one attention head"),
    Dial("WINDOW_PATTERN", "SSSL", kind="choice", options=WINDOWS, meaning="short and long attention windows over the blocks"),
    Dial("TOTAL_BATCH_SIZE", 2**19, 2**16, 2**21, "power", meaning="tokens per optimiser step"),
    Dial("DEVICE_BATCH_SIZE", 128, 32, 256, "power", meaning="rows per forward pass"),
    Dial("EMBEDDING_LR", 0.6, 0.01, 2.0, log=True, meaning="token embeddings, AdamW"),
    Dial("UNEMBEDDING_LR", 0.004, 0.0005, 0.05, log=True, meaning="output layer, AdamW"),
    Dial("MATRIX_LR", 0.04, 0.005, 0.2, log=True, meaning="block matrices, Muon"),
    Dial("SCALAR_LR", 0.5, 0.05, 2.0, log=True, meaning="per-layer scalars, AdamW"),
    Dial("WEIGHT_DECAY", 0.2, 0.0, 0.5, meaning="cautious, of block matrices"),
    Dial("WARMUP_RATIO", 0.0, 0.0, 0.3, meaning="share of the budget in which rates rise"),
    Dial("WARMDOWN_RATIO", 0.5, 0.1, 0.8, meaning="share of the budget in which rates fall"),
    Dial("FINAL_LR_FRAC", 0.0, 0.0, 0.2, meaning="of the rates, at the end of the budget"),
)


class Forest:
    """A fitted scikit-learn forest as flat arrays; `means(x)` averages the leaves' values of one row over the trees."""

    def __init__(self, model: Any) -> None:
        trees = [estimator.tree_ for estimator in model.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in trees)])
        self.roots = starts[:-1]
        self.feature = np.concatenate([tree.feature for tree in trees])
        self.threshold = np.concatenate([tree.threshold for tree in trees])
        self.left = np.concatenate([tree.children_left + start for tree, start in zip(trees, starts, strict=False)])
        self.right = np.concatenate([tree.children_right + start for tree, start in zip(trees, starts, strict=False)])
        values = np.concatenate([tree.value[:, 0, :] for tree in trees])
        self.value = values[:, 0] if values.shape[1] == 1 else values[:, 1] / values.sum(1)  # a classifier's share of the second class

    def mean(self, x: np.ndarray) -> float:
        """The prediction for one row. x: (features,)."""
        x = x.astype(np.float32).astype(np.float64)  # as scikit-learn compares
        at = self.roots
        while True:
            inner = self.feature[at] >= 0
            if not inner.any():
                return float(self.value[at].mean())
            down = np.where(x[self.feature[at]] <= self.threshold[at], self.left[at], self.right[at])
            at = np.where(inner, down, at)


class Tabular:
    """The `Problem` of a table."""

    dials = DIALS
    text = seed_program(DIALS)

    def __init__(self, module: ModuleType, forests: tuple[Forest, Forest, Forest], name: str) -> None:
        self.name = name
        self.noise_sd: float = module.NOISE_SD
        self._features = module.features
        self._value, self._infeasible, self._memory = forests
        self._known: dict[tuple[Any, ...], Truth] = {}

    def truth(self, text: str) -> Truth:
        found = constants(text)
        key = tuple(found[dial.name] for dial in self.dials)
        if key not in self._known:
            import pandas as pd

            x = self._features(pd.DataFrame([{dial.name: found[dial.name] for dial in self.dials}]))[0]
            self._known[key] = Truth(self._value.mean(x), self._infeasible.mean(x) <= 0.5, self._memory.mean(x))
        return self._known[key]


def load(table: Path, surrogate: Path, cache: Path | None = None) -> Tabular:
    """Fits the pinned surrogate of `surrogate` to a table, or reads it from `cache` where an earlier call left it."""
    module = _module(surrogate)
    if cache is not None and cache.exists():
        return Tabular(module, pickle.loads(cache.read_bytes()), table.stem)
    import pandas as pd

    fitted = module.Surrogate.fit(pd.read_parquet(table))
    forests = (Forest(fitted.value), Forest(fitted.infeasible), Forest(fitted.memory))
    if cache is not None:
        cache.write_bytes(pickle.dumps(forests))
    return Tabular(module, forests, table.stem)


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pinned_surrogate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
