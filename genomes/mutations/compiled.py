"""Steps of optimisers that a program compiles for each shape of their arguments: PyTorch fails at the ninth, where it was told `fullgraph`.

A new weight is often one shape more.
"""

from __future__ import annotations

import ast
import itertools

from genomes.mutations.draft import Draft
from genomes.nodes import Definition, is_call, walk

_LIMITS = ("recompile_limit", "cache_size_limit")
_LINE = "torch._dynamo.config.recompile_limit = 64  # each shape of weights is compiled for itself"


def allow_shapes(draft: Draft) -> None:
    """Raises the limit of compilations ahead of the first function that needs it, unless the program sets one itself."""
    body = draft.parent.tree.body
    if any(isinstance(node, ast.Attribute) and node.attr in _LIMITS for node in walk(draft.parent.tree)) or not _imports_torch(body):
        return
    for before, statement in itertools.pairwise(body):
        if isinstance(statement, ast.FunctionDef) and any(is_call(decorator, "compile") for decorator in statement.decorator_list):
            draft.below(before, *(("", "", _LINE) if isinstance(before, Definition) else (_LINE,)))
            return


def _imports_torch(body: list[ast.stmt]) -> bool:
    imports = (node for node in body if isinstance(node, ast.Import))
    return any(alias.name == "torch" and not alias.asname for node in imports for alias in node.names)
