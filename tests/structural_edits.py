"""Structural edits that a competent model might make to trainer/train.py: they parse, keep the contract, and train."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StructuralEdit:
    """Lines that are replaced by others, wherever they stand."""

    name: str
    changes: tuple[tuple[str, str], ...]  # (old lines, new lines)

    def applies(self, text: str) -> bool:
        """Whether every place is there once, and nothing of it was made before."""
        return all(f"\n{text}".count(f"\n{old}\n") == 1 and f"\n{new}\n" not in text for old, new in self.changes)


def _edit(name: str, *changes: tuple[str, str]) -> StructuralEdit:
    return StructuralEdit(name, changes)


def _after(line: str, *more: str) -> tuple[str, str]:
    return line, "\n".join([line, *more])


def _before(line: str, *more: str) -> tuple[str, str]:
    return line, "\n".join([*more, line])


OUT = "        self.out = nn.Linear(width, width, bias=False)"
RETURN_OUT = "        return self.out(y.transpose(1, 2).reshape(B, T, C))"
ATTEND = "        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (B, H, T, D)"
UP = "        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)"
RETURN_DOWN = "        return self.down(F.relu(self.up(x)).square())"
ATTENTION = "        x = x + self.attention(norm(x), extra, rotary, attend)"
MLP = "        return x + self.mlp(norm(x))"
EMBED = "            x = x0 = norm(self.embedding(tokens))  # (B, T, C)"
CALL_BLOCK = "                x = block(x, extra, rotary, self.attend[T][i])"
LOGITS = "            logits = self.head(norm(x))  # (B, T, V)"
X0 = "        self.x0_factors = nn.Parameter(torch.ones(DEPTH))"
RESIDUAL_GROUP = '        {"params": [model.residual_factors], "lr": SCALAR_LR * RESIDUAL_LR_FACTOR},'
LOSS = "    return cross_entropy(model(x).flatten(0, 1), y.flatten())"
WARMDOWN = "    return left + (1 - left) * FINAL_LR_FRAC"
DECAY = '        group["weight_decay"] = group["full_weight_decay"] * (1 - progress)'
SCHEDULE = "        schedule(optimisers, prepare.progress(), step)"
MUON = "    weights.sub_(rate * (update + decay * weights * agrees))"

POOL = (
    _edit(
        "gate on the output of attention",
        _after(OUT, "        self.output_gate = nn.Linear(width, width, bias=False)"),
        (RETURN_OUT, "        y = y.transpose(1, 2).reshape(B, T, C) * torch.sigmoid(self.output_gate(x))\n        return self.out(y)"),
    ),
    _edit(
        "gated MLP",
        _after(UP, "        self.gate = nn.Linear(width, MLP_RATIO * width, bias=False)"),
        (RETURN_DOWN, "        return self.down(F.silu(self.gate(x)) * self.up(x))"),
    ),
    _edit("norm inside the MLP", (RETURN_DOWN, "        return self.down(norm(F.relu(self.up(x)).square()))")),
    _edit("GELU in place of squared ReLU", (RETURN_DOWN, "        return self.down(F.gelu(self.up(x)))")),
    _edit("SiLU in place of squared ReLU", (RETURN_DOWN, "        return self.down(F.silu(self.up(x)))")),
    _edit("normalised values", _before(ATTEND, "        v = norm(v)")),
    _edit("keys that see the token before", _before(ATTEND, "        k = k + F.pad(k, (0, 0, 0, 0, 1, -1))")),
    _edit(
        "attention and MLP side by side",
        (f"{ATTENTION}\n{MLP}", "        h = norm(x)\n        return x + self.attention(h, extra, rotary, attend) + self.mlp(h)"),
    ),
    _edit("attention scaled by depth", (ATTENTION, "        x = x + DEPTH**-0.5 * self.attention(norm(x), extra, rotary, attend)")),
    _edit("MLP scaled by depth", (MLP, "        return x + DEPTH**-0.5 * self.mlp(norm(x))")),
    _edit(
        "embedding smeared over the next token",
        (EMBED, "            x = self.embedding(tokens)\n            x = x0 = norm(x + F.pad(x, (0, 0, 1, -1)) / DEPTH)"),
    ),
    _edit("embedding added before the head", (LOGITS, "            logits = self.head(norm(x + x0))  # (B, T, V)")),
    _edit(
        "learnt scale of the logits",
        _after(X0, "        self.logit_scale = nn.Parameter(torch.ones(1))"),
        _after(RESIDUAL_GROUP, '        {"params": [model.logit_scale], "lr": SCALAR_LR * RESIDUAL_LR_FACTOR},'),
        (LOGITS, "            logits = self.logit_scale * self.head(norm(x))  # (B, T, V)"),
    ),
    _edit("stream normalised after every block", (CALL_BLOCK, "                x = norm(block(x, extra, rotary, self.attend[T][i]))")),
    _edit(
        "z-loss",
        (
            LOSS,
            "    logits = model(x).flatten(0, 1)\n"
            "    return cross_entropy(logits, y.flatten()) + 1e-4 * logits.logsumexp(-1).square().mean()",
        ),
    ),
    _edit("smooth ends of the warm-down", _before(WARMDOWN, "    left = left * left * (3 - 2 * left)")),
    _edit(
        "weight decay that follows the rates", (DECAY, '        group["weight_decay"] = group["full_weight_decay"] * rate_factor(progress)')
    ),
    _edit("gradients clipped", _before(SCHEDULE, "        nn.utils.clip_grad_norm_(model.parameters(), 1.0)")),
    _edit("weight decay without caution", (MUON, "    weights.sub_(rate * (update + decay * weights))")),
)
