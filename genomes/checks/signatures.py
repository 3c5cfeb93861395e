"""What a function can be called with, and whether a call fits."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from genomes.checks.outline import parts
from genomes.nodes import Function, names_in

_OPTIONS = ("init", "kw_only", "default_factory")


@dataclass(frozen=True)
class Signature:
    """The parameters of a callee, without an instance that is passed implicitly."""

    name: str
    positional: tuple[str, ...]  # positional ones, in order
    by_position_only: int = 0  # how many of them, from the left
    required: int = 0  # how many of them have no default, from the left
    keywords: frozenset[str] = frozenset()  # keyword-only ones
    required_keywords: frozenset[str] = frozenset()
    any_positional: bool = False
    any_keyword: bool = False
    gives_nothing: bool = False  # no value comes back


def signature(name: str, function: Function, bound: bool) -> Signature:
    """The signature of a function; of a method without its instance if `bound`."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args][1 if bound else 0 :]
    required = len(plain) - min(len(arguments.defaults), len(plain))
    lacking = [a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None]
    return Signature(
        name,
        tuple(argument.arg for argument in plain),
        by_position_only=max(0, len(arguments.posonlyargs) - bound),
        required=required,
        keywords=frozenset(argument.arg for argument in arguments.kwonlyargs),
        required_keywords=frozenset(lacking),
        any_positional=arguments.vararg is not None,
        any_keyword=arguments.kwarg is not None,
        gives_nothing=isinstance(function, ast.FunctionDef) and not any(_gives(statement) for statement in function.body),
    )


def record_signature(node: ast.ClassDef) -> Signature | None:
    """The signature of a dataclass without bases whose fields are plain; None where something in it is special."""
    names, required, optional = [], 0, False
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        special = names_in(statement.annotation) & {"ClassVar", "InitVar", "KW_ONLY"}
        if special or (isinstance(statement.value, ast.Call) and any(k.arg in _OPTIONS[:2] for k in statement.value.keywords)):
            return None
        names.append(statement.target.id)
        optional = optional or statement.value is not None
        required += not optional
    return Signature(node.name, tuple(names), required=required)


def misfit(call: ast.Call, callee: Signature) -> str:
    """What is wrong with a call, in words; "" where nothing certainly is."""
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    unpacked = any(keyword.arg is None for keyword in call.keywords)
    given = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
    count = sum(1 for argument in call.args if not isinstance(argument, ast.Starred))
    if count > len(callee.positional) and not callee.any_positional:
        return f"{callee.name}() is called with {count} positional arguments, it takes {_listed(callee.positional)}"
    by_name = set(callee.positional[callee.by_position_only :]) | callee.keywords
    unknown = sorted(given - by_name)
    if unknown and not callee.any_keyword:
        return f"{callee.name}() has no argument '{unknown[0]}', it takes {_listed((*callee.positional, *sorted(callee.keywords)))}"
    if starred or unpacked:
        return ""
    double = [name for name in callee.positional[:count] if name in given and name in by_name]
    if double and not callee.any_keyword:
        return f"{callee.name}() gets its argument '{double[0]}' twice, by position and by name: give it once"
    lacking = [name for name in callee.positional[count : callee.required] if name not in given]
    lacking += sorted(callee.required_keywords - given)
    return f"{callee.name}() is called without its argument {_quoted(lacking)}: give {'them' if lacking[1:] else 'it'}" if lacking else ""


def _gives(statement: ast.stmt) -> bool:
    """Whether a value may come back by it; also of what raises or does nothing, since that is meant to be replaced."""
    for node in parts(statement):
        if isinstance(node, ast.Yield | ast.YieldFrom | ast.Raise) or (isinstance(node, ast.Return) and node.value is not None):
            return True
    ellipsis = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant) and statement.value.value is ...
    return isinstance(statement, ast.Pass) or ellipsis


def _listed(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "none"


def _quoted(names: list[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
