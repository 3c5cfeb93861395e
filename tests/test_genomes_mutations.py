"""Mutations: children parse, keep the contract, differ from their parent, and follow from the generator alone."""

import ast
import collections
import random
import re
import statistics
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import genomes
from genomes.errors import MutationError
from genomes.mutations.literal import importance, moved
from genomes.mutations.mutation import program

PROGRAMS = {path.name: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "programs").glob("*.*"))}
SEED = PROGRAMS["seed"] = (Path(__file__).parent.parent / "trainer" / "train.py").read_text(encoding="utf-8")
LITERAL = [mutation.name for mutation in genomes.MUTATIONS if mutation.kind == "literal"]
STRUCTURAL = [mutation.name for mutation in genomes.MUTATIONS if mutation.kind == "structural"]
# What the seed has already, or has not; tests/test_genomes_network.py says of the first three which child they work on.
NOT_ON_THE_SEED = {"plain-mlp", "re-inject-embedding", "add-soft-cap", "reshape-cosine", "rate-floor", "nesterov", "no-bias-correction"}
NOT_ON_THE_SEED |= {"delete-unused", "swap-statements", "flip-flag", "rows-with-passes"}  # tests/test_genomes_recipes.py has their programs


def children(text, count, names=None):
    return [genomes.mutate(text, random.Random(f"{seed}/children"), names) for seed in range(count)]


def test_the_catalogue_has_literal_and_structural_mutations_with_sources():
    assert len(LITERAL) >= 8
    assert len(STRUCTURAL) >= 8
    assert len({mutation.name for mutation in genomes.MUTATIONS}) == len(genomes.MUTATIONS)
    assert all(mutation.summary and mutation.source and mutation.weight > 0 for mutation in genomes.MUTATIONS)


@pytest.fixture(scope="module")
def brood():
    """200 children of the seed."""
    return children(SEED, 200)


def test_200_children_of_the_seed_keep_the_contract_and_differ_from_it(brood):
    identities = set()
    for child in brood:
        identities.add(genomes.identity(child.text))
        assert genomes.check(child.text) == ()
        assert child.note
        assert "\n" not in child.note
    assert genomes.identity(SEED) not in identities
    share = sum(child.mutation in LITERAL for child in brood) / len(brood)
    assert 0.6 < share < 0.8
    assert len(identities) > 140


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(PROGRAMS)), seed=st.integers(0, 10**6))
def test_a_child_follows_from_text_and_generator(name, seed):
    child = genomes.mutate(PROGRAMS[name], random.Random(seed))
    assert child == genomes.mutate(PROGRAMS[name], random.Random(seed))
    assert genomes.identity(child.text) != genomes.identity(PROGRAMS[name])
    assert {p.message for p in genomes.check(child.text)} <= {p.message for p in genomes.check(PROGRAMS[name])}


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_a_long_line_of_descent_stays_in_the_contract(seed):
    rng, text = random.Random(seed), SEED
    for _ in range(8):
        text = genomes.mutate(text, rng).text
    assert genomes.check(text) == ()


@pytest.mark.parametrize("name", [name for name in STRUCTURAL if name not in NOT_ON_THE_SEED])
def test_each_structural_mutation_works_on_the_seed(name):
    found = children(SEED, 6, [name])
    assert all(child.mutation == name for child in found)
    assert all(genomes.species(child.text) != genomes.species(SEED) for child in found)


def test_attention_is_sharpened_where_the_queries_own_norm_is_and_nowhere_else():
    """Also where some blocks do not turn them; a factor on what the projections read would be taken away by the norm behind them."""
    turned = children(SEED, 1, ["some-rotary"])[0].text
    views = "(layer(x).view(B, T, self.heads, HEAD_DIM) for layer in (self.query, self.key, self.value))"
    read = SEED.replace(f"q, k, v = {views}", "q, k, v = self.query(norm(x)), self.key(norm(x)), self.value(norm(x))")
    assert read != SEED
    for text in (SEED, turned, read):
        for child in children(text, 6, ["sharpen-attention"]):
            new = set(child.text.splitlines()) - set(text.splitlines())
            assert len(new) == 1
            assert re.search(r"q, k = \(?1\.\d+ \* \(?rotate\(norm\(q\), \*rotary\)", new.pop())
            with pytest.raises(MutationError):  # once is enough
                genomes.mutate(child.text, random.Random(0), names=["sharpen-attention"])


@pytest.mark.parametrize("name", [name for name in LITERAL if name not in NOT_ON_THE_SEED])
def test_each_literal_mutation_keeps_the_species(name):
    for child in children(SEED, 6, [name]):
        assert genomes.species(child.text) == genomes.species(SEED)
        assert len(child.text.splitlines()) == len(SEED.splitlines())


def test_a_flag_is_flipped_where_there_is_one():
    (child,) = children(PROGRAMS["recurrent.py"], 1, ["flip-flag"])
    assert child.note == "LAYER_NORM True → False"


def test_every_tunable_knob_can_be_drawn_and_constants_are_drawn_most():
    parent = program(SEED)
    weights = {spot.knob.name: weight for spot, weight in zip(parent.tunable, importance(parent, parent.tunable), strict=True)}
    assert min(weights.values()) > 0
    constants = sum(weight for name, weight in weights.items() if name.isupper() or name.split("[")[0].isupper())
    assert constants > 0.7 * sum(weights.values())
    assert weights["MATRIX_LR"] > 5 * weights["Attention.forward.gate"]


@settings(deadline=None, max_examples=100)
@given(name=st.sampled_from(sorted(PROGRAMS)), seed=st.integers(0, 10**6))
def test_a_moved_knob_stays_within_its_bounds_and_changes(name, seed):
    rng = random.Random(seed)
    knob = rng.choice([knob for knob in genomes.knobs(PROGRAMS[name]) if knob.tunable])
    value = moved(knob, rng)
    if value is not None:
        assert value != knob.value
        assert type(value) is type(knob.value) or (knob.kind == "float" and type(value) is float)  # 2 * sigmoid: 2 need not stay whole
        if isinstance(value, int | float) and knob.kind != "choice":
            assert min(knob.low, knob.value) <= value <= max(knob.high, knob.value)


def test_seeds_devices_number_formats_and_guards_are_never_touched(brood):
    guarded = ("manual_seed", "PRECISION", "COMPILE", "ATTENTION =", "set_float32", "prepare.device()", "__name__", "is_causal", "autocast")
    kept = collections.Counter({word: SEED.count(word) for word in guarded})
    for child in brood:
        assert {word: child.text.count(word) for word in guarded} == kept
        assert [line for line in child.text.splitlines() if "PRECISION =" in line] == [
            line for line in SEED.splitlines() if "PRECISION =" in line
        ]


def test_the_two_widths_of_an_mlp_move_together():
    text = PROGRAMS["grouped.py"]
    for child in children(text, 100, ["step-count"]):
        first, second = (
            knob.value for knob in genomes.knobs(child.text) if knob.name.startswith("MLP.__init__.Linear") and knob.kind != "bool"
        )
        assert first == second


def test_a_halved_batch_takes_the_device_batch_with_it():
    for child in children(SEED, 60, ["double-or-halve", "batch-with-rates"]):
        values = {knob.name: knob.value for knob in genomes.knobs(child.text)}
        assert values["TOTAL_BATCH_SIZE"] / values["DEVICE_BATCH_SIZE"] >= 2**19 / 128


def test_an_unknown_mutation_names_the_nearest():
    with pytest.raises(MutationError, match=r"no mutation 'activations'.*nearest: activation"):
        genomes.mutate(SEED, random.Random(0), ["activations"])


def test_a_program_without_anything_to_change_is_refused():
    with pytest.raises(genomes.GenomeError, match="none of"):
        genomes.mutate("def build_model(): pass\ndef main(): pass\n", random.Random(0))
    with pytest.raises(genomes.ParseError):
        genomes.mutate("def (", random.Random(0))


@pytest.mark.parametrize("number", ["4.9e-324", "1e-310", "1.7e308", "1e999", "-4.9e-324", "0xf" + "f" * 4000, "2 ** 9999"])
def test_no_number_of_a_program_makes_a_mutation_fail_in_another_way(number):
    text = f"SHARE = {number}\nLR = {number}\n\n\ndef build_model():\n    return SHARE\n\n\ndef main():\n    return LR\n"
    for seed in range(60):
        try:
            child = genomes.mutate(text, random.Random(seed), LITERAL)
        except genomes.GenomeError:
            continue
        assert genomes.identity(child.text) != genomes.identity(text)


def test_the_driver_can_afford_a_mutation_and_an_identity_per_turn():
    """Against the time that Python takes to parse the same text, as seconds on a busy machine say nothing."""
    text = SEED + SEED[SEED.index("# ---- Model") :].replace("def ", "def more_").replace("class ", "class More")
    genomes.mutate(text, random.Random(0))
    ratios = []
    for seed in range(15):
        started = time.process_time()
        ast.parse(text)
        parsed = time.process_time()
        genomes.identity(genomes.mutate(text, random.Random(seed)).text)
        ratios.append((time.process_time() - parsed) / (parsed - started))
    assert statistics.median(ratios) < 25  # it is about 11; to parse 400 lines takes 3 ms on an idle core
