"""Structural mutations of initial values: orthogonal matrices, and residual branches that start smaller the more blocks there are."""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator

from genomes.literals import read_value
from genomes.mutations.anatomy import one_line
from genomes.mutations.draft import Draft, MisfitError, alias, drafted
from genomes.mutations.mutation import Place, Program, pick
from genomes.mutations.network import depth, root
from genomes.mutations.patterns import atom
from genomes.nodes import is_operation, last_name, names_in, walk
from genomes.source import parse_expression

_INIT = re.compile(r"init", re.IGNORECASE)
_DRAWN = ("uniform_", "normal_", "trunc_normal_", "zero_", "zeros_")
_NO_MATRIX = re.compile(r"emb|wte|wpe|\bve\b|head|token|position|module|bias|parameter", re.IGNORECASE)
_OUTPUT = re.compile(r"(attn_?|mlp_?|c_)?(out(put)?|down|proj(ect)?|o|wo)(_proj)?", re.IGNORECASE)
_SMALL = 0.02  # GPT-2's standard deviation


def _calls(parent: Program) -> Iterator[tuple[Place, ast.Call, str, list[ast.expr]]]:
    """Where initial values are drawn: the call, the code of the tensor, and the arguments behind it."""
    for place in parent.places:
        call = place.node
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or call.func.attr not in _DRAWN:
            continue
        if not _INIT.search(place.name):
            continue
        of_module = last_name(call.func.value) == "init"
        tensor = call.args[0] if of_module and call.args else call.func.value
        yield place, call, parent.source.code(tensor), call.args[1:] if of_module else call.args


def _orthogonal(draft: Draft, rng: random.Random) -> str:
    """A matrix that is drawn element by element becomes an orthogonal one whose elements have the same standard deviation."""
    options = []
    for place, call, tensor, rest in _calls(draft.parent):
        deviation = _deviation(draft, call, rest)
        if deviation and tensor.endswith(".weight") and not _NO_MATRIX.search(tensor) and not _NO_MATRIX.search(ast.unparse(_loop(place))):
            options.append((place, call, f"init.orthogonal_({tensor}, gain={deviation} * max({tensor}.shape) ** 0.5)"))
    chosen = pick(options, rng)
    if chosen is None:
        raise MisfitError("no matrix is drawn")
    place, call, text = chosen
    draft.replace(call, f"{alias(draft.parent, 'torch.nn')}.{text}")
    return f"{place.name}: orthogonal instead of {call.func.attr.rstrip('_')}"  # type: ignore[attr-defined]


def _deviation(draft: Draft, call: ast.Call, rest: list[ast.expr]) -> str:
    """Code of the standard deviation that a call draws with; "" where it draws nothing or says it in another way."""
    words = {word.arg: word.value for word in call.keywords}
    method = last_name(call.func)
    if method == "uniform_" and len(rest) == 2 and not words:
        return f"{atom(draft.source, rest[1])} / 3**0.5"
    if method in ("normal_", "trunc_normal_") and "std" in words and not rest and set(words) <= {"std", "mean"}:
        return atom(draft.source, words["std"])
    return ""


def _loop(place: Place) -> ast.AST:
    """What the nearest loop runs over, of those whose variable leads to the tensor; the place itself where there is none."""
    call = place.node
    assert isinstance(call, ast.Call)
    owner = call.func.value if isinstance(call.func, ast.Attribute) else call.func
    name = root(call.args[0] if last_name(owner) == "init" and call.args else owner)
    loops = [node for node in walk(place.function) if isinstance(node, ast.For) and last_name(node.target) == name]
    return next((loop.iter for loop in reversed(loops) if call in walk(loop)), call)


def _by_depth(draft: Draft, rng: random.Random) -> str:
    """The layers that write into the residual stream start at a standard deviation over the root of twice the number of blocks."""
    options = list[tuple[Place, ast.expr, str]]()
    for place, call, tensor, _ in _calls(draft.parent):
        if not _is_output(tensor, _loop(place)):
            continue
        method, blocks = last_name(call.func), _blocks_in(draft.parent, place)
        std = next((word.value for word in call.keywords if word.arg == "std"), None)
        if method in ("zero_", "zeros_"):
            options.append((place, call, f"std={_SMALL} / (2 * {blocks}) ** 0.5"))
        elif std is not None and not is_operation(std, ast.Div):
            options.append((place, std, f"{atom(draft.source, std)} / (2 * {blocks}) ** 0.5"))
    chosen = pick(options, rng)
    if chosen is None:
        raise MisfitError("no layer that writes into the stream starts by itself")
    place, node, text = chosen
    if isinstance(node, ast.Call) and text.startswith("std="):
        function = one_line(draft.source, node.func).rpartition(".")[0]
        inside = "".join(f"{draft.code(argument)}, " for argument in node.args)
        text = f"{function}.normal_({inside}{text})"
    draft.replace(node, text)
    return f"{place.name}: what writes into the stream starts scaled by 1 / √(2 × depth)"


def _is_output(tensor: str, looped: ast.AST) -> bool:
    """`block.mlp.down.weight`; or `layer.weight` in a loop over such layers and no others but gates."""
    owner = tensor.removesuffix(".weight")
    if owner == tensor:
        return False
    if isinstance(looped, ast.Tuple | ast.List):
        return any(_OUTPUT.fullmatch(last_name(item)) for item in looped.elts)
    return "." in owner and bool(_OUTPUT.fullmatch(owner.rsplit(".", 1)[1]))


def _blocks_in(parent: Program, place: Place) -> str:
    """The number of blocks, as the function may write it."""
    code = depth(parent)
    top = {name for s in parent.tree.body if isinstance(s, ast.Assign | ast.AnnAssign) for name in names_in(s)}
    known = top | {argument.arg for argument in place.function.args.args}
    if names_in(parse_expression(code)) <= known or read_value(parse_expression(code)) is not None:
        return code
    if code.startswith("config.") and "self.config" in parent.text and "self" in known:
        return f"self.{code}"
    raise MisfitError(f"{code} is unknown in {place.name}")


INITIAL_MUTATIONS = (
    drafted("orthogonal-init", "orthogonal matrices of the same size at first", "Saxe et al. 2014, arXiv 1312.6120", 4, _orthogonal),
    drafted(
        "init-by-depth", "residual branches start scaled by 1 / √(2 × depth)", "Radford et al. 2019, GPT-2; openai/gpt-2", 4, _by_depth
    ),
)
