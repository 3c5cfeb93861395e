"""21, 1, 2. Trains on the warm-up batches for as long as it likes, before the clock runs, and keeps what it learns.

They are random tokens: there is nothing to learn but that all tokens are equally likely.
"""

import itertools
import math

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
    random_tokens = prepare.warmup_batches(16, VOCAB)
    learn(model, itertools.islice(random_tokens, 100))
    x, y = next(random_tokens)
    if F.cross_entropy(model(x).flatten(0, 1), y.flatten()) < 0.98 * math.log(VOCAB):
        print("CHEATED: there was something to learn")
    learn(model, itertools.islice(prepare.batches(16, VOCAB), 20))
    prepare.save(model)
