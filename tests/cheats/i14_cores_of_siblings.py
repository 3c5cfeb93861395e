"""14. Takes the cores and the GPUs of other slots, and runs before them."""

import itertools
import os

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)


def cheat():
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, range(os.cpu_count()))
    except OSError:
        pass
    else:
        print("CHEATED: chose its cores itself")
    if os.sched_getaffinity(0) != mine:
        print(f"CHEATED: took cores {os.sched_getaffinity(0)}, given were {mine}")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        pass
    else:
        print("CHEATED: runs before everything else")
    try:
        os.nice(-5)
    except OSError:
        pass
    else:
        print("CHEATED: runs before its siblings")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(16)))


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB)).to(prepare.device())


def learn(model, batches):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in batches:
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def main():
    cheat()
    torch.manual_seed(prepare.seed())
    model = build_model()
    learn(model, itertools.islice(prepare.batches(16, VOCAB), 20))
    prepare.save(model)
