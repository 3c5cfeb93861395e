"""The judge's cross-entropy, on every device and by either way the same."""

from __future__ import annotations

import pytest
import torch

from evaluator.nats import cross_entropy

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
WIDTHS = [1, 3, 256, 1000, 8192, 36_864]


def logits_of(width: int, spread: float = 5.0) -> torch.Tensor:
    return spread * torch.randn(3, 7, width, generator=torch.Generator().manual_seed(width))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nats_are_those_of_float64_within_rounding(device: str, width: int, dtype: torch.dtype) -> None:
    logits = logits_of(width).to(dtype)
    targets = torch.randint(width, (3, 7), generator=torch.Generator().manual_seed(1))
    nats = cross_entropy(logits.to(device), targets.to(device))
    exact = -torch.log_softmax(logits.double(), -1).gather(-1, targets[..., None])[..., 0]
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats.cpu().double(), exact, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", [(0, 0, 0), (1, 3, 500), (2, 6, 999)])
def test_one_logit_that_is_nan_or_infinity_is_seen_wherever_it_is(device: str, wrong: float, where: tuple[int, int, int]) -> None:
    logits, targets = logits_of(1000), torch.zeros(3, 7, dtype=torch.int64)
    logits[where] = wrong
    broken = cross_entropy(logits.to(device), targets.to(device)).isnan()
    assert broken[where[:2]]
    assert broken.sum() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [3, 1000, 8192])
def test_a_hidden_token_costs_nothing_unless_it_is_the_target(device: str, width: int) -> None:
    logits, targets = logits_of(width), torch.zeros(3, 7, dtype=torch.int64)
    logits[..., width // 2 :] = float("-inf")
    targets[0, 0] = width - 1
    nats = cross_entropy(logits.to(device), targets.to(device)).cpu()
    assert nats[0, 0] == float("inf")
    exact = logits[..., : width // 2].double().logsumexp(-1) - logits[..., 0].double()
    torch.testing.assert_close(nats.double().flatten()[1:], exact.flatten()[1:], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_a_row_that_hides_all_tokens_is_broken(device: str) -> None:
    logits = torch.full((1, 2, 300), float("-inf"))
    logits[0, 1, 7] = 0.0
    nats = cross_entropy(logits.to(device), torch.tensor([[7, 7]]).to(device))
    assert nats[0, 0].isnan()
    assert float(nats[0, 1]) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_logits_almost_as_large_as_a_float_can_be_give_the_nats_they_should(device: str) -> None:
    logits, targets = torch.zeros(1, 2, 300), torch.tensor([[0, 1]])
    logits[0, :, 0] = 3e38
    nats = cross_entropy(logits.to(device), targets.to(device))
    assert float(nats[0, 0]) == 0
    assert float(nats[0, 1]) == pytest.approx(3e38)


@pytest.mark.parametrize("device", DEVICES)
def test_the_nats_of_finite_logits_are_finite(device: str) -> None:
    logits = torch.zeros(1, 1, 300)
    logits[0, 0, :2] = torch.tensor([3e38, -3e38])
    assert cross_entropy(logits.to(device), torch.tensor([[1]]).to(device)).item() == torch.finfo(torch.float32).max


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [-3e38, -1e9, 1e6, 1e9, 3e38])
def test_what_is_added_to_all_logits_changes_nothing(device: str, offset: float) -> None:
    """A program could otherwise round its own loss away."""
    logits, targets = torch.full((2, 3, 1000), offset), torch.randint(1000, (2, 3), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(cross_entropy(logits.to(device), targets.to(device)).cpu(), torch.full((2, 3), 1000.0).log())
