"""Knobs: every literal has a name, and setting one changes its characters alone."""

import ast
import random

import pytest
from corpus import SCRIPTS as PROGRAMS

import genomes


def named(text):
    return {knob.name: knob for knob in genomes.knobs(text)}


@pytest.mark.parametrize("name", PROGRAMS)
def test_names_are_unique_and_every_number_has_one(name):
    text = PROGRAMS[name]
    tree = ast.parse(text)
    keys = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}
    printed = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for inner in ast.walk(node)}
    numbers = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and id(node) not in keys | printed
    ]
    powers = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow)]
    folded = sum(isinstance(n.left, ast.Constant) and n.left.value == 2 and isinstance(n.right, ast.Constant) for n in powers)
    found = genomes.knobs(text)
    assert len({knob.name for knob in found}) == len(found)
    assert sum(not isinstance(knob.value, str) for knob in found) == len(numbers) - folded


def test_setting_changes_exactly_those_characters():
    text = "A = 1  # größer\nB = (2,\n  -3.5)  ; C = 'SL'\nTOTAL = 2**19\n"
    changed = genomes.set_knobs(text, {"A": 12, "B[1]": 4, "C": "L", "TOTAL": 2**20})
    assert changed == "A = 12  # größer\nB = (2,\n  4.0)  ; C = 'L'\nTOTAL = 2**20\n"
    assert genomes.set_knobs(text, {"TOTAL": 500000}).endswith("TOTAL = 500000\n")


def test_values_never_run_into_their_neighbours():
    text = "def f(x):\n    return-1if x else 1or 2\n\n\nA = x ** 2\nB = 3 ** x\n"
    changed = genomes.set_knobs(text, {"f.return": 5, "f.return[1]": 0, "B": -3, "A": -2})
    assert changed == "def f(x):\n    return 5 if x else 0 or 2\n\n\nA = x ** -2\nB = (-3) ** x\n"


@pytest.mark.parametrize(
    ("text", "name", "value", "expected"),
    [
        ("A = -2**2\n", "A", 5, "A = 5\n"),  # one number: -(2**2)
        ("A = x ** 10**-3\n", "A", 0.5, "A = x ** 0.5\n"),
        ("A = 3**2\n", "A", 16, "A = 2**4\n"),
        ("A = 0x10.bit_length()\n", "bit_length", 7, "A = (7).bit_length()\n"),
        ("A = (1).bit_length()\n", "bit_length", -7, "A = (-7).bit_length()\n"),
        ("A = 1e999\n", "A", 2.0, "A = 2.0\n"),
    ],
)
def test_whatever_is_written_reads_as_one_number(text, name, value, expected):
    assert genomes.set_knobs(text, {name: value}) == expected
    assert named(expected)[name].value == value


def test_what_stands_alone_or_is_a_key_or_too_large_is_no_knob():
    assert genomes.knobs("-3\n'text'\nA = 0 ** -1\nB = 2 ** 5000\n") == ()
    (knob,) = genomes.knobs("match x:\n    case {3: 4}:\n        pass\n")
    assert knob.value == 4


def test_a_word_becomes_another_word_only():
    with pytest.raises(genomes.KnobError, match="WINDOW_PATTERN"):
        genomes.set_knobs(PROGRAMS["seed"], {"WINDOW_PATTERN": "S S"})


def test_names_say_where_a_literal_stands():
    grouped, seed = named(PROGRAMS["grouped.py"]), named(PROGRAMS["seed"])
    assert grouped["GPT.setup_optimizer.adamw[2].weight_decay"].value == 0.05
    assert grouped["GPT.setup_optimizer.matrix.betas[1]"].value == 0.95
    assert grouped["GPT.forward.softcap"].value == 15
    assert grouped["GPTConfig.dropout"].value == 0.0
    assert grouped["GPT.setup_optimizer.embedding_lr"].value == 0.2
    assert grouped["GPT.__init__.inv_freq[1]"].value == 10000
    assert grouped["GPT.init_weights.fill_[1]"].value == 0.1
    assert seed["MATRIX_LR"].value == 0.04
    assert seed["ADAM_BETAS[1]"].value == 0.95
    assert seed["TOTAL_BATCH_SIZE"].value == 2**19
    assert seed["POLAR_EXPRESS[0][1]"].value < 0


def test_names_do_not_depend_on_layout():
    text = PROGRAMS["grouped.py"]
    assert [k.name for k in genomes.knobs(ast.unparse(ast.parse(text)))] == [k.name for k in genomes.knobs(text)]


def test_kind_range_and_scale_follow_from_name_and_value():
    found = named(PROGRAMS["seed"])
    assert (found["MATRIX_LR"].kind, found["MATRIX_LR"].log) == ("float", True)
    assert (found["ADAM_EPS"].log, found["ADAM_EPS"].low > 0) == (True, True)
    assert (found["WARMDOWN_RATIO"].low, found["WARMDOWN_RATIO"].high, found["WARMDOWN_RATIO"].log) == (0.0, 1.0, False)
    assert found["MUON_MOMENTUM"].high < 1.0
    assert found["TOTAL_BATCH_SIZE"].kind == "power_of_two"
    assert found["DEPTH"].kind == "int"
    assert found["VOCAB_SIZE"].choices == (256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
    assert found["COMPILE"].kind == "bool"
    assert "SSSL" in found["WINDOW_PATTERN"].choices
    assert all(not knob.log or knob.low > 0 for knob in found.values())
    assert all(
        knob.low <= knob.value <= knob.high for knob in found.values() if isinstance(knob.value, int | float) and knob.kind != "choice"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A = 0.1  # learning rate, range 1e-3..1 log", ("float", 1e-3, 1.0, True, True)),
        ("A = 0.1  # range 0..1 linear", ("float", 0.0, 1.0, False, True)),
        ("A = 0  # share, range 0.0..0.5", ("float", 0.0, 0.5, False, True)),
        ("A = 5  # range 1..9", ("int", 1.0, 9.0, False, True)),
        ("A = 4  # power of two", ("power_of_two", 1.0, 32.0, True, True)),
        ("A = 64  # power of two, range 0..512", ("power_of_two", 1.0, 512.0, True, True)),
        ("A = 64  # power of two, range -8..0", ("power_of_two", 1.0, 64.0, True, True)),
        ("A = 5  # range -1e308..1e308", ("int", 1.0, 20.0, False, True)),
        ("A = 0.1  # not tuned", ("float", 0.0125, 0.8, True, False)),
        ("A = 3  # one of 1, 2, 3; cheap ones first", ("choice", 0.0, 2.0, False, True)),
        ("A = 'SL'  # one of SL, 'L' or S", ("choice", 0.0, 2.0, False, True)),
        ("SEED = 3", ("int", 1.0, 12.0, False, False)),
        ("A = 'bfloat16'  # one of bfloat16, float32", ("choice", 0.0, 1.0, False, False)),
    ],
)
def test_the_comment_beside_a_knob_overrides_what_is_inferred(line, expected):
    (knob,) = genomes.knobs(line + "\n")
    assert (knob.kind, knob.low, knob.high, knob.log, knob.tunable) == expected


def test_a_remark_goes_to_the_literals_of_its_line_that_it_fits():
    found = named("a, B = 5.0, 0.5  # range 0..1\n")
    assert (found["a"].high, found["B"].high) == (40.0, 1.0)


def test_indices_axes_shifts_seeds_guards_and_flags_of_the_machine_are_never_tuned():
    fixed = {
        "def f(x):\n    return x[3]": "f.x",
        "def f(x):\n    return x.sum(3)": "f.sum",
        "def f(x):\n    return x.mean(dim=2)": "f.mean.dim",
        "def f(x):\n    return x << 3": "f.return",
        "def f(x):\n    return range(2, x)": "f.return",
        "def f(x):\n    return x > 0": "f.x",
        "def f(x):\n    torch.manual_seed(42)": "f.manual_seed",
        "def f(x):\n    g(seed=42)": "f.g.seed",
        "if __name__ == '__main__':\n    main(7)": "main",
        "COMPILE = True": "COMPILE",
        "C = ((3.4, -4.7), (2.0, 1.5))": "C[0][0]",
        "def f(q):\n    return attend(q, is_causal=True)": "f.attend.is_causal",
        "def f(x):\n    print(100 * x)": "f.print",
        "def f(x):\n    assert x == 2.5": "f.x",
        "@torch.compile(dynamic=False)\ndef f(x):\n    return x": "f.compile.dynamic",
        "STARTUP_EXCLUDE_STEPS = 2": "STARTUP_EXCLUDE_STEPS",  # untimed steps
        "FINAL_EVAL_BATCH_SIZE = 256": "FINAL_EVAL_BATCH_SIZE",
        "GPU_TEMP_ABORT = 90": "GPU_TEMP_ABORT",
        "VAL_INTERVAL = 50": "VAL_INTERVAL",
        "COOLDOWN_SLEEP = 5": "COOLDOWN_SLEEP",
    }
    for text, name in fixed.items():
        found = named(text + "\n")
        assert not any(knob.tunable for knob in found.values()), text
        assert name in found or name.removeprefix("f.") in found, (text, list(found))


FLAGSHIP = {  # in upstream's form: literals of the kind that its 22 improvements turned, and a value some way off
    "GPT.init_weights.fill_[1]": 0.05,  # x0_lambdas.fill_(0.1)
    "GPT.init_weights.normal_.std": 0.8,
    "GPT.init_weights.normal_[1].std": 0.0005,
    "GPT.init_weights.uniform_[3][1]": 0.5,  # 0.68 * s
    "GPT.init_weights.s": 2,  # 3**0.5
    "GPT.init_weights.s[1]": 0.4,
    "GPT.init_weights.s[2]": -0.6,  # n_embd**-0.5
    "GPT._precompute_rotary_embeddings.base": 200_000,
    "GPT._compute_window_sizes.short_window": 4,  # long_window // 2
    "GPT.setup_optimizer.adamw.weight_decay": 0.01,
    "GPT.setup_optimizer.adamw[2].weight_decay": 0.003,
    "GPT.setup_optimizer.adamw[3].lr": 0.02,  # scalar_lr * 0.01
    "GPT.setup_optimizer.adamw[4].betas[0]": 0.9,
    "GPT.setup_optimizer.adamw[4].betas[1]": 0.99,
    "GPT.setup_optimizer.muon.beta2": 0.9,
    "GPT.setup_optimizer.muon.ns_steps": 4,
    "GPT.setup_optimizer.dmodel_lr_scale[1]": -0.4,
    "GPT.forward.softcap": 20,
    "CausalSelfAttention.forward.gate": 2.5,  # 2 * sigmoid
    "MLP.__init__.Linear": 3,
    "get_muon_momentum.frac": 200,  # step / 300
    "get_muon_momentum.return[1]": 0.8,
    "get_muon_momentum.return[2]": 0.97,
    "ADAM_BETAS[0]": 0.7,
    "WINDOW_PATTERN": "SSSSSL",
}


@pytest.mark.parametrize("name", FLAGSHIP)
def test_inline_literals_of_the_kind_that_won_upstream_can_be_tuned_that_far(name):
    text, value = PROGRAMS["upstream.py"], FLAGSHIP[name]
    knob = named(text)[name]
    assert knob.tunable
    assert value in knob.choices if knob.kind == "choice" else knob.low <= value <= knob.high
    assert named(genomes.set_knobs(text, {name: value}))[name].value == value


@pytest.mark.parametrize(
    ("line", "tunable"),
    [
        ("up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)", 2),
        ("qkv = nn.Linear(width, 3 * width)", 0),  # a chunk relies on it
        ("gates, down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)", 0),
        ("up, down, qkv = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Linear(width, 3 * width)", 2),
        ("t['qkv'] = normal(width, 3 * width)", 0),
        ("x = math.sqrt(2 * layers)", 1),
        ("c = (3.44, -4.77, 2.03)", 0),  # a polynomial
        ("smooth = 0.9 * smooth + 0.1 * loss.item()", 0),
        ("x.clamp(max=0)", 0),
        ("normal_(w, 0.0, 0.02)", 1),
        ("total: float = 0.0", 0),
        ("y = x.pow(2)", 0),
    ],
)
def test_what_must_agree_with_another_place_or_is_only_read_is_not_tuned(line, tunable):
    found = genomes.knobs(f"def f(self, x, width, hidden, layers, t, w):\n    {line}\n")
    assert sum(knob.tunable for knob in found) == tunable


def test_a_margin_stays_on_its_side_of_one():
    (margin, decay) = genomes.knobs("def f(x):\n    return 1.02 * x.norm() + 0.98 * x\n")
    assert 1.0 < margin.low < 1.02 < margin.high < 1.2
    assert 0.0 < decay.low < 0.98 < decay.high < 1.0
    program = "def build_model():\n    return 1.02 * x.norm()\n\n\ndef main():\n    pass\n"
    moved = [genomes.mutate(program, random.Random(seed), ["scale-float"]).text for seed in range(50)]
    values = [genomes.knobs(text)[0].value for text in moved]
    assert all(1.0 < value < 1.2 for value in values)
    assert len(set(values)) > 10


def test_a_whole_gain_before_a_function_need_not_stay_whole():
    text = "def f(x):\n    return 2 * torch.sigmoid(x)\n"
    assert genomes.set_knobs(text, {"f.return": 2.5}) == text.replace("2", "2.5")


def test_an_unknown_knob_names_the_nearest_ones():
    with pytest.raises(genomes.KnobError, match=r"no knob 'MATRIX_RL' among \d+; nearest: MATRIX_LR"):
        genomes.set_knobs(PROGRAMS["seed"], {"MATRIX_RL": 0.1})


@pytest.mark.parametrize(
    ("name", "value"), [("DEPTH", 1.5), ("DEPTH", "8"), ("DEPTH", True), ("COMPILE", 1), ("MATRIX_LR", float("nan")), ("WINDOW_PATTERN", 3)]
)
def test_a_value_of_the_wrong_type_is_refused_with_both_values(name, value):
    with pytest.raises(genomes.KnobError, match=name):
        genomes.set_knobs(PROGRAMS["seed"], {name: value})


@pytest.mark.parametrize("name", ["ASPECT_RATIO", "DEPTH", "n_layer", "expansion_factor"])
def test_a_proportion_or_count_that_happens_to_be_a_power_of_two_moves_by_less(name: str) -> None:
    (knob,) = genomes.knobs(f"{name} = 64\n")
    assert (knob.kind, knob.log) == ("int", True)
    (size,) = genomes.knobs("BATCH_SIZE = 64\n")
    assert size.kind == "power_of_two"
