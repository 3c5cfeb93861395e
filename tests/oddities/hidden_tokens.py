"""The vocabulary is padded to a rounder number, and what never comes is hidden with -inf: the padding, and the token that begins a text."""

import itertools

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
WIDTH = 32
PADDED = VOCAB + 16


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, PADDED)

    def forward(self, tokens):
        never = torch.arange(PADDED, device=tokens.device) >= VOCAB - 1
        return self.head(self.mix(self.embedding(tokens))[0]).masked_fill(never, -torch.inf)


def build_model():
    return Model().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in itertools.islice(prepare.batches(8, VOCAB), 15):
        F.cross_entropy(model(x).flatten(0, 1), y.flatten().where(y.flatten() < VOCAB - 1, -100)).backward()
        optimiser.step()
        optimiser.zero_grad()
    prepare.save(model)
