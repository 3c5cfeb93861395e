"""Replies as models of middle size write them: read where they have one meaning, refused where they have two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import genomes
from genomes import GenomeError, patch

TRAIN = (Path(__file__).resolve().parent.parent / "trainer" / "train.py").read_text(encoding="utf-8")
SMALL = """\
import torch

LR = 4e-3
NAME = 'adam'


class A(torch.nn.Module):
    def forward(self, x, y=None):
        if y is None:
            x = x.flatten(0, 1)
        return x * 0.004


def lr_at(p):
    return LR * (1 - p)


def main():
    return A(), lr_at(0.5)
"""
FASTER = SMALL.replace("LR = 4e-3", "LR = 0.0068")
TABBED = SMALL.replace("    ", "\t")
FLAT = SMALL.replace("x.flatten(0, 1)", "x.flatten(1, 2)")


def block(search: str, replace: str, opening: str = "<<<<<<< SEARCH", closing: str = ">>>>>>> REPLACE") -> str:
    return f"{opening}\n{search}\n=======\n{replace}\n{closing}\n"


def fence(code: str, label: str = "python") -> str:
    return f"```{label}\n{code}\n```\n"


def message(reply: str, text: str = SMALL, cut: bool = False) -> str:
    with pytest.raises(GenomeError) as raised:
        patch(text, reply, cut)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- constants alone


def test_a_constant_may_stand_alone_in_its_fence() -> None:
    assert patch(SMALL, f"A higher rate:\n{fence('LR = 0.0068')}") == FASTER
    assert patch(SMALL, f"I set it\n{fence('LR = 0.0068  # higher')}\nfor speed.") == FASTER.replace("8\n", "8  # higher\n")
    assert "nothing uses the new WIDTH" in message(fence("WIDTH = 8"))
    assert "fence 1 has no function or class" in message(fence("rate = 8"))
    for before in ("LR = 4e-3", "LR = 6e-3"):
        assert "fence 1 has no function or class" in message(f"{fence(before)}\nI would use\n{fence('LR = 5e-3')}")


@pytest.mark.parametrize(
    "said",
    [
        "The old run used\n{}\nwhich was bad. I have no edit to suggest.",
        "Last run (worse):\n{}\nI propose nothing.",
        "For example someone might set\n{}\n",
        "One could set\n{}\n",
        "Set\n{}\nbut NOT that.",
        "I won't set\n{}\n",
        "I refuse: this did not help.\n\nThe rate:\n{}",
    ],
)
def test_constants_alone_are_no_edit_where_words_beside_them_say_no(said: str) -> None:
    assert "has only constants" in message(said.format(fence("LR = 0.0068")))


def test_a_constant_beside_a_block_shows_what_is_meant() -> None:
    assert patch(SMALL, fence("LR = 0.01") + block("LR = 4e-3", "LR = 0.0068")) == FASTER


# ---- spelling


@pytest.mark.parametrize(
    ("search", "replace", "made"),
    [
        ("            x = x.flatten(0,1)", "            x = x.flatten(1, 2)", FLAT),
        ("x=x.flatten( 0,1 )", "x = x.flatten(1, 2)", FLAT),
        ('NAME = "adam"', "NAME = 'muon'", SMALL.replace("adam", "muon")),
        ("LR = 0.004", "LR = 0.0068", FASTER),
        ("        if y is None :\n            x = x.flatten(0,1)", "        if True:\n            x = x", None),
        ("if y is None :\n    x = x.flatten(0,1)", "if True:\n    x = x", None),
    ],
)
def test_code_is_found_by_its_tokens_where_its_text_is_not(search: str, replace: str, made: str | None) -> None:
    wanted = made or SMALL.replace("if y is None", "if True").replace("x.flatten(0, 1)", "x")
    assert patch(SMALL, block(search, replace)) == wanted


@pytest.mark.parametrize(
    "search", ["x = x.flatten(01)", "x = x.flat ten(0, 1)", 'NAME = " adam"', "LR = 4", "LR = 0.0040001", 'NAME = r"adam"']
)
def test_but_other_tokens_are_other_code(search: str) -> None:
    assert "no line of the program is" in message(block(search, "pass"))


def test_tokens_that_occur_twice_are_told() -> None:
    text = SMALL + "\n\ndef other(x):\n    x = x.flatten(0,  1)\n    return x.flatten(0, 1)\n"
    assert "occurs 2 times" in message(block("x = x.flatten(0,1)", "x = x"), text)
    exact = patch(text, block("    x = x.flatten(0,  1)", "    x = x"))
    assert exact == text.replace("    x = x.flatten(0,  1)", "    x = x")


def test_tabs_stand_for_the_indentation_of_the_program() -> None:
    reply = block("\t\tif y is None:\n\t\t\tx = x.flatten(0, 1)", "\t\tif y is None:\n\t\t\tx = x.flatten(1, 2)")
    assert patch(SMALL, reply) == FLAT
    assert patch(TABBED, reply.replace("\t", "    ")) == FLAT.replace("    ", "\t")
    method = (
        "class A(torch.nn.Module):\n\tdef forward(self, x, y=None):\n\t\tif y is None:\n\t\t\tx = x.flatten(1, 2)\n\t\treturn x * 0.004"
    )
    assert patch(SMALL, fence(method)) == FLAT
    assert patch(TABBED, fence(method.replace("\t", "    "))) == FLAT.replace("    ", "\t")
    assert patch(SMALL, "```diff\n@@\n \t\tif y is None:\n-\t\t\tx = x.flatten(0, 1)\n+\t\t\tx = x.flatten(1, 2)\n```") == FLAT


def test_a_tab_in_a_string_stays() -> None:
    assert "'''\n\tx'''" in patch(SMALL, fence("def lr_at(p):\n\treturn LR * len('''\n\tx''')"))


# ---- markers and fences


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<<<<<<< HEAD", ">>>>>>> new"),
        ("<<<<<<< ORIGINAL", ">>>>>>> UPDATED"),
        ("<<<<<<< search:", ">>>>>>> replace"),
        ("<<<<<<< OLD", ">>>>>>> NEW"),
    ],
)
def test_other_words_of_markers_mean_the_same(opening: str, closing: str) -> None:
    assert patch(SMALL, block("LR = 4e-3", "LR = 0.0068", opening, closing)) == FASTER


def test_fences_inside_of_a_block_are_no_code() -> None:
    for label in ("python", ""):
        old, new = fence("LR = 4e-3", label).strip(), fence("LR = 0.0068", label).strip()
        assert patch(SMALL, block(old, new)) == FASTER
        assert (
            patch(SMALL, f"```{label}\n<<<<<<< SEARCH\nLR = 4e-3\n```\n=======\n```{label}\nLR = 0.0068\n>>>>>>> REPLACE\n```\n") == FASTER
        )


def test_the_last_marker_may_be_missing_where_nothing_was_cut_off() -> None:
    reply = block("LR = 4e-3", "LR = 0.0068", closing="")
    for ending in ("", "\n", "```\n"):
        assert patch(SMALL, reply + ending) == FASTER
    assert patch(SMALL, block("NAME = 'adam'", "NAME = 'muon'") + reply) == FASTER.replace("adam", "muon")
    assert "block 1 is cut off" in message(reply, cut=True)
    assert "block 1 is cut off" in message(block("LR = 4e-3", "LR = max(", closing=""))
    for words in ("That is all.", "Done", "It is done"):
        assert "block 1 is cut off" in message(f"{reply}\n{words}")
    assert "block 1 is not closed" in message(reply + block("NAME = 'adam'", "NAME = 'muon'"))


# ---- other formats


@pytest.mark.parametrize(
    "wrapped", [lambda text: text, lambda text: f"Sure:\n\n{fence(text, 'json')}\nDone.", lambda text: fence(text, "")]
)
def test_json_is_blocks_or_code(wrapped) -> None:  # type: ignore[no-untyped-def]
    edits = [{"search": "LR = 4e-3", "replace": "LR = 0.0068"}]
    for data in ({"edits": edits}, edits, edits[0], {"note": "faster", "code": FASTER}, {"code": "LR = 0.0068"}):
        for indent in (None, 2):
            assert patch(SMALL, wrapped(json.dumps(data, indent=indent))) == FASTER
    assert patch(SMALL, wrapped(json.dumps({"edits": [{"search": "NAME = 'adam'\n", "replace": ""}]}))) == SMALL.replace(
        "NAME = 'adam'\n", ""
    )
    assert "no line of the program is 'LR = 3'" in message(wrapped(json.dumps({"edits": [{"search": "LR = 3", "replace": ""}]})))


def test_tags_are_blocks() -> None:
    for reply in (
        "<edit>\n<search>\nLR = 4e-3\n</search>\n<replace>\nLR = 0.0068\n</replace>\n</edit>",
        "<search>LR = 4e-3</search><replace>LR = 0.0068</replace>",
        fence("<search>LR = 4e-3</search>\n<replace>LR = 0.0068</replace>", "xml"),
    ):
        assert patch(SMALL, reply) == FASTER


def test_numbers_in_front_of_lines_are_no_code() -> None:
    assert patch(SMALL, block(" 3 | LR = 4e-3", " 3 | LR = 0.0068")) == FASTER
    assert patch(SMALL, block("3 |LR = 4e-3", "LR = 0.0068")) == FASTER
    listing = "\n".join(f"{number:4} | {line}" for number, line in enumerate(FASTER.splitlines(), 1))
    assert patch(SMALL, fence(listing)) == FASTER


def test_signs_of_html_are_read_where_they_are_no_code() -> None:
    assert patch(SMALL, fence("def lr_at(p):\n    return LR if p &lt; 0.5 else LR / 2")).count("p < 0.5") == 1
    escaped = block("LR = 4e-3", "LR = 0.0068").replace("<", "&lt;").replace(">", "&gt;")
    assert patch(SMALL, escaped) == FASTER
    assert '"&lt;"' in patch(SMALL, fence('def lr_at(p):\n    return LR * len("&lt;")'))


def test_old_and_new_code_may_be_named_as_such() -> None:
    old, new = fence("            x = x.flatten(0, 1)"), fence("            x = x.flatten(1, 2)")
    for first, second in (("Replace", "with"), ("In `A.forward`, replace this line:", "with this:"), ("**Before:**", "**After:**")):
        assert patch(SMALL, f"{first}\n{old}\n{second}\n{new}\nThat is all.") == FLAT
    assert "no block" in message(f"Replace\n{old}\nwith\n{new[:-5]}", cut=True)
    assert "no block" in message(f"Look at\n{old}\nand\n{new}")
    for lead in ("Do not replace", "Never change", "I would not replace", "There is no need to change", "Change not this:", "Don't change"):
        assert "no block" in message(f"{lead}\n{old}\nwith\n{new}")


# ---- one reply, one edit


def test_the_program_as_it_is_beside_an_edit_is_none() -> None:
    assert patch(SMALL, f"Now:\n{fence(SMALL)}\nThen:\n{fence(FASTER)}") == FASTER
    assert patch(SMALL, f"Now:\n{fence(SMALL)}\n{block('LR = 4e-3', 'LR = 0.0068')}") == FASTER
    old = "def lr_at(p):\n    return LR * (1 - p)"
    assert patch(SMALL, fence(old) + fence(old.replace("1 - p", "2 - p"))) == SMALL.replace("1 - p", "2 - p")
    assert "as it was" in message(fence(SMALL))


def test_a_method_that_is_shown_as_it_stands_is_none_whichever_class_it_is_of() -> None:
    text = SMALL.replace("def lr_at", "class B:\n    def forward(self, x):\n        return x * 2\n\n\ndef lr_at")
    shown, meant = "    def forward(self, x):\n        return x * 2", "class B:\n    def forward(self, x):\n        return x * 3"
    assert patch(text, f"Now:\n{fence(shown)}\nThen:\n{fence(meant)}") == text.replace("x * 2", "x * 3")
    assert "forward may be" in message(fence(shown.replace("2", "4")) + fence(meant), text)
    assert "forward may be" in message(fence(shown.replace("\n    ", "\n")[4:]) + fence(meant), text)


LINE, SQUARE = "def lr_at(p):\n    return LR * (1 - p / 2)", "def lr_at(p):\n    return LR * (1 - p) ** 2"


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (fence(LINE), fence(SQUARE)),
        (fence(FASTER), fence(SMALL.replace("adam", "muon"))),
        (fence("LR = 5e-3"), fence(SQUARE)),
        (fence("x = x.flatten(1, 2)"), block("LR = 4e-3", "LR = 5e-3")),
        (block("LR = 4e-3", "LR = 5e-3"), fence(SQUARE)),
        (block("LR = 4e-3", "LR = 5e-3"), block("NAME = 'adam'", "NAME = 'muon'")),
        (fence("-LR = 4e-3\n+LR = 5e-3", "diff"), fence(SQUARE)),
    ],
)
def test_a_choice_is_no_edit(a: str, b: str) -> None:
    for first, second in (
        ("Option A: a line", "Option B: another"),
        ("### Approach 1", "### Approach 2"),
        ("1. **Option 1**", "2. **Option 2**"),
    ):
        assert "edits to choose from" in message(f"{first}\n\n{a}\n{second}\n\n{b}\nI recommend the first.")
    assert patch(SMALL, f"Option A is better than option B.\n{fence(LINE)}")


def test_what_is_said_to_correct_takes_the_place_of_what_came_before() -> None:
    made = patch(SMALL, fence(SQUARE))
    for lead in ("Wait. The corrected version:", "**Final**", "Here is the final code:"):
        assert patch(SMALL, f"First:\n{fence(LINE)}\n{lead}\n{fence(SQUARE)}") == made
        assert patch(SMALL, f"Option A\n{fence(LINE)}\nOption B\n{fence(LINE.replace('2', '3'))}\n{lead}\n{fence(SQUARE)}") == made
        assert patch(SMALL, f"First:\n{fence(FASTER)}\n{lead}\n{fence(made)}") == made
    assert "both change" in message(f"First:\n{fence(LINE)}\nThe final layer:\n{fence(SQUARE)}")


def test_what_a_reply_says_beside_its_edits_is_read_in_every_format() -> None:
    note = "NOTE: faster\n\n"
    for reply in (json.dumps({"code": FASTER}), block("LR = 4e-3", "LR = 0.0068", closing=""), "<search>\nLR = 4e-3\n</search>"):
        assert "NOTE: faster" in genomes.prose(note + reply)


def test_a_correction_drops_only_what_it_defines_again() -> None:
    first = fence("class A:\n    def forward(self, x, y=None):\n        return x * 2")
    second = fence("class A:\n    def __init__(self):\n        super().__init__()\n        self.scale = 2.0")
    made = patch(SMALL, f"New:\n{first}\nThis needs a scale, see the final A class:\n{second}")
    assert "return x * 2" in made
    assert "self.scale = 2.0" in made
    again = first.replace("* 2", "* 3")
    assert patch(SMALL, f"New:\n{first}\nThe fixed class:\n{again}") == patch(SMALL, again)
    both = fence("LR = 0.5\n\ndef lr_at(p):\n    return LR")
    assert "both change" in message(f"New:\n{both}\nThe fixed function:\n{fence(SQUARE)}")


def test_a_note_behind_an_open_block_is_no_code() -> None:
    for note in ("NOTE: faster", "\nNOTE: faster\n", "```\n\nNOTE: faster"):
        reply = f"{block('LR = 4e-3', 'LR = 0.0068', closing='').rstrip()}\n{note}"
        assert patch(SMALL, reply) == FASTER
        assert "NOTE: faster" in "\n".join(genomes.prose(reply))
    assert "is cut off" in message(f"{block('LR = 4e-3', 'NOTE: faster', closing='')}LR = 0.0068")
    assert "is cut off" in message(block("LR = 4e-3", "NOTE: faster", closing=""))


TEXT = 'DOC = """\n\ttab\nx  =  1\nx = 2 # two\n"""\n'


@pytest.mark.parametrize("text", [SMALL, TABBED])
def test_a_string_of_an_edit_keeps_its_tabs_and_blanks(text: str) -> None:
    for string in ('TSV = """a\tb\n\tc\n    d\n"""', "TSV = '''\n\"\n\tc\n    d'''", "TSV = 'a \\\n\tc\\\n    d'"):
        assert f"\n{string}\n" in patch(text, block("LR = 4e-3", f"LR = 5e-3\n{string}"))
    for indent in ("        ", "\t\t"):
        made = patch(text, block(f"{indent}if y is None:", f'{indent}z = """\n\t    kept\n"""\n{indent}if y is None:'))
        assert 'z = """\n\t    kept\n"""\n' in made


def test_text_in_a_string_is_found_only_as_it_is() -> None:
    text = TEXT + SMALL
    for search in ("x = 1", "x = 2", "x = 2  # other"):
        assert "block 1:" in message(block(search, "x = 3"), text)
    assert patch(text, block("x  =  1", "x = 3")) == text.replace("x  =  1", "x = 3")
    assert "block 1:" in message(block("LR = 4e-3\nSAYS = 'a \"b c'", "LR = 1"), SMALL.replace("NAME = 'adam'", "SAYS = 'a  \"b c'"))
    assert "block 1:" in message(block("DOC = ''' a", "DOC = ''' b"), SMALL.replace("NAME = 'adam'", "DOC = '''  a\n'''"))


def test_an_offer_that_is_only_spoken_of_is_none() -> None:
    edits = block("LR = 4e-3", "LR = 0.0068") + block("NAME = 'adam'", "NAME = 'muon'")
    assert patch(SMALL, f"Version 1 of the idea failed.\nVersion 2 does both:\n{edits}\nOption C is for later.") == FASTER.replace(
        "adam", "muon"
    )
    first, second = edits.split(">>>>>>> REPLACE\n")[:2]
    reply = f"Version 1:\nfaster.\n{first}>>>>>>> REPLACE\nOr\nVersion 2:\n\nanother.\n{second}>>>>>>> REPLACE\n"
    for chosen in (reply, fence(first + ">>>>>>> REPLACE").join(reply.split(first + ">>>>>>> REPLACE"))):
        assert "edits to choose from" in message(chosen)
    assert "edits to choose from" in message("Option A\n@@\n-LR = 4e-3\n+LR = 0.0068\n\nOption B\n@@\n-NAME = 'adam'\n+NAME = 'muon'")


# ---- all of a reply, or nothing of it

JSON = fence(json.dumps({"search": "LR = 4e-3", "replace": "LR = 0.0068"}), "json")
FRAGMENT = fence("            x = x.flatten(0, 1)")
PAIR = f"Replace\n{FRAGMENT}\nwith\n{fence('            x = x.flatten(1, 2)')}"
TAGS = "<search>\nLR = 4e-3\n</search>\n<replace>\nLR = 0.0068\n</replace>\n"
MUON = block("NAME = 'adam'", "NAME = 'muon'")


@pytest.mark.parametrize(
    "bad",
    [
        {"search": "NAME = 'adam'", "replaces": "NAME = 'muon'"},
        {"file": "train.py", "old": "NAME = 'adam'", "new": "NAME = 'muon'"},
        {"search": "NAME = 'adam'", "replace": None},
        {"search": "NAME = 'adam'", "replace": "", "code": "LR = 1"},
        "NAME = 'muon'",
    ],
)
def test_one_edit_in_json_that_is_none_refuses_all(bad: object) -> None:
    good = {"search": "LR = 4e-3", "replace": "LR = 0.0068"}
    for data in ({"edits": [good, bad]}, [bad, good]):
        for reply in (json.dumps(data), fence(json.dumps(data), "json")):
            assert "of the JSON of" in message(reply)
            assert "of the JSON of" in message(reply + "\n" + MUON)
    assert "edit 1 of the JSON" in message(json.dumps({"edits": [good], "code": "NAME = 'muon'"}))
    for broken in ('{"search": "NAME = \'adam\'", "replace": "NAME', '// second\n{"search": "NAME", "replace": "1"}'):
        assert "cannot be read" in message(JSON + fence(broken, "json"))


@pytest.mark.parametrize("dialect", [JSON, PAIR, TAGS])
@pytest.mark.parametrize(
    "edits",
    [
        MUON,
        block("NOT = 'there'", "NAME = 'muon'"),
        fence("def lr_at(p):\n    return LR"),
        fence("-NAME = 'adam'\n+NAME = 'muon'", "diff"),
        f"Option A:\n{fence(LINE)}\nOption B:\n{fence(SQUARE)}\n",
        fence("NAME = 'muon'"),
        fence("        return x * 0.005"),
        fence("def lr_at(p):\n    # ... existing code ...\n    return LR"),
    ],
)
def test_edits_as_they_stand_and_others_in_a_dialect_are_not_done_by_half(edits: str, dialect: str) -> None:
    for reply in (f"First:\n\n{edits}\nThe rest:\n\n{dialect}", f"{dialect}\nThe rest:\n\n{edits}"):
        message(reply)


def test_dialects_beside_each_other_are_not_done_by_half() -> None:
    for first, second in ((JSON, PAIR), (TAGS, PAIR), (JSON, TAGS.replace("LR = 4e-3", "NAME = 'adam'"))):
        message(f"{first}\n{second}")
        message(f"{second}\n{first}")


@pytest.mark.parametrize(
    "more",
    [
        f"or with\n{fence('            x = x.flatten(1, -1)')}",
        f"and also\n{fence('NAME = 2')}",
        f"Then replace\n{fence('    return LR * (1 - p)')}\nby setting it anew:\n{fence('    return LR')}",
        "Also change the rate to 0.0068.",
        "and set LR to 0.0068",
    ],
)
def test_a_pair_of_fences_with_more_beside_it_is_refused(more: str) -> None:
    assert patch(SMALL, PAIR) == FLAT
    message(f"{PAIR}\n{more}")


def test_what_only_shows_the_program_may_stand_beside_a_dialect() -> None:
    shown = f"Now it is\n{fence('LR = 4e-3')}\n"
    for dialect, made in ((JSON, FASTER), (TAGS, FASTER), (PAIR, FLAT)):
        assert patch(SMALL, f"{shown}{dialect}\n```bash\npython train.py\n```\n") == made


def test_a_pair_of_functions_is_read_as_it_stands_beside_a_block() -> None:
    pair = f"Replace\n{fence('def lr_at(p):' + chr(10) + '    return LR * (1 - p)')}\nwith\n{fence(SQUARE)}\n"
    made = patch(SMALL, fence(SQUARE)).replace("adam", "muon")
    assert patch(SMALL, pair + MUON) == made
    assert patch(SMALL, MUON + pair) == made
