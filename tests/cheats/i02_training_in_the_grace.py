"""2, 22. Goes on training on the rows that it was shown when its batches have ended, but only for as long as the grace lasts."""

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
    seen = []
    for batch in prepare.batches(16, VOCAB):
        seen.append(batch)
        learn(model, [batch])
    end = time.process_time() + 1.0
    learn(model, itertools.takewhile(lambda _: time.process_time() < end, itertools.cycle(seen)))
    prepare.save(model)
