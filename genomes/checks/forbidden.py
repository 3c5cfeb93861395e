"""What the lab's agenda excludes, read off the text: no network, no files, no further processes, no patching of prepare.

This is not a defence: a program that wants to hide such a call can, which is what the sandbox is for. It is an early and cheap hint that
saves an evaluation which would fail, or a champion that would be thrown out. So the list is short and holds only what no honest training
program of this lab needs, by plain names alone. Not on it: threads, `time`, `os.environ`, `gc.collect` and `gc.freeze`, reading with
`open`, `print`. An import inside a `try` is a question, not a demand, and passes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from genomes.checks.outline import CONSTITUTION, Outline, Scope
from genomes.checks.problem import Problem

_PACKAGES = frozenset({"torch", "numpy", CONSTITUTION, "triton"}) | sys.stdlib_module_names  # triton comes with torch
_MODULES = {
    **dict.fromkeys(("socket", "socketserver", "ssl", "http", "urllib", "ftplib", "smtplib", "xmlrpc", "webbrowser"), "no network"),
    **dict.fromkeys(("subprocess", "multiprocessing", "pty"), "no further processes"),
    **dict.fromkeys(("ctypes", "signal", "shutil", "tempfile"), "a program trains, and leaves the process and its files alone"),
}
_CALLS = {
    **dict.fromkeys(("os.system", "os.popen", "os.fork", "os.posix_spawn", "os.kill", "os.killpg", "os._exit"), "no further processes"),
    **dict.fromkeys(("os.remove", "os.unlink", "os.rename", "os.replace", "os.makedirs", "os.mkdir", "os.open"), "no files"),
    **dict.fromkeys(("torch.save", "torch.load"), "no files; prepare.save(model) hands over the weights"),
    **dict.fromkeys(("torch.hub.load", "torch.hub.download_url_to_file"), "no network"),
    **dict.fromkeys(("gc.get_objects", "gc.get_referrers"), "a program looks only at its own objects"),
}
_CODE = ("exec", "compile", "__import__")
_WRITING = frozenset("wax+")


def forbidden_problems(program: Outline) -> Iterator[Problem]:
    """One problem per forbidden import, call, or assignment to something of prepare."""
    for node in program.import_nodes:
        if id(node) not in program.guarded:
            yield from (Problem(node.lineno, why) for why in _import_reasons(node))
    for call, scope in program.calls:
        dotted = program.dotted(call.func, scope)
        if dotted in _CALLS:
            yield Problem(call.lineno, f"calls {dotted}(): {_CALLS[dotted]}")
        elif isinstance(call.func, ast.Name) and scope.holder(call.func.id) is None and (wrong := _builtin_reason(call, scope)):
            yield Problem(call.lineno, wrong)
        elif dotted == "" and _patches(call, program, scope):
            yield Problem(call.lineno, f"sets an attribute of {CONSTITUTION}, which is not patched: keep a constant of your own")
    for target, scope in program.attributes:
        if not isinstance(target.ctx, ast.Load) and program.dotted(target.value, scope) == CONSTITUTION:
            yield Problem(target.lineno, f"assigns to {CONSTITUTION}.{target.attr}, which is not patched: keep a constant of your own")


def _import_reasons(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for name in names if not getattr(node, "level", 0) else ():
        top = name.split(".")[0]
        if top in _MODULES:
            yield f"imports {name}: {_MODULES[top]}"
        elif top not in _PACKAGES:
            yield f"imports {name}: no packages beyond torch and numpy; write what is needed from it"


def _builtin_reason(call: ast.Call, scope: Scope) -> str:
    assert isinstance(call.func, ast.Name)
    name = call.func.id
    if name == "open":
        modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        writes = any(isinstance(mode, ast.Constant) and _WRITING.intersection(str(mode.value)) for mode in modes)
        if scope.parent is None:
            return "opens a file while it is imported: no files"
        return "opens a file for writing: no files" if writes else ""
    if name in _CODE and (name != "compile" or len(call.args) >= 3):
        return f"calls {name}(): write the code itself"
    return ""


def _patches(call: ast.Call, program: Outline, scope: Scope) -> bool:
    named = isinstance(call.func, ast.Name) and call.func.id in ("setattr", "delattr")
    return named and bool(call.args) and program.dotted(call.args[0], scope) == CONSTITUTION
