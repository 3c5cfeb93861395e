"""Which literals a search may tune. Everything is addressable; indices, axes, shapes, seeds, devices, guards and printing are never tuned.

Two rules, kept apart: the *place* rule looks at the tree alone, so that setting a knob never changes the species; the *value* rule then
leaves neutral elements (a `+ 0`, a `max(1, …)`) alone.
"""

from __future__ import annotations

import ast
import re

from genomes.literals import Literal, Step, read_value
from genomes.names import own_label
from genomes.nodes import is_call, is_operation, last_name, targets_of, walk, words

_INDEX_WORDS = words(
    """dim dims axis axes ndim start_dim end_dim dim0 dim1 index idx diagonal pad step epoch ignore_index padding_idx device_id start"""
)
_INDEX_CALLS = words(
    """size transpose unsqueeze squeeze flatten unflatten view reshape permute expand repeat repeat_interleave softmax log_softmax sum mean
    amax amin argmax argmin norm cat stack chunk split select narrow movedim roll triu tril cumsum sort topk gather flip zeros
    full_like randint arange diagonal new_zeros new_ones ones empty isinstance getattr hasattr append pop get exp2 as_strided pow rsplit"""
)
_SYSTEM_CALLS = words(
    """print log info debug warning write format manual_seed seed Generator device to cuda cpu compile autocast sleep getenv
    set_printoptions set_float32_matmul_precision get_device_capability get_device_properties empty_cache synchronize freeze collect
    exit round join replace startswith endswith strip open report progress save field add_argument Event"""
)
_SYSTEM_WORDS = words(
    """seed device dtype backend backends pin_memory non_blocking fullgraph dynamic fused foreach num_workers persistent requires_grad
    keepdim keepdims inplace flush end sep mode verbose debug capturable differentiable maximize set_to_none frozen slots init_step
    strict compile log_every print_every report_every eval_every persistent_workers precision dry_steps max_loss
    recompile_limit cache_size_limit is_causal causal training batch_first bidirectional bias affine elementwise_affine maxsize mean"""
)
_SEED = re.compile(r"(^|_)seeds?($|_)", re.IGNORECASE)
# Constants about how a run is timed, scored, watched and kept: to turn them would be to cheat, or to let a card overheat.
_ABOUT_THE_RUN = re.compile(
    r"(^|_)(eval\w*|startup|excluded?|untimed|interval|every|sleep|timeout|vram|gpu|checkpoints?|gc|retries|mfu|patience)($|_)",
    re.IGNORECASE,
)
_NO_STATEMENT = ast.Assert | ast.Raise | ast.Import | ast.ImportFrom | ast.Delete
_INDEX_OPERATORS = ast.LShift | ast.RShift | ast.BitAnd | ast.BitOr | ast.BitXor
_NEUTRAL_CALLS = frozenset({"max", "min", "clamp", "clip", "int", "float", "lerp"})
_CENTRED_CALLS = frozenset({"normal", "normal_", "trunc_normal_"})  # a mean of 0 keeps them symmetric
HARDWARE = re.compile(
    r"cuda|cpu|mps|nccl|gloo|b?float\d*|half|u?int\d+|[bt]?f\d+|fp\d+|high|highest|medium|flex|sdpa|flash|cudnn|eager|inductor|utf|w|r|a|[rw]b",
    re.IGNORECASE,
)
_REAL_CALLS = words("sigmoid tanh softmax relu gelu silu softplus rms_norm layer_norm norm exp log sqrt rsqrt cos sin")
_POLYNOMIAL = 3  # fewest coefficients of one
_HUGE = 1e8  # peak FLOPs, units of bytes and nanoseconds


def place_tunable(literal: Literal) -> bool:
    """May a literal at this place be tuned, whatever its value? A string that names a kernel or a number format may not."""
    label = own_label(literal)
    if _SEED.search(label) or (isinstance(literal.value, str) and HARDWARE.fullmatch(literal.value)):
        return False
    if is_constant(literal) and _ABOUT_THE_RUN.search(label):
        return False
    if _is_coefficient(literal.path):
        return False
    return all(_step_tunable(step, literal) for step in literal.path)


def value_tunable(literal: Literal) -> bool:
    """May this value be tuned, given a place that allows it? Not neutral elements, signs, infinities or units of measurement."""
    value = literal.value
    if isinstance(value, str | bool):
        return True
    if value != value or abs(value) >= _HUGE:
        return False
    if is_named(literal) and not _is_bound(literal.path):
        return True
    if isinstance(value, int):
        return value > 1
    return value not in (0.0, 1.0, -1.0) or not _is_neutral(literal.path)


def layer_factor(literal: Literal) -> str:
    """The size that a whole number multiplies in a layer's arguments, as in `Linear(width, 4 * width)`; "" for any other literal.

    Another layer, or a `chunk`, relies on it: it moves together with its like in the same function or, if there is none, not at all.
    """
    if type(literal.value) is not int or len(literal.path) < 2:
        return ""
    call, product = literal.path[-2], literal.path[-1].node
    if not isinstance(call.node, ast.Call) or not is_operation(product, ast.Mult):
        return ""
    size = ast.unparse(product.right if product.left is literal.node else product.left)
    others = [ast.unparse(other) for other in call.node.args if other is not product]
    if not last_name(call.node.func)[:1].isupper() and size not in others:
        return ""
    statements = [step.node for step in literal.path if isinstance(step.node, ast.stmt)]
    scope = next((node for node in statements if isinstance(node, ast.FunctionDef)), statements[0])
    return f"{scope.lineno}: {size}"


def is_gain(literal: Literal) -> bool:
    """`2 * torch.sigmoid(x)`: a whole number that multiplies what need not be whole."""
    node = literal.path[-1].node
    if not is_operation(node, ast.Mult):
        return False
    other = node.right if node.left is literal.node else node.left
    return is_call(other, *_REAL_CALLS)


def is_constant(literal: Literal) -> bool:
    """The value, or an element of the value, of a module-level UPPER_CASE assignment."""
    if len(literal.path) < 2 or not isinstance(statement := literal.path[1].node, ast.Assign | ast.AnnAssign):
        return False
    inside = literal.path[2:]
    return all(isinstance(t, ast.Name) and t.id.isupper() for t in targets_of(statement)) and all(
        isinstance(s.node, ast.Tuple | ast.List) for s in inside
    )


def is_named(literal: Literal) -> bool:
    """The whole value of a module constant, class field, keyword, dictionary entry or default: somebody chose it."""
    if is_constant(literal):
        return True
    outer = [step for step in literal.path if not isinstance(step.node, ast.Tuple | ast.List)]
    last = outer[-1].node if outer else None
    if isinstance(last, ast.AnnAssign | ast.Assign):
        return len(outer) > 1 and isinstance(outer[-2].node, ast.ClassDef)
    return isinstance(last, ast.keyword | ast.arguments | ast.Dict)


def _step_tunable(step: Step, literal: Literal) -> bool:
    node = step.node
    if isinstance(node, _NO_STATEMENT) or step.field in ("decorator_list", "annotation", "returns", "slice", "format_spec"):
        return False
    if isinstance(node, ast.Call):
        return _call_tunable(node, step, literal)
    if isinstance(node, ast.keyword):
        return node.arg not in _INDEX_WORDS and node.arg not in _SYSTEM_WORDS and not _SEED.search(node.arg or "")
    if isinstance(node, ast.BinOp):
        inline_int = type(literal.value) is int and (node.left is literal.node or node.right is literal.node)
        if isinstance(node.op, _INDEX_OPERATORS) or (isinstance(node.op, ast.FloorDiv) and _is_shape(node.left)):
            return False
        return not (inline_int and isinstance(node.op, ast.Add | ast.Sub | ast.Mod))
    if isinstance(node, ast.Compare):
        return isinstance(literal.value, float)
    if isinstance(node, ast.While) and step.field == "test" and isinstance(literal.value, bool):
        return False  # `while True`: the loop would never begin
    if isinstance(node, ast.If):
        return "__name__" not in ast.dump(node.test)
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return not _system_target(node) and not _is_read_off(node)
    return not isinstance(node, ast.pattern | ast.Slice)


def _is_coefficient(path: tuple[Step, ...]) -> bool:
    """Part of a table, or of a polynomial (signs alternate). It was computed as a whole: Muon diverges if one of Polar Express's moves."""
    around = [step.node for step in path[-2:] if isinstance(step.node, ast.Tuple | ast.List)]
    if len(around) == 2:
        return True
    if not around or path[-1].node is not around[0] or len(around[0].elts) < _POLYNOMIAL:
        return False
    values = [read_value(element) for element in around[0].elts]
    return all(isinstance(value, float) for value in values) and len({value < 0 for value in values if isinstance(value, float)}) == 2


def _is_read_off(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> bool:
    """`smooth = 0.9 * smooth + 0.1 * loss.item()`: what leaves the device is for people to read."""
    return any(isinstance(part, ast.Attribute) and part.attr == "item" for part in walk(node))


def _is_bound(path: tuple[Step, ...]) -> bool:
    """`clamp(max=0)`"""
    call = path[-2].node if len(path) > 1 and isinstance(path[-1].node, ast.keyword) else None
    return is_call(call, *_NEUTRAL_CALLS)


def _is_shape(node: ast.expr) -> bool:
    """`x.shape[-1]`, `x.size(2)`: half of such a size is a fact about the tensor."""
    return any(isinstance(part, ast.Attribute) and part.attr in ("shape", "size") for part in walk(node))


def _call_tunable(node: ast.Call, step: Step, literal: Literal) -> bool:
    name = last_name(node.func)
    if name in _SYSTEM_CALLS:
        return False
    if step.field != "args":
        return True
    direct = node.args[step.index] is literal.node
    if name == "range":
        return direct and len(node.args) == 1
    inside_shape = direct or isinstance(node.args[step.index], ast.Tuple | ast.List)
    return not (inside_shape and name in _INDEX_CALLS and not isinstance(literal.value, float))


def _system_target(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> bool:
    for target in targets_of(node):
        name = last_name(target)
        if name.lower() in _SYSTEM_WORDS or _SEED.search(name) or (name.startswith("__") and name.endswith("__")):
            return True
        if isinstance(target, ast.Subscript) and last_name(target.value) == "environ":
            return True
    return False


def _is_neutral(path: tuple[Step, ...]) -> bool:
    """0.0 and 1.0 as parts of an expression, bounds of a clamp, or start of a sum."""
    node = path[-1].node
    if _is_bound(path):
        return True
    if isinstance(node, ast.Call):
        return last_name(node.func) in _NEUTRAL_CALLS | _CENTRED_CALLS
    return isinstance(node, ast.BinOp | ast.Compare | ast.IfExp | ast.Return | ast.Assign | ast.AnnAssign | ast.Tuple)
