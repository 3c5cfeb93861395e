"""Readers: comparing characters gives what parsing gives, and what it cannot read is parsed."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_run import PROGRAM

import genomes
from genomes import Reader, constants
from genomes.knobs import spots

PROGRAMS = {path.name: path.read_text(encoding="utf-8") for path in sorted((Path(__file__).parent / "programs").glob("*.*"))}
PROGRAMS["seed"] = (Path(__file__).parent.parent / "trainer" / "train.py").read_text(encoding="utf-8")
PROGRAMS["small"] = PROGRAM


def parsed(text, reference):
    wanted = {knob.name for knob in genomes.knobs(reference) if knob.tunable}
    return {knob.name: knob.value for knob in genomes.knobs(text) if knob.name in wanted}


def child(text, rng):
    """Some mutations away; a program that none applies to stays as it is."""
    for _ in range(rng.randrange(1, 4)):
        try:
            text = genomes.mutate(text, rng).text
        except genomes.GenomeError:
            break
    return text


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(sorted(PROGRAMS)), seed=st.integers(0, 10**6))
def test_values_are_those_of_the_parsed_program(name, seed):
    reference = PROGRAMS[name]
    text = child(reference, random.Random(seed))
    assert Reader(reference).values(text) == parsed(text, reference)
    assert Reader(constants(reference)).values(constants(text)) == {
        name: value for name, value in parsed(text, reference).items() if name in Reader(constants(reference)).knobs
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_constants_have_the_same_knobs_alone_and_in_their_program(name):
    text = PROGRAMS[name]
    whole = {knob.name: knob for knob in genomes.knobs(text)}
    alone = genomes.knobs(constants(text))
    assert {spot.knob.name for spot in spots(text) if spot.constant} <= {knob.name for knob in alone}
    for knob in alone:
        other = whole[knob.name]
        assert (knob.value, knob.kind, knob.low, knob.high, knob.log, knob.tunable, knob.choices) == (
            *(other.value, other.kind, other.low, other.high, other.log, other.tunable, other.choices),
        )


@pytest.mark.parametrize(
    "statement",
    [
        "RATE = 0.5  # rate",
        "RATE = -0.5  # rate",
        "RATE = 2**3  # rate",
        "RATE = 0.5 * 2  # rate",
        "RATE = (0.5, 2)  # rate",
        "RATE = 0.5  # rate\nRATE = 0.25  # rate",
        "RATE = 0.25",
        "OTHER = 0.25  # rate",
        "RATE = 'x'  # rate",
    ],
)
def test_what_stands_in_the_place_of_a_literal_is_read_as_the_parser_reads_it(statement):
    reference, text = "RATE = 0.1  # rate\n", f"{statement}\n"
    assert Reader(reference).values(text) == parsed(text, reference)


def test_a_statement_over_several_lines_is_read_whole():
    text = "BETAS = (\n    0.8,\n    0.95,\n)\nif BETAS:\n    X = 1\nRATE: float = 0.1\nlower = 2\n"
    assert constants(text) == "BETAS = (\n    0.8,\n    0.95,\n)\nRATE: float = 0.1\n"


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(genomes.ParseError):
        Reader("RATE = 0.1\n").values("RATE = = 0.1\n")
