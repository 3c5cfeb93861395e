"""What keeps a text from being a genome, read off it in milliseconds: parsing and compiling, the lab's contract, and certain mistakes.

LAB      a genome defines `build_model` and `main` at top level, and importing it does nothing but import, define and assign
         (docs/design.md)
SCRIPT   a genome is run, not imported, as in karpathy/autoresearch: anything may stand at module level, but it imports from `prepare` and
         seeds itself by `manual_seed(…)`, where the harness's seed is put in

Which contract a lab is under is read off its seed genome, once (`contract_of`), and holds for all descendants.

Certain mistakes (genomes/checks/) are names that nobody defines (scopes.py), calls and attributes that cannot work (calls.py), constants
that do not go together (guards.py), functions that do not do their part (promises.py) and, under LAB, what the agenda excludes
(forbidden.py). An honest program is never refused: whatever a check is not certain of, it leaves to the run. Left out: shapes, types, and
what an installed library offers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from genomes.checks.calls import attribute_problems, call_problems
from genomes.checks.classes import Classes
from genomes.checks.forbidden import forbidden_problems
from genomes.checks.guards import guard_problems
from genomes.checks.outline import CONSTITUTION, Outline, outline
from genomes.checks.problem import Problem
from genomes.checks.promises import entry_problems, promise_problems
from genomes.checks.scopes import name_problems
from genomes.errors import ParseError
from genomes.nodes import is_call, names_in, walk
from genomes.source import parse, symbols

_REQUIRED = ("build_model", "main")
_CACHED_VERDICTS = 4096
_CACHED_PROGRAMS = 4  # as many as source.py keeps
_SEEDING = ("manual_seed", "manual_seed_all")
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


class Contract(StrEnum):
    """What a lab asks of its genomes."""

    LAB = "lab"
    SCRIPT = "script"


def contract_of(text: str) -> Contract:
    """SCRIPT for a program that lacks a function of the lab's contract but imports from `prepare`; LAB for all others."""
    try:
        tree = parse(text).tree
    except ParseError:
        return Contract.LAB
    return Contract.SCRIPT if _missing(tree) and _imports_constitution(tree) else Contract.LAB


def check(text: str, contract: Contract = Contract.LAB, prepare: str = "") -> tuple[Problem, ...]:
    """What keeps the text from being a genome, in the order of lines; empty when nothing does.

    Args:
        prepare: text of the lab's prepare.py, whose names, signatures and constants are then known; "" where it is not at hand.
    """
    return _check(text, contract, prepare)  # however it was called: the cache would tell a default from the same value given


@lru_cache(maxsize=_CACHED_VERDICTS)
def _check(text: str, contract: Contract, prepare: str) -> tuple[Problem, ...]:
    try:
        facts = _facts(text)
    except ParseError as error:
        return (Problem(0, str(error)),)
    found = [*_contract_problems(facts.tree, contract), *_mistakes(facts, prepare, contract)]
    return tuple(sorted(dict.fromkeys(found), key=lambda problem: problem.line))


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is so under any contract and beside any prepare.py: a child is looked at by who made it and by who knows the lab."""

    tree: ast.Module
    program: Outline
    classes: Classes
    names: tuple[Problem, ...]  # problems of names


@lru_cache(maxsize=_CACHED_PROGRAMS)
def _facts(text: str) -> _Facts:
    tree, table = parse(text).tree, symbols(text)
    program = outline(tree)
    return _Facts(tree, program, Classes(program), tuple(name_problems(table, program)))


def _mistakes(facts: _Facts, prepare: str, contract: Contract) -> Iterator[Problem]:
    """What certainly fails or is excluded in a program that compiles."""
    program, classes = facts.program, facts.classes
    yield from facts.names
    yield from call_problems(program, classes, prepare)
    yield from attribute_problems(program, classes, prepare)
    yield from guard_problems(program, prepare)
    yield from promise_problems(program, classes, prepare)
    if contract is Contract.LAB:
        yield from entry_problems(program)
        yield from forbidden_problems(program)


def _contract_problems(tree: ast.Module, contract: Contract) -> list[Problem]:
    if contract is Contract.SCRIPT:
        return _script_problems(tree)
    missing = [Problem(0, f"defines no top-level function {name}()") for name in _missing(tree)]
    return [*missing, *(Problem(node.lineno, _effect(node)) for node in tree.body if not _is_inert(node))]


def _missing(tree: ast.Module) -> list[str]:
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    return [name for name in _REQUIRED if name not in defined]


def _script_problems(tree: ast.Module) -> list[Problem]:
    problems = [] if _imports_constitution(tree) else [Problem(0, f"imports nothing from {CONSTITUTION}")]
    if not any(is_call(node, *_SEEDING) and (node.args or node.keywords) for node in walk(tree)):
        problems.append(Problem(0, "has no manual_seed(…) call, so no seed can be given to it"))
    return problems


def _imports_constitution(tree: ast.Module) -> bool:
    modules = [node.module or "" for node in walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return CONSTITUTION in modules


def _is_inert(node: ast.stmt) -> bool:
    if isinstance(node, _ALLOWED):
        return True
    if isinstance(node, ast.If):
        return "__name__" in names_in(node.test) or all(_is_inert(inner) for inner in [*node.body, *node.orelse])
    if isinstance(node, ast.Try):
        inner = [*node.body, *node.orelse, *node.finalbody, *(line for handler in node.handlers for line in handler.body)]
        return all(_is_inert(statement) for statement in inner)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or (
            isinstance(node.value, ast.Call) and ast.unparse(node.value.func).startswith(_ALLOWED_CALLS)
        )
    return False


def _effect(node: ast.stmt) -> str:
    first = ast.unparse(node).splitlines()[0]
    return f"module-level side effect `{first[:80]}`; importing a genome only imports, defines and assigns"
