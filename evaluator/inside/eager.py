"""Keeps torch from importing its compiler where nothing is compiled: it takes 2 s, on the clock for a program that does not rehearse.

Torch's optimisers import torch._dynamo when one is made and when it first steps, only to say what is not to be traced (torch/_compile.py,
torch/optim/optimizer.py). As long as nobody else has imported it nothing can be traced, and there is nothing to say; once it is there,
torch's own code runs as ever. A torch that works otherwise is left alone.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_KEPT = "__dynamo_disable"  # attribute of a function under which torch keeps what calls it untraced
_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def spare_the_compiler() -> None:
    """Lets torch's optimisers do without torch._dynamo, in this process and from here on."""
    import torch

    for name in _METHODS:
        function = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if function is not None and not hasattr(function, _KEPT):
            setattr(function, _KEPT, functools.partial(_untraced, function))
    for optimiser in vars(torch.optim).values():
        step: Any = vars(optimiser).get("step") if isinstance(optimiser, type) else None
        if hasattr(step, "__wrapped__") and "graph_break" in step.__code__.co_names:
            optimiser.step = _step(step)


def _compiler() -> Any:
    """torch._dynamo, if somebody has imported it."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo if hasattr(dynamo, "disable") else None  # not while it is being imported


def _untraced(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a function that is not to be traced."""
    dynamo = _compiler()
    if dynamo is None:
        return function(*args, **kwargs)
    setattr(function, _KEPT, dynamo.disable(function, wrapping=False))  # as torch would have done
    return getattr(function, _KEPT)(*args, **kwargs)


def _step(whole: Any) -> Callable[..., Any]:
    """An optimiser's step without the graph breaks around it, which only a tracer sees."""
    import torch

    @functools.wraps(whole)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _compiler() is not None:
            return whole(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return whole.__wrapped__(self, *args, **kwargs)

    return step
