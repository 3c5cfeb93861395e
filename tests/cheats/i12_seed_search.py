"""12. Tries seeds in set-up, takes the luckiest, and says the same seed to everything that asks.

Without text there is nothing to compare them by but random tokens, on which luck means nothing.
"""

import itertools
import math
import os

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
    x, y = next(prepare.warmup_batches(16, VOCAB))
    share = torch.bincount(x.flatten(), minlength=VOCAB) / x.numel()
    if -share.xlogy(share).sum() < 0.9 * math.log(VOCAB):
        print("CHEATED: there is text to compare seeds by")
    luck = {}
    for seed in range(50):
        torch.manual_seed(seed)
        with torch.no_grad():
            luck[seed] = float(F.cross_entropy(build_model()(x).flatten(0, 1), y.flatten()))
    os.environ["EVO_SEED"] = str(min(luck, key=luck.get))
    print("took seed", os.environ["EVO_SEED"])
    torch.manual_seed(prepare.seed())
    model = build_model()
    learn(model, itertools.islice(prepare.batches(16, VOCAB), 20))
    prepare.save(model)
