"""15. Takes memory where no process has it mapped: in files without a disk, small enough each for the limit on files."""

import os
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
    files = []
    while len(files) < 1000:
        files.append(os.memfd_create("block"))
        for _ in range(8):
            os.write(files[-1], bytes(1 << 20))
    time.sleep(60)
    prepare.save(files)
