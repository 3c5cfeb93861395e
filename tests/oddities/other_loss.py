"""Trained by label smoothing, a z-loss and half the tokens, none of which the score has."""

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
        self.embedding, self.mix, self.head = nn.Embedding(VOCAB, WIDTH), Mix(WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens):
        return 15 * torch.tanh(self.head(self.mix(self.embedding(tokens))) / 15)


def build_model():
    return Model().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in itertools.islice(prepare.batches(8, VOCAB), 15):
        logits, y = model(x)[:, ::2], y[:, ::2]
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), label_smoothing=0.1)
        (loss + 1e-3 * logits.logsumexp(-1).square().mean()).backward()
        optimiser.step()
        optimiser.zero_grad()
    prepare.save(model)
