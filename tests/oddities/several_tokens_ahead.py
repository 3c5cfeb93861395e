"""Heads for the next three tokens (arXiv 2404.19737); the model predicts with the first alone."""

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
        self.embedding, self.mix = nn.Embedding(VOCAB, WIDTH), Mix(WIDTH)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, VOCAB) for _ in range(3))

    def forward(self, tokens):
        return self.heads[0](self.mix(self.embedding(tokens)))

    def losses(self, x, y):
        hidden = self.mix(self.embedding(x))
        for ahead, head in enumerate(self.heads):
            yield F.cross_entropy(head(hidden[:, : y.size(1) - ahead]).flatten(0, 1), y[:, ahead:].flatten())


def build_model():
    return Model().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in itertools.islice(prepare.batches(8, VOCAB), 15):
        sum(model.losses(x, y)).backward()
        optimiser.step()
        optimiser.zero_grad()
    prepare.save(model)
