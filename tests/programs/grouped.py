"""A small GPT in nanochat's manner: a config class, `setup_optimizer` with groups of several kinds, multipliers as functions."""

# ruff: noqa: C408

import math
from dataclasses import dataclass

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F

ASPECT_RATIO = 48  # width per layer
HEAD_DIM = 32  # power of two
WINDOW_PATTERN = "SSSL"  # one of SSSL, SSLL, LLLL
TOTAL_BATCH_SIZE = 2**14  # tokens per step
DEVICE_BATCH_SIZE = 8  # rows; lower it when memory runs out
EMBEDDING_LR = 0.3  # learning rate, range 1e-3..1 log
UNEMBEDDING_LR = 0.004
MATRIX_LR = 0.02
WEIGHT_DECAY = 0.1
ADAM_BETAS = (0.8, 0.95)
WARMDOWN_RATIO = 0.4
FINAL_LR_FRAC = 0.05
RANDOM_SEED = 1234
VOCAB_SIZE = 1024  # one of 256, 1024, 2048


@dataclass
class GPTConfig:
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def apply_rotary_emb(x, cos, sin):
    d = x.shape[3] // 2
    x1, x2 = x[..., :d], x[..., d:]
    return torch.cat([x1 * cos + x2 * sin, x1 * (-sin) + x2 * cos], 3)


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.head_dim = config.n_embd // config.n_head
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_v = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x, cos_sin):
        B, T, C = x.size()
        q = self.c_q(x).view(B, T, self.n_head, self.head_dim)
        k = self.c_k(x).view(B, T, self.n_head, self.head_dim)
        v = self.c_v(x).view(B, T, self.n_head, self.head_dim)
        cos, sin = cos_sin
        q, k = apply_rotary_emb(q, cos, sin), apply_rotary_emb(k, cos, sin)
        q = norm(q)
        k = norm(k)
        q = q * 1.15
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        x = self.c_fc(x)
        x = F.relu(x).square()
        return self.c_proj(x)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attn = CausalSelfAttention(config)
        self.mlp = MLP(config)

    def forward(self, x, cos_sin):
        x = x + self.attn(norm(x), cos_sin)
        x = x + self.mlp(norm(x))
        return x


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(VOCAB_SIZE, config.n_embd)
        self.h = nn.ModuleList([Block(config) for _ in range(config.n_layer)])
        self.lm_head = nn.Linear(config.n_embd, VOCAB_SIZE, bias=False)
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        head_dim = config.n_embd // config.n_head
        inv_freq = 1.0 / (10000 ** (torch.arange(0, head_dim, 2) / head_dim))
        freqs = torch.outer(torch.arange(prepare.MAX_SEQ_LEN), inv_freq)
        self.register_buffer("cos", freqs.cos()[None, :, None, :], persistent=False)
        self.register_buffer("sin", freqs.sin()[None, :, None, :], persistent=False)

    def init_weights(self):
        s = 3**0.5 * self.config.n_embd**-0.5
        torch.nn.init.normal_(self.wte.weight, mean=0.0, std=1.0)
        torch.nn.init.normal_(self.lm_head.weight, mean=0.0, std=0.001)
        for block in self.h:
            torch.nn.init.uniform_(block.attn.c_q.weight, -s, s)
            torch.nn.init.uniform_(block.mlp.c_fc.weight, -s, s)
            torch.nn.init.zeros_(block.attn.c_proj.weight)
            torch.nn.init.zeros_(block.mlp.c_proj.weight)
        with torch.no_grad():
            self.resid_lambdas.fill_(1.0)
            self.x0_lambdas.fill_(0.1)

    def setup_optimizer(self, unembedding_lr=0.004, embedding_lr=0.2, matrix_lr=0.02, adam_betas=(0.8, 0.95)):
        scale = (self.config.n_embd / 768) ** -0.5
        groups = [
            dict(kind="adamw", params=list(self.lm_head.parameters()), lr=unembedding_lr * scale, betas=adam_betas, weight_decay=0.01),
            dict(kind="adamw", params=list(self.wte.parameters()), lr=embedding_lr * scale, betas=adam_betas, weight_decay=0.001),
            dict(kind="adamw", params=[self.resid_lambdas], lr=0.5 * 0.01, betas=adam_betas, weight_decay=0.05),
            dict(kind="adamw", params=[self.x0_lambdas], lr=0.5, betas=(0.96, 0.95), weight_decay=0.0),
            dict(kind="matrix", params=list(self.h.parameters()), lr=matrix_lr, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY),
        ]
        for group in groups:
            group["initial_lr"] = group["lr"]
        return torch.optim.AdamW([{key: value for key, value in group.items() if key != "kind"} for group in groups], eps=1e-10)

    def forward(self, idx):
        T = idx.size(1)
        cos_sin = self.cos[:, :T], self.sin[:, :T]
        x = norm(self.wte(idx))
        x0 = x
        for i, block in enumerate(self.h):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            x = block(x, cos_sin)
        x = norm(x)
        softcap = 15
        logits = self.lm_head(x).float()
        logits = softcap * torch.tanh(logits / softcap)
        return logits


def build_model():
    model = GPT(GPTConfig()).to(prepare.device())
    model.init_weights()
    return model


def get_lr_multiplier(progress):
    if progress < 1.0 - WARMDOWN_RATIO:
        return 1.0
    cooldown = (1.0 - progress) / WARMDOWN_RATIO
    return cooldown * 1.0 + (1 - cooldown) * FINAL_LR_FRAC


def get_momentum(step):
    frac = min(step / 300, 1)
    return (1 - frac) * 0.85 + frac * 0.95


def main():
    torch.manual_seed(42)
    model = build_model()
    optimizer = model.setup_optimizer(UNEMBEDDING_LR, EMBEDDING_LR, MATRIX_LR, ADAM_BETAS)
    passes = max(1, TOTAL_BATCH_SIZE // (DEVICE_BATCH_SIZE * prepare.MAX_SEQ_LEN))
    smooth = 0.0
    for step, (x, y) in enumerate(prepare.batches(DEVICE_BATCH_SIZE, VOCAB_SIZE)):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        (loss / passes).backward()
        smooth = 0.9 * smooth + 0.1 * loss.item()
        if (step + 1) % passes:
            continue
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * get_lr_multiplier(prepare.progress())
            group["betas"] = (get_momentum(step), group["betas"][1])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        prepare.report(loss)
        if step % 100 == 0:
            print(f"step {step:05d} loss {smooth / (1 - 0.9 ** (step + 1)):.4f} ({100 * math.exp(-smooth):.1f}%)")
    prepare.save(model)


if __name__ == "__main__":
    main()
