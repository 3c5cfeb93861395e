"""A schedule-free optimiser (arXiv 2405.15682) of its own: gradients at one point, steps at another, the average handed over."""

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
        return self.head(self.mix(self.embedding(tokens)))


class ScheduleFree(torch.optim.Optimizer):
    def __init__(self, parameters, lr, between=0.9):
        super().__init__(parameters, {"lr": lr})
        self.between, self.steps = between, 0
        for parameter in self.param_groups[0]["params"]:
            first = parameter.detach()
            self.state[parameter] = {"fast": first.clone(), "average": first.clone(), "squares": torch.zeros_like(first)}

    @torch.no_grad()
    def step(self):
        self.steps += 1
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["squares"].lerp_(parameter.grad.square(), 0.05)
            scale = (state["squares"] / (1 - 0.95**self.steps)).sqrt() + 1e-8
            state["fast"].sub_(self.param_groups[0]["lr"] * parameter.grad / scale)
            state["average"].lerp_(state["fast"], 1 / self.steps)
            parameter.copy_(state["fast"].lerp(state["average"], self.between))

    @torch.no_grad()
    def finish(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.copy_(self.state[parameter]["average"])


def build_model():
    return Model().to(prepare.device())


def main():
    torch.manual_seed(prepare.seed())
    model = build_model()
    optimiser = ScheduleFree(list(model.parameters()), lr=0.01)
    for x, y in itertools.islice(prepare.batches(8, VOCAB), 15):
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    optimiser.finish()
    prepare.save(model)
