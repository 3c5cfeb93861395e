"""Structural mutations of optimisers: which one, which groups it has, what happens to gradients ahead of its step."""

from __future__ import annotations

import ast
import itertools
import random
import re
from dataclasses import dataclass

from genomes.literals import read_value
from genomes.mutations.anatomy import (
    functions,
    known_to,
    names_of,
    one_line,
    own_nodes,
    statements,
    title,
    training_loop,
)
from genomes.mutations.draft import Draft, MisfitError, drafted
from genomes.mutations.mutation import Program, pick
from genomes.mutations.patterns import atom, is_one, shown
from genomes.mutations.resting import rest_adam
from genomes.mutations.updates import muon_step
from genomes.nodes import is_call, is_operation, last_name, walk
from genomes.source import Splice

_BETAS = ("(0.9, 0.95)", "(0.8, 0.99)", "(0.65, 0.95)", "(0.95, 0.99)")
_LION = '''class Lion(torch.optim.Optimizer):
    """Steps by the sign of a mean gradient, at a fifth of AdamW's rates (arXiv 2302.06675)."""

    def __init__(self, parameters, lr=0.001, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            rate, (ahead, memory) = group["lr"] / 5.0, group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["mean"] = torch.zeros_like(parameter)
                update = state["mean"].lerp(parameter.grad, 1 - ahead).sign_()
                parameter.mul_(1 - rate * group["weight_decay"]).sub_(update, alpha=rate)
                state["mean"].lerp_(parameter.grad, 1 - memory)

'''.splitlines()


@dataclass(frozen=True, eq=False)
class Group:
    """A parameter group as it is written down: `{"params": …, "lr": …}` or `dict(params=…, lr=…)`."""

    function: ast.FunctionDef
    node: ast.Dict | ast.Call
    entries: dict[str, ast.expr]
    lr_start: ast.expr | ast.keyword  # the key of the rate

    @property
    def name(self) -> str:
        return shown(ast.unparse(self.entries["params"]))


def groups(parent: Program) -> list[Group]:
    """The groups that have a rate of their own."""
    found = []
    for function in functions(parent):
        for node in own_nodes(function):
            if isinstance(node, ast.Dict):
                keys = {k.value: (k, v) for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
                if "params" in keys and "lr" in keys:
                    found.append(Group(function, node, {str(k): v for k, (_, v) in keys.items()}, keys["lr"][0]))
            elif is_call(node, "dict"):
                words = {word.arg: word for word in node.keywords if word.arg}
                if "params" in words and "lr" in words:
                    found.append(Group(function, node, {name: word.value for name, word in words.items()}, words["lr"]))
    return found


def _group_rate(draft: Draft, rng: random.Random) -> str:
    """One group's rate away from the others that share its constant."""
    group = pick(groups(draft.parent), rng)
    if group is None:
        raise MisfitError("no groups with rates of their own")
    rate, factor = group.entries["lr"], rng.choice((0.3, 0.5, 2.0, 3.0))
    if isinstance(rate, ast.BinOp) and isinstance(rate.left, ast.Constant):
        raise MisfitError("the rate has a number of its own")
    draft.replace(rate, f"{factor} * {atom(draft.source, rate) if isinstance(rate, ast.IfExp) else one_line(draft.source, rate)}")
    return f"{group.function.name}: rate of {group.name} × {factor:g}"


def _group_decay(draft: Draft, rng: random.Random) -> str:
    """A little weight decay for one group that has none of its own; where all say how they decay, for one that says 0."""
    fit = [g for g in groups(draft.parent) if "muon" not in ast.unparse(g.node).lower()]
    silent = [g for g in fit if "weight_decay" not in g.entries]
    group = pick(silent or [g for g in fit if read_value(g.entries["weight_decay"]) == 0], rng)
    if group is None:
        raise MisfitError("all groups decay")
    decay = rng.choice((0.001, 0.003, 0.01))
    if silent:
        _enter(draft, group, "weight_decay", str(decay))
    else:
        draft.replace(group.entries["weight_decay"], str(decay))
    return f"{group.function.name}: {group.name} decay at {decay:g}"


def _group_betas(draft: Draft, rng: random.Random) -> str:
    """Betas of its own for one group, or the betas of one group like the others'."""
    fit = [g for g in groups(draft.parent) if "muon" not in ast.unparse(g.node).lower() and "momentum" not in g.entries]
    group = pick(fit, rng)
    if group is None:
        raise MisfitError("no groups")
    now = group.entries.get("betas")
    betas = rng.choice([b for b in _BETAS if now is None or b != ast.unparse(now)])
    if now is None:
        _enter(draft, group, "betas", betas)
    else:
        draft.replace(now, betas)
    return f"{group.function.name}: betas of {group.name} are {betas}"


def _enter(draft: Draft, group: Group, key: str, value: str) -> None:
    """One more entry, ahead of the rate."""
    start = draft.source.span(group.lr_start)[0]
    draft.cuts.append(Splice(start, start, f'"{key}": {value}, ' if isinstance(group.node, ast.Dict) else f"{key}={value}, "))


def _other_adam(draft: Draft, rng: random.Random) -> str:
    """NAdam, RAdam or AMSGrad in place of AdamW; in place of those, AdamW."""
    function, call = _adam(draft, ("AdamW", "NAdam", "RAdam"))
    prefix = draft.code(call.func)[: -len(last_name(call.func))]
    if last_name(call.func) != "AdamW":
        _reduce(draft, call, ("decoupled_weight_decay",))
        draft.replace(call.func, f"{prefix}AdamW")
        return f"{function.name}: AdamW"
    if any(word.arg == "amsgrad" for word in call.keywords):
        raise MisfitError("AMSGrad already")
    kind = rng.choice(("NAdam", "RAdam", "AMSGrad"))
    if kind != "AMSGrad":
        _reduce(draft, call, ("fused",))
        draft.replace(call.func, f"{prefix}{kind}")
    _add_keyword(draft, call, "amsgrad=True" if kind == "AMSGrad" else "decoupled_weight_decay=True")
    return f"{function.name}: {kind} instead of AdamW"


def _lion(draft: Draft, rng: random.Random) -> str:
    """Lion in place of AdamW, for all of its groups."""
    function, call = _adam(draft, ("AdamW",))
    top = next(s for s in draft.parent.tree.body if call in walk(s))
    if not isinstance(top, ast.FunctionDef | ast.ClassDef) or top.decorator_list or "Lion" in draft.source.text:
        raise MisfitError("no place for a class")
    _reduce(draft, call, tuple(word.arg for word in call.keywords if word.arg not in ("lr", "betas", "weight_decay") and word.arg))
    draft.replace(call.func, "Lion")
    draft.above(top, *_LION, "")
    return f"{function.name}: Lion instead of AdamW"


def _adam(draft: Draft, names: tuple[str, ...]) -> tuple[ast.FunctionDef, ast.Call]:
    for function in functions(draft.parent):
        for node in own_nodes(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names and len(node.args) == 1:
                return function, node
    raise MisfitError("no AdamW of torch")


def _reduce(draft: Draft, call: ast.Call, names: tuple[str, ...]) -> None:
    """A call without some of its keywords, each with the comma ahead of it; there is always an argument before them."""
    source = draft.source
    parts: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    for before, word in itertools.pairwise(parts):
        if isinstance(word, ast.keyword) and word.arg in names:
            start, (begin, end) = source.span(before)[1], source.span(word)
            if not re.fullmatch(r"\s*,\s*", source.text[start:begin]):
                raise MisfitError("remarks between the arguments")
            draft.cuts.append(Splice(start, end, ""))


def _add_keyword(draft: Draft, call: ast.Call, text: str) -> None:
    """One more keyword, ahead of the others."""
    end = draft.source.span(call.args[0])[1]
    following = draft.source.text[end:]
    if not re.match(r"\s*[,)]", following):
        raise MisfitError("no place for a keyword")
    draft.cuts.append(Splice(end, end, f", {text}"))


def _centralise(draft: Draft, rng: random.Random) -> str:
    """Gradients of matrices without their mean over the inputs: of all of them ahead of the step, or of Muon's."""
    if "grad.mean(dim=-1" in draft.source.text or "- grads.mean(dim=-1" in draft.source.text:
        raise MisfitError("central already")
    if rng.random() < 0.5:
        try:
            step = muon_step(draft.parent)
            if step.grads.isidentifier():
                draft.above(step.averaged, f"{step.grads} = {step.grads} - {step.grads}.mean(dim=-1, keepdim=True)")
                return f"{step.function.name}: gradients without their mean over the inputs"
        except MisfitError:
            pass
    place = training_loop(draft.parent)
    if "model" not in known_to(draft.parent, place.scope) or "parameter" in names_of(place.scope):
        raise MisfitError("no model at hand, or a name is taken")
    draft.above(
        place.step,
        "for parameter in model.parameters():",
        "    if parameter.grad is not None and parameter.dim() > 1:",
        "        parameter.grad.sub_(parameter.grad.mean(dim=-1, keepdim=True))",
    )
    return f"{title(place.scope)}: gradients without their mean over the inputs"


def _bias_correction(draft: Draft, rng: random.Random) -> str:
    """A hand-written Adam without the correction of its first steps."""
    found = []
    for function in functions(draft.parent):
        for _, statement in statements(function):
            for node in walk(statement) if isinstance(statement, ast.Assign | ast.Expr) else ():
                if is_operation(node, ast.Sub) and is_one(node.left) and _is_power(node.right):
                    found.append((function, node))
    chosen = pick(found, rng)
    if chosen is None:
        raise MisfitError("nothing is corrected by hand")
    draft.replace(chosen[1], "1.0")
    return f"{chosen[0].name}: no bias correction {draft.code(chosen[1])}"


def _is_power(node: ast.expr) -> bool:
    """`beta1 ** count`."""
    return is_operation(node, ast.Pow) and bool(re.search(r"beta", ast.unparse(node.left)))


OPTIMISER_MUTATIONS = (
    drafted("group-rate", "one group's rate times a number", "Everett et al. 2024, arXiv 2407.05872", 7, _group_rate),
    drafted(
        "group-decay",
        "weight decay on embeddings, head or scalars",
        "karpathy/autoresearch, flagship run, weight_decay in a group",
        6,
        _group_decay,
    ),
    drafted("group-betas", "betas of its own for one group", "karpathy/autoresearch, flagship run, betas of a group", 5, _group_betas),
    drafted(
        "other-adam", "NAdam, RAdam or AMSGrad ↔ AdamW", "Dozat 2016; Liu et al. 2020, arXiv 1908.03265; Reddi et al. 2018", 3, _other_adam
    ),
    drafted("lion", "Lion instead of AdamW", "Chen et al. 2023, arXiv 2302.06675", 1.5, _lion),
    drafted("rest-adam", "AdamW steps only every second time", "modded-nanogpt, Adam on odd steps", 4, rest_adam),
    drafted("centralise-gradients", "gradients without their mean", "arXiv 2004.01461", 3, _centralise),
    drafted("no-bias-correction", "Adam's first steps uncorrected", "arXiv 1412.6980", 2, _bias_correction),
)
