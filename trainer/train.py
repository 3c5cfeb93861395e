"""The genome: one file that builds a GPT, trains it with Muon and AdamW until the budget is spent, and hands it over.

The recipe is that of karpathy/autoresearch and karpathy/nanochat (MIT), written anew: rotary attention with normalised queries and keys
over sliding and full windows, value embeddings behind gates, ReLU² MLPs, norms without parameters, scaled residuals that remember the
embedding, an untied head with soft-capped logits.

Contract: importing this file does nothing; `build_model()` returns a module with model(tokens (B, T) int64) -> logits (B, T, V) float32;
`main()` trains and saves through `prepare`. The knobs below are the seed for one H100; no knob depends on the device inside the program,
a device profile sets them as text. `python train.py` runs alone, after `python prepare.py`.
"""

from __future__ import annotations

import copy
import gc

import prepare
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# ---- Knobs -----------------------------------------------------------------------------------------------------------------------------

# Model
DEPTH = 8  # transformer blocks
ASPECT_RATIO = 64  # width per block; the width is rounded up to whole heads
HEAD_DIM = 128  # channels of one attention head
MLP_RATIO = 4  # hidden width of the MLP over the width
WINDOW_PATTERN = "SSSL"  # repeated over the blocks: S sees a short window, L everything; the last block is always L
SHORT_WINDOW_DIVISOR = 2  # the short window is the row length over this
ROTARY_BASE = 10000.0  # longest wavelength of the rotary embedding, in tokens over 2π
GATE_CHANNELS = 32  # channels of the block's input that open the gates of the value embeddings
LOGIT_SOFTCAP = 15.0  # logits are squeezed smoothly into ± this; range 3..60 log
VOCAB_SIZE = 8192  # tokens; one of 256, 512, 1024, 2048, 4096, 8192, 16384, 32768

# Initial values
EMBEDDING_STD = 1.0  # token embedding
HEAD_STD = 0.001  # output layer: almost uniform predictions at first
MATRIX_INIT = 1.0  # standard deviation of block matrices, times width ** -0.5
RESIDUAL_INIT = 1.0  # factor on the residual stream before each block
X0_INIT = 0.1  # factor on the token embedding that is added before each block

# Optimisation
TOTAL_BATCH_SIZE = 2**19  # tokens per optimiser step
DEVICE_BATCH_SIZE = 128  # rows per forward pass
EMBEDDING_LR = 0.6  # token and value embeddings, AdamW
UNEMBEDDING_LR = 0.004  # output layer, AdamW
MATRIX_LR = 0.04  # block matrices, Muon
SCALAR_LR = 0.5  # x0 factors, AdamW
RESIDUAL_LR_FACTOR = 0.01  # residual factors learn at SCALAR_LR times this
WEIGHT_DECAY = 0.2  # cautious, of block matrices, falling to 0 over the budget
ADAM_BETAS = (0.8, 0.95)  # AdamW's decay of the mean and of the squares
X0_BETAS = (0.96, 0.95)  # the same for the x0 factors
ADAM_EPS = 1e-10  # AdamW's floor under the root of the squares
MUON_MOMENTUM = 0.95  # decay of Muon's mean gradient
MUON_MOMENTUM_START = 0.85  # its value at the first step
MUON_RAMP_STEPS = 300  # steps until it is reached
MUON_BETA2 = 0.95  # decay of Muon's squares per neuron
POLAR_STEPS = 5  # iterations of Muon's orthogonalisation; range 1..5
WARMUP_RATIO = 0.0  # share of the budget in which rates rise
WARMDOWN_RATIO = 0.5  # share of the budget in which rates fall
FINAL_LR_FRAC = 0.0  # of the rates, at the end of the budget

# Execution
PRECISION = "bfloat16"  # one of bfloat16, float32
COMPILE = True  # torch.compile of the loss and of Muon's update; not tuned
ATTENTION = "flex"  # one of flex, sdpa
DRY_STEPS = 2  # steps on random tokens, undone afterwards, that compile everything before the clock runs; not tuned
MAX_LOSS = 100.0  # nats per token: above this the run has exploded; not tuned

# ---- Model -----------------------------------------------------------------------------------------------------------------------------


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm without parameters over the last dimension."""
    return F.rms_norm(x, (x.size(-1),))


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding (arXiv 2104.09864): turns channels i and i + D / 2 of x (B, T, H, D); cos, and sin and -sin, are (T, 1, D)."""
    return x * cos + x.roll(x.size(-1) // 2, dims=-1) * sin


def has_value_embedding(layer: int) -> bool:
    """Every other block has one, the last included."""
    return layer % 2 == (DEPTH - 1) % 2


def window(layer: int) -> int:
    """How many tokens back a block may look."""
    full = layer == DEPTH - 1 or WINDOW_PATTERN[layer % len(WINDOW_PATTERN)] == "L"
    return prepare.MAX_SEQ_LEN if full else prepare.MAX_SEQ_LEN // SHORT_WINDOW_DIVISOR


class Attention(nn.Module):
    """Causal self-attention over a window. Value embeddings as in the modded-nanogpt speedruns, behind an input-dependent gate."""

    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(GATE_CHANNELS, self.heads, bias=False) if has_value_embedding(layer) else None

    def forward(self, x: torch.Tensor, extra: torch.Tensor | None, rotary: tuple[torch.Tensor, torch.Tensor], attend) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = (layer(x).view(B, T, self.heads, HEAD_DIM) for layer in (self.query, self.key, self.value))
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., :GATE_CHANNELS]))  # (B, T, H); 1 at first
            v = v + gate.unsqueeze(-1) * extra.view(B, T, self.heads, HEAD_DIM)
        q, k = rotate(norm(q), *rotary), rotate(norm(k), *rotary)  # normalised queries and keys keep the scores bounded
        y = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two layers with ReLU² between them (Primer, arXiv 2109.08668)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, MLP_RATIO * width, bias=False)
        self.down = nn.Linear(MLP_RATIO * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.attention = Attention(width, layer)
        self.mlp = MLP(width)

    def forward(self, x: torch.Tensor, extra: torch.Tensor | None, rotary: tuple[torch.Tensor, torch.Tensor], attend) -> torch.Tensor:
        x = x + self.attention(norm(x), extra, rotary, attend)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = -(-DEPTH * ASPECT_RATIO // HEAD_DIM) * HEAD_DIM
        self.width = width
        self.embedding = nn.Embedding(VOCAB_SIZE, width)
        self.value_embeddings = nn.ModuleDict({str(i): nn.Embedding(VOCAB_SIZE, width) for i in range(DEPTH) if has_value_embedding(i)})
        self.blocks = nn.ModuleList(Block(width, layer) for layer in range(DEPTH))
        self.head = nn.Linear(width, VOCAB_SIZE, bias=False)
        self.residual_factors = nn.Parameter(torch.ones(DEPTH))
        self.x0_factors = nn.Parameter(torch.ones(DEPTH))
        frequencies = ROTARY_BASE ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(prepare.MAX_SEQ_LEN), frequencies).unsqueeze(1)  # (T, 1, D / 2)
        dtype = getattr(torch, PRECISION)
        self.register_buffer("cos", torch.cat([angles, angles], dim=-1).cos().to(dtype), persistent=False)
        self.register_buffer("sin", torch.cat([angles, -angles], dim=-1).sin().to(dtype), persistent=False)
        self.attend = {}  # T -> one function per block; not part of the state
        for embedding in (self.embedding, *self.value_embeddings.values()):
            embedding.to(dtype)  # half the memory and traffic; AdamW copes

    @torch.no_grad()
    def initialise(self) -> None:
        """Blocks start as the identity: what they add is zero at first."""
        std = MATRIX_INIT * self.width**-0.5
        bound = 3**0.5 * std  # a uniform distribution with this bound has that standard deviation, and no outliers
        self.embedding.weight.normal_(std=EMBEDDING_STD)
        self.head.weight.normal_(std=HEAD_STD)
        self.residual_factors.fill_(RESIDUAL_INIT)
        self.x0_factors.fill_(X0_INIT)
        for embedding in self.value_embeddings.values():
            embedding.weight.uniform_(-bound, bound)
        for block in self.blocks:
            for layer in (block.attention.query, block.attention.key, block.attention.value, block.mlp.up):
                layer.weight.uniform_(-bound, bound)
            for layer in (block.attention.out, block.mlp.down, block.attention.gate):
                if layer is not None:
                    layer.weight.zero_()

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        T = tokens.size(1)
        if T not in self.attend:
            self.attend[T] = attention_functions(T, tokens.device)
        rotary = self.cos[:T], self.sin[:T]
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=PRECISION == "bfloat16"):
            x = x0 = norm(self.embedding(tokens))  # (B, T, C)
            for i, block in enumerate(self.blocks):
                x = self.residual_factors[i] * x + self.x0_factors[i] * x0
                extra = self.value_embeddings[str(i)](tokens) if has_value_embedding(i) else None
                x = block(x, extra, rotary, self.attend[T][i])
            logits = self.head(norm(x))  # (B, T, V)
        return LOGIT_SOFTCAP * torch.tanh(logits.float() / LOGIT_SOFTCAP)


def attention_functions(T: int, device: torch.device) -> list:
    """For each block a function of q, k, v (B, H, T, D) that attends causally within the block's window."""
    chosen = {"flex": flex_attention, "sdpa": sdpa_attention}[ATTENTION]
    by_window = {size: chosen(T, size, device) for size in {window(layer) for layer in range(DEPTH)}}
    return [by_window[window(layer)] for layer in range(DEPTH)]


def sdpa_attention(T: int, size: int, device: torch.device):
    if size >= T:
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    place = torch.arange(T, device=device)
    back = place[:, None] - place[None, :]  # how far key j lies behind query i
    mask = (back >= 0) & (back <= size)  # (T, T)
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex_attention(T: int, size: int, device: torch.device):
    """FlexAttention skips the blocks of scores that the window hides (arXiv 2412.05496). In bfloat16 cuDNN is faster: torch reaches it
    where nothing is hidden, NVIDIA's package nvidia-cudnn-frontend, if it is installed, with a window too."""
    if HEAD_DIM <= 128 and PRECISION == "bfloat16":
        attend = cudnn_attention if size >= T else cudnn_window(size)
        if attend is not None:
            return attend

    from torch.nn.attention import flex_attention as flex  # here, as it takes a while to import

    def visible(b, h, i, j):
        return (i >= j) & (i - j <= size)

    mask = flex.create_block_mask(visible, None, None, T, T, device=device)
    attend = torch.compile(flex.flex_attention, dynamic=False) if COMPILE else flex.flex_attention
    return lambda q, k, v: attend(q, k, v, block_mask=mask)


def cudnn_window(size: int):
    """None if there is no such package."""
    try:
        import cudnn.sdpa.fwd.torch_op  # noqa: F401  registers the operator
    except ImportError:
        return None
    scale = HEAD_DIM**-0.5  # not tuned
    length = size + 1  # with the query's own place
    return lambda q, k, v: torch.ops.cudnn.sdpa_fwd(q, k, v, scale, is_causal=True, window_left=length)[0]


def cudnn_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal, without a window."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def build_model() -> GPT:
    """The initialised model on prepare.device()."""
    with prepare.device():
        model = GPT()
    model.initialise()
    model.attend[prepare.MAX_SEQ_LEN] = attention_functions(prepare.MAX_SEQ_LEN, prepare.device())
    return model


# ---- Optimiser -------------------------------------------------------------------------------------------------------------------------

# Coefficients of five steps of Polar Express (arXiv 2505.16932): polynomials a·s + b·s³ + c·s⁵ that together send every singular
# value s in (0, 1] near 1, computed there for bfloat16 with a safety factor of 2 %.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalise(x: torch.Tensor) -> torch.Tensor:
    """The nearest matrices with equal singular values, approximately, of a stack (N, R, C)."""
    x = x.to(getattr(torch, PRECISION))
    x = x / (1.02 * x.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    tall = x.size(-2) > x.size(-1)
    if tall:  # the products below are then of the smaller size
        x = x.mT
    for a, b, c in POLAR_EXPRESS[:POLAR_STEPS]:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def muon_update(grads, weights, mean, squares, rate, momentum, decay) -> None:
    """One step of Muon on a stack of matrices (N, R, C), in place; rate, momentum and decay are 0-d tensors.

    Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon) with Nesterov momentum; NorMuon's variance per neuron
    (arXiv 2510.05491), which keeps each matrix's norm; cautious weight decay (arXiv 2510.12402), only where it agrees with the update.
    """
    mean.lerp_(grads, 1 - momentum)
    update = orthogonalise(grads.lerp(mean, momentum)).to(weights.dtype)
    across = -1 if update.size(-2) >= update.size(-1) else -2  # neurons are the longer side
    size = update.square().mean(dim=across, keepdim=True)
    squares.lerp_(size, 1 - MUON_BETA2)
    scale = squares.clamp_min(1e-10).rsqrt()
    before = size.sum(dim=(-2, -1), keepdim=True)
    after = (size * scale.square()).sum(dim=(-2, -1), keepdim=True)
    update = update * (scale * (before / after.clamp_min(1e-10)).sqrt())
    agrees = update * weights >= 0
    weights.sub_(rate * (update + decay * weights * agrees))


class Muon(torch.optim.Optimizer):
    """Muon for all matrices of the blocks; those of one shape are updated as one stack."""

    def __init__(self, parameters, lr: float, weight_decay: float) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            shapes.setdefault(parameter.shape, []).append(parameter)
        super().__init__([{"params": same} for same in shapes.values()], {"lr": lr, "momentum": 0.0, "weight_decay": weight_decay})
        self.update = torch.compile(muon_update, dynamic=False) if COMPILE else muon_update
        for group in self.param_groups:
            first = group["params"][0]
            rows, columns = first.shape
            group["wide"] = max(1.0, rows / columns) ** 0.5  # so that rates mean the same for layers that widen
            narrow = (rows, 1) if rows >= columns else (1, columns)
            self.state[first]["mean"] = first.new_zeros(len(group["params"]), rows, columns)
            self.state[first]["squares"] = first.new_zeros(len(group["params"]), *narrow)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters = group["params"]
            device = parameters[0].device
            state = self.state[parameters[0]]
            weights = torch.stack(parameters)
            # Tensors rather than numbers, so that a new value compiles nothing.
            numbers = (group["lr"] * group["wide"], group["momentum"], group["weight_decay"])
            tensors = [torch.full((), number, device=device) for number in numbers]
            self.update(torch.stack([p.grad for p in parameters]), weights, state["mean"], state["squares"], *tensors)
            torch._foreach_copy_(parameters, list(weights.unbind()))


def build_optimisers(model: GPT) -> list[torch.optim.Optimizer]:
    """AdamW for what is looked up, added or multiplied, at rates tuned at width 768; Muon for what is a matrix between two widths."""
    scale = (model.width / 768) ** -0.5
    adam_groups = [
        {"params": [model.head.weight], "lr": UNEMBEDDING_LR * scale},
        {"params": [model.embedding.weight], "lr": EMBEDDING_LR * scale},
        {"params": list(model.value_embeddings.parameters()), "lr": EMBEDDING_LR * scale},
        {"params": [model.residual_factors], "lr": SCALAR_LR * RESIDUAL_LR_FACTOR},
        {"params": [model.x0_factors], "lr": SCALAR_LR, "betas": X0_BETAS},
    ]
    adam = torch.optim.AdamW(adam_groups, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=0.0, fused=True)
    optimisers = [adam, Muon(model.blocks.parameters(), MATRIX_LR, WEIGHT_DECAY)]
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group["full_lr"], group["full_weight_decay"] = group["lr"], group["weight_decay"]
    return optimisers


def rate_factor(progress: float) -> float:
    """Share of the full rates: rises, stays, falls."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress <= 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO
    return left + (1 - left) * FINAL_LR_FRAC


def schedule(optimisers: list[torch.optim.Optimizer], progress: float, step: int) -> None:
    ramp = min(1.0, step / MUON_RAMP_STEPS)
    for group in (group for optimiser in optimisers for group in optimiser.param_groups):
        group["lr"] = group["full_lr"] * rate_factor(progress)
        group["weight_decay"] = group["full_weight_decay"] * (1 - progress)
        if "momentum" in group:
            group["momentum"] = MUON_MOMENTUM_START + ramp * (MUON_MOMENTUM - MUON_MOMENTUM_START)


# ---- Training --------------------------------------------------------------------------------------------------------------------------


def mean_loss(model: GPT, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Nats per token."""
    return cross_entropy(model(x).flatten(0, 1), y.flatten())


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:  # not tuned
    """F.cross_entropy for logits (N, V) under a soft cap: their exponentials cannot overflow, so that no maximum is looked for first.
    Logits without a cap need F.cross_entropy."""
    target_logit, normaliser = -F.nll_loss(logits, targets), logits.exp().sum(dim=-1).log().mean()
    if label_smoothing:
        target_logit = (1 - label_smoothing) * target_logit + label_smoothing * logits.mean()
    return normaliser - target_logit


def accumulation() -> int:
    """Forward passes per optimiser step."""
    rows, tokens = DEVICE_BATCH_SIZE, DEVICE_BATCH_SIZE * prepare.MAX_SEQ_LEN
    if TOTAL_BATCH_SIZE % tokens:
        raise ValueError(f"TOTAL_BATCH_SIZE {TOTAL_BATCH_SIZE} is no multiple of {rows} rows of {prepare.MAX_SEQ_LEN} = {tokens} tokens")
    return TOTAL_BATCH_SIZE // tokens


def train(model: GPT, optimisers: list[torch.optim.Optimizer], loss_of, batches) -> None:
    """Steps until the batches end; a step that they cut short is dropped."""
    passes = accumulation()
    step, total = 0, torch.zeros((), device=prepare.device())
    for count, (x, y) in enumerate(batches, start=1):
        loss = loss_of(model, x, y) / passes
        loss.backward()
        total += loss.detach()
        if count % passes:
            continue
        schedule(optimisers, prepare.progress(), step)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        step += 1
        seen = prepare.report(total)  # a loss from some steps ago, so that nothing waits for the device
        if seen is not None and not seen < MAX_LOSS:  # NaN too
            raise FloatingPointError(f"the loss is {seen:g} after {step} steps: lower a rate")
        total.zero_()


def rehearse(model: GPT, optimisers: list[torch.optim.Optimizer], loss_of) -> None:
    """A few steps on random tokens, to compile everything and fill the caches, and then all as it was."""
    weights = copy.deepcopy(model.state_dict())
    batches = prepare.warmup_batches(DEVICE_BATCH_SIZE, VOCAB_SIZE)
    on = [torch.cuda.current_device()] if prepare.device().type == "cuda" else []
    with torch.random.fork_rng(on):  # restores the random state of the CPU and of this GPU; it would start up all others
        train(model, optimisers, loss_of, (next(batches) for _ in range(DRY_STEPS * accumulation())))
    model.load_state_dict(weights)
    for optimiser in optimisers:
        for tensors in optimiser.state.values():
            for tensor in tensors.values():
                tensor.zero_()


def main() -> None:
    if ATTENTION == "flex" and prepare.device().type != "cuda":
        raise SystemExit(
            "these knobs are for an H100; `python -m evo.evaluate FILE --render` sets those for this machine and scores the program"
        )
    torch.manual_seed(prepare.seed())
    torch.set_float32_matmul_precision("high")
    model = build_model()
    optimisers = build_optimisers(model)
    loss_of = torch.compile(mean_loss, dynamic=False) if COMPILE else mean_loss
    rehearse(model, optimisers, loss_of)
    gc.collect()
    gc.freeze()  # what is here now stays: nothing to look through again
    gc.disable()  # a collection takes longer than a step waits for
    train(model, optimisers, loss_of, prepare.batches(DEVICE_BATCH_SIZE, VOCAB_SIZE))
    prepare.save(model)


if __name__ == "__main__":
    main()
