"""An experiment that bench_trainer.py tries in the seed: sliding windows of half a row from cuDNN's kernel. Not measured yet."""

from __future__ import annotations

from typing import Any

import torch


def _cudnn(q: Any, k: Any, v: Any) -> Any:
    return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True, False)


def _cudnn_gradients(dy: Any, q: Any, k: Any, v: Any, y: Any, lse: Any, rest: Any) -> Any:
    cum_q, cum_k, max_q, max_k, seed, offset = rest
    call = torch.ops.aten._scaled_dot_product_cudnn_attention_backward
    return call(dy, q, k, v, y, lse, seed, offset, None, cum_q, cum_k, max_q, max_k, 0.0, True)


def _turned(x: Any) -> Any:
    """(B, H, w, D) from its last token to its first, laid out as (B, w, H, D)."""
    return x.flip(2).transpose(1, 2).contiguous().transpose(1, 2)


class HalfWindow(torch.autograd.Function):
    """Causal attention over a window of half a row, from kernels for full causal attention: each half looks at itself, and the second
    half at the first, where key j is visible to query i if j >= i: read backwards, that is causal too. The two are joined by their
    log-sum-exps, and each backward pass is told the joint result, as in ring attention (arXiv 2310.01889)."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any) -> Any:  # type: ignore[override]
        B, H, T, D = q.shape
        w = T // 2
        halves = [x.transpose(1, 2).reshape(2 * B, w, H, D).transpose(1, 2) for x in (q, k, v)]
        y, lse, *rest = _cudnn(*halves)
        back = [_turned(x) for x in (q[:, :, w:], k[:, :, :w], v[:, :, :w])]
        y2, lse2, *rest2 = _cudnn(*back)
        y, lse = y.unflatten(0, (B, 2)), lse.reshape(B, 2, H, w, 1)
        a, b = lse[:, 1].float(), lse2.reshape(B, H, w, 1).flip(2).float()
        both = torch.logaddexp(a, b)
        late = y[:, 1] * (a - both).exp() + y2.flip(2) * (b - both).exp()
        out = torch.stack([y[:, 0].transpose(1, 2), late.to(y.dtype).transpose(1, 2)], 1)  # (B, 2, w, H, D)
        total = torch.stack([lse[:, 0], both.to(lse.dtype)], 1)  # (B, 2, H, w, 1)
        ctx.save_for_backward(*halves, *back, out, total, *rest[:2], *rest[4:6], *rest2[:2], *rest2[4:6])
        ctx.sizes = (*rest[2:4], *rest2[2:4])
        return out.view(B, T, H, D).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:  # type: ignore[override]
        q, k, v, q2, k2, v2, out, total, cum_q, cum_k, seed, offset, cum_q2, cum_k2, seed2, offset2 = ctx.saved_tensors
        max_q, max_k, max_q2, max_k2 = ctx.sizes
        B, _, w, H, D = out.shape
        d = dy.transpose(1, 2).reshape(2 * B, w, H, D).transpose(1, 2)
        y = out.view(2 * B, w, H, D).transpose(1, 2)
        own = _cudnn_gradients(d, q, k, v, y, total.flatten(0, 1), (cum_q, cum_k, max_q, max_k, seed, offset))
        y2, lse2 = _turned(out[:, 1].transpose(1, 2)), total[:, 1].flip(2).contiguous()
        across = _cudnn_gradients(_turned(dy[:, :, w:]), q2, k2, v2, y2, lse2, (cum_q2, cum_k2, max_q2, max_k2, seed2, offset2))

        def joined(part: Any, extra: Any, half: int) -> Any:
            pair = list(part.transpose(1, 2).reshape(B, 2, w, H, D).unbind(1))
            pair[half] = pair[half] + extra.flip(2).transpose(1, 2)
            return torch.stack(pair, 1).view(B, 2 * w, H, D).transpose(1, 2)

        return tuple(joined(part, extra, half) for part, extra, half in zip(own, across, (1, 0, 0), strict=True))
