"""The lab's contract, checked on the tree in milliseconds.

A genome defines `build_model` and `main` at top level, and importing it does nothing else than import, define and assign (docs/design.md).
Left out here: undefined names, shapes, divisibility; running the program finds them.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from genomes.errors import ContractError, ParseError
from genomes.source import parse

_REQUIRED = ("build_model", "main")
_ALLOWED = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.Pass,
)
# Set-up calls that change no state of the lab and that training programs make when imported.
_ALLOWED_CALLS = (
    "torch.set_float32_matmul_precision",
    "torch.backends",
    "torch._dynamo.config",
    "warnings.filterwarnings",
    "warnings.simplefilter",
    "os.environ.setdefault",
)


@dataclass(frozen=True)
class Problem:
    """One reason why a text is no genome. `line` is 0 where the whole file is meant."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


@lru_cache(maxsize=4096)
def check(text: str) -> tuple[Problem, ...]:
    """What keeps the text from being a genome; empty when nothing does."""
    try:
        source = parse(text)
    except ParseError as error:
        return (Problem(0, str(error)),)
    defined = {node.name for node in source.tree.body if isinstance(node, ast.FunctionDef)}
    missing = [Problem(0, f"defines no top-level function {name}()") for name in _REQUIRED if name not in defined]
    return (*missing, *(Problem(node.lineno, _effect(node)) for node in source.tree.body if not _is_inert(node)))


def require(text: str) -> None:
    """Raise ContractError, with every problem in one line, where `check` finds any."""
    problems = check(text)
    if problems:
        raise ContractError("; ".join(str(problem) for problem in problems))


def _is_inert(node: ast.stmt) -> bool:
    if isinstance(node, _ALLOWED):
        return True
    if isinstance(node, ast.If):
        return _is_main_guard(node) or all(_is_inert(inner) for inner in [*node.body, *node.orelse])
    if isinstance(node, ast.Try):
        inner = [*node.body, *node.orelse, *node.finalbody, *(line for handler in node.handlers for line in handler.body)]
        return all(_is_inert(statement) for statement in inner)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or (
            isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith(_ALLOWED_CALLS)
        )
    return False


def _is_main_guard(node: ast.If) -> bool:
    names = {name.id for name in ast.walk(node.test) if isinstance(name, ast.Name)}
    return "__name__" in names


def _effect(node: ast.stmt) -> str:
    first = ast.unparse(node).splitlines()[0]
    return f"module-level side effect `{first[:80]}`; importing a genome only imports, defines and assigns"
