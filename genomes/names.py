"""Readable names for literals: where it stands, and what it is called there.

A name is the enclosing definitions and the nearest label: `MATRIX_LR`, `ADAM_BETAS[1]`, `GPT.forward.softcap`,
`GPT.setup_optimizer.adamw[2].weight_decay` (third call, or parameter group of kind, `adamw` in that function). Names that are still equal
are told apart by `[1]`, `[2]` … in source order. A name depends on nothing but the text; across programs it is a label, not a key.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from genomes.literals import Literal, Literals, Step, call_label
from genomes.nodes import Definition, last_name

# Calls that say nothing about the meaning of their arguments: the label is looked for further out.
_GENERIC_CALLS = frozenset(
    {"", "dict", "max", "min", "int", "float", "round", "abs", "range", "len", "tuple", "list", "enumerate", "tensor"}
)


def assign_names(literals: Literals) -> tuple[str, ...]:
    """One unique name per literal, in the order given."""
    taken: set[str] = set()
    names = []
    for literal in literals.found:
        base = ".".join([*_scope(literal.path), _label(literal, literals.call_numbers)])
        name, count = base, 0
        while name in taken:
            count += 1
            name = f"{base}[{count}]"
        taken.add(name)
        names.append(name)
    return tuple(names)


def own_label(literal: Literal) -> str:
    """The nearest label alone, without scope and numbers: what the literal means."""
    return _label(literal, {})


def _scope(path: Iterable[Step]) -> list[str]:
    return [step.node.name for step in path if isinstance(step.node, Definition) and step.field != "decorator_list"]


def _label(literal: Literal, call_numbers: dict[int, int]) -> str:
    """Walk outwards: elements give an index, a keyword gives a label and asks for its call's, the first call or statement ends it."""
    elements, parts = "", list[str]()
    for step in reversed(literal.path):
        node = step.node
        if isinstance(node, ast.Tuple | ast.List) and not parts:
            elements = f"[{step.index}]{elements}"
        elif isinstance(node, ast.stmt | ast.arguments):
            parts += _statement_label(step, literal.path) if len(parts) < 2 else []
            index = _unpacked(literal.path, node)
            elements = elements.removeprefix(f"[{index}]") if index is not None else elements
            break
        elif isinstance(node, ast.keyword) and not parts:
            parts.append(node.arg or "kwargs")
        elif isinstance(node, ast.Call | ast.Dict):
            if isinstance(node, ast.Dict) and step.field == "values" and not parts:
                parts += _key_label(node, step.index)
            label = call_label(node)
            if label not in _GENERIC_CALLS:
                number = call_numbers.get(id(node), 0)
                parts.append(f"{label}[{number}]" if number else label)
                break
        elif not parts and (label := _expression_label(step)):
            parts.append(label)
            break
    if not parts:
        parts = ["value"]
    return ".".join([*reversed(parts[1:]), parts[0] + elements])


def _key_label(node: ast.Dict, index: int) -> list[str]:
    key = node.keys[index]
    if isinstance(key, ast.Constant):
        return [str(key.value)]
    return [last_name(key)] if key is not None and last_name(key) else []


def _expression_label(step: Step) -> str:
    node = step.node
    if isinstance(node, ast.Subscript):
        return last_name(node.value)
    if isinstance(node, ast.Compare):
        return next((name for side in (node.left, *node.comparators) if (name := last_name(side))), "")
    if isinstance(node, ast.NamedExpr):
        return node.target.id
    return ""


def _statement_label(step: Step, path: tuple[Step, ...]) -> list[str]:
    node = step.node
    if isinstance(node, ast.arguments):
        return [_parameter(node, step)]
    if isinstance(node, ast.Assign):
        return [_target(node.targets[0], path, node) or "value"]
    if isinstance(node, ast.AugAssign | ast.AnnAssign):
        return [last_name(node.target) or "value"]
    return [type(node).__name__.lower().removeprefix("async")]


def _parameter(node: ast.arguments, step: Step) -> str:
    if step.field == "kw_defaults":
        return node.kwonlyargs[step.index].arg
    if step.field != "defaults":  # an annotation
        owner = getattr(node, step.field)
        return (owner[step.index] if isinstance(owner, list) else owner).arg  # type: ignore[no-any-return]
    positional = [*node.posonlyargs, *node.args]
    return positional[len(positional) - len(node.defaults) + step.index].arg


def _target(target: ast.expr, path: tuple[Step, ...], statement: ast.Assign) -> str:
    """`a, b = 1, 2` gives each value its own target; a chain of targets is called after the first."""
    if not isinstance(target, ast.Tuple | ast.List):
        return last_name(target)
    index = _unpacked(path, statement)
    return last_name(target.elts[0 if index is None else index]) if target.elts else ""


def _unpacked(path: tuple[Step, ...], statement: ast.AST) -> int | None:
    """Which of the targets of `a, b = 1, 2` a literal goes to; None where the assignment is of another form."""
    if not isinstance(statement, ast.Assign) or not isinstance(target := statement.targets[0], ast.Tuple | ast.List):
        return None
    below = [step for step in path if step.node is statement.value]
    values = statement.value.elts if isinstance(statement.value, ast.Tuple | ast.List) else []
    return below[0].index if below and len(values) == len(target.elts) else None
