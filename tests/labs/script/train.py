"""A pretraining script in the shape of karpathy/autoresearch, at the size of a test. Usage: python train.py"""

import math
import time
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader
from schedule import warmdown

# Hyperparameters (edit these directly)

WIDTH = 48
DEPTH = 1
EMBEDDING_LR = 0.02
WARMDOWN_RATIO = 0.5  # share of the budget
DEVICE_BATCH_SIZE = 16


@dataclass
class Config:
    width: int = WIDTH
    depth: int = DEPTH


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.mix = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x):
        before = F.pad(x, (0, 0, 1, 0))[:, :-1]
        return x + self.out(F.silu(self.mix(x + 0.5 * before)))


class Model(nn.Module):
    def __init__(self, config, vocab_size):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = nn.Linear(config.width, vocab_size)

    def forward(self, idx, targets, reduction="mean"):
        x = self.embedding(idx)  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten(), reduction=reduction)


# Set-up

t_start = time.time()
torch.manual_seed(42)
torch.cuda.manual_seed(42)

tokenizer = Tokenizer.from_directory()
model = Model(Config(), tokenizer.get_vocab_size())
num_params = sum(p.numel() for p in model.parameters())
optimizer = torch.optim.AdamW(model.parameters(), lr=EMBEDDING_LR, betas=(0.9, 0.95))
loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
print(f"Time budget: {TIME_BUDGET}s, {num_params:,} parameters")

# Training loop

smooth_loss = 0.0
total_training_time = 0.0
step = 0

while True:
    t0 = time.time()
    for group in optimizer.param_groups:
        group["lr"] = EMBEDDING_LR * warmdown(total_training_time / TIME_BUDGET, WARMDOWN_RATIO)
    x, y, epoch = next(loader)
    loss = model(x, y)
    loss.backward()
    optimizer.step()
    model.zero_grad(set_to_none=True)
    loss_f = loss.item()
    if math.isnan(loss_f) or loss_f > 100:
        print("FAIL")
        exit(1)
    dt = time.time() - t0
    if step > 2:
        total_training_time += dt
    smooth_loss = 0.9 * smooth_loss + 0.1 * loss_f
    shown = smooth_loss / (1 - 0.9 ** (step + 1))
    print(
        f"\rstep {step:05d} ({100 * total_training_time / TIME_BUDGET:.1f}%) | loss: {shown:.6f} | epoch: {epoch}    ", end="", flush=True
    )
    step += 1
    if step > 3 and total_training_time >= TIME_BUDGET:
        break

print()

# Final evaluation and summary

model.eval()
val_bpb = evaluate_bpb(model, tokenizer, DEVICE_BATCH_SIZE)
print("---")
print(f"val_bpb:          {val_bpb:.6f}")
print(f"training_seconds: {total_training_time:.1f}")
print(f"total_seconds:    {time.time() - t_start:.1f}")
print(f"peak_vram_mb:     {0:.1f}")
print(f"total_tokens_M:   {step * DEVICE_BATCH_SIZE * MAX_SEQ_LEN / 1e6:.3f}")
print(f"num_steps:        {step}")
print(f"num_params_M:     {num_params / 1e6:.3f}")
print(f"depth:            {DEPTH}")
