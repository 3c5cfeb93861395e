"""Each token goes to one of four experts, none is dropped; a second loss spreads the load."""

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


class Experts(nn.Module):
    def __init__(self, width, count=4):
        super().__init__()
        self.router = nn.Linear(width, count)
        self.up, self.down = nn.Parameter(torch.randn(count, width, 2 * width) / 6), nn.Parameter(torch.randn(count, 2 * width, width) / 8)

    def forward(self, x):
        shares = self.router(x).softmax(-1)  # (B, T, E)
        self.balance = shares.mean((0, 1)).square().sum()
        share, chosen = shares.max(-1)
        out = torch.zeros_like(x)
        for expert in range(len(self.up)):
            mine = chosen == expert
            out[mine] = F.silu(x[mine] @ self.up[expert]) @ self.down[expert] * share[mine, None]
        return x + out


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.mix, self.experts = nn.Embedding(VOCAB, WIDTH), Mix(WIDTH), Experts(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens):
        return self.head(self.experts(self.mix(self.embedding(tokens))))


def build_model():
    return Model().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for x, y in itertools.islice(prepare.batches(8, VOCAB), 15):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        (loss + 0.01 * model.experts.balance).backward()
        optimiser.step()
        optimiser.zero_grad()
    prepare.save(model)
