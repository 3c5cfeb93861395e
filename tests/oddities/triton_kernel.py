"""A Triton kernel in the forward pass, with its gradient written out. Needs a CUDA device."""

import itertools

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F
import triton
import triton.language as tl

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


@triton.jit
def square_kernel(source, target, count, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.maximum(tl.load(source + place, mask=place < count), 0.0)
    tl.store(target + place, x * x, mask=place < count)


class SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        out = torch.empty_like(x)
        square_kernel[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
        return out

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        return gradient * 2 * x.clamp_min(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(VOCAB, WIDTH), Mix(WIDTH)
        self.up, self.head = nn.Linear(WIDTH, 64), nn.Linear(64, VOCAB)

    def forward(self, tokens):
        return self.head(SquaredReLU.apply(self.up(self.mix(self.embedding(tokens))).contiguous()))


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
