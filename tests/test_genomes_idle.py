"""Literals that do nothing: all of a real script's can change and the score stays what it is to the last digit, while each that may be
tuned moves it; and small programs, where what looks idle is needed.

Runs are made repeatable by a clock that ticks once for each look.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
import types

import pytest
from corpus import SEED
from test_genomes_scripts import TEXT, home, run

import genomes
from genomes.knobs import inspect
from genomes.source import parse

__all__ = ["home"]  # a fixture
# What does nothing in the branch that is taken here, which is that without flash attention, or is larger than it need be.
NOT_HERE = {
    "WINDOW_PATTERN", "GPT._windows.short", "GPT._windows.sizes.L[1]", "GPT._windows.sizes.S[1]",
    "GPT.__init__.rotary_len", "muon_step.clamp_min", "muon_step.clamp_min[1]",
}  # fmt: skip
TICK_SECONDS = 0.005  # four steps within the budget
PARTS = 3


@pytest.fixture
def ticking(home: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: next(ticks) * TICK_SECONDS)


def tunable(text: str) -> dict[str, genomes.Knob]:
    return {spot.knob.name: spot.knob for spot in inspect(parse(text)).spots if spot.knob.tunable}


def idle_knobs(text: str) -> dict[str, genomes.Knob]:
    """Those that would be tuned if nothing were known to be idle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["genomes.knobs"], "idle", lambda tree: frozenset())
        every = tunable(text)
    return {name: knob for name, knob in every.items() if name not in tunable(text)}


def other(knob: genomes.Knob) -> genomes.Value:
    """Another value within the knob's range: half of a whole number, as some have room to spare and some are rounded."""
    value = knob.value
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next(choice for choice in knob.choices if choice != value)
    if isinstance(value, int):
        return value // 2 if value // 2 >= knob.low else value + 1
    return value + 0.3 * (knob.high - value) if value < knob.high else value - 0.3 * (value - knob.low)


def test_all_that_is_idle_can_change_and_the_score_stays_to_the_last_digit(ticking: None) -> None:
    found = idle_knobs(TEXT)
    assert len(found) == 33
    assert run(TEXT)[0] == run(genomes.set_knobs(TEXT, {name: other(knob) for name, knob in found.items()}))[0]


@pytest.mark.parametrize("part", range(PARTS))
def test_each_knob_that_may_be_tuned_moves_the_score(part: int, ticking: None) -> None:
    still, before = set(), run(TEXT)[0]
    for name, knob in list(tunable(TEXT).items())[part::PARTS]:
        twins = {name: other(knob)} if "Linear" not in name else {"MLP.__init__.Linear": 3, "MLP.__init__.Linear[1]": 3}
        if run(genomes.set_knobs(TEXT, twins))[0] == before:
            still.add(name)
    assert still <= NOT_HERE


def test_a_tidy_program_has_nothing_idle() -> None:
    assert not idle_knobs(SEED)


# ---- small programs, each below a line that says which of its knobs are idle

DEFAULTS = """
# f.rate
def f(x, rate=0.5):
    return x * rate
use(f(1.0, 0.25))
# f.rate: by its name
def f(x, rate=0.5):
    return x * rate
use(f(1.0, rate=0.25))
# f.rate: by its name alone
def f(x, *, rate=0.5):
    return x * rate
use(f(1.0, rate=0.25))
# nothing: one call leaves it
def f(x, rate=0.5):
    return x * rate
use(f(1.0, 0.25) + f(2.0))
# nothing: somebody else may call it
def f(x, rate=0.5):
    return x * rate
use(f, f(1.0, 0.25))
# nothing: who knows what is given
def f(x, rate=0.5):
    return x * rate
use(f(*given), f(1.0, 0.25))
# nothing: nor here
def f(x, rate=0.5):
    return x * rate
use(f(1.0, **given))
# nothing: nobody calls it
def f(x, rate=0.5):
    return x * rate
# nothing: the harness calls it too
def main(rate=0.5):
    use(rate)
if __name__ == "__main__":
    main(0.25)
# nothing: two of one name
def f(x, rate=0.5):
    return x
def g():
    def f(rate=0.25):
        return rate
    return f(0.1)
use(f(1, 2))
# C.f.rate
class C:
    def f(self, x, rate=0.5):
        return x * rate
use(C().f(1.0, 0.25))
# nothing
class C:
    def f(self, x, rate=0.5):
        return x * rate
use(C().f(1.0))
# C.__init__.rate
class C:
    def __init__(self, rate=0.5):
        self.rate = rate
use(C(0.25))
# nothing
class C:
    def __init__(self, rate=0.5):
        self.rate = rate
use(C())
# nothing: that call is of another constructor
class C(B):
    def __init__(self, rate=0.5):
        super().__init__(0.1, rate)
use(C())
# nothing: it is called without its name
class C:
    def __call__(self, rate=0.5):
        return rate
c = C()
use(c(0.25), c.__call__(0.1))
# C.rate
@dataclass
class C:
    rate: float = 0.5
    share: float = 0.25
use(C(rate=0.1))
# C.rate C.share: an annotation is no use
@dataclass
class C:
    rate: float = 0.5
    share: float = 0.25
def f(c: C):
    return c
use(f(C(0.1, 0.3)))
# nothing: the first field is one of B's
@dataclass
class C(B):
    rate: float = 0.5
use(C(0.1))
# nothing: D has it as well
@dataclass
class C:
    rate: float = 0.5
class D(C):
    pass
use(C(0.1), D())
# nothing: no dataclass
class C:
    rate: float = 0.5
use(C(0.1))
"""
SHOWN = """
# share
share = 0.9 * spent
print(f"{share:.1f}")
# nothing: something follows from it
share = 0.9 * spent
print(f"{share:.1f}")
if share > 0.5:
    leave()
# nothing: it is kept
share = 0.9 * spent
print(share)
rates.append(share)
# nothing: who knows what clip does
share = 0.9 * spent
left = clip(share)
print(left)
# nothing: that call changes things
loss = 0.9 * model(x)
gradient = loss.backward()
print(gradient)
# loss
loss = 0.9 * model(x)
print(loss.item())
# smooth smooth[1] shown shown[1]
for loss in losses:
    smooth = 0.9 * smooth + 0.2 * loss
    shown = smooth / (1.5 - 0.9 ** n)
    print(shown)
# a b
a = 0.5 * n
b = 0.25 * a
c = a + b
print(c)
# nothing: b is used, and a for it
a = 0.5 * n
b = 0.25 * a
c = a + b
print(c)
use(b)
# f.n[1]
def f(model):
    n = 0
    for p in model.parameters():
        n += 6.5 * p.numel()
    return n
print(f(model))
# f.return
def f(model):
    return 6.5 * len(model.items)
n = f(model)
print(n)
# nothing: it is used
def f(model):
    return 6.5 * len(model.items)
n = f(model)
print(n)
use(n)
# nothing: it changes the model
def f(model):
    model.rate = 6.5
    return len(model.items)
print(f(model))
# nothing: or may
def f(model):
    model.halve(6.5)
    return 1.5
print(f(model))
# nothing: others read a field as an attribute
class C:
    share = 0.9
print(C.share, share)
# nothing: a parameter
def f(share):
    share = 0.9 * share
    print(share)
    return g(share)
# nothing: to evaluate is more than to show
score = evaluate(model, 0.5)
print(score)
# score: but not what is done with it
score = evaluate(model) / 0.7
print(score)
"""
FILLED = """
# C.__init__.rate
class C:
    def __init__(self):
        self.rate = torch.tensor(0.5, device="cpu")
    def f(self, x):
        self.rate.fill_(x)
        return self.rate
use(C())
# nothing
class C:
    def __init__(self):
        self.rate = torch.tensor(0.5, device="cpu")
    def f(self, x):
        return self.rate
use(C())
# nothing: a weight
class C:
    def __init__(self):
        self.rate = nn.Parameter(torch.tensor(0.5))
    def f(self, x):
        self.rate.fill_(x)
use(C())
"""


def cases(text: str) -> list[tuple[set[str], str]]:
    parts = re.split(r"^# (.*)\n", text.lstrip(), flags=re.MULTILINE)[1:]
    return [(set(said.partition(":")[0].split()) - {"nothing"}, program) for said, program in zip(parts[::2], parts[1::2], strict=True)]


@pytest.mark.parametrize(("found", "program"), cases(DEFAULTS))
def test_a_default_is_idle_where_every_call_gives_another(found: set[str], program: str) -> None:
    assert set(idle_knobs(program)) == found


@pytest.mark.parametrize(("found", "program"), cases(SHOWN))
def test_a_literal_is_idle_where_all_that_comes_of_it_is_shown(found: set[str], program: str) -> None:
    assert set(idle_knobs(program)) == found


@pytest.mark.parametrize(("found", "program"), cases(FILLED))
def test_the_first_value_of_a_tensor_is_idle_where_it_is_filled(found: set[str], program: str) -> None:
    assert set(idle_knobs(program)) == found


GROUPS = """groups = [dict(kind="muon", params=a, momentum=0.95, lr=0.02), dict(kind="adam", params=b, momentum=0.9, lr=0.01)]
class Both(torch.optim.Optimizer):
    def step(self):
        for group in self.param_groups:
            update(group["params"], group["momentum"], group["lr"])
optimizer = Both(groups)
for group in optimizer.param_groups:
    group["full"] = group["lr"]
for step in range(n):
    for group in optimizer.param_groups:
        group["lr"] = group["full"] * factor(step)
        {write}
    optimizer.step()
"""


@pytest.mark.parametrize(
    ("write", "found"),
    [
        ('group["momentum"] = ramp(step)', {"muon.momentum", "adam.momentum"}),
        ('if group["kind"] == "muon":\n            group["momentum"] = ramp(step)', {"muon.momentum"}),
        ('if step > 3:\n            group["momentum"] = ramp(step)', set()),  # not before the first step
        ('group["momentum"] = 0.5 * group["momentum"]', set()),
        ("pass", set()),
    ],
)
def test_a_groups_entry_is_idle_where_it_is_written_before_each_step(write: str, found: set[str]) -> None:
    assert set(idle_knobs(GROUPS.replace("{write}", write))) == found
