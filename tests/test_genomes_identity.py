"""Identity, species, size and the contract: what counts as the same program, and as a program at all; and the walk below all of them."""

import ast
import random

import pytest
from corpus import PROGRAMS as EVERY
from corpus import SCRIPTS as PROGRAMS
from corpus import SEED
from hypothesis import given, settings
from hypothesis import strategies as st

import genomes
from genomes.nodes import children, walk
from genomes.source import parse
from genomes.units import blocks

SMALL = "def build_model():\n    return 0.001 * 16\n\n\ndef main():\n    x = 'a'\n"


@pytest.mark.parametrize(
    "other",
    [
        SMALL.replace("0.001", "1e-3"),
        SMALL.replace("16", "0x10"),
        SMALL.replace("16", "2**4"),
        SMALL.replace("16", "1_6"),
        SMALL.replace("'a'", '"a"'),
        SMALL.replace("0.001 * 16", "(0.001  *\\\n 16)"),
        SMALL.replace("return", '"""Docstring."""\n    return'),
        "# comment\n\n" + SMALL.replace("\n", "  # more\n").replace("  # more\n  # more\n  # more\n", "\n\n\n"),
        SMALL.replace("\n", "\r\n"),
    ],
)
def test_identity_ignores_spelling(other):
    assert genomes.identity(other) == genomes.identity(SMALL)


@pytest.mark.parametrize(
    "other",
    [
        SMALL.replace("16", "17"),
        SMALL.replace("16", "16.0"),
        SMALL.replace("x =", "y ="),
        SMALL.replace("*", "+"),
        SMALL.replace("'a'", "'b'"),
    ],
)
def test_identity_sees_values_names_and_operators(other):
    assert genomes.identity(other) != genomes.identity(SMALL)


def test_identity_is_16_hex_digits_and_does_not_depend_on_the_version_of_python():
    assert genomes.identity(SMALL) == "114e15ffee764f33"
    assert genomes.species(SMALL) != genomes.identity(SMALL)


@settings(deadline=None, max_examples=20)
@given(name=st.sampled_from(list(PROGRAMS)), seed=st.integers(0, 10**6), factor=st.floats(0.5, 2.0))
def test_species_is_the_same_for_any_values_of_tunable_knobs(name, seed, factor):
    text = PROGRAMS[name]
    rng = random.Random(seed)
    tunable = [knob for knob in genomes.knobs(text) if knob.tunable and isinstance(knob.value, float)]
    values = {knob.name: knob.value * factor for knob in rng.sample(tunable, min(5, len(tunable)))}
    assert genomes.species(genomes.set_knobs(text, values)) == genomes.species(text)


def test_species_sees_values_that_are_never_tuned_and_structure():
    assert genomes.species(SEED.replace("x.roll(x.size(-1) // 2, dims=-1)", "x.roll(x.size(-1) // 2, dims=-2)")) != genomes.species(SEED)
    assert genomes.species(SEED.replace("F.relu(", "F.gelu(")) != genomes.species(SEED)


def test_size_grows_with_the_program_and_not_with_comments():
    assert genomes.size(SMALL + "\n\nz = 1 + 2\n") > genomes.size(SMALL)
    assert genomes.size("# comment\n" + SMALL.replace("return", '"docstring"\n    return')) == genomes.size(SMALL)


@pytest.mark.parametrize("text", ["def (", "x = = 1", "a\x00b", "if x:\n", "((((", "é = '"])
def test_text_that_is_no_program_raises_a_parse_error_that_says_where(text):
    with pytest.raises(genomes.ParseError):
        genomes.identity(text)
    assert genomes.check(text)


def test_an_invalid_escape_in_the_program_is_no_warning_of_ours():
    assert genomes.knobs('x = "\\d"\n') == ()


@pytest.mark.parametrize("name", ["grouped.py", "recurrent.py"])
def test_genomes_keep_the_contract(name):
    assert genomes.check(PROGRAMS[name]) == ()
    assert genomes.check(SEED) == ()


def test_a_missing_function_is_named():
    (problem,) = genomes.check("def main():\n    pass\n")
    assert "build_model" in problem.message


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("print('hello')", False),
        ("for i in range(3): pass", False),
        ("torch.manual_seed(1)", False),
        ("with open('x') as f: data = f.read()", False),
        ("if torch.cuda.is_available():\n    train()", False),
        ("'a string'", True),
        ("x: int = 3", True),
        ("try:\n    import flash\nexcept ImportError:\n    flash = None", True),
        ("if __name__ == '__main__':\n    main()", True),
        ("torch.set_float32_matmul_precision('high')", True),
    ],
)
def test_importing_a_genome_only_imports_defines_and_assigns(statement, allowed):
    problems = genomes.check(f"import torch\n{SMALL}\n{statement.replace('train()', 'main()')}\n")
    assert (problems == ()) is allowed
    assert all(problem.line == 9 for problem in problems)


@pytest.mark.parametrize(
    "text", ["x = 1 \\\n\ny = 2\n", "x = 1  # \\\ny = 2; z = '''\n'''; w = 3\n", "@\\\nf\ndef g(): pass\n", "\\\nx = 1", "# only\n"]
)
def test_blocks_parse_alone_into_the_statements_of_the_program(text):
    alone = [ast.dump(node) for block in blocks(parse(text)) for node in ast.parse(block).body]
    assert alone == [ast.dump(node) for node in ast.parse(text).body]


@pytest.mark.parametrize("name", EVERY)
def test_a_walk_meets_what_pythons_own_meets_but_contexts(name):
    tree = ast.parse(EVERY[name])
    met = [node for node in ast.walk(tree) if not isinstance(node, ast.expr_context)]
    assert list(walk(tree)) == met
    for node in met:
        assert children(node) == [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr_context)]
