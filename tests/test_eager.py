"""Training without the compiler: torch._dynamo is not imported until somebody compiles, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INSIDE = Path(__file__).resolve().parent.parent / "evaluator" / "inside"
PROGRAM = """
import sys
import torch
from trainee import import_libraries

def trained(make):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(4, 4))
    optimiser = make([weight])
    for _ in range(3):
        (weight ** 2).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    optimiser.load_state_dict(optimiser.state_dict())
    assert torch.is_grad_enabled()
    return weight.detach()

MAKERS = (
    lambda p: torch.optim.AdamW(p, fused=True),
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.RMSprop(p),
)
import_libraries("cpu")
before = [trained(make) for make in MAKERS]
assert "torch._dynamo" not in sys.modules
import torch._dynamo
assert all(torch.equal(a, b) for a, b in zip(before, map(trained, MAKERS)))
untraced = torch.optim.Optimizer.zero_grad.__wrapped__.__dict__["__dynamo_disable"]
assert untraced.__module__.startswith("torch._dynamo"), "torch's own, now that something could trace"
"""


def test_optimisers_train_without_the_compiler_and_alike_with_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={"PYTHONPATH": str(INSIDE)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
