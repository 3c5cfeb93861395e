"""Static checks: certain mistakes are found, with what to do, and no honest program is refused."""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import sysconfig
from pathlib import Path

import pytest

import genomes
from genomes import contract
from genomes.checks.outline import outline
from genomes.checks.scopes import name_problems
from genomes.checks.torchlike import LIBRARY
from genomes.source import MOST_LEVELS, parse, parse_tree, symbols

ROOT = Path(__file__).resolve().parent.parent
SEED = (ROOT / "trainer" / "train.py").read_text(encoding="utf-8")
PREPARE = (ROOT / "trainer" / "prepare.py").read_text(encoding="utf-8")
PROGRAMS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "programs").iterdir()) if path.is_file()}
WORLD = "import torch\nimport torch.nn as nn\nimport prepare\n\n\n"
MODULE = "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
ENDS = "\n\ndef build_model():\n    return None\n\n\ndef main():\n    return None\n"


def changed(*pairs: tuple[str, str], text: str = SEED) -> str:
    for old, new in pairs:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def messages(text: str, prepare: str = PREPARE) -> list[str]:
    return [str(problem) for problem in genomes.check(text, prepare=prepare)]


def found(body: str) -> list[str]:
    """Problems of a small program, without those of the whole."""
    return messages(WORLD + body + ENDS)


# ---- what is honest passes


def test_the_seed_and_other_programs_pass():
    assert messages(SEED) == []
    for name, text in PROGRAMS.items():
        assert genomes.check(text, genomes.contract_of(text)) == (), name


@pytest.mark.parametrize("seed", range(30))
def test_children_of_the_catalogue_have_no_certain_mistake(seed):
    child = genomes.mutate(SEED, random.Random(seed)).text
    assert genomes.check(child) == ()


def stopped(constants: str, test: str) -> bool:
    """Whether a program is refused since these values stop it."""
    body = f"{constants}\n\n\ndef build_model():\n    return None\n\n\ndef main():\n    if {test}:\n        raise ValueError('no')\n"
    said = messages(WORLD + body)
    assert all("values stop the program" in problem for problem in said), said
    return bool(said)


@pytest.mark.parametrize("width", ["CUSTOM or 512", "512 if CUSTOM is None else CUSTOM", "0 or 512", "7 and 512", "len([1, 2]) and 512"])
def test_the_value_of_a_choice_is_what_python_takes(width):
    assert not stopped(f"CUSTOM = None\nWIDTH = {width}", "WIDTH % 128")


def test_a_test_is_settled_by_one_part_of_it():
    assert stopped("WIDTH = 100", "WIDTH % 128 or torch.cuda.is_available()")
    assert not stopped("WIDTH = 100", "WIDTH % 128 and torch.cuda.is_available()")
    assert stopped("WIDTH = 100", "not (WIDTH % 128 == 0 and torch.cuda.is_available())")


def test_names_of_the_standard_library_are_defined():
    """Every third of its modules; in all of them, what is reported are names that nobody defines, in tests of idlelib and distutils."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests", "idle_test"} & set(path.parts)]
    reported = {}
    for path in paths[::3]:
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            problems = name_problems(symbols(text), outline(parse_tree(text)))
        except genomes.ParseError:
            continue
        if problems:
            reported[path.name] = problems
    assert len(paths) > 300
    assert reported == {}


@pytest.mark.parametrize(
    "body",
    [
        "def f():\n    return [y for x in range(3) if (y := x)], y",
        "def f(x):\n    match x:\n        case [a, *b]: return a, b\n        case {'k': c, **d}: return c, d\n        case e: return e",
        "try:\n    import flash_attn\nexcept ImportError:\n    flash_attn = None",
        "def f():\n    global COUNT\n    COUNT = 1\n\n\ndef g():\n    return COUNT",
        "def f():\n    def g():\n        nonlocal x\n        x = 1\n    g()\n    return x\n    x = 0",
        "class A:\n    y = 1\n    z = y\n\n    def f(self):\n        return __class__, self.z",
        "def f():\n    x: Missing = 1\n    return x",
        "def f():\n    try:\n        return unicode\n    except NameError:\n        return str",
        "def f(n):\n    for _ in range(n):\n        if n > 1:\n            print(last)\n        last = n",
        "def top(which):\n    return which",
        "def f():\n    with open('a') as a, a.raw as b:\n        return b",
        "def f(**kw):\n    return torch.ones(kw['x'])\n\n\ndef g():\n    return f(anything=1)",
        "class M(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.register_buffer('cos', torch.ones(2))\n\n"
        "    def forward(self, x):\n        return self.cos * x if self.training else x",
        MODULE
        + "        for i in range(3):\n            setattr(self, f'w{i}', i)\n\n    def forward(self, x):\n        return self.w0 * x",
        "class M(nn.Module):\n    def forward(self, x):\n        return self.late * x\n\n\ndef attach(m):\n    m.late = 2",
        "class Mixin:\n    def f(self):\n        return self.width\n\n\nclass M(Mixin, nn.Module):\n    width = 3",
        "class M(torch.autograd.Function):\n    def f(self):\n        return self.anything",
        "class B(nn.Module):\n    def forward(self, x):\n        return x\n\n\n"
        "class C(B):\n    def forward(self, x, y):\n        return x\n\n\n"
        + MODULE
        + "        self.b = C() if torch.ones(1) else B()\n\n    def forward(self, x):\n        return self.b(x, x)",
        "def f(tree):\n    return [f(branch) for branch in tree]",
        "class M(nn.Module):\n    def forward(self, x):\n        raise NotImplementedError\n\n"
        "    def g(self, x):\n        return self(x) + 1",
        "ROWS = []\n\n\ndef add(row):\n    ROWS.append(row)\n    return ROWS[-1]",
        "class A:\n    def __init__(self):\n        self.x = 1\n\n\ndef f():\n    return A().x",
        "MODE = 'a'\n\n\ndef only_b():\n    assert MODE == 'b'",
        "WIDTH, HEADS = 64, 3\n\n\ndef split(x):\n    return x // max(1, WIDTH // HEADS)",
        "STEPS = 0\n\n\ndef share(step):\n    return step / STEPS\n\n\nNEVER = 1 / STEPS if STEPS else 0.0",
        "STEPS = 0\n\n\ndef shares():\n    if STEPS == 0:\n        return []\n    return [1 / STEPS]\n\n\nX = shares()",
        "STEPS = 0\n\n\ndef none():\n    assert STEPS == 0, f'{1 / STEPS} a step'\n\n\nX = none()",
        "ZERO = 0.0\nX, Y = torch.ones(2) / ZERO, '%d' % ZERO",
        "def f(x):\n    return x\n\n\nif torch.cuda.is_available():\n    def f(x, y):\n        return x\n\n\ndef g():\n    return f(1, 2)",
    ],
)
def test_what_may_work_is_left_alone(body):
    assert found(body) == []


# ---- what is certain is found


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("import torch.nn.functional as F\n", "")], ["name 'F' is not defined"]),
        ([("return left + (1 - left)", "return math.cos(left) + (1 - left)")], ["line 355", "name 'math' is not defined"]),
        ([("        T = tokens.size(1)\n", "")], ["line 181", "name 'T' is not defined"]),
        ([("optimisers = build_optimisers(model)", "optimisers = build_optimizers(model)")], ["nearest: build_optimisers"]),
        ([("DEPTH = 8", "DEPTH = WIDTH // 64"), ("HEAD_DIM = 128", "WIDTH = 512\nHEAD_DIM = 128")], ["'WIDTH' is read before"]),
        ([("        y = attend(", "        return y\n        y = attend(")], ["'y' is read before"]),
        ([("    return x.mT if tall else x\n", "    return x.mT if tall else x\nbreak\n")], ["'break' outside loop"]),
        ([("self.heads = width", "self.n_heads = width")], ["Attention has no attribute 'heads'", "nearest: n_heads"]),
        ([("norm(x), extra, rotary, attend)", "norm(x), extra, rotary)")], ["Attention.forward()", "without its argument 'attend'"]),
        ([("block(x, extra, rotary, self.attend[T][i])", "block(x, extra, rotary)")], ["Block.forward()", "'attend'"]),
        ([("MLP(width)", "MLP(width, layer)")], ["MLP() is called with 2 positional arguments, it takes 1: width"]),
        ([("rate_factor(progress)\n", "rate_factor(progress, floor=0.1)\n")], ["rate_factor() has no argument 'floor'"]),
        ([("prepare.batches(", "prepare.batchs(")], ["prepare has no 'batchs'", "nearest: batches"]),
        ([("prepare.batches(DEVICE_BATCH_SIZE, VOCAB_SIZE)", "prepare.batches(DEVICE_BATCH_SIZE)")], ["without its argument 'vocab_size'"]),
        ([("DEVICE_BATCH_SIZE = 128", "DEVICE_BATCH_SIZE = 96")], ["TOTAL_BATCH_SIZE = 524288", "tokens = 196608"]),
        ([('ATTENTION = "flex"', 'ATTENTION = "flash"')], ["ATTENTION = 'flash' is none of 'flex', 'sdpa'"]),
        ([("VOCAB_SIZE = 8192", "VOCAB_SIZE = 50304")], ["VOCAB_SIZE = 50304 is none of prepare.VOCAB_SIZES: 256, 512, 1024"]),
        ([("import gc\n", "import gc\nimport wandb\n")], ["imports wandb: no packages beyond"]),
        ([("import gc\n", "import gc\nimport subprocess\n")], ["imports subprocess: no further processes"]),
        ([("    prepare.save(model)", "    torch.save(model, 'm.pt')")], ["calls torch.save()", "prepare.save(model)"]),
        ([("    torch.manual_seed(", "    prepare.TIME_BUDGET = 600\n    torch.manual_seed(")], ["assigns to prepare.TIME_BUDGET"]),
        ([("def build_model() -> GPT:", "def build_model(config) -> GPT:")], ["build_model() is called without arguments", "'config'"]),
        ([("    prepare.save(model)\n", "")], ["trains and hands over nothing: end main() with prepare.save(model)"]),
        ([("prepare.save(model)", "prepare.save(model.state_dict())")], ["takes the model itself"]),
        ([("        return x + self.mlp(norm(x))", "        x = x + self.mlp(norm(x))")], ["Block.forward() returns nothing"]),
        ([("    return F.rms_norm(x, (x.size(-1),))", "    return norm(x)")], ["norm() calls itself whatever happens"]),
        ([("        super().__init__()\n        self.up", "        self.up")], ["MLP.__init__() does not call super().__init__()"]),
        ([("nn.ModuleDict({str(i):", "nn.ModuleDict({i:")], ["keys of nn.ModuleDict are names"]),
        ([("    def initialise(self)", "    def init_weights(self)")], ["GPT has no attribute 'initialise'"]),
        ([("F.rms_norm(x, (x.size(-1),))", "F.rms_norm(x)")], ["rms_norm() is called without its argument 'normalized_shape'"]),
        ([("eps=ADAM_EPS", "epsilon=ADAM_EPS")], ["AdamW() has no argument 'epsilon'"]),
        ([("ADAM_BETAS = (0.8, 0.95)", "ADAM_BETAS = (0.8, 1.0)")], ["betas = (0.8, 1.0) of AdamW"]),
        (
            [("(8.156554524902461, -22.48329292557795, 15.878769915207462)", "(8.156554524902461, -22.48329292557795)")],
            ["2 elements for 3 names"],
        ),
        ([("import gc\n", "import gc\n\nTEXT = open('notes.txt').read()\n")], ["opens a file while it is imported"]),
    ],
)
def test_typical_mistakes_of_a_writer_are_found_where_they_are(pairs, words):
    said = "; ".join(messages(changed(*pairs)))
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("LETTERS = 'SXL'\nassert all(c in 'SL' for c in LETTERS)", "LETTERS = 'SXL'"),
        ("WIDTH, HEADS = 64, 3\nif WIDTH % HEADS != 0:\n    raise ValueError('heads')", "WIDTH = 64, HEADS = 3"),
        ("ROWS = ((1, 2), (3, 4))\nSTEPS = 5\nX = ROWS[STEPS]", "STEPS = 5 is not an index of ROWS, which has 2 elements"),
        ("X = 0.5 / 0", "`0.5 / 0` divides by zero"),
        ("STEPS = 0\n\n\ndef share():\n    return 2 * (1 // STEPS)\n\n\nX = share()", "`1 // STEPS` divides by zero"),
        ("WIDTH = 66\nLAYER = nn.MultiheadAttention(WIDTH, 4)", "4 heads do not divide the width 66"),
        (
            "from dataclasses import dataclass\n\n\n@dataclass\nclass C:\n    n_layer: int = 4\n\n\nX = C(n_layre=3)",
            "C() has no argument 'n_layre'",
        ),
        ("from prepare import batchs", "prepare has no 'batchs'"),
        ("def f(a, *, b):\n    return a\n\n\ndef g():\n    return f(1)", "f() is called without its argument 'b'"),
        ("def f(a):\n    return a\n\n\ndef g():\n    return f(1, a=2)", "gets its argument 'a' twice"),
        ("def f(path):\n    with open(path, 'w') as file:\n        file.write('x')", "opens a file for writing"),
        ("def f(a):\n    exec(a)", "calls exec()"),
        (
            "class M(nn.Module):\n    def f(self):\n        return 1\n\n    def g(self):\n        return self.f(2)",
            "M.f() is called with 1 positional",
        ),
    ],
)
def test_small_mistakes_are_found(body, words):
    assert words in "; ".join(found(body))


def test_what_is_said_of_torch_is_so():
    """Where the installed torch tells a signature."""
    for path, listed in LIBRARY.items():
        module, _, name = path.rpartition(".")
        try:
            told = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        except ValueError:  # written in C++
            continue
        positional = [p.name for p in told.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        required = [p.name for p in told.values() if p.default is inspect.Parameter.empty and p.name in positional]
        assert list(listed.positional) == positional, path
        assert listed.required == len(required), path
        assert listed.keywords == {p.name for p in told.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}, path


def test_forbidden_calls_are_the_lab_s_rule_alone():
    script = "import torch\nimport tiktoken\nfrom prepare import batches\n\ntorch.manual_seed(1)\ntorch.save(batches, 'x')\n"
    assert genomes.check(script, genomes.Contract.SCRIPT) == ()


def test_without_prepare_nothing_is_said_about_it():
    text = changed(("prepare.batches(", "prepare.batchs("), ("DEVICE_BATCH_SIZE = 128", "DEVICE_BATCH_SIZE = 96"))
    assert messages(text, prepare="") == []


def test_a_problem_is_the_same_wherever_it_stands():
    """A child's problems are compared with its parent's, by message."""
    broken = changed(("rate_factor(progress)\n", "rate_factor(progress, 1)\n"))
    moved = changed(("DEPTH = 8", "# a comment\n\nDEPTH = 8"), text=broken)
    (before,), (after,) = genomes.check(broken), genomes.check(moved)
    assert before.message == after.message
    assert after.line == before.line + 2


def test_checks_leave_the_shared_tree_as_it_was():
    before = ast.dump(parse_tree(SEED))
    for cache in (contract._check, contract._facts):
        cache.cache_clear()
    genomes.check(SEED, prepare=PREPARE)
    assert ast.dump(parse(SEED).tree) == before


DEEP = {
    "sum": lambda levels: " + ".join(["DEPTH"] * (levels - 2)),
    "calls": lambda levels: "DEPTH" + ".real" * (levels - 3),
    "signs": lambda levels: "-" * (levels - 3) + "DEPTH",
}


@pytest.mark.parametrize("kind", DEEP)
def test_a_program_as_deep_as_is_allowed_can_be_read_mutated_and_merged(kind):
    """From a stack that is as high as a driver's, with a test runner below it."""
    text = f"{SEED}\nDEEP = {DEEP[kind](MOST_LEVELS)}\n"
    other = f"{SEED}\nWIDE = 3\n"
    for read in (genomes.identity, genomes.knobs, genomes.loss_code, genomes.definitions):
        read(text)
    genomes.distance(SEED, text)
    genomes.describe(genomes.diff(SEED, text))
    assert genomes.check(text) == ()
    assert genomes.merge(SEED, text, other, genomes.prefer("a")).text
    for seed in range(5):
        genomes.mutate(text, random.Random(seed))


@pytest.mark.parametrize("kind", DEEP)
def test_a_deeper_program_is_refused_in_words(kind):
    text = f"{SEED}\nDEEP = {DEEP[kind](MOST_LEVELS + 1)}\n"
    (problem,) = genomes.check(text)
    assert "levels deep" in problem.message
    for ask in (genomes.identity, genomes.knobs, genomes.species):
        with pytest.raises(genomes.ParseError, match="levels deep"):
            ask(text)
