"""Mutations of training on a script in upstream's shape (tests/programs/script.py): its loop at module level, schedules that go through
names, a model that computes its own loss, a Muon that orthogonalises inside its update. Children really run and do what their notes say.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import random
import re
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_genomes_scripts import CONTRACT, TEXT, child_of, home, run  # noqa: F401  home is a fixture

import genomes
from genomes.mutations import MUTATIONS

pytestmark = pytest.mark.usefixtures("home")
BUDGET_STEPS = 20  # steps that count, of a thousandth of a second each, after 11 that do not
DRAWS = 12
# The loop with a clock that can be relied on, and a record of each step.
WATCHED = {
    "dt = t1 - t0": "dt = 0.001",
    "\nwhile True:\n": "\ncourse = []\nwhile True:\n",
    "    optimizer.step()\n": "    course.append(watch(locals()))\n    optimizer.step()\n",
    "    model.zero_grad(": "    course[-1]['weights'] = [p.detach().clone() for p in model.parameters()]\n    model.zero_grad(",
}
WATCH = """
def watch(names):
    groups = [{key: value for key, value in group.items() if key != "params"} for group in names["optimizer"].param_groups]
    grads = [None if p.grad is None else p.grad.clone() for p in names["model"].parameters()]
    return {"progress": names["progress"], "groups": groups, "grads": grads, "passes": names["grad_accum_steps"]}
"""


def drawn(name: str, note: str = "", text: str = TEXT) -> genomes.Mutant:
    """A child of that mutation whose note has a pattern."""
    for draw in range(DRAWS):
        child = genomes.mutate(text, random.Random(f"{name}/{draw}"), [name], CONTRACT)
        if re.search(note, child.note):
            return child
    raise AssertionError(f"no child of {name} says {note}")


def course(text: str) -> tuple[list[dict[str, Any]], types.ModuleType]:
    """What a program's groups and gradients are at each of its steps, and what it leaves behind."""
    for before, after in WATCHED.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    _, module = run(text.replace("\nclass GPT(", f"{WATCH}\n\nclass GPT(", 1))
    return module.course, module


@pytest.fixture(scope="module")
def before(home: types.ModuleType) -> list[dict[str, Any]]:  # noqa: F811
    """The script's own course."""
    return course(TEXT)[0]


def of_groups(steps: list[dict[str, Any]], kind: str, key: str) -> list[list[float]]:
    return [[group[key] for group in step["groups"] if group["kind"] == kind] for step in steps]


def built(text: str) -> types.ModuleType:
    """The program up to its loop: the model has its first values, and nothing is learnt."""
    tree = ast.parse(text)
    loop = next(number for number, statement in enumerate(tree.body) if isinstance(statement, ast.While))
    tree.body = tree.body[:loop]
    module = types.ModuleType("script")
    sys.modules["script"] = module
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(tree, "script.py", "exec"), module.__dict__)
    finally:
        del sys.modules["script"]
    return module


def test_the_course_has_steps_before_and_within_the_budget(before: list[dict[str, Any]]) -> None:
    assert len(before) in (BUDGET_STEPS + 11, BUDGET_STEPS + 12)
    assert [step["progress"] for step in before[:12]] == [0.0] * 12


def test_rates_rise_over_the_first_steps(before: list[dict[str, Any]]) -> None:
    child = drawn("add-warm-up")
    over = int(child.note.rsplit("/ ", 1)[1].rstrip(")"))
    after, _ = course(child.text)
    for kind in ("adamw", "muon"):
        pairs = zip(of_groups(before, kind, "lr"), of_groups(after, kind, "lr"), strict=True)
        for number, (old, new) in enumerate(pairs):
            assert new == pytest.approx([rate * min(1.0, (number + 1) / over) for rate in old])


def test_rates_end_at_a_share_where_no_knob_says_so() -> None:
    with pytest.raises(genomes.MutationError):
        drawn("rate-floor")
    bare = TEXT.replace("FINAL_LR_FRAC = 0.0  # of the rate at first\n", "").replace(
        "cooldown * 1.0 + (1 - cooldown) * FINAL_LR_FRAC", "cooldown"
    )
    child = drawn("rate-floor", text=bare)
    floor = float(re.findall(r"[\d.]+", child.note)[0])
    rates = [step["groups"][0]["lr"] / step["groups"][0]["initial_lr"] for step in course(child.text)[0]]
    assert max(rates) == pytest.approx(1.0)
    assert floor <= min(rates) < floor + 0.2


def test_momentum_falls_at_the_end_and_only_there(before: list[dict[str, Any]]) -> None:
    child = drawn("momentum-cool-down")
    depth, share = (float(number) for number in re.findall(r"[\d.]+", child.note))
    after, _ = course(child.text)
    for old, new in zip(before, after, strict=True):
        fall = depth * max(0.0, 1.0 - (1.0 - new["progress"]) / share)
        assert new["groups"][-1]["momentum"] == pytest.approx(old["groups"][-1]["momentum"] - fall)
    assert after[-1]["groups"][-1]["momentum"] < before[-1]["groups"][-1]["momentum"]


def test_groups_of_another_kind_have_a_schedule_of_their_own(before: list[dict[str, Any]]) -> None:
    after, _ = course(drawn("group-schedule", "fall early").text)
    assert of_groups(after, "muon", "lr") == of_groups(before, "muon", "lr")
    assert all(new[0] <= old[0] for old, new in zip(of_groups(before, "adamw", "lr"), of_groups(after, "adamw", "lr"), strict=True))
    assert of_groups(after, "adamw", "lr")[-2] != of_groups(before, "adamw", "lr")[-2]


@pytest.mark.parametrize(("note", "middle"), [("constant", 1.0), ("late", 0.75)])
def test_weight_decay_moves_as_its_note_says(note: str, middle: float) -> None:
    after, _ = course(drawn("decay-schedule", note).text)
    halfway = min(after, key=lambda step: abs(step["progress"] - 0.5))
    assert after[0]["groups"][-1]["weight_decay"] == pytest.approx(0.2)
    assert halfway["groups"][-1]["weight_decay"] == pytest.approx(0.2 * middle, abs=0.02)


def test_the_second_beta_grows_to_its_length_and_no_further() -> None:
    after, _ = course(drawn("beta-schedule").text)
    betas = [step["groups"][0]["betas"] for step in after]
    assert [first for first, _ in betas] == [0.8] * len(betas)
    seconds = [second for _, second in betas]
    assert seconds == sorted(seconds)
    assert seconds[0] < 0.5
    assert max(seconds) <= 0.95


def norm(step: dict[str, Any]) -> float:
    return float(torch.stack([grad.float().norm() for grad in step["grads"]]).norm())


def test_gradients_are_clipped_ahead_of_each_step_and_the_child_loses_that_again(before: list[dict[str, Any]]) -> None:
    child = drawn("clip-gradients", "0.5")
    after, _ = course(child.text)
    assert max(map(norm, before)) > 0.5
    assert max(map(norm, after)) <= 0.5 + 1e-4
    assert genomes.identity(drawn("clip-gradients", "no gradient clipping", child.text).text) == genomes.identity(TEXT)


def test_gradients_of_matrices_lose_their_mean(before: list[dict[str, Any]]) -> None:
    after, _ = course(drawn("centralise-gradients", "the script").text)
    for steps, central in ((before, False), (after, True)):
        means = [grad.mean(dim=-1).abs().max().item() for grad in steps[3]["grads"] if grad.dim() > 1]
        assert (max(means) < 1e-6) == central


def test_the_mean_of_the_weights_is_in_the_model_when_it_is_scored() -> None:
    child = drawn("average-weights", "100 steps")  # over fewer steps than that it is the plain mean
    after, module = course(child.text)
    for number, weight in enumerate(module.model.parameters()):
        mean = torch.stack([step["weights"][number] for step in after]).mean(dim=0)
        assert torch.allclose(weight, mean, atol=1e-5)
        assert weight.requires_grad
    assert child.text.index("weight.copy_(average)") < child.text.index("model.eval()")


def test_batches_are_twice_as_large_later_on() -> None:
    child = drawn("growing-batch")
    share = int(re.findall(r"(\d+)%", child.note)[0]) / 100
    after, _ = course(child.text)
    first = after[0]["passes"]
    for earlier, step in itertools.pairwise(after):
        assert step["passes"] == (2 * first if earlier["progress"] >= share else first)
    assert after[-1]["passes"] == 2 * first


def test_groups_of_adam_rest_every_second_step_and_then_take_both_gradients(before: list[dict[str, Any]]) -> None:
    after, module = course(drawn("rest-adam").text)
    of_muon = [".h." in name for name, _ in module.model.named_parameters()]
    for number, (earlier, step) in enumerate(itertools.pairwise(after), start=1):
        for muon, old, new, grad in zip(of_muon, earlier["weights"], step["weights"], step["grads"], strict=True):
            assert (grad is None) == (not muon and number % 2 == 1)
            assert grad is not None or torch.equal(old, new)
    embedding = next(number for number, (name, _) in enumerate(module.model.named_parameters()) if "wte" in name)
    both, single = after[2]["grads"][embedding], before[2]["grads"][embedding]
    assert both.norm() > 1.1 * single.norm()


def test_one_group_decays_and_goes_on_to(before: list[dict[str, Any]]) -> None:
    after, _ = course(drawn("group-decay").text)
    old, new = (of_groups(steps, "adamw", "weight_decay") for steps in (before, after))
    assert {tuple(row) for row in old} == {(0.0,) * 5}
    assert len({tuple(row) for row in new}) == 1
    assert sorted(new[0])[:4] == [0.0] * 4
    assert sorted(new[0])[4] > 0


def stepped(text: str, grads: torch.Tensor, weights: torch.Tensor, decay: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weights after one update of Muon at rate 1, its mean gradient and its variances, which start at 0 and 1."""
    module, weights = built(text), weights.clone()
    mean, squares = torch.zeros_like(grads), torch.ones_like(grads[..., :1])
    momentum, rate, wd, beta2 = (torch.tensor(value) for value in (0.9, 1.0, decay, 0.95))
    module.muon_step(grads.clone(), weights, mean, squares, momentum, rate, wd, beta2, 5, -1)
    return weights, mean, squares


@pytest.fixture
def matrices() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 24, 16, generator=generator), torch.randn(2, 24, 16, generator=generator)


def test_no_weight_moves_against_the_gradient_of_the_moment(matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
    grads, weights = matrices
    child = drawn("cautious-update").text
    plain = stepped(TEXT, grads, torch.zeros_like(weights))[0]
    moved = stepped(child, grads, torch.zeros_like(weights))[0]
    assert (plain * grads > 0).any()
    assert not (moved * grads > 0).any()
    assert (moved != 0).any()


def test_weights_decay_everywhere_and_then_only_where_the_update_agrees_again(matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
    grads, weights = matrices
    child = drawn("cautious-decay").text
    still, cautious, everywhere = (
        stepped(TEXT, grads, weights)[0],
        stepped(TEXT, grads, weights, 0.1)[0],
        stepped(child, grads, weights, 0.1)[0],
    )
    assert torch.allclose(everywhere - still, -0.1 * weights, atol=1e-2)
    assert not torch.allclose(cautious, everywhere, atol=1e-2)
    assert torch.allclose(stepped(drawn("cautious-decay", text=child).text, grads, weights, 0.1)[0], cautious, atol=1e-2)


def test_neurons_keep_the_size_that_orthogonalisation_gives_them(matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
    grads, weights = matrices
    child = drawn("no-neuron-variance").text
    moved, _, squares = stepped(child, grads, torch.zeros_like(weights))
    sizes = torch.linalg.svdvals(moved)
    assert torch.equal(squares, torch.ones_like(squares))
    assert "rsqrt" not in child
    assert sizes.min() > 0.6
    assert sizes.max() < 1.4


def test_rows_are_balanced_after_the_mean_gradient_and_not_before(matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
    grads, weights = matrices
    uneven = grads * torch.logspace(-2, 2, 24)[:, None]
    moved, mean, _ = stepped(drawn("balance-rows", "rows").text, uneven, weights)
    plain, same, _ = stepped(TEXT, uneven, weights)
    assert torch.equal(mean, same)
    assert not torch.allclose(moved, plain, atol=0.05)


def test_momentum_looks_ahead_again_where_it_did_not(matrices: tuple[torch.Tensor, torch.Tensor]) -> None:
    plain = drawn("no-nesterov", "plain momentum").text
    again = drawn("nesterov", text=plain).text
    assert "g = stacked_grads.lerp(momentum_buffer, momentum)" in again
    assert torch.equal(stepped(again, *matrices)[0], stepped(TEXT, *matrices)[0])


@pytest.mark.parametrize("name", [mutation.name for mutation in MUTATIONS])
def test_the_score_stays_the_cross_entropy_of_what_the_model_says_of_earlier_tokens(name: str) -> None:
    children = [child for draw in range(2) if (child := child_of(name, draw)) is not None]
    for child in {child.text: child for child in children}.values():
        module = built(child.text)
        torch.manual_seed(0)
        x, y = module.x[:2], module.y[:2]
        with torch.no_grad():
            for weight in module.model.parameters():
                weight.normal_(std=0.3)
            module.model.eval()
            logits, scored = module.model(x), module.model(x, y, reduction="none")
            expected = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
            assert torch.equal(scored.flatten(), expected), child.note
            other = module.model(torch.cat([x[:, :-1], (x[:, -1:] + 1) % 50], dim=1))
            assert torch.allclose(other[:, :-1], logits[:, :-1], atol=1e-4), child.note


@pytest.mark.parametrize("name", ["smooth-labels", "z-loss", "token-after-next"])
def test_what_is_minimised_changes_while_the_model_is_trained(name: str) -> None:
    child = child_of(name)
    assert child is not None
    old, new = built(TEXT), built(child.text)
    new.model.load_state_dict(old.model.state_dict(), strict=False)
    losses = [(module.model.train()(old.x, old.y).item(), module.model.eval()(old.x, old.y).item()) for module in (old, new)]
    assert losses[0][0] == losses[0][1] == losses[1][1]
    assert losses[1][0] != losses[0][0]


@pytest.mark.parametrize("name", ["smooth-labels", "z-loss", "token-after-next"])
def test_a_loss_that_evaluation_may_see_is_left_alone(name: str) -> None:
    careless = TEXT.replace("model.eval()\n", "")
    with pytest.raises(genomes.MutationError):
        drawn(name, text=careless)


@pytest.mark.parametrize("name", ["drop-part", "drop-statement", "swap-statements", "remove-factor"])
def test_a_factor_of_what_is_scored_is_not_ablated(name: str) -> None:
    weighed = TEXT.replace(
        "            return loss\n", "            loss = loss * self.weigh\n            loss = loss + 0.1 * loss\n            return loss\n"
    )
    for draw in range(DRAWS):
        with contextlib.suppress(genomes.MutationError):
            child = genomes.mutate(weighed, random.Random(draw), [name], CONTRACT)
            assert "            loss = loss * self.weigh\n            loss = loss + 0.1 * loss\n            return loss\n" in child.text, (
                child.note
            )
