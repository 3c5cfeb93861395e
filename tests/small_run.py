"""A finished run of the real core on the instant lab, in a folder: what views and lineage are tested on."""

from __future__ import annotations

from pathlib import Path

from evaluator.instant import Instant, Landscape
from evo.core.records import FINAL, Candidate, Record
from evo.operators import Library, describe_seed, write
from evo.search import Search, SearchConfig
from evo.store import Store

PROGRAM = '''"""A program of the test."""

import torch.nn as nn

MATRIX_LR = 0.04  # rate of the matrices
DEPTH = 4  # blocks
WARMDOWN = 0.5  # share of the budget


def build_model():
    layers = [nn.Linear(8, 8) for _ in range(DEPTH)]
    return nn.Sequential(*layers)


def main():
    model = build_model()
    rate, falling = MATRIX_LR, WARMDOWN
    scale = 1.25
    bias = 0.75
    return model, scale, bias
'''


def make_run(run_dir: Path, evals: int = 30, steps: int | None = None, failure_share: float = 0.15) -> Search:
    """Runs to the end, or stops after `steps` finished evaluations with one more begun."""
    seed = describe_seed(PROGRAM)
    found = Search(SearchConfig(evals=evals, crossover_share=0.3), seed.genome)
    evaluate = Instant(Landscape(salt=1, noise_sd=0.0003, failure_share=failure_share))
    known: dict[str, Candidate] = {}
    with Store.open(run_dir, {"lab": "test"}) as store:
        texts = lambda id_: PROGRAM if id_ == seed.genome else store.text(id_)  # noqa: E731
        while proposals := found.ask(1):
            written = write(
                proposals[0], Library(founder=seed, texts=texts, known=known, seed=0, history=found.history, belief=found.belief)
            )
            outcome = written.outcome
            if outcome is None:
                store.begin(written.candidate, written.text)
                known.setdefault(written.candidate.genome, written.candidate)
                if steps is not None and len(store.records()) >= steps:
                    break
                outcome = evaluate(written.text, proposals[0].seed, 10.0, heldout=proposals[0].operator == FINAL)
            record = Record(written.candidate, outcome, "cpu0", 1.0, 2.0)
            store.finish(record)
            found.tell(record)
    return found
