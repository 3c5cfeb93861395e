"""No classes: parameters are a dictionary, the network is nested functions of it, and one dictionary holds what may be chosen."""

import math

import prepare
import torch
from torch import nn
from torch.nn import functional as F

HYPER = {
    "model": {
        "layers": 2,
        "width": 96,
        "heads": 4,
        "expansion": 3.0,  # hidden width of the feed-forward layers over the width
        "vocab_size": 1024,  # one of 1024, 2048, 4096
        "activation": "gelu",  # one of gelu, relu, silu
        "position": "alibi",  # one of alibi, none
        "tie": True,
    },
    "train": {
        "batch_size": 8,
        "lr": {"embed": 2e-2, "matrix": 4e-3, "vector": 1e-2},
        "betas": [0.9, 0.97],
        "eps": 1e-8,
        "weight_decay": 0.05,
        "warmup": 0.05,  # share of the budget
        "decay_to": 0.02,
        "clip_norm": 1.0,
        "label_smoothing": 0.0,
    },
    "init": dict(std=0.02, residual=0.5, gain=1.0),  # noqa: C408
}

ACTIVATIONS = {"gelu": F.gelu, "relu": lambda x: F.relu(x).pow(2), "silu": F.silu}


def make_parameters(model, init):
    """Name -> tensor, drawn in a fixed order."""
    width, hidden = model["width"], int(model["expansion"] * model["width"])
    depth_scale = init["residual"] / math.sqrt(2 * model["layers"])

    def normal(*shape, scale=1.0):
        return torch.randn(*shape) * init["std"] * scale

    tensors = {"embed": normal(model["vocab_size"], width)}
    for i in range(model["layers"]):
        tensors.update(
            {
                f"l{i}_qkv": normal(width, 3 * width, scale=2.5),
                f"l{i}_proj": normal(width, width, scale=depth_scale),
                f"l{i}_in": normal(width, hidden, scale=2.5),
                f"l{i}_out": normal(hidden, width, scale=depth_scale),
                f"l{i}_g1": torch.full((width,), init["gain"]),
                f"l{i}_g2": torch.full((width,), init["gain"]),
            }
        )
    tensors["final_g"] = torch.full((width,), init["gain"])
    if not model["tie"]:
        tensors["unembed"] = normal(width, model["vocab_size"], scale=0.1)
    return tensors


def make_forward(model):
    """The network as a function of parameters and tokens."""
    heads, activation = model["heads"], ACTIVATIONS[model["activation"]]
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)

    def normalise(x, gain, eps=1e-6):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * gain

    def bias(T, device):
        distance = torch.arange(T, device=device)[None, :] - torch.arange(T, device=device)[:, None]  # (T, T), negative behind
        causal = torch.where(distance > 0, float("-inf"), 0.0)
        if model["position"] == "alibi":
            return causal + slopes.to(device)[:, None, None] * distance.clamp(max=0)
        return causal.expand(heads, T, T)

    def attention(x, qkv, proj, scores_bias):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, heads, C // heads).transpose(1, 2) for part in (x @ qkv).split(C, dim=-1))
        scores = q @ k.transpose(-2, -1) / math.sqrt(C // heads) + scores_bias
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, T, C) @ proj

    def forward(p, tokens):
        x = F.embedding(tokens, p["embed"]) * math.sqrt(model["width"])
        scores_bias = bias(tokens.size(1), tokens.device)
        for i in range(model["layers"]):
            x = x + attention(normalise(x, p[f"l{i}_g1"]), p[f"l{i}_qkv"], p[f"l{i}_proj"], scores_bias)
            x = x + activation(normalise(x, p[f"l{i}_g2"]) @ p[f"l{i}_in"]) @ p[f"l{i}_out"]
        x = normalise(x, p["final_g"])
        logits = x @ (p["embed"].T if model["tie"] else p["unembed"])
        return 30.0 * torch.tanh(logits / 30.0)

    return forward


class Holder(nn.Module):
    """What the harness wants: a module around the functions."""

    def __init__(self, tensors, forward):
        super().__init__()
        self.tensors = nn.ParameterDict(tensors)
        self.function = forward

    def forward(self, tokens):
        return self.function(self.tensors, tokens).float()


def build_model():
    model = HYPER["model"]
    return Holder(make_parameters(model, HYPER["init"]), make_forward(model)).to(prepare.device())


def make_update(parameters, train):
    """AdamW over the dictionary, as a closure that owns its state."""
    state = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in parameters.items()}
    count = 0

    def kind(name):
        return "embed" if "embed" in name else "matrix" if parameters[name].dim() == 2 else "vector"

    @torch.no_grad()
    def update(factor):
        nonlocal count
        count += 1
        beta1, beta2 = train["betas"]
        for name, p in parameters.items():
            rate = train["lr"][kind(name)] * factor
            mean, square = state[name]
            mean.mul_(beta1).add_(p.grad, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            step = (mean / (1 - beta1**count)) / ((square / (1 - beta2**count)).sqrt() + train["eps"])
            if kind(name) == "matrix":
                p.mul_(1 - rate * train["weight_decay"])
            p.add_(step, alpha=-rate)
            p.grad = None

    return update


def make_schedule(train):
    def cosine(progress):
        if progress < train["warmup"]:
            return max(progress, 0.001) / train["warmup"]
        t = (progress - train["warmup"]) / (1 - train["warmup"])
        return train["decay_to"] + (1 - train["decay_to"]) * (0.5 + 0.5 * math.cos(math.pi * t))

    return cosine


def main():
    torch.manual_seed(prepare.seed())
    train, model = HYPER["train"], build_model()
    parameters = dict(model.tensors.items())
    update, schedule = make_update(parameters, train), make_schedule(train)
    for x, y in prepare.batches(train["batch_size"], HYPER["model"]["vocab_size"]):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten(), label_smoothing=train["label_smoothing"])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), train["clip_norm"])
        update(schedule(prepare.progress()))
        prepare.report(loss)
    prepare.save(model)


if __name__ == "__main__":
    main()
