"""Structural mutations of Muon: how an update is orthogonalised, scaled, balanced and applied.

updates.py says how it is found in a program.
"""

from __future__ import annotations

import ast
import random
import re

from genomes.literals import read_value
from genomes.mutations.anatomy import functions, one_line, own_nodes, statements
from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.mutation import Program, pick
from genomes.mutations.patterns import atom
from genomes.mutations.updates import Update, in_place, inner_direction, muon_step, orthogonaliser, owner
from genomes.nodes import is_call, is_operation, last_name, names_in, walk
from genomes.source import Splice, parse_expression

# Rows (a, b, c) of polynomials a·s + b·s³ + c·s⁵ that send singular values towards 1, for five steps.
_TABLES = {
    "newton_schulz": ("Keller Jordan's quintic, five times", ["((3.4445, -4.775, 2.0315),) * 5"]),
    "tuned_quintics": (
        "one quintic for each step, tuned together by YouJiacheng for the modded-nanogpt speedruns",
        ["(", "    (4.0848, -6.8946, 2.927),", "    (3.9505, -6.3029, 2.6377),", "    (3.7418, -5.5913, 2.3037),",
         "    (2.8769, -3.1427, 1.2046),", "    (2.8366, -3.0525, 1.2012),", ")"],
    ),
    "polar_express": (
        "Polar Express (arXiv 2505.16932)",
        ["(", "    (8.156554524902461, -22.48329292557795, 15.878769915207462),",
         "    (4.042929935166739, -2.808917465908714, 0.5000178451051316),",
         "    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),",
         "    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),",
         "    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),", ")"],
    ),
}  # fmt: skip


def _coefficients(draft: Draft, rng: random.Random) -> str:
    """Another table of polynomials; one polynomial for all steps becomes a table."""
    function, loop = orthogonaliser(draft.parent)
    if isinstance(loop.target, ast.Tuple) and len(loop.target.elts) == 3:
        base = loop.iter.value if isinstance(loop.iter, ast.Subscript) else loop.iter
        table = _assignment(draft.parent, function, last_name(base))
        name = _table(rng, last_name(base).lower())
        written = name.upper() if last_name(base).isupper() else name
        _write_table(draft, table, name, written)
        _rename(draft, last_name(base), written)
        return f"{function.name}: coefficients are {_TABLES[name][0]}"
    unpacked = next((s for _, s in statements(function) if isinstance(s, ast.Assign) and _unpacks_three(s)), None)
    if unpacked is None or not is_call(loop.iter, "range") or not isinstance(loop.iter, ast.Call) or len(loop.iter.args) != 1:
        raise MisfitError("no coefficients")
    name = _table(rng, "newton_schulz")
    _write_table(draft, unpacked, name, name)
    draft.replace(loop.target, draft.code(unpacked.targets[0]))
    draft.replace(loop.iter, f"{name}[:{one_line(draft.source, loop.iter.args[0])}]")
    return f"{function.name}: coefficients are {_TABLES[name][0]}"


def _table(rng: random.Random, now: str) -> str:
    return rng.choice([name for name in sorted(_TABLES) if name != now])


def _unpacks_three(statement: ast.Assign) -> bool:
    """`a, b, c = (3.4445, -4.7750, 2.0315)`, or of a constant."""
    target, value = statement.targets[0], statement.value
    whole = isinstance(value, ast.Name) or (isinstance(value, ast.Tuple) and all(read_value(v) is not None for v in value.elts))
    return isinstance(target, ast.Tuple) and len(target.elts) == 3 and whole


def _assignment(parent: Program, function: ast.FunctionDef, name: str) -> ast.Assign:
    for statement in [*parent.tree.body, *(s for _, s in statements(function))]:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and last_name(statement.targets[0]) == name:
            return statement
    raise MisfitError("the coefficients come from elsewhere")


def _write_table(draft: Draft, statement: ast.Assign, name: str, written: str) -> None:
    """Writes a table in place of an assignment and the remarks right above it."""
    source, first = draft.source, statement.lineno - 1
    while first > 0 and source.lines[first - 1].lstrip().startswith("#"):
        first -= 1
    indent = " " * statement.col_offset
    remark, value = _TABLES[name]
    lines = [f"# {remark[0].upper()}{remark[1:]}.", f"{written} = {value[0]}", *value[1:]]
    if source.text[source.starts[statement.lineno - 1] :][: statement.col_offset].strip(" "):
        raise MisfitError("no line of its own")
    end = source.span(statement)[1]
    draft.cuts.append(Splice(source.starts[first], end, "\n".join(f"{indent}{line}" for line in lines)))


def _rename(draft: Draft, old: str, new: str) -> None:
    for node in walk(draft.parent.tree):
        if isinstance(node, ast.Name) and node.id == old and isinstance(node.ctx, ast.Load):
            draft.replace(node, new)


def _balance(draft: Draft, rng: random.Random) -> str:
    """Rows or columns of equal length, before the orthogonaliser sees them."""
    name, inner = orthogonaliser(draft.parent)[0].name, inner_direction(draft.parent)
    calls = [n.args[0] for f in functions(draft.parent) for n in own_nodes(f) if is_call(n, name) and n.args]
    given = [inner] if inner is not None else calls
    if not given or "normalize" in ast.unparse(given[0]):
        raise MisfitError("nothing unbalanced goes in")
    what, dim = rng.choice((("rows", -1), ("columns", -2)))
    draft.wrap(given[0], f"{alias(draft.parent, 'torch.nn.functional')}.normalize(", f", dim={dim})")
    return f"{name}: {what} of equal length first"


def _nesterov(draft: Draft, rng: random.Random) -> str:
    """The mean gradient looks ahead: `orthogonalise(mean)` becomes `orthogonalise(grads.lerp(mean, momentum))`."""
    step = muon_step(draft.parent)
    if ast.unparse(step.direction) != step.mean or not step.grads.isidentifier():
        raise MisfitError("no plain momentum")
    draft.replace(step.direction, f"{step.grads}.lerp({step.mean}, {step.momentum})")
    return f"{step.function.name}: Nesterov momentum"


def _scale(draft: Draft, rng: random.Random) -> str:
    """How the size of an update goes with its shape."""
    found = [(f, n, q) for f in functions(draft.parent) for n in own_nodes(f) if (q := _root_of_shape(n)) is not None]
    chosen = pick(found, rng)
    if chosen is None:
        raise MisfitError("no factor of the shape")
    function, node, quotient = chosen
    rows, columns = atom(draft.source, quotient.left), atom(draft.source, quotient.right)
    options = {
        f"max(1.0, {rows} / {columns}) ** 0.5": "as √max(1, rows / columns)",
        f"({rows} / {columns}) ** 0.5": "as √(rows / columns)",
        f"(max({rows}, {columns}) / 768) ** 0.5": "as √max(rows, columns), 1 at 768",
        f"max({rows} / {columns}, {columns} / {rows}) ** 0.5": "as √(longer / shorter)",
    }
    now = ast.unparse(node)
    text = rng.choice([option for option in options if ast.unparse(parse_expression(option)) != now])
    draft.replace(node, text)
    return f"{function.name}: the update's size scales {options[text]}"


def _root_of_shape(node: ast.AST) -> ast.BinOp | None:
    """The quotient in `max(1.0, rows / columns) ** 0.5` and `(rows / columns) ** 0.5`."""
    if not is_operation(node, ast.Pow) or read_value(node.right) != 0.5:
        return None
    parts = node.left.args if is_call(node.left, "max") else [node.left]
    for part in parts:
        if is_operation(part, ast.Div):
            both = (ast.unparse(part.left), ast.unparse(part.right))
            if all(re.search(r"row|col|size\(|shape|fan|\bm\b|\bn\b", side) and "max" not in side for side in both):
                return part
    return None


def _no_variance(draft: Draft, rng: random.Random) -> str:
    """NorMuon without what makes it so: neurons keep the size that orthogonalisation gives them."""
    step = muon_step(draft.parent)
    inside = [s for _, s in statements(step.function) if step.made.lineno < s.lineno < step.applied.lineno]
    roots = _roots(inside, step)
    scaled = [s for s in inside if isinstance(s, ast.Assign) and last_name(s.targets[0]) == step.update and names_in(s.value) & roots]
    if len(scaled) != 1:
        raise MisfitError("no variance per neuron")
    useless: list[ast.stmt] = [scaled[0]]
    for statement in reversed(inside):
        if statement is not scaled[0] and _serves_only(statement, useless, step):
            useless.append(statement)
    for statement in useless:
        draft.delete(statement)
    return f"{step.function.name}: no variance per neuron"


def _roots(inside: list[ast.stmt], step: Update) -> set[str]:
    """Names of the reciprocal roots of variances, and of what is computed from them, but for the update."""
    roots: set[str] = set()
    for statement in inside:
        if isinstance(statement, ast.Assign) and ("rsqrt" in ast.unparse(statement.value) or names_in(statement.value) & roots):
            roots |= names_in(statement.targets[0]) - {step.update}
    return roots


def _serves_only(statement: ast.stmt, useless: list[ast.stmt], step: Update) -> bool:
    """Does what a statement makes go only into useless statements and itself?"""
    call = in_place(statement, "lerp_")
    made = owner(call) if call else ast.unparse(statement.targets[0]) if isinstance(statement, ast.Assign) else ""
    if not made or made == step.mean or made == step.update:
        return False
    spared = {id(n) for s in [*useless, statement] for n in walk(s)}
    loads = [n for n in own_nodes(step.function) if isinstance(n, ast.Name | ast.Subscript) and isinstance(n.ctx, ast.Load)]
    initial = {id(n) for s in walk(step.function) if isinstance(s, ast.Assign) for t in s.targets for n in walk(t)}
    return all(id(n) in spared | initial or ast.unparse(n) != made for n in loads)


def _cautious_update(draft: Draft, rng: random.Random) -> str:
    """Only where the update agrees with the gradient of the moment; what is left is as large as before on average."""
    step = muon_step(draft.parent)
    if not step.grads.isidentifier() or any(f"{step.update} * {step.grads} > 0" in ast.unparse(s) for _, s in statements(step.function)):
        raise MisfitError("it is cautious already")
    _keep_gradients(draft, step)
    draft.above(
        step.applied,
        f"sure = ({step.update} * {step.grads} > 0).to({step.update}.dtype)",
        f"{step.update} = {step.update} * sure / sure.mean(dim=(-2, -1), keepdim=True).clamp_min(0.1)",
    )
    return f"{step.function.name}: no update against the current gradient"


def _keep_gradients(draft: Draft, step: Update) -> None:
    """`grads.lerp_(mean, momentum)` would leave the mean where the gradient was."""
    ahead = step.direction
    if is_call(ahead, "lerp_") and isinstance(ahead.func, ast.Attribute) and ast.unparse(ahead.func.value) == step.grads:
        end = draft.source.span(ahead.func)[1]
        draft.cuts.append(Splice(end - 1, end, ""))


def _cautious_decay(draft: Draft, rng: random.Random) -> str:
    """Weights decay only where the update shrinks them too; where that is so, they all decay."""
    step = muon_step(draft.parent)
    masks = [s for _, s in statements(step.function) if isinstance(s, ast.Assign) and _compares(s.value, step)]
    for node in walk(step.applied):
        if not is_operation(node, ast.Mult):
            continue
        if masks and last_name(node.right) == last_name(masks[0].targets[0]):
            draft.replace(node, one_line(draft.source, node.left))
            draft.delete(masks[0])
            return f"{step.function.name}: weights decay everywhere"
        if (
            not masks
            and ast.unparse(node.right) == step.weights
            and re.search(r"decay|\bwd\b", ast.unparse(node.left))
            and ">=" not in draft.code(step.applied)
        ):
            draft.replace(node, f"{one_line(draft.source, node)} * ({step.update} * {step.weights} >= 0)")
            return f"{step.function.name}: weights decay only where the update agrees"
    raise MisfitError("no decay of weights in the update")


def _compares(node: ast.expr, step: Update) -> bool:
    return isinstance(node, ast.Compare) and {step.update, step.weights} <= names_in(node)


MUON_MUTATIONS = (
    drafted(
        "orthogonalisation-coefficients",
        "another table of polynomials in Muon",
        "Keller Jordan, Muon; Amsel et al., arXiv 2505.16932",
        5,
        _coefficients,
    ),
    drafted("balance-rows", "rows or columns of equal length before orthogonalisation", "MuonEq, arXiv 2603.28254", 5, _balance),
    drafted("nesterov", "Nesterov instead of plain momentum", "Keller Jordan, Muon", 3, _nesterov),
    drafted("update-scale", "how Muon's step scales with the shape", "Liu et al. 2025, arXiv 2502.16982", 5, _scale),
    drafted("no-neuron-variance", "Muon without NorMuon's variance", "NorMuon, arXiv 2510.05491", 3, _no_variance),
    drafted("cautious-update", "no update against the current gradient", "Liang et al. 2024, arXiv 2411.16085", 4, _cautious_update),
    drafted("cautious-decay", "decay where the update agrees ↔ everywhere", "Chen et al. 2025, arXiv 2510.12402", 4, _cautious_decay),
)
