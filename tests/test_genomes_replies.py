"""Every format of a reply gives the same program; what is unclear is told; nothing crashes, hangs or gives the parent back."""

from __future__ import annotations

import difflib
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from garbage_replies import KINDS, garbage, judged
from hypothesis import given, settings
from hypothesis import strategies as st
from model_server import WORDINGS
from structural_edits import POOL, StructuralEdit

import genomes
from genomes import EditError, GenomeError, ParseError, patch

TRAIN = (Path(__file__).resolve().parent.parent / "trainer" / "train.py").read_text()
LINES = TRAIN.splitlines()
SMALL = '''\
"""A program."""

import torch

RATE = 0.04  # of matrices
DEPTH = 4


class A(torch.nn.Module):
    size = 3

    def __init__(self):
        super().__init__()
        self.text = """
    kept
"""

    def forward(self, x):
        return x

    @staticmethod
    def only(x):
        return x + 1


class B(torch.nn.Module):
    def forward(self, x):
        return x


def build_model():
    def inner(x):
        return x

    return torch.nn.Sequential(A(), B(), inner(DEPTH))


# trains
def main():
    model = build_model()
    for step in range(3):
        print(step)
    return model
'''
SCRIPT = """\
import prepare
import torch

torch.manual_seed(1)
print("val_bpb:", prepare.evaluate())
"""


def python(code: str) -> str:
    return f"Sure.\n\n```python\n{code}\n```\n\nDone.\n"


def diff(code: str) -> str:
    return f"Sure.\n\n```diff\n{code}\n```\n\nDone.\n"


def message(reply: str, text: str = SMALL, cut: bool = False) -> str:
    with pytest.raises(GenomeError) as raised:
        patch(text, reply, cut)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def made_by(edit: StructuralEdit) -> str:
    made = TRAIN
    for old, new in edit.changes:
        made = made.replace(old, new)
    return made


# ---- formats agree


@pytest.mark.parametrize("edit", POOL, ids=lambda edit: edit.name)
def test_every_format_says_the_same(edit: StructuralEdit) -> None:
    made = made_by(edit)
    for name, wording in WORDINGS.items():
        child = patch(TRAIN, wording(TRAIN, edit, made))
        assert genomes.identity(child) == genomes.identity(made), name
        assert name == "definitions" or child == made


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_diff_is_read_by_its_lines_whatever_its_numbers_order_and_spaces(data: st.DataObject) -> None:
    """Lines that occur once are changed; the diff of that loses its numbers, the order of its hunks, and the spaces of its context."""
    single = [i for i, line in enumerate(LINES) if line.strip() and LINES.count(line) == 1 and line.startswith(("    ", "DEPTH"))]
    chosen = data.draw(st.lists(st.sampled_from(single), min_size=1, max_size=4, unique=True))
    made = [f"{line}  # changed" if i in chosen else line for i, line in enumerate(LINES)]
    body = list(difflib.unified_diff(LINES, made, lineterm="", n=data.draw(st.integers(1, 4))))[2:]
    parts: list[list[str]] = []
    for line in body:
        if line.startswith("@@"):
            parts.append(["@@ -7,1 +9,3 @@" if data.draw(st.booleans()) else "@@"])
        elif line[0] == " " and data.draw(st.booleans()):
            parts[-1].append(line[1:])
        else:
            parts[-1].append(line)
    order = data.draw(st.permutations(parts))
    reply = diff("\n".join(line for part in order for line in part))
    wanted = "\n".join(made) + "\n"
    if genomes.identity(wanted) == genomes.identity(TRAIN):
        assert "as it was" in message(reply, TRAIN)
    else:
        assert patch(TRAIN, reply) == wanted


# ---- diffs


def test_a_diff_may_stand_outside_of_fences_and_without_headers_inside() -> None:
    wanted = SMALL.replace("DEPTH = 4", "DEPTH = 6")
    assert patch(SMALL, "Deeper:\n\n@@ -6 +6 @@\n-DEPTH = 4\n+DEPTH = 6\n\nThat is all.") == wanted
    assert patch(SMALL, "```\n RATE = 0.04  # of matrices\n-DEPTH = 4\n+DEPTH = 6\n```") == wanted
    assert patch(SMALL, "```python\n-DEPTH = 4\n+DEPTH = 6\n```") == wanted
    assert patch(SMALL, "*** Begin Patch\n*** Update File: train.py\n@@\n-DEPTH = 4\n+DEPTH = 6\n*** End Patch") == wanted


def test_added_lines_are_shifted_as_the_hunk_is() -> None:
    reply = diff("@@\n for step in range(3):\n-    print(step)\n+    print(step + 1)\n+    print()")
    assert patch(SMALL, reply) == SMALL.replace("        print(step)\n", "        print(step + 1)\n        print()\n")


def test_lines_between_hunks_may_be_skipped_by_an_ellipsis() -> None:
    reply = diff("@@\n-RATE = 0.04  # of matrices\n+RATE = 0.05\n ...\n-        print(step)\n+        print()")
    assert patch(SMALL, reply) == SMALL.replace("0.04  # of matrices", "0.05").replace("print(step)", "print()")


def test_a_line_number_decides_only_between_equal_places_and_only_when_near() -> None:
    hunk = "@@ -{},3 +1 @@\n     def forward(self, x):\n-        return x\n+        return -x"
    a, b = (
        SMALL.replace("        return x\n", "        return -x\n", 1),
        SMALL.replace("        return x\n\n\ndef", "        return -x\n\n\ndef"),
    )
    assert patch(SMALL, diff(hunk.format(16))) == a
    assert patch(SMALL, diff(hunk.format(30))) == b
    assert "occurs 2 times, at lines 18, 27" in message(diff(hunk.format(300)))
    assert "occurs 2 times" in message(diff(hunk.format(23)))  # as near to both
    assert "occurs 2 times" in message(diff(hunk.replace("-{},3", "")))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("@@\n-DEPHT = 4\n+DEPTH = 5", "hunk 1: no line of the program is 'DEPHT = 4'; did you mean line 6, 'DEPTH = 4'"),
        ("@@\n-RATE = 0.4\n+RATE = 0.05", "did you mean line 5, 'RATE = 0.04  # of matrices'?"),  # a name that is set there
        ("@@\n-RATE = 3  # once upon a time it was this\n+RATE = 0.05", "did you mean line 5, 'RATE = 0.04  # of matrices'?"),
        ("@@\n+DEPTH = 5", "hunk 1 has no line of the program"),
        ("@@\n DEPTH = 4", "adds and deletes no line"),
        ("@@\n-DEPTH = 4\n+DEPTH = 5\n@@\n-DEPTH = 4\n+DEPTH = 6", "hunks 1 and 2 both change line 6"),
        ("@@\n-DEPTH = 4\n+DEPTH = 4", "as it was"),
        ("@@\n     for step in range(3):\n-        print(step)\n+        # ... rest unchanged", "hunk 1 leaves out code"),
        ("\n".join(["@@\n-DEPTH = 4\n+DEPTH = 5"] * 65), "more than 64 hunks"),
    ],
)
def test_a_diff_that_does_not_fit_is_told(code: str, said: str) -> None:
    assert said in message(diff(code))


def test_what_has_signs_after_the_end_of_a_diff_is_not_dropped() -> None:
    assert "put the whole diff in one fence" in message("@@\n-DEPTH = 4\n+DEPTH = 5\nand\n+RATE = 1.0")


# ---- functions, classes, constants


def test_a_function_takes_the_place_of_the_one_of_its_name() -> None:
    code = "def main():\n    return build_model()"
    wanted = SMALL[: SMALL.index("def main")] + code + "\n"
    assert patch(SMALL, python(code)) == wanted
    assert patch(SMALL, f"NOTE: shorter\n\n{code}\n\nThat is shorter.") == wanted
    assert patch(SMALL, python("    " + code.replace("\n", "\n    "))) == wanted


def test_a_method_goes_where_its_class_says() -> None:
    method = "def forward(self, x):\n    return 2 * x"
    inner = "    " + method.replace("\n", "\n    ")
    wanted = SMALL.replace("class B(torch.nn.Module):\n    def forward(self, x):\n        return x", f"class B(torch.nn.Module):\n{inner}")
    for head in ("class B:", "class B(torch.nn.Module):"):
        assert patch(SMALL, python(f"{head}\n{inner}")) == wanted
    said = message(python(method))
    assert "forward may be A.forward (line 18) or B.forward (line 27): write it inside `class A:`" in said


def test_a_method_of_one_class_needs_no_class() -> None:
    code = "def __init__(self):\n    super().__init__()\n    self.more = '''\n  as it is\n'''"
    made = patch(SMALL, python(code))
    assert "    def __init__(self):\n        super().__init__()\n        self.more = '''\n  as it is\n'''\n\n    def forward" in made
    assert "        return x + 2\n" in patch(SMALL, python("@staticmethod\ndef only(x):\n    return x + 2"))


def test_a_class_that_leaves_members_out_keeps_them_and_a_whole_one_replaces() -> None:
    part = patch(SMALL, python("class A(torch.nn.Module):\n    size = 5\n    def more(self):\n        return self.size"))
    assert "    size = 5\n\n    def __init__" in part
    assert "        return x + 1\n\n    def more(self):\n        return self.size\n\n\nclass B" in part
    assert "has a head" not in message(python("class A(torch.nn.Module):\n    size = 3"))
    assert "has a head unlike" in message(python("class A(torch.nn.Linear):\n    size = 5"))
    whole = patch(SMALL, python("class B(torch.nn.Linear):\n    def forward(self, x):\n        return x"))
    assert whole == SMALL.replace("class B(torch.nn.Module)", "class B(torch.nn.Linear)")


def test_constants_and_imports_above_a_function_come_with_it() -> None:
    code = "import math\nimport torch\n\nDEPTH = 6\nRATE = 0.05  # new\nBASE = 2 * DEPTH\n\ndef main():\n    return math.sqrt(BASE)"
    made = patch(SMALL, python(code))
    assert "import torch\nimport math\n\nRATE = 0.05  # new\nDEPTH = 6\nBASE = 2 * DEPTH\n\n\nclass A" in made
    assert made.count("import torch") == 1
    kept = patch(SMALL, python("RATE = 0.05\ndef main():\n    return RATE"))
    assert "RATE = 0.05  # of matrices\n" in kept


def test_a_new_function_goes_before_its_first_use() -> None:
    code = "def deep(x):\n    return deeper(x)\n\ndef deeper(x):\n    return x\n\ndef main():\n    return deep(1)"
    made = patch(SMALL, python(code))
    assert "def deep(x):\n    return deeper(x)\n\n\ndef deeper(x):\n    return x\n\n\n# trains\ndef main():\n    return deep(1)\n" in made
    derived = "class C(B):\n    pass\n\ndef build_model():\n    return C()"
    assert patch(SMALL, python(derived)).index("class B") < patch(SMALL, python(derived)).index("class C(B)")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def helper(x):\n    return x", "nothing uses the new helper"),
        ("def f():\n    return 1\n\ndef f():\n    return 2\n\ndef main():\n    return f()", "f of fence 1 and f of fence 1 differ"),
        ("def missing(self):\n    return 1", "no class of the program has a method missing"),
        ("def main():\n    ...", "leaves out code"),
        ("def main():\n    # ... existing code ...\n    return 1", "leaves out code"),
        ("def main():\n    x = 1\n    # rest unchanged", "leaves out code"),
        ("def main():\n    x = 1\n    # The remaining code stays the same", "leaves out code"),
        ("def main(x):\n    ...  # unchanged", "leaves out code at '    ...  # unchanged'"),
        ("def main(x):\n    ...  # as before", "leaves out code"),
        ("def main(): ...", "leaves out code"),
        ("def main(x): pass  # unchanged", "leaves out code"),
        ("class A: ...  # as in the program", "leaves out code"),
        ("class A:  # (unchanged)\n    pass", "leaves out code"),
        ('def main(x):  # same as before\n    """Trains."""\n    return None', "leaves out code"),
        ("def main(x):\n    raise NotImplementedError  # keep existing implementation", "leaves out code"),
        ("def main():\n    raise NotImplementedError('existing code')", "leaves out code"),
        ("def main():\n    return (1", "fence 1 does not parse"),
        ("def main():\n    return 1\n\nprint(main())", "is not a function, class, constant or import"),
        (f"def main():\n    return {'-' * 70}1", "levels deep"),
        ("x = 1", "fence 1 has no function or class"),
        ("def main():\n    return 1\n```\n```python\ndef main():\n    return 2", "main of fence 1 and main of fence 2 both change"),
        ("def main():\n    model = build_model()\n    for step in range(3):\n        print(step)\n    return model", "as it was"),
    ],
)
def test_code_that_cannot_be_used_is_told(code: str, said: str) -> None:
    assert said in message(python(code))


@pytest.mark.parametrize(
    "line",
    [
        "# the rest of the rows are padding",
        "x = y[..., None]",
        "# same seed for both",
        "pass  # nothing to do",
        "# remaining budget",
        "# ratio (see above)",
        "return y  # unchanged",
        "raise NotImplementedError  # for odd sizes",
        "pass  # same seed",
    ],
)
def test_comments_that_only_sound_like_it_are_no_omission(line: str) -> None:
    assert patch(SMALL, python(f"def main(y):\n    {line}\n    return 5"))


@pytest.mark.parametrize(
    "body",
    [
        ":\n        ...  # unchanged",
        ":\n        ...  # as before",
        ": ...  # unchanged",
        ":  # (unchanged)\n        pass",
        ":\n        raise NotImplementedError  # keep existing implementation",
        ':\n        """Adds."""\n        # ... existing code ...\n        pass',
    ],
)
def test_a_function_that_is_said_to_be_as_it_was_keeps_its_body(body: str) -> None:
    part = f"class A(torch.nn.Module):\n    size = 5\n\n    def __init__(self){body}\n\n    @staticmethod\n    def only(x){body}"
    wanted = SMALL.replace("size = 3", "size = 5")
    assert patch(SMALL, python(part)) == wanted
    whole = part.replace("    @static", "    def forward(self, x):\n        return x + x\n\n    @static")
    assert patch(SMALL, python(whole)) == wanted.replace("        return x\n", "        return x + x\n", 1)
    program = f"{SMALL[: SMALL.index('class A')]}{whole}\n\n\n{SMALL[SMALL.index('class B') :]}"
    assert patch(SMALL, python(program)) == wanted.replace("        return x\n", "        return x + x\n", 1)
    for other in (part.replace("only(x)", "only(y)"), part.replace("    @staticmethod\n", ""), part.replace("only", "more")):
        assert "leaves out code" in message(python(other))
    assert "as it was" in message(python(f"def main(){body}"))


@pytest.mark.parametrize(
    "line", ["pass  # no changes to gradients any more: ablation", "pass  # the scale stays the same", "return  # no change in scale: off"]
)
def test_a_function_that_is_emptied_with_a_reason_is_not_taken_for_one_left_out(line: str) -> None:
    part = f"class A(torch.nn.Module):\n    size = 5\n\n    def __init__(self):\n        {line}"
    assert "leaves out code" in message(python(part))


def test_what_a_comment_says_of_the_same_code_is_no_omission() -> None:
    assert "return  # same code path" in patch(SMALL, python("def main():\n    return  # same code path without clipping"))
    for said in ("same code", "same code as before", "same logic here"):
        assert "leaves out code" in message(python(f"def main():\n    x = 1\n    # {said}"))


def test_a_body_stays_where_its_head_is_said_to_be_as_before() -> None:
    assert "    return 5\n" in patch(SMALL, python("def main():  # signature unchanged\n    return 5"))


def test_a_first_line_that_lost_its_indentation_is_put_right() -> None:
    made = patch(SMALL, python("@staticmethod\n    def only(x):\n        return x + 3"))
    assert made == SMALL.replace("return x + 1", "return x + 3")


def test_line_ends_of_the_program_are_kept_in_every_format() -> None:
    windows = TRAIN.replace("\n", "\r\n")
    for edit in POOL[:4]:
        for wording in WORDINGS.values():
            made = patch(windows, wording(TRAIN, edit, made_by(edit)))
            assert made.count("\n") == made.count("\r\n")


# ---- whole programs, and which format it is


def test_a_whole_program_stands_alone_and_complete() -> None:
    made = SMALL.replace("DEPTH = 4", "DEPTH = 5")
    assert patch(SMALL, python(made)) == made
    assert patch(SMALL, made.partition("\n\n")[2]).endswith(made.partition("\n\n")[2])
    assert "as it was" in message(python(SMALL))
    assert "is cut off" in message(f"```python\n{made}")
    assert "leaves out code" in message(python(made.replace("    return x\n", "    # ...\n")))
    assert "leaves out code" in message(
        python(f"{made[: made.index('class A')]}class A:  # (unchanged)\n    ...\n\n\n{made[made.index('class B') :]}")
    )
    assert "other edits beside it" in message(python(made) + python("def main():\n    return 1"))


def test_a_whole_script_is_a_program_too() -> None:
    made = SCRIPT.replace("import prepare", "import prepare  # the constitution").replace(
        "torch.manual_seed(1)", "torch.manual_seed(1)\nx = 2"
    )
    assert patch(SCRIPT, python(made)) == made


def test_members_that_share_a_line_are_not_replaced_one_by_one() -> None:
    line = "class C: a, b = 1, 2; c = 3\n\n\n"
    text = SMALL.replace("def build_model", f"{line}def build_model")
    assert "does not begin its line" in message(python("class C:\n    c = 4"), text)
    assert "does not begin its line" in message(python("class A: size = 5"))


def test_a_note_may_stand_in_the_fence() -> None:
    assert "return 1" in patch(SMALL, "```python\nNOTE: shorter, at last\ndef main():\n    return 1\n```")
    reply = "```diff\nNOTE: deeper\n-DEPTH = 4\n+DEPTH = 5\n```"
    assert "DEPTH = 5" in patch(SMALL, reply)
    assert "NOTE: deeper" in genomes.prose(reply)


def test_functions_that_need_the_rest_of_the_program_are_no_whole_program() -> None:
    made = patch(SMALL, python("def build_model():\n    return A()\n\ndef main():\n    return build_model()"))
    assert "class A" in made


def test_formats_may_be_mixed_where_they_do_not_meet() -> None:
    block = "<<<<<<< SEARCH\n{}\n=======\n{}\n>>>>>>> REPLACE\n"
    reply = python("def main():\n    return 1") + block.format("DEPTH = 4", "DEPTH = 5") + diff("-RATE = 0.04  # of matrices\n+RATE = 0.05")
    made = patch(SMALL, reply)
    assert "DEPTH = 5" in made
    assert "RATE = 0.05\n" in made
    assert "def main():\n    return 1\n" in made
    both = python("def main():\n    return 1") + block.format("    for step in range(3):", "    for step in range(4):")
    assert "main of fence 1 and block 1 both change line 41" in message(both)


def test_a_part_that_shows_what_is_there_counts_for_nothing() -> None:
    now = python("def forward(self, x):\n    return x")
    shown = python("class B(torch.nn.Module):\n    def forward(self, x):\n        return x")
    snippet = python("x = 1")
    for talk in (shown, snippet, "```bash\npython train.py\n```\n"):
        assert patch(SMALL, talk + diff("-DEPTH = 4\n+DEPTH = 5") + talk) == SMALL.replace("DEPTH = 4", "DEPTH = 5")
    assert "forward may be" in message(now + diff("-DEPTH = 4\n+DEPTH = 5"))


def test_what_is_said_twice_is_done_once() -> None:
    for wording in WORDINGS.values():
        reply = wording(TRAIN, POOL[0], made_by(POOL[0]))
        if wording is not WORDINGS["program"]:
            assert patch(TRAIN, f"{reply}\n\nTo repeat:\n\n{reply}") == patch(TRAIN, reply)


@pytest.mark.parametrize("name", WORDINGS)
def test_reasoning_is_no_edit(name: str) -> None:
    draft, final = (WORDINGS[name](TRAIN, edit, made_by(edit)) for edit in POOL[:2])
    wanted = patch(TRAIN, final)
    for opening in ("<think>\n", "<thinking>", ""):
        closing = "</thinking>" if opening == "<thinking>" else "</think>"
        assert patch(TRAIN, f"{opening}{draft}\n{closing}\n\n{final}") == wanted
    for opening, closing in (("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<seed:think>", "</seed:think>")):
        assert patch(TRAIN, f"{opening}What if\n{draft}\nNo.{closing}{final}") == wanted
    assert patch(TRAIN, f"What if\n{draft}\nNo.</think>\n{final}") == wanted
    channels = "<|channel|>{}<|message|>What if\n{}<|end|><|start|>assistant<|channel|>final<|message|>{}"
    for end in ("", "<|end|>", "<|return|>"):
        assert patch(TRAIN, channels.format("analysis", draft, final) + end) == wanted
    assert "no block, diff" in message(f"<|channel|>analysis<|message|>{draft}", TRAIN)
    assert "no block, diff" in message(f"<think>\n{draft}", TRAIN)
    assert patch(TRAIN, f"{final}\n<think>\n{draft}") == wanted


def test_a_reply_that_was_cut_off_is_read_only_as_far_as_it_closes() -> None:
    function = "def main():\n    return 1"
    assert "is cut off" in message(function, cut=True)
    assert "is cut off" in message("@@\n-DEPTH = 4\n+DEPTH = 5", cut=True)
    for reply in (python(function), diff("-DEPTH = 4\n+DEPTH = 5")):
        assert patch(SMALL, reply, cut=True) == patch(SMALL, reply)


# ---- garbage


@contextmanager
def guarded(seconds: int, what: str) -> Iterator[None]:
    """A guard against hanging for good, far from what is usual."""

    def stop(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"{what} takes more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_no_garbage_crashes_hangs_or_gives_the_parent_back() -> None:
    counts = Counter[str]()
    kinds = set[str]()
    for index, (kind, reply) in enumerate(garbage(TRAIN, 0, 700)):
        with guarded(20, f"number {index}, {kind}"):
            result = judged(TRAIN, reply)
        counts[result] += 1
        kinds.add(kind)
        assert (kind, result) != ("given back", "accepted"), index
    assert kinds == set(KINDS)
    assert counts["EditError"] > 280
    assert counts["ParseError"] > 35
    assert set(counts) <= {EditError.__name__, ParseError.__name__, "accepted"}


def test_garbage_is_the_same_every_time() -> None:
    first, second = (list(garbage(TRAIN, 3, 40)) for _ in range(2))
    assert first == second
    assert first != list(garbage(TRAIN, 4, 40))


@pytest.mark.parametrize("text", ["", "x = 1", "\n\n", "x = 1\r\ny = 2", "def f(): pass"])
def test_odd_programs_are_no_reason_to_crash(text: str) -> None:
    rng = random.Random(1)
    for _, reply in garbage(TRAIN, rng.randrange(100), 60):
        judged(text, reply)
