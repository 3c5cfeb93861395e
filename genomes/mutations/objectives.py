"""Structural mutations of the training loss: smoothed labels, a penalty on the normaliser, the token after the next as a second target.

What is scored stays the cross-entropy of the logits that `model(tokens)` returns; only what is minimised changes. Where a model computes
its own loss and is scored by it, what is new is added in training only.
"""

from __future__ import annotations

import ast
import random
import re

from genomes.mutations.anatomy import Loss, known_to, names_of, one_line, own_nodes, statements, title, torch_entropy, training_loss
from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.groups import train_table
from genomes.mutations.network import Stack, headed, linears, remember, stack
from genomes.mutations.scored import training_only
from genomes.mutations.sublayers import statement_of
from genomes.nodes import last_name, names_in, walk
from genomes.source import Splice


def _smooth_labels(draft: Draft, rng: random.Random) -> str:
    """Targets keep a little probability for all other tokens."""
    loss = training_loss(draft.parent)
    end = draft.source.span(loss.call)[1] - 1
    inside = draft.source.text[draft.source.span(loss.call.func)[1] : end]
    if "label_smoothing" in inside or "#" in inside or "\\" in inside:
        raise MisfitError("labels are smoothed, or no place for an argument")
    share, when = rng.choice((0.005, 0.02, 0.05)), training_only(draft.parent, loss)
    smoothing = f"label_smoothing={share} if {when} else 0.0" if when else f"label_smoothing={share}"
    draft.cuts.append(Splice(end, end, f"{'' if inside.rstrip().endswith(',') else ','} {smoothing}"))
    return f"{title(loss.scope)}: labels smoothed by {share:g}"


def _z_loss(draft: Draft, rng: random.Random) -> str:
    """The logarithm of the softmax's normaliser is kept near 0, at a small price."""
    loss = training_loss(draft.parent)
    if "logsumexp" in ast.unparse(loss.scope):
        raise MisfitError("there is one")
    logits, when = _named_logits(draft, loss), training_only(draft.parent, loss)
    weight = rng.choice((1e-5, 1e-4, 1e-3))
    term = f"{weight} * {logits}.logsumexp(-1).square().mean()"
    _add_to(draft, loss, f"({term} if {when} else 0.0)" if when else term)
    return f"{title(loss.scope)}: + {weight:g} × the squared logarithm of the softmax's normaliser"


def _named_logits(draft: Draft, loss: Loss) -> str:
    """The name of the logits; where the call takes them straight from the model, they get one."""
    if isinstance(loss.logits, ast.Name):
        return loss.logits.id
    if "logits" in known_to(draft.parent, loss.scope):
        raise MisfitError("the name is taken")
    draft.above(loss.statement, f"logits = {draft.code(loss.logits)}")
    draft.replace(loss.logits, "logits")
    return "logits"


def _add_to(draft: Draft, loss: Loss, term: str) -> None:
    """One more term of the loss, before it is divided by anything."""
    alone = getattr(loss.statement, "value", None) is loss.call
    draft.wrap(loss.call, "" if alone else "(", f" + {term}" if alone else f" + {term})")


def _ahead(draft: Draft, rng: random.Random) -> str:
    """A second head predicts the token after the next from the same state, in training only; its loss is added in part."""
    found, loss = stack(draft.parent), training_loss(draft.parent)
    if not isinstance(loss.targets, ast.Name):
        raise MisfitError("targets without a name")
    share, when = rng.choice((0.1, 0.3, 0.5)), training_only(draft.parent, loss)
    if loss.scope is found.module.forward:
        _learn_inside(draft, found, loss, share, when or "self.training")
    else:
        _return_later(draft, found, loss)
        _learn_ahead(draft, loss, share)
    _later_head(draft, found)
    return f"{title(loss.scope)}: the token after the next is learnt too, with weight {share:g}"


def _later_head(draft: Draft, found: Stack) -> None:
    """The second head, zero at first, trained as the first is."""
    head = last_name(headed(found).func)
    size = ", ".join(draft.code(argument) for argument in linears(found.module)[head].args)
    nn = alias(draft.parent, "torch.nn")
    remember(
        draft,
        found.module,
        "later_head",
        f"self.later_head = {nn}.Linear({size}, bias=False)  # for the token after the next, in training",
        f"{nn}.init.zeros_(self.later_head.weight)",
    )
    train_table(draft, "later_head", head)


def _learn_inside(draft: Draft, found: Stack, loss: Loss, share: float, when: str) -> None:
    """A model that computes its loss adds that of the second head while it is trained."""
    forward, head = found.module.forward, headed(found)
    if "later" in known_to(draft.parent, forward) or any(_is_set_after(forward, name, head) for name in names_in(head.args[0])):
        raise MisfitError("a name is taken, or means another state by then")
    if not isinstance(loss.statement, ast.Assign) or ast.unparse(loss.statement.targets[0]) != last_name(loss.statement.targets[0]):
        raise MisfitError("the loss has no name")
    name, targets = last_name(loss.statement.targets[0]), ast.unparse(loss.targets)
    ignored = "".join(f", ignore_index={draft.code(word.value)}" for word in loss.call.keywords if word.arg == "ignore_index")
    entropy = torch_entropy(draft.parent, loss)
    draft.below(
        loss.statement,
        f"if {when}:",
        f"    later = self.later_head({one_line(draft.source, head.args[0])})[:, :-1].float()",
        f"    {name} = {name} + {share} * {entropy}(later.flatten(0, 1), {targets}[:, 1:].flatten(){ignored})",
    )


def _is_set_after(function: ast.FunctionDef, name: str, node: ast.AST) -> bool:
    line = getattr(node, "lineno", 0)
    stored = (n for n in own_nodes(function) if isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store))
    return any(other.lineno > line for other in stored)


def _return_later(draft: Draft, found: Stack, loss: Loss) -> None:
    """The forward pass returns a pair where it is asked to."""
    forward, head = found.module.forward, headed(found)
    last = forward.body[-1]
    returns = [node for node in walk(forward) if isinstance(node, ast.Return)]
    if returns != [last] or not isinstance(last, ast.Return) or last.value is None:
        raise MisfitError("more than one way out")
    if {"ahead", "later", "said"} & (names_in(forward) | {argument.arg for argument in forward.args.args} | names_of(loss.scope)):
        raise MisfitError("names are taken")
    draft.parameter(forward, "ahead: bool = False")
    line = f"later = self.later_head({draft.code(head.args[0])}) if ahead else None"
    around = statement_of(forward, head)
    (draft.above if around is last else draft.below)(around, line)
    _return_both(draft, last, last.value)


def _return_both(draft: Draft, last: ast.Return, value: ast.expr) -> None:
    """The last line returns a pair where it is asked to."""
    if isinstance(value, ast.Name):
        draft.replace(value, f"({value.id}, later.float()) if ahead else {value.id}")
        return
    start = draft.source.span(last)[0]
    draft.cuts.append(Splice(start, start + len("return"), "said ="))
    draft.below(last, "return (said, later.float()) if ahead else said")


def _learn_ahead(draft: Draft, loss: Loss, share: float) -> None:
    """The loss of the second head, whose targets are one token further."""
    entropy, made = torch_entropy(draft.parent, loss), loss.logits
    if isinstance(made, ast.Name):
        assigned = [s for _, s in statements(loss.scope) if isinstance(s, ast.Assign) and last_name(s.targets[0]) == made.id]
        if len(assigned) != 1 or not _asks_the_model(assigned[0].value):
            raise MisfitError("the logits are not the model's")
        draft.argument(_call(assigned[0].value), "ahead=True")
        draft.replace(assigned[0].targets[0], f"{made.id}, later")
    elif _asks_the_model(made) and "logits" not in known_to(draft.parent, loss.scope):
        code = draft.code(made)
        draft.above(loss.statement, f"logits, later = {code[:-1]}, ahead=True)")
        draft.replace(made, "logits")
    else:
        raise MisfitError("the logits are not the model's")
    targets = ast.unparse(loss.targets)
    _add_to(draft, loss, f"{share} * {entropy}(later[:, :-1].flatten(0, 1), {targets}[:, 1:].flatten())")


def _asks_the_model(node: ast.expr) -> bool:
    """`model(x)`, with nothing else."""
    return isinstance(node, ast.Call) and bool(re.fullmatch(r"\w*(model|net|gpt)\(\w+\)", ast.unparse(node), re.IGNORECASE))


def _call(node: ast.expr) -> ast.Call:
    assert isinstance(node, ast.Call)
    return node


OBJECTIVE_MUTATIONS = (
    drafted("smooth-labels", "labels smoothed in the training loss", "Szegedy et al. 2016, arXiv 1512.00567", 2, _smooth_labels),
    drafted("z-loss", "the softmax's normaliser stays near 1", "PaLM, arXiv 2204.02311", 4, _z_loss),
    drafted(
        "token-after-next",
        "a second head for the token after the next, in training only",
        "Gloeckle et al. 2024, arXiv 2404.19737",
        4,
        _ahead,
    ),
)
