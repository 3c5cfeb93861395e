"""13. Counts more bytes than there are, in its own copies of the table, and predicts tokens that no text has."""

import itertools

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)


def cheat():
    prepare.TOKEN_BYTES = torch.full((VOCAB,), 1000)
    prepare.EVAL_TOKENS, prepare.DEFAULT_VOCAB = 1, 256


class Wide(nn.Module):
    """Logits for eight tokens too many, which are never right."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return F.pad(self.model(tokens), (0, 8), value=-1e4)


def build_model():
    return Wide(nn.Sequential(nn.Embedding(VOCAB, 32), nn.SiLU(), nn.Linear(32, VOCAB))).to(prepare.device())


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
