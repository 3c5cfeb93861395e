"""The head is the embedding: one tensor under two names."""

import itertools

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB = min(prepare.VOCAB_SIZES)
WIDTH = 32


class Mix(nn.Module):
    """One causal head of attention."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(F.rms_norm(x, (x.size(-1),))).chunk(3, dim=-1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(VOCAB, WIDTH), Mix(WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.mix(self.embedding(tokens))) * WIDTH**-0.5


def build_model():
    return Model().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in itertools.islice(prepare.batches(8, VOCAB), 15):
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    prepare.save(model)
