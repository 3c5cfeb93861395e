"""Three-way merge: what both sides changed is united; what clashes is settled by seed and listed."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genomes

PROGRAMS = {path.name: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "programs").glob("*.*"))}
SEED = PROGRAMS["seed"] = (Path(__file__).parent.parent / "trainer" / "train.py").read_text(encoding="utf-8")


def rewritten(text, *changes):
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


def merged(base, a, b, seed=0):
    return genomes.merge(base, a, b, genomes.seeded(random.Random(seed)))


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(PROGRAMS)), seed=st.integers(0, 10**6))
def test_two_mutants_united_have_no_mistake_that_neither_has(name, seed):
    base, rng = PROGRAMS[name], random.Random(seed)
    a, b = genomes.mutate(base, rng).text, genomes.mutate(base, rng).text
    both = merged(base, a, b, seed)
    assert both == merged(base, a, b, seed)
    assert not genomes.check(both.text) or genomes.check(base)


@settings(deadline=None, max_examples=40)
@given(name=st.sampled_from(sorted(PROGRAMS)), seed=st.integers(0, 10**6))
def test_knobs_set_on_different_sides_are_both_set(name, seed):
    base, rng = PROGRAMS[name], random.Random(seed)
    movable = [
        knob for knob in genomes.knobs(base) if isinstance(knob.value, float | bool) or (knob.tunable and isinstance(knob.value, int))
    ]
    one, two = ({knob.name: other(knob.value)} for knob in rng.sample(movable, 2))
    a, b = genomes.set_knobs(base, one), genomes.set_knobs(base, two)
    assert merged(base, a, b) == genomes.Merge(genomes.set_knobs(base, one | two), ())


def other(value):
    if isinstance(value, bool):
        return not value
    return 2 * value or 1 if isinstance(value, int) else 0.123


UNITED = {
    "neighbouring lines": ([("EMBEDDING_LR = 0.6", "EMBEDDING_LR = 0.7")], [("UNEMBEDDING_LR = 0.004", "UNEMBEDDING_LR = 0.005")]),
    "arguments of one call": ([("betas=ADAM_BETAS", "betas=X0_BETAS")], [("weight_decay=0.0, fused=True", "weight_decay=0.1, fused=True")]),
    "an argument changed and one appended": ([("betas=ADAM_BETAS", "betas=X0_BETAS")], [("fused=True)", "fused=True, amsgrad=True)")]),
    "an argument removed and one changed": ([(", fused=True)", ")")], [("weight_decay=0.0, ", "weight_decay=0.1, ")]),
    "operands of one sum": (
        [("self.residual_factors[i] * x +", "2 * self.residual_factors[i] * x +")],
        [("self.x0_factors[i] * x0", "x0")],
    ),
    "a wrapped call and its argument": (
        [("x + self.mlp(norm(x))", "x + norm(self.mlp(norm(x)))")],
        [("x + self.mlp(norm(x))", "x + self.mlp(norm(2 * x))")],
    ),
    "a statement changed and one inserted beside it": (
        [("        step += 1\n", "        step += 2\n")],
        [("        step += 1\n", "        step += 1\n        print(step)\n")],
    ),
    "a function's head and its body": (
        [("def rate_factor(progress: float)", "def rate_factor(progress: float = 0.0)")],
        [("return 1.0", "return 0.9")],
    ),
    "a parameter and the result's type": (
        [("(x: torch.Tensor, cos", "(x, cos")],
        [("sin: torch.Tensor) -> torch.Tensor", "sin: torch.Tensor) -> object")],
    ),
    "a comment and the code below": ([("# Model\n", "# The model\n")], [("DEPTH = 8", "DEPTH = 9")]),
    "elements of one tuple": ([("ADAM_BETAS = (0.8,", "ADAM_BETAS = (0.9,")], [("ADAM_BETAS = (0.8, 0.95)", "ADAM_BETAS = (0.8, 0.99)")]),
}


@pytest.mark.parametrize("case", UNITED)
def test_edits_unite_without_a_conflict(case):
    left, right = UNITED[case]
    a, b = rewritten(SEED, *left), rewritten(SEED, *right)
    result = merged(SEED, a, b)
    assert result.conflicts == ()
    assert result.text not in (SEED, a, b)
    assert merged(SEED, b, a).text == result.text
    for old, new in [*left, *right]:
        if old in a and old in b:
            assert new in result.text


@pytest.mark.parametrize("remark", ["# last", "# first"])
def test_comments_behind_either_brace_are_both_kept_also_where_they_say_the_same(remark):
    base = "H = {\n    'a': 1,\n    'b': 2,  # two\n}\n"
    first, last = base.replace("{\n", "{\n    # first\n"), base.replace("\n}", f"\n    {remark}\n}}")
    result = merged(base, first, last)
    assert result.conflicts == ()
    assert result.text == first.replace("\n}", f"\n    {remark}\n}}")


def test_two_arguments_of_one_call_come_out_as_written():
    base = "x = f(a, b=1, c=[1, 2])\n"
    assert merged(base, "x = f(z, b=1, c=[1, 2])\n", "x = f(a, b=1, c=[1, 2, 3])\n").text == "x = f(z, b=1, c=[1, 2, 3])\n"
    assert merged(base, "x = f(a, c=[1, 2])\n", "x = f(a, b=1, c=[1])\n").text == "x = f(a, c=[1])\n"


def test_calls_of_different_functions_do_not_swap_arguments():
    base, a, b = "y = f(x, n)\n", "y = g(x)\n", "y = h(x, n, 2)\n"
    assert {merged(base, a, b, seed).text for seed in range(10)} == {a, b}


def test_an_edit_follows_a_function_that_the_other_side_moved():
    function = SEED[SEED.index("def rate_factor") : SEED.index("def schedule(")]
    a = rewritten(SEED, (function, ""), ("def build_optimisers", function + "def build_optimisers"))
    b = rewritten(SEED, ("left + (1 - left)", "left + (1 - left * left)"))
    for result in (merged(SEED, a, b), merged(SEED, b, a)):
        assert result.conflicts == ()
        assert result.text == rewritten(a, ("left + (1 - left)", "left + (1 - left * left)"))


def test_a_clash_is_settled_by_seed_and_listed_with_both_sides():
    a, b = genomes.set_knobs(SEED, {"MATRIX_LR": 0.05}), genomes.set_knobs(SEED, {"MATRIX_LR": 0.06})
    results = [merged(SEED, a, b, seed) for seed in range(20)]
    assert {result.text for result in results} == {a, b}
    for result in results:
        (conflict,) = result.conflicts
        assert (conflict.base, conflict.a, conflict.b) == ("0.04", "0.05", "0.06")
        assert result.text == (a if conflict.taken == "a" else b)


def test_deleting_what_the_other_side_changed_is_a_conflict():
    a = rewritten(SEED, ("        step += 1\n", ""))
    b = rewritten(SEED, ("        step += 1\n", "        step += 2\n"))
    result = merged(SEED, a, b)
    assert [(c.where, c.a.strip(), c.b.strip()) for c in result.conflicts] == [("train", "", "step += 2")]
    assert result.text in (a, b)


def test_the_same_new_function_comes_in_once_and_two_different_ones_conflict():
    new = "def extra(x):\n    return x\n\n\n"
    a = rewritten(SEED, ("def rotate(", new + "def rotate("))
    b = rewritten(a, ("DEPTH = 8", "DEPTH = 9"))
    assert merged(SEED, a, b) == genomes.Merge(b, ())
    other = rewritten(b, ("    return x\n\n\ndef rotate", "    return 2 * x\n\n\ndef rotate"))
    result = merged(SEED, a, other)
    assert len(result.conflicts) == 1
    assert result.text.count("def extra") == 1


def test_a_merge_that_would_not_parse_falls_back_on_one_side():
    base, a, b = "x = 1\n", "def f():\n    x = 1\n", "x = 1\nreturned = 2\n"
    result = merged(base, a, b)
    assert genomes.size(result.text)


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(genomes.ParseError):
        merged(SEED, SEED, "def (")
