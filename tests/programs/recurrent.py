"""A recurrent language model with plain AdamW, a cosine schedule and clipping: nothing of the transformer recipe applies."""

from __future__ import annotations

import math

import prepare
import torch
from torch import nn
from torch.nn import functional

HIDDEN = 256  # width, power of two
LAYERS = 2
VOCAB_SIZE = 512  # one of 256, 512, 1024
BATCH = 16
PEAK_LR = 3e-3  # learning rate
FLOOR_LR = 3e-5
WARMUP = 0.02  # share of the budget
DROPOUT = 0.1
CLIP = 1.0
CELL = "gru"  # one of gru, lstm
LAYER_NORM = True
SEED = 7


class Recurrent(nn.Module):
    """Embedding, stack of cells, head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB_SIZE, HIDDEN)
        cells = {"gru": nn.GRU, "lstm": nn.LSTM}
        self.cells = cells[CELL](HIDDEN, HIDDEN, num_layers=LAYERS, batch_first=True, dropout=DROPOUT)
        self.mix = nn.Sequential(nn.Linear(HIDDEN, HIDDEN * 2), nn.SiLU(), nn.Linear(HIDDEN * 2, HIDDEN))
        self.scale = nn.Parameter(torch.full((), HIDDEN**-0.5))
        with torch.no_grad():
            self.embedding.weight.mul_(0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) * 16.0
        h, _ = self.cells(x)
        h = h + 0.5 * functional.gelu(self.mix(h))
        if LAYER_NORM:
            h = functional.layer_norm(h, (HIDDEN,), eps=1e-5)
        return (h @ self.embedding.weight.T) * self.scale


def learning_rate(progress: float) -> float:
    """Linear rise, then half a cosine down to the floor."""
    if progress < WARMUP:
        return PEAK_LR * progress / WARMUP
    elif progress >= 1.0:
        return FLOOR_LR
    else:
        t = (progress - WARMUP) / (1.0 - WARMUP)
        return FLOOR_LR + (PEAK_LR - FLOOR_LR) * 0.5 * (1.0 + math.cos(math.pi * t))


def split(parameters) -> list[dict[str, object]]:
    decayed, plain = [], []
    for p in parameters:
        (decayed if p.dim() >= 2 else plain).append(p)
    return [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]


def build_model() -> Recurrent:
    return Recurrent().to(prepare.device())


def main() -> None:
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimizer = torch.optim.AdamW(split(model.parameters()), lr=PEAK_LR, betas=(0.9, 0.98), eps=1e-9)
    for x, y in prepare.batches(BATCH, VOCAB_SIZE):
        loss = functional.cross_entropy(model(x).transpose(1, 2), y, label_smoothing=0.01)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(prepare.progress())
        optimizer.step()
        prepare.report(loss)
    prepare.save(model)


if __name__ == "__main__":
    main()
