"""Structural mutations of statements: two neighbours in the other order, and the deletion of what nothing uses."""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator

from genomes.mutations.anatomy import blocks, functions, own_nodes
from genomes.mutations.draft import Draft, MisfitError, drafted
from genomes.mutations.mutation import Program, pick
from genomes.mutations.patterns import is_touchable, neighbours, shown
from genomes.nodes import is_operation, last_name, names_in, walk

_ENTRIES = ("build_model", "main")  # what the harness calls
_RESHAPES = re.compile(r"\b(transpose|permute|chunk|split|unbind|flatten|unsqueeze|squeeze|stack|cat|einsum|view|reshape|T|mT)\b|@|\[")
_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
_EFFECTS = (ast.Call, ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)
_LOOKS_AT_NAMES = ("locals", "globals", "vars", "exec", "eval")


def _swap(draft: Draft, rng: random.Random) -> str:
    """Two statements that change the same tensor, one after the other, change it in the other order."""
    options = []
    for place, first, second in neighbours(draft.parent):
        changed = _changes(first)
        if not changed or _changes(second) != changed or ast.dump(first) == ast.dump(second) or (_adds(first) and _adds(second)):
            continue
        if all(is_touchable(draft.source, s) and not _RESHAPES.search(draft.code(s)) for s in (first, second)):
            options.append((place, first, second))
    chosen = pick(options, rng)
    if chosen is None:
        raise MisfitError("no two changes of one tensor")
    place, first, second = chosen
    draft.replace(first, draft.code(second))
    draft.replace(second, draft.code(first))
    return f"{place.name}: {shown(draft.code(second))} before {shown(draft.code(first))}"


def _adds(statement: ast.stmt) -> bool:
    """`x = x + …`: two of these are what swap-updates swaps."""
    return isinstance(statement, ast.Assign) and is_operation(statement.value, ast.Add)


def _changes(statement: ast.stmt) -> set[str]:
    """The names that a statement makes from themselves: `x = f(x)`, `q, k = g(q), g(k)`, `x += …`, `x.mul_(…)`; none for another kind."""
    if isinstance(statement, ast.AugAssign):
        return names_in(statement.target)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name | ast.Tuple):
        made = names_in(statement.targets[0])
        return made if made <= names_in(statement.value) else set()
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and re.fullmatch(r"[a-z]\w*[a-z]_", call.func.attr):
        return set() if last_name(call.func.value) == "init" else {ast.unparse(call.func.value)}
    return set()


def _delete(draft: Draft, rng: random.Random) -> str:
    """One definition or assignment that nothing uses, or a statement that is never reached."""
    if any(isinstance(node, ast.Name) and node.id in _LOOKS_AT_NAMES for node in walk(draft.parent.tree)):
        raise MisfitError("names may be used in ways that the text does not show")
    found = [*_unused_above(draft.parent), *_unused_inside(draft.parent), *_unreached(draft.parent)]
    chosen = pick(found, rng)
    if chosen is None:
        raise MisfitError("everything is used")
    draft.delete(chosen)
    first = draft.code(chosen).splitlines()[0]
    return f"unused: {shown(first)}"


def _unused_above(parent: Program) -> Iterator[ast.stmt]:
    """Functions, classes and constants of the module that nothing but themselves mentions, not even a string."""
    mentions = Counter(name for node in walk(parent.tree) for name in _mentioned(node))
    for statement in parent.tree.body:
        name = _defined(statement)
        if name and not name.startswith("__") and name not in _ENTRIES:
            own = sum(name in _mentioned(node) for node in walk(statement))
            if mentions[name] == own:
                yield statement


def _defined(statement: ast.stmt) -> str:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return "" if statement.decorator_list or getattr(statement, "keywords", None) else statement.name
    return _assigned(statement)


def _assigned(statement: ast.stmt) -> str:
    """The one name that a statement gives a value without any effect beside it."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(target := statement.targets[0], ast.Name):
        return "" if any(isinstance(node, _EFFECTS) for node in walk(statement.value)) else target.id
    return ""


def _mentioned(node: ast.AST) -> tuple[str, ...]:
    """Names that a node reads, or may: attributes, imports and words of strings too."""
    if isinstance(node, ast.Name):
        return (node.id,) if not isinstance(node.ctx, ast.Store) else ()
    if isinstance(node, ast.Attribute):
        return (node.attr,)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return tuple(re.findall(r"\w+", node.value)) if len(node.value) < 80 else ()
    if isinstance(node, ast.Global | ast.Nonlocal):
        return tuple(node.names)
    return ()


def _unused_inside(parent: Program) -> Iterator[ast.stmt]:
    """Assignments to a local name that the function never reads, of values that have no effect."""
    for function in functions(parent):
        read = {name for node in walk(function) for name in _mentioned(node)}
        grown = [node.target for node in own_nodes(function) if isinstance(node, ast.AugAssign)]
        augmented = {target.id for target in grown if isinstance(target, ast.Name)}
        for block in blocks(function):
            for statement in block:
                if (name := _assigned(statement)) and name not in read | augmented:
                    yield statement


def _unreached(parent: Program) -> Iterator[ast.stmt]:
    """What follows a statement that leaves its block, unless it makes a generator of the function."""
    for function in functions(parent):
        for block in blocks(function):
            for before, statement in itertools.pairwise(block):
                if isinstance(before, _LEAVES) and not any(isinstance(node, ast.Yield | ast.YieldFrom) for node in walk(statement)):
                    yield statement


STATEMENT_MUTATIONS = (
    drafted("swap-statements", "two changes of a tensor in the other order", "Koza 1992, Genetic Programming, permutation", 3, _swap),
    drafted(
        "delete-unused",
        "what is unused is deleted",
        "Koza 1992, Genetic Programming, editing; karpathy/autoresearch, program.md",
        1,
        _delete,
    ),
)
