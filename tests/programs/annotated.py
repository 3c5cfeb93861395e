"""A GPT-2 with every name annotated: frozen configurations, LayerNorm, GELU, learned positions, AdamW, a cosine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import prepare
import torch
from torch import Tensor, nn
from torch.nn import functional

Groups: TypeAlias = list[dict[str, object]]

VOCABULARY: Final[int] = 1024  # one of 1024, 2048
PRINT_EVERY: Final = 50  # steps; not tuned


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the network."""

    layers: int = 2
    heads: int = 4
    width: int = 128  # power of two
    expansion: int = 4
    context: int = prepare.MAX_SEQ_LEN
    dropout: float = 0.0
    norm_epsilon: float = 1e-5
    norm: Literal["pre", "post"] = "pre"  # one of pre, post
    bias: bool = True
    init_std: float = 0.02


@dataclass(frozen=True)
class OptimiserConfig:
    """AdamW; matrices decay, vectors do not."""

    learning_rate: float = 3e-3  # range 1e-4..3e-2 log
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    batch: int = 8
    accumulation: int = 1
    warmup_share: float = 0.1
    final_share: float = 0.1
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    model: ModelConfig = field(default_factory=ModelConfig)


class SelfAttention(nn.Module):
    """Heads of equal width over the past."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.width % config.heads != 0:
            raise ValueError(f"width {config.width} does not divide into {config.heads} heads")
        self.config: ModelConfig = config
        self.attend: nn.Linear = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.project: nn.Linear = nn.Linear(config.width, config.width, bias=config.bias)
        self.dropout: nn.Dropout = nn.Dropout(p=config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape: tuple[int, int, int, int] = (batch, length, self.config.heads, width // self.config.heads)
        query, key, value = self.attend(x).chunk(3, dim=2)
        heads: list[Tensor] = [part.view(shape).transpose(1, 2) for part in (query, key, value)]
        drop: float = self.config.dropout if self.training else 0.0
        mixed: Tensor = functional.scaled_dot_product_attention(*heads, dropout_p=drop, is_causal=True)
        return self.dropout(self.project(mixed.transpose(1, 2).reshape(batch, length, width)))


class FeedForward(nn.Sequential):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            nn.Linear(config.width, config.expansion * config.width, bias=config.bias),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.expansion * config.width, config.width, bias=config.bias),
            nn.Dropout(config.dropout),
        )


class Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.post: bool = config.norm == "post"
        self.first: nn.LayerNorm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.attention: SelfAttention = SelfAttention(config)
        self.second: nn.LayerNorm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.feed_forward: FeedForward = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = self.first(x + self.attention(x))
            return self.second(x + self.feed_forward(x))
        x = x + self.attention(self.first(x))
        x = x + self.feed_forward(self.second(x))
        return x


class LanguageModel(nn.Module):
    """Tied embedding and head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens: nn.Embedding = nn.Embedding(VOCABULARY, config.width)
        self.positions: nn.Embedding = nn.Embedding(config.context, config.width)
        self.dropout: nn.Dropout = nn.Dropout(config.dropout)
        self.layers: nn.ModuleList = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.norm: nn.LayerNorm = nn.LayerNorm(config.width)
        self.head: nn.Linear = nn.Linear(config.width, VOCABULARY, bias=False)
        self.head.weight = self.tokens.weight
        self.apply(self._initialise)
        for name, parameter in self.named_parameters():
            if name.endswith("project.weight") or name.endswith("2.weight"):
                nn.init.normal_(parameter, mean=0.0, std=config.init_std / math.sqrt(2 * config.layers))

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=self.config.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        places: Tensor = torch.arange(tokens.size(1), device=tokens.device)
        x: Tensor = self.dropout(self.tokens(tokens) + self.positions(places)[None])
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x))
        return logits.float()


def parameter_groups(model: nn.Module, decay: float) -> Groups:
    """Matrices with decay, the rest without."""
    parameters: list[nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def cosine(progress: float, config: TrainConfig) -> float:
    """Linear rise, then half a cosine."""
    if progress < config.warmup_share:
        return progress / config.warmup_share
    remaining: float = (progress - config.warmup_share) / (1.0 - config.warmup_share)
    coefficient: float = 0.5 * (1.0 + math.cos(math.pi * remaining))
    return config.final_share + coefficient * (1.0 - config.final_share)


def grouped(batches: Iterable[tuple[Tensor, Tensor]], size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Lists of `size` batches; what is left over is dropped."""
    found: list[tuple[Tensor, Tensor]] = []
    for pair in batches:
        found.append(pair)
        if len(found) == size:
            yield found
            found = []


def build_model(config: ModelConfig | None = None) -> LanguageModel:
    return LanguageModel(config or ModelConfig()).to(prepare.device())


def main() -> None:
    config: TrainConfig = TrainConfig()
    torch.manual_seed(prepare.seed())
    model: LanguageModel = build_model(config.model)
    chosen: OptimiserConfig = config.optimiser
    optimiser = torch.optim.AdamW(
        parameter_groups(model, chosen.weight_decay),
        lr=chosen.learning_rate,
        betas=chosen.betas,
        eps=chosen.epsilon,
    )
    for step, pairs in enumerate(grouped(prepare.batches(config.batch, VOCABULARY), config.accumulation)):
        total: float = 0.0
        for x, y in pairs:
            loss: Tensor = functional.cross_entropy(model(x).flatten(0, 1), y.flatten()) / config.accumulation
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), chosen.clip)
        rate: float = chosen.learning_rate * cosine(prepare.progress(), config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        prepare.report(total)
        if step % PRINT_EVERY == 0:
            print(f"{step:6d} {total:.4f} {rate:.2e}")
    prepare.save(model)


if __name__ == "__main__":
    main()
