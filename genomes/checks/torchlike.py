"""What torch's oldest functions and layers are called with: those whose arguments have not changed for years.

The tests compare the list with the installed torch, as far as that shows its signatures. Not on it: what still gains arguments. It does
not say what torch has or lacks.
"""

from __future__ import annotations

from genomes.checks.signatures import Signature

_DECLARED = (
    "torch.nn.Linear(in_features, out_features | bias, device, dtype)",
    "torch.nn.Embedding(num_embeddings, embedding_dim"
    " | padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, _weight, _freeze, device, dtype)",
    "torch.nn.LayerNorm(normalized_shape | eps, elementwise_affine, bias, device, dtype)",
    "torch.nn.RMSNorm(normalized_shape | eps, elementwise_affine, device, dtype)",
    "torch.nn.Dropout(| p, inplace)",
    "torch.nn.functional.cross_entropy(input, target | weight, size_average, ignore_index, reduce, reduction, label_smoothing)",
    "torch.nn.functional.rms_norm(input, normalized_shape | weight, eps)",
    "torch.nn.functional.layer_norm(input, normalized_shape | weight, bias, eps)",
    "torch.nn.functional.dropout(input | p, training, inplace)",
    "torch.nn.functional.gelu(input | approximate)",
    "torch.nn.functional.silu(input | inplace)",
    "torch.nn.functional.relu(input | inplace)",
    "torch.nn.functional.linear(input, weight | bias)",
    "torch.optim.AdamW(params | lr, betas, eps, weight_decay, amsgrad, *maximize, *foreach, *capturable, *differentiable, *fused)",
    "torch.optim.Adam(params"
    " | lr, betas, eps, weight_decay, amsgrad, *foreach, *maximize, *capturable, *differentiable, *fused, *decoupled_weight_decay)",
    "torch.nn.utils.clip_grad_norm_(parameters, max_norm | norm_type, error_if_nonfinite, foreach)",
)


def _read(declared: str) -> tuple[str, Signature]:
    """`path(required | optional, *keyword-only)`."""
    path, _, rest = declared.rstrip(")").partition("(")
    first, _, second = rest.partition("|")
    required = tuple(name.strip() for name in first.split(",") if name.strip())
    optional = [name.strip() for name in second.split(",") if name.strip()]
    positional = (*required, *(name for name in optional if not name.startswith("*")))
    keywords = frozenset(name.lstrip("*") for name in optional if name.startswith("*"))
    return path, Signature(path.rpartition(".")[2], positional, required=len(required), keywords=keywords)


LIBRARY = dict(_read(declared) for declared in _DECLARED)  # full name → signature
