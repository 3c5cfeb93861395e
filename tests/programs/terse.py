"""As little as trains: gated causal convolutions, a mixture of experts, nn.Sequential; hardly a class, hardly a comment."""
import prepare, torch, torch.nn as nn, torch.nn.functional as F

V, C, L, K, E, TOP = 1024, 96, 3, 5, 4, 2  # vocabulary, channels, layers, kernel, experts, experts per token
LR, WD, B = 6e-3, 0.01, 8
DILATIONS = [2**i for i in range(L)]
ACT, POOL = "silu", "mean"  # one of silu, gelu, relu; not tuned
act = lambda x: getattr(F, ACT)(x)
inits = dict(embed=lambda w: w.normal_(std=0.5), conv=lambda w: w.normal_(std=(2 / w[0].numel()) ** 0.5), gate=torch.zero_)


class Fn(nn.Module):
    def __init__(s, f, **parts): super().__init__(); s.f = f; [s.add_module(k, m) for k, m in parts.items()]
    def forward(s, *a): return s.f(s, *a)


residual = lambda m, scale=0.7: Fn(lambda s, x: x + scale * s.m(F.layer_norm(x, x.shape[-1:])), m=m)
glu = lambda x, limit=6.0: (lambda a, b: act(a).clamp(max=limit) * b)(*x.chunk(2, -1))
past = lambda x, n: F.pad(x, (n, 0))
conv = lambda d: Fn(lambda s, x: s.mix(glu(s.c(past(x.mT, (K - 1) * d)).mT)),
                    c=nn.Conv1d(C, 2 * C, K, dilation=d), mix=nn.Linear(C, C))


def route(s, x):
    weights, chosen = (s.gate(x) + 1e-3 * x.mean(-1, keepdim=True)).softmax(-1).topk(TOP, dim=-1)
    share = torch.zeros(*x.shape[:-1], E, device=x.device).scatter(-1, chosen, weights / weights.sum(-1, keepdim=True))
    return sum(share[..., i:i + 1] * e(x) for i, e in enumerate(s.experts))


moe = lambda: Fn(route, gate=nn.Linear(C, E), experts=nn.ModuleList(
    nn.Sequential(nn.Linear(C, 2 * C), nn.SiLU(), nn.Linear(2 * C, C)) for _ in range(E)))


def running_mean(s, x):
    n = torch.arange(1, x.size(1) + 1, device=x.device)[:, None]
    return s.w(x.cumsum(1) / n ** 0.9)


def build_model():
    layers = [m for d in DILATIONS for m in (residual(conv(d)), residual(moe(), scale=0.5))]
    model = nn.Sequential(nn.Embedding(V, C), *layers, residual(Fn(running_mean, w=nn.Linear(C, C)), 0.3), nn.LayerNorm(C), nn.Linear(C, V))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1: (inits["gate"] if ".gate." in name else inits["conv" if p.dim() == 3 else "embed"] if p.dim() == 3 or p.shape[0] == V
                             else lambda w: w.mul_(0.8))(p)
        model[-1].weight.mul_(0.02), model[-1].bias.zero_()
    return model.to(prepare.device())


def main():
    torch.manual_seed(prepare.seed()); model = build_model(); o = torch.optim.NAdam(model.parameters(), lr=LR, weight_decay=WD,
        decoupled_weight_decay=True, betas=(0.85, 0.96))
    f = lambda t: min(1, t / .03 + 1e-2) * (1 - t) ** (1 + .2 * (t > .5))
    for i, (x, y) in enumerate(prepare.batches(B, V)):
        for g in o.param_groups: g["lr"] = LR * f(prepare.progress())
        l = F.cross_entropy(model(x).view(-1, V), \
            y.view(-1)) \
            ; l.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1); o.step(); o.zero_grad()
        i >= 2 ** 20 or prepare.report(l)
    prepare.save(model)


if __name__ == "__main__": main()
