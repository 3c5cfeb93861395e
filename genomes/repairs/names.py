"""Names: an import that is missing, a `self.` that was forgotten, a letter too many."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from genomes.checks.calls import constitution
from genomes.checks.outline import CONSTITUTION, Scope
from genomes.nodes import words
from genomes.repairs.case import Case, Repaired
from genomes.source import Splice

_MODULES = words("math os sys time copy gc random json itertools functools contextlib collections warnings operator typing torch prepare")
_IMPORTS = {
    **{name: f"import {name}" for name in _MODULES},
    "nn": "import torch.nn as nn",
    "F": "import torch.nn.functional as F",
    "optim": "import torch.optim as optim",
    "np": "import numpy as np",
    "numpy": "import numpy",
    "Tensor": "from torch import Tensor",
    **{name: f"from torch.optim import {name}" for name in ("Optimizer", "AdamW")},
    **{name: f"from dataclasses import {name}" for name in ("dataclass", "field", "asdict", "replace")},
    **{name: f"from functools import {name}" for name in ("partial", "lru_cache", "reduce", "cached_property")},
    **{name: f"from contextlib import {name}" for name in ("nullcontext", "contextmanager", "suppress")},
    **{name: f"from collections import {name}" for name in ("defaultdict", "deque", "OrderedDict", "Counter", "namedtuple")},
    **{name: f"from collections.abc import {name}" for name in ("Iterator", "Iterable", "Sequence", "Mapping")},
    **{
        name: f"from typing import {name}" for name in ("Any", "Callable", "Optional", "Union", "List", "Dict", "Tuple", "Literal", "Final")
    },
    **{name: f"from itertools import {name}" for name in ("chain", "islice", "repeat", "cycle", "count", "accumulate")},
    **{name: f"from math import {name}" for name in ("sqrt", "ceil", "floor", "pi", "cos", "log2")},
    "deepcopy": "from copy import deepcopy",
    "checkpoint": "from torch.utils.checkpoint import checkpoint",
}
_SHORTEST = 5  # shortest name whose neighbour is taken to be what was meant
_SHORTEST_ATTRIBUTE = 3  # shortest such attribute: there are few of them


def undefined(found: Case, name: str) -> Iterator[Repaired]:
    """NameError: the usual import, the attribute of that name, or the one name that is a letter away."""
    if name in _IMPORTS:
        place = _import_place(found)
        yield found.repaired([Splice(place, place, f"{_IMPORTS[name]}\n")], _IMPORTS[name])
    cuts = []
    for node, scope in _reads(found, name):
        kind = found.classes.kinds.get(scope.owner.name) if scope.owner is not None else None
        if kind is not None and scope.me and name in {*kind.stored, *kind.methods}:
            cuts.append(found.instead(node, f"{scope.me}.{name}"))
    if cuts:
        yield found.repaired(cuts, f"{name} → self.{name}")
    if len(name) >= _SHORTEST:
        yield from _respelt(found, name, found.program.module.bound, [node for node, _ in _reads(found, name)])


def misspelt_attribute(found: Case, owner: str, name: str) -> Iterator[Repaired]:
    """AttributeError of `self` or of prepare: the one attribute that is a letter away."""
    nodes = [a for a, scope in found.program.attributes if a.attr == name and _belongs(a, scope.owner, scope.me, owner)]
    offered = constitution(found.prepare)
    if owner == CONSTITUTION and offered is not None:
        known: Iterable[str] = offered.module.bound
    elif owner in found.classes.kinds:
        known = found.classes.known(found.classes.kinds[owner]) | found.program.strings
    else:
        return
    if len(name) >= _SHORTEST_ATTRIBUTE:
        yield from _respelt(found, name, known, nodes)


def one_edit(a: str, b: str) -> bool:
    """Whether one letter was left out, added, replaced or swapped with its neighbour."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest, other = a[start:], b[start:]
    swapped = rest[:2] == other[1::-1] and rest[2:] == other[2:]
    return rest[1:] == other[1:] or rest[1:] == other or rest == other[1:] or swapped


def _respelt(found: Case, name: str, known: Iterable[str], nodes: list[ast.Name] | list[ast.Attribute]) -> Iterator[Repaired]:
    near = [other for other in known if one_edit(name, other)]
    if len(near) == 1 and nodes:
        cuts = []
        for node in nodes:
            _, end = found.source.span(node)
            cuts.append(Splice(end - len(name), end, near[0]))
        yield found.repaired(cuts, f"{name} → {near[0]}")


def _reads(found: Case, name: str) -> list[tuple[ast.Name, Scope]]:
    """Where a name that nobody binds around it is read."""
    return [(node, scope) for node, scope in found.program.reads if node.id == name and scope.holder(name) is None]


def _belongs(attribute: ast.Attribute, owner: ast.ClassDef | None, me: str, wanted: str) -> bool:
    if not isinstance(attribute.value, ast.Name):
        return False
    return attribute.value.id == wanted or (attribute.value.id == me and owner is not None and owner.name == wanted)


def _import_place(found: Case) -> int:
    """Start of the line below the imports at the top, or below the docstring."""
    last = 0
    for position, node in enumerate(found.source.tree.body):
        docstring = position == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not docstring and not isinstance(node, ast.Import | ast.ImportFrom):
            break
        last = node.end_lineno or 0
    starts = found.source.starts
    return starts[last] if last < len(starts) else len(found.source.text)
