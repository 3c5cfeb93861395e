"""A small honest genome for tests of the evaluator: a gated bigram model over bytes. Trains in a second."""

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

WIDTH = 32
LEARNING_RATE = 0.01
BATCH_SIZE = 16
VOCAB_SIZE = 256


class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB_SIZE)

    def forward(self, tokens):
        x = self.embedding(tokens)  # (B, T, C)
        return self.head(F.silu(x))  # (B, T, V)


def build_model():
    return Bigram().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for x, y in prepare.batches(BATCH_SIZE, VOCAB_SIZE):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        prepare.report(loss)
    prepare.save(model)
