"""Tries what training programs use, on one device, and prints a line of JSON about each thing: `python tried.py cuda bfloat16 flex`.

It is a process of its own, since a compiler may hang and a driver may kill: the caller sets the limit (evo/doctor.py). Each result is
compared with the same computation in float64 on the CPU, so a line means that it is right. A failure ends the process with a traceback,
whose last line says why.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

_SIZE = {"cuda": 4096, "mps": 2048}  # rows of a square matrix product; elsewhere 512, which takes milliseconds
_ROWS, _HEADS, _LENGTH, _WIDTH = 2, 2, 256, 64  # shape of an attention: B, H, T, D
_WINDOW = 64  # how many tokens back are seen
_TOLERANCE = {"float32": 2e-3, "bfloat16": 3e-2}  # error over the largest value; a GPU may round float32 products to TF32


def device(place: str) -> dict[str, Any]:
    """Torch's version, and the device's name and memory."""
    import torch

    answer: dict[str, Any] = {"torch": torch.__version__}
    if place == "cuda":
        about = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        capability = f"{about.major}.{about.minor}"
        answer |= {"name": about.name, "capability": capability, "memory_gib": total / 2**30, "free_gib": free / 2**30}
    torch.ones(2, device=place).sum().item()
    return answer


def float32(place: str) -> dict[str, Any]:
    """A matrix product, timed."""
    return _product(place, "float32")


def bfloat16(place: str) -> dict[str, Any]:
    """A matrix product in bfloat16, timed."""
    return _product(place, "bfloat16")


def sdpa(place: str) -> dict[str, Any]:
    """Attention over a causal window with a mask, forwards and backwards."""
    import torch

    distance = torch.arange(_LENGTH, device=place)[:, None] - torch.arange(_LENGTH, device=place)[None, :]
    mask = (distance >= 0) & (distance <= _WINDOW)
    return _attention(place, lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))


def flex(place: str) -> dict[str, Any]:
    """The attention of `sdpa` by FlexAttention, compiled."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def visible(_b: Any, _h: Any, i: Any, j: Any) -> Any:
        return (i >= j) & (i - j <= _WINDOW)

    blocks = create_block_mask(visible, None, None, _LENGTH, _LENGTH, device=place)
    attend: Any = torch.compile(flex_attention, dynamic=False)
    return _attention(place, lambda q, k, v: attend(q, k, v, block_mask=blocks))


def cudnn(place: str) -> dict[str, Any]:
    """The attention of `sdpa` by cuDNN, which takes a window only through NVIDIA's package."""
    from importlib import metadata

    import cudnn.sdpa.fwd.torch_op  # noqa: F401  registers the operator
    import torch

    operator = torch.ops.cudnn.sdpa_fwd
    _attention(place, lambda q, k, v: operator(q, k, v, _WIDTH**-0.5, True, False, _WINDOW + 1)[0])
    return {"package": metadata.version("nvidia-cudnn-frontend")}


def compiled(place: str) -> dict[str, Any]:
    """A small function, compiled, forwards and backwards."""
    import torch

    def layer(x: Any, weight: Any) -> Any:
        return torch.tanh(x @ weight).square().sum()

    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(64, 64, generator=generator) for _ in range(2))
    here, exact = (weight / 8).to(place, copy=True).requires_grad_(), (weight / 8).double().requires_grad_()
    began = time.monotonic()
    torch.compile(layer, dynamic=False)(x.to(place), here).backward()
    seconds = time.monotonic() - began
    layer(x.double(), exact).backward()
    _must_be_close(here.grad, exact.grad, "float32")
    return {"compile_seconds": seconds}


def _product(place: str, name: str) -> dict[str, Any]:
    import torch

    size, dtype = _SIZE.get(place, 512), getattr(torch, name)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator) for _ in range(2))
    left, right = a.to(place, dtype), b.to(place, dtype)
    product = left @ right
    _must_be_close(product[:64], (a[:64].double() @ b.double()), name)
    repeats = 10
    began = time.monotonic()
    for _ in range(repeats):
        product = left @ right
    product.sum().item()  # waits for the device
    return {"tflops": 2 * size**3 * repeats / (time.monotonic() - began) / 1e12}


def _attention(place: str, attend: Callable[[Any, Any, Any], Any]) -> dict[str, Any]:
    import torch

    dtype = torch.bfloat16 if place == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(_ROWS, _HEADS, _LENGTH, _WIDTH, generator=generator).to(dtype) for _ in range(3)]  # q, k, v
    inputs = [tensor.to(place, copy=True).requires_grad_() for tensor in whole]
    out = attend(*inputs)
    out.square().sum().backward()
    exact = [tensor.double().requires_grad_() for tensor in whole]
    distance = torch.arange(_LENGTH)[:, None] - torch.arange(_LENGTH)[None, :]
    scores = (exact[0] @ exact[1].mT / _WIDTH**0.5).masked_fill((distance < 0) | (distance > _WINDOW), -torch.inf)
    expected = scores.softmax(-1) @ exact[2]
    expected.square().sum().backward()
    name = str(dtype).removeprefix("torch.")
    _must_be_close(out, expected, name)
    for got, wanted in zip(inputs, exact, strict=True):
        _must_be_close(got.grad, wanted.grad, name)
    return {}


def _must_be_close(found: Any, expected: Any, dtype: str) -> None:
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    error, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not error <= _TOLERANCE[dtype] * largest:  # written this way, it refuses NaN too
        raise ArithmeticError(f"the result is wrong: off by {error:.2g} where the largest value is {largest:.2g}")


TRIALS = {"device": device, "float32": float32, "bfloat16": bfloat16, "sdpa": sdpa, "flex": flex, "cudnn": cudnn, "compile": compiled}


if __name__ == "__main__":
    for name in sys.argv[2:]:
        print(json.dumps({"trial": name, **TRIALS[name](sys.argv[1])}), flush=True)
