"""What holds of every program: generated ones in every layout, and real ones of many hands."""

from __future__ import annotations

import ast
import io
import itertools
import keyword
import math
import random
import re
import tokenize
from collections import Counter

import generated
import pytest
from corpus import LIBRARY, PROGRAMS, SCRIPTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import genomes
from genomes import Knob, Value
from genomes.knobs import spots
from genomes.source import Splice, parse, splice
from genomes.units import Unit, units

generously = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
programs = st.one_of(generated.texts(), st.sampled_from(sorted(LIBRARY, key=lambda name: len(LIBRARY[name]))).map(LIBRARY.__getitem__))
numbers = st.integers(0, 10**9)
LAYOUTS = ["", "\n", "# only a comment", "x = 1", "x = 1\r\ny = 2\r\n", "x = 1\ry = 2", "\f\nx = 1\n\f", "if x:\n\ty = 1\n# end"]


def another(knob: Knob, rng: random.Random) -> Value:
    """A value that differs, and that the knob's type allows."""
    if isinstance(knob.value, bool):
        return not knob.value
    if isinstance(knob.value, str):
        return rng.choice([word for word in ("gelu", "S", "cuda", "relu-2") if word != knob.value])
    if isinstance(knob.value, float):
        return rng.choice([value for value in (0.0, 1e-12, 3.25, -0.5, 1e30, 2.0) if value != knob.value])
    return rng.choice([value for value in (0, 1, 2, 7, 1024, -3) if value != knob.value])


def values(text: str) -> dict[str, Value]:
    return {knob.name: knob.value for knob in genomes.knobs(text)}


def tokens(text: str) -> list[tuple[int, str]]:
    """With comments and blank lines, as Python's own tokenizer sees them."""
    return [(token.type, token.string) for token in tokenize.generate_tokens(io.StringIO(text).readline)]


# ---- Round trip


def concatenated(found: tuple[Unit, ...]) -> str:
    assert all(unit.text == unit.lead + "".join(clause.head + concatenated(clause.body) for clause in unit.clauses) for unit in found)
    return "".join(unit.text for unit in found)


@pytest.mark.parametrize("text", [*LAYOUTS, *PROGRAMS.values()], ids=lambda text: repr(text[:20]))
def test_units_and_lines_of_a_real_program_are_its_text(text: str) -> None:
    assert concatenated(units(text)) == text
    assert "".join(parse(text).lines) == text


@generously
@given(generated.texts())
def test_units_and_lines_of_a_generated_program_are_its_text(text: str) -> None:
    assert concatenated(units(text)) == text
    assert "".join(parse(text).lines) == text
    assert all(ast.dump(ast.parse(source)) for source in (unit.text for unit in units(text)))


# ---- Knobs


def check_knobs(text: str) -> None:
    found = genomes.knobs(text)
    assert len({knob.name for knob in found}) == len(found)
    assert genomes.set_knobs(text, {knob.name: knob.value for knob in found}) == text
    for knob in found:
        assert -math.inf < knob.low <= knob.high < math.inf, knob
        assert not knob.log or knob.low > 0, knob
        if knob.kind == "choice":
            assert not knob.tunable or knob.value in knob.choices, knob
        elif knob.tunable:
            assert knob.low <= knob.value <= knob.high, knob


@pytest.mark.parametrize("name", PROGRAMS)
def test_knobs_of_a_real_program_have_unique_names_and_ranges_that_hold_their_values(name: str) -> None:
    check_knobs(PROGRAMS[name])


@generously
@given(generated.texts())
def test_knobs_of_a_generated_program_have_unique_names_and_ranges_that_hold_their_values(text: str) -> None:
    check_knobs(text)


@generously
@given(generated.layouts())
def test_every_number_of_a_program_is_a_knob_whatever_the_layout(pair: tuple[str, str]) -> None:
    a, b = (genomes.knobs(text) for text in pair)
    assert [(knob.name, knob.value) for knob in a] == [(knob.name, knob.value) for knob in b]


@generously
@given(programs, numbers)
def test_setting_a_knob_changes_its_characters_alone_and_reads_back(text: str, seed: int) -> None:
    rng, found = random.Random(seed), spots(text)
    for spot in rng.sample(found, min(3, len(found))):
        value = another(spot.knob, rng)
        changed = genomes.set_knobs(text, {spot.knob.name: value})
        assert changed.startswith(text[: spot.start])
        assert changed.endswith(text[spot.end :])
        read = values(changed)
        assert read == values(text) | {spot.knob.name: value}
        assert type(read[spot.knob.name]) is type(value)
        assert genomes.identity(changed) != genomes.identity(text)


@generously
@given(programs, numbers)
def test_knobs_may_be_set_in_any_order_or_at_once(text: str, seed: int) -> None:
    rng, found = random.Random(seed), genomes.knobs(text)
    chosen = [knob for knob in rng.sample(found, min(4, len(found))) if knob.value not in (math.inf, -math.inf)]
    wanted = {knob.name: another(knob, rng) for knob in chosen}
    stepwise = text
    for name, value in wanted.items():
        stepwise = genomes.set_knobs(stepwise, {name: value})
    assert stepwise == genomes.set_knobs(text, wanted) == genomes.set_knobs(text, dict(reversed(wanted.items())))
    back = genomes.set_knobs(stepwise, {knob.name: knob.value for knob in chosen})
    assert genomes.identity(back) == genomes.identity(text)


@generously
@given(programs, numbers)
def test_comments_and_blank_lines_survive_the_setting_of_knobs(text: str, seed: int) -> None:
    rng = random.Random(seed)
    on_one_line = [spot.knob for spot in spots(text) if not {"\n", "#"} & set(text[spot.start : spot.end])]
    changed = genomes.set_knobs(text, {knob.name: another(knob, rng) for knob in on_one_line})
    assert loose(changed) == loose(text)


def loose(text: str) -> Counter[str]:
    """Comments, line breaks and blank lines."""
    return Counter(string for kind, string in tokens(text) if kind in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE))


@pytest.mark.parametrize("name", LIBRARY)
def test_values_are_read_off_a_relative_without_parsing_as_they_are_with(name: str) -> None:
    text, rng = LIBRARY[name], random.Random(name)
    tunable = [knob for knob in genomes.knobs(text) if knob.tunable]
    changed = genomes.set_knobs(text, {knob.name: another(knob, rng) for knob in tunable})
    read = values(changed)
    assert genomes.Reader(text).values(changed) == {knob.name: read[knob.name] for knob in tunable}


# ---- Edits


def mangled(text: str, rng: random.Random) -> str:
    """Lines dropped, copied and moved, numbers changed; what no longer parses is not kept."""
    for _ in range(6):
        lines = text.splitlines(keepends=True) or ["\n"]
        i, j = sorted(rng.choices(range(len(lines)), k=2))
        move = rng.randrange(4)
        if move == 0:
            del lines[i : i + rng.randint(1, 3)]
        elif move == 1:
            lines[i:i] = lines[j : j + 3]
        elif move == 2:
            lines.insert(j, lines.pop(i))
        else:
            lines[i] = re.sub(r"\d", lambda digit: str((int(digit.group()) + 1) % 10), lines[i])
        if parses("".join(lines)):
            text = "".join(lines)
    return text


def parses(text: str) -> bool:
    try:
        parse(text)
    except genomes.ParseError:
        return False
    return True


def check_diff(a: str, b: str, rng: random.Random) -> None:
    edits = list(genomes.diff(a, b))
    assert genomes.apply(edits, a) == b
    assert "\n" not in genomes.describe(edits)
    rng.shuffle(edits)
    assert genomes.apply(edits, a) == b
    some = [edit for edit in edits if rng.random() < 0.5 and edit.kind != "set"]
    if a.endswith("\n") and b.endswith("\n"):
        lost = sum((Counter(edit.old.splitlines()) for edit in some), Counter())
        assert not Counter(a.splitlines()) - Counter(genomes.apply(some, a).splitlines()) - lost


@pytest.mark.parametrize("name", PROGRAMS)
def test_applying_a_diff_gives_the_other_version_of_a_real_program(name: str) -> None:
    a, rng = PROGRAMS[name], random.Random(name)
    b = mangled(a, rng)
    check_diff(a, b, rng)
    check_diff(b, a, rng)
    assert genomes.diff(a, a) == ()


@generously
@given(generated.relatives(), numbers)
def test_applying_a_diff_gives_the_other_program(pair: tuple[str, str], seed: int) -> None:
    rng = random.Random(seed)
    check_diff(*pair, rng)
    check_diff(pair[0], mangled(pair[0], rng), rng)
    assert genomes.diff(pair[1], pair[1]) == ()


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(sorted(PROGRAMS)), st.sampled_from(sorted(PROGRAMS)), numbers)
def test_applying_a_diff_of_strangers_gives_the_other(first: str, second: str, seed: int) -> None:
    check_diff(PROGRAMS[first], PROGRAMS[second], random.Random(seed))


# ---- Identity


@generously
@given(generated.layouts())
def test_layout_comments_bare_strings_spelling_and_parentheses_leave_the_identity(pair: tuple[str, str]) -> None:
    a, b = pair
    assert genomes.identity(a) == genomes.identity(b)
    assert genomes.size(a) == genomes.size(b)
    assert genomes.distance(a, b) == 0.0


def check_canonical(text: str) -> None:
    again = ast.unparse(ast.parse(text))
    assert genomes.identity(again) == genomes.identity(text)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_canonical_form_of_a_real_program_is_its_own(name: str) -> None:
    check_canonical(PROGRAMS[name])


@generously
@given(generated.texts())
def test_the_canonical_form_of_a_generated_program_is_its_own(text: str) -> None:
    check_canonical(text)


SWAPS = {"+": "-", "-": "+", "*": "/", "/": "*", "<": "<=", ">=": ">", "==": "!=", "and": "or", "or": "and", "True": "False", "+=": "-="}


@generously
@given(programs, numbers)
def test_names_operators_values_and_order_change_the_identity(text: str, seed: int) -> None:
    rng, found = random.Random(seed), tokens(text)
    places = [i for i, (kind, string) in enumerate(found) if string in SWAPS or (kind == tokenize.NAME and not keyword.iskeyword(string))]
    starts = [token.start for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    source = parse(text)
    for place in rng.sample(places, min(3, len(places))):
        string = found[place][1]
        line, column = starts[place]
        start = source.starts[line - 1] + column
        changed = text[:start] + SWAPS.get(string, "renamed") + text[start + len(string) :]
        if parses(changed):
            assert genomes.identity(changed) != genomes.identity(text), (string, line)
    body = [unit for unit in units(text) if unit.kind not in ("Expr", "Tail")]
    pairs = [(x, y) for x, y in itertools.pairwise(body) if genomes.identity(x.text) != genomes.identity(y.text)]
    for x, y in rng.sample(pairs, min(1, len(pairs))):
        ended = [unit.text if unit.text.endswith("\n") else unit.text + "\n" for unit in (x, y)]
        assert genomes.identity(ended[0] + ended[1]) != genomes.identity(ended[1] + ended[0])


# ---- Match


@generously
@given(generated.texts())
def test_every_knob_of_a_generated_program_matches_itself(text: str) -> None:
    assert genomes.match(text, text) == {name: name for name in values(text)}


@generously
@given(generated.relatives())
def test_a_match_is_one_to_one_and_its_inverse_the_match_the_other_way(pair: tuple[str, str]) -> None:
    found = genomes.match(*pair)
    assert {other: name for name, other in found.items()} == genomes.match(pair[1], pair[0])
    assert set(found) <= set(values(pair[0]))
    assert set(found.values()) <= set(values(pair[1]))


def matched(a: str, b: str) -> tuple[int, int]:
    """How many knobs of a are found in b with their values, and how many there are."""
    here, there, found = values(a), values(b), genomes.match(a, b)
    return sum(name in found and repr(here[name]) == repr(there[found[name]]) for name in here), len(here)


def renamed(text: str, rng: random.Random) -> str:
    """One name of the program throughout, where Python's tokenizer finds it."""
    found = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.NAME]
    names = sorted({t.string for t in found if not keyword.iskeyword(t.string) and not keyword.issoftkeyword(t.string)})
    old, source = rng.choice(names), parse(text)
    starts = [source.starts[t.start[0] - 1] + t.start[1] for t in found if t.string == old]
    return splice(text, [Splice(start, start + len(old), "renamed_here") for start in starts])


def moved(text: str, rng: random.Random) -> str:
    """One top-level definition is moved to the place of another."""
    found = list(units(text))
    places = [i for i, unit in enumerate(found) if unit.is_definition]
    if len(places) < 2:
        return text
    i, j = rng.sample(places, 2)
    found.insert(j, found.pop(i))
    return "".join(unit.text for unit in found)


def inserted(text: str, rng: random.Random) -> str:
    """A statement before another, at any depth."""
    source = parse(text)
    inner = [node for node in ast.walk(source.tree) if isinstance(node, ast.Assign | ast.Return | ast.If) and node.col_offset]
    inner = [node for node in inner if not source.lines[node.lineno - 1][: node.col_offset].strip()]
    if not inner:
        return text
    node = rng.choice(inner)
    indent = source.lines[node.lineno - 1][: node.col_offset]
    end = re.sub(r".*", "", source.lines[node.lineno - 1]) or "\n"
    start = source.starts[node.lineno - 1]
    return splice(text, [Splice(start, start, f"{indent}late = call(x, 7, mode=x){end}")])


def laid_out(text: str, rng: random.Random) -> str:
    """Anew, without comments and blank lines."""
    return ast.unparse(ast.parse(text))


CHANGES = {
    "renaming": (renamed, 1.0),
    "moving a definition": (moved, 1.0),
    "inserting a statement": (inserted, 1.0),
    "a new layout": (laid_out, 1.0),
    "a new layout with a statement more": (lambda text, rng: laid_out(inserted(text, rng), rng), 0.98),
}
SOME = [*SCRIPTS, *sorted(LIBRARY)[::7]]


@pytest.mark.parametrize("change", CHANGES)
def test_the_knobs_of_real_programs_are_found_again_after(change: str) -> None:
    changed, share = CHANGES[change]
    counts = [matched(PROGRAMS[name], changed(PROGRAMS[name], random.Random(name))) for name in SOME]
    assert sum(found for found, _ in counts) >= share * sum(there for _, there in counts), dict(zip(SOME, counts, strict=True))
