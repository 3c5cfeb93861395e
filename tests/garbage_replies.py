"""Replies that a model should not give, by the thousand: spoilt versions of good ones in every format, and what was never one.

    PYTHONPATH=. python tests/garbage_replies.py [--count 2000] [--seed 0]     counts by kind, and the slowest in processor time

Deterministic: reply number i is a function of (program, seed, i).
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from model_server import WORDINGS
from structural_edits import POOL

import genomes

TRAIN = Path(__file__).resolve().parent.parent / "trainer" / "train.py"
MEGABYTES = 2_000_000
LONGEST = 2000  # characters of an error
STRANGE = [
    "\x00",
    "\x1b[31m",
    "\r",
    "\x0b",
    "\x0c",
    "\x85",
    "\u2028",
    "\u202e",
    "\ud800",
    "\udfff",
    "\ufeff",
    "\t",
    "\xa0",
    "é",
    "漢",
    "🙂",
    "\\",
]
MARKS = [
    *("<<<<<<< SEARCH", "=======", ">>>>>>> REPLACE", "```", "```python", "````", "~~~", "```diff", "@@ -1,3 +1,4 @@", "--- a/train.py"),
    *(
        "+++ b/train.py",
        "<think>",
        "</think>",
        "*** Begin Patch",
        "...",
        "# ... existing code ...",
        "if True:",
        "else:",
        '"""',
        "class MLP:",
    ),
]
FOREIGN = [
    "```javascript\nfunction main() { return 1; }\n```",
    '```json\n{"edits": [{"search": "DEPTH = 8", "replace": "DEPTH = 9"}]}\n```',
    "```rust\nfn main() { let depth = 9; }\n```",
    "```c\nint main(void) {\n    return 0;\n}\n```",
    "```\nclass MLP {\n  forward(x) { return x }\n}\n```",
    "```bash\nsed -i 's/DEPTH = 8/DEPTH = 9/' train.py\n```",
    "我会把模型加深一层。\n```python\n深度 = 9\n```",
    "<html><body>502 Bad Gateway</body></html>",
    "SELECT * FROM candidates WHERE class = 'MLP';\ndef (x): y",
]
PROSE = [
    "I would make the model deeper, since depth pays.",
    "def is short for definition; class (as in school) is not.",
    "- Increase DEPTH\n- Decrease MATRIX_LR\n+ warm up longer",
    "DEPTH = 9 would be better.\n\nimport is a word too.",
    "Here is what changes:\n\n1. `norm`\n2. `MLP.forward`\n\n> quoted\n\n***\n--- \n+++ \n",
]
MONSTERS = [
    *("<" * MEGABYTES, "```\n" * 400_000, "(" * 190_000, "```python\n" + "(" * 100_000 + "\n```", "@@\n" * 60_000, "+\n-\n" * 45_000),
    *("<<<<<<< SEARCH\n" * 10_000, "```" + " " * 190_000 + "`", "~" * 190_000 + "`", "A:" + " " * 190_000, "# " + "rest " * 38_000),
    "```python\ndef f():\n" + "    # " + "rest " * 30_000 + "\n    pass\n```",
    "```python\n" + "".join(f"def f{i}(x):\n    return f{i + 1}\n" for i in range(4000)) + "```",
    "```python\n" + "".join(f"X{i} = 1\n" for i in range(9000)) + "def f(): pass\n```",
    "```python\n" + "\n".join(" " * i + "if x:" for i in range(95)) + "\n" + " " * 95 + "def f(): pass\n```",
    "```python\ndef f():\n    return " + "-" * 90_000 + "1\n```",
    "```python\ndef f():\n    return " + "f(" * 5000 + ")" * 5000 + "\n```",
    "```python\ndef f():\n    return " + "a(b=" * 80 + "!" + ")" * 80 + "\n```",
    "```python\ndef f():\n    return " + "lambda x=[" * 60 + "1 2" + "]: 0" * 60 + "\n```",
    "```python\ndef f():\n    return " + "{1:" * 90 + "1 2" + "}" * 90 + "\n```",
    "```python\ndef f():\n    return " + "a + " * 40_000 + "a\n```",
    "```diff\n" + " \n-x\n+y\n" * 20_000 + "```",
    "```diff\n" + "@@ -1 +1 @@\n     x = 1\n-y\n+z\n" * 6000 + "```",
    "```diff\n@@ -1 +1 @@\n" + "     return x\n" * 12_000 + "-y\n+z\n```",
    "<think>" * 25_000,
    "</think>\n" * 20_000,
    "class A:\n" + "    x = 1\n" * 19_000,
    "x" * MEGABYTES,
    "\n" * 199_000,
    "\r" * 199_000,
    "@" * 190_000,
    "def f(" + "a" * 190_000,
    "def " + " " * 190_000,
    "import " + "a." * 90_000,
    "```python\n'''" + "\\" * 100_000 + "\n```",
    "```python\nf'" + "{" * 60_000 + "'\n```",
    "<<<<<<< SEARCH\nx = " + "'\"" * 90_000 + "\n=======\ny\n>>>>>>> REPLACE",
    "<<<<<<< SEARCH\nx = " + "9" * 190_000 + "j\n=======\ny\n>>>>>>> REPLACE",
    "<<<<<<< SEARCH\nx = 1\n=======\n" + "\t" * 190_000 + "y",
    "<search>" * 20_000,
    "<search>x</search>\n<replace>y</replace>\n" * 4000,
    "```json\n" + "[" * 190_000 + "\n```",
    "```json\n{}\n```\n" * 190,
    '{"edits": [' + '{"search": "x", "replace": "y"}, ' * 5000 + "{}]}",
    "".join(f"{number} | x\n" for number in range(20_000)),
    "&lt;" * 45_000,
    "```python\ndef f():\n    return a &lt; b +\n" + "    &gt;\n" * 20_000 + "```",
    "Replace\n```\nx\n```\nwith\n```\ny\n```\n" * 90,
    "def f(): " + "... # " * 30_000,
]

Spoil = Callable[[random.Random, str], str]


def garbage(text: str, seed: int, count: int) -> Iterator[tuple[str, str]]:
    """Kinds and replies."""
    good = list(_good(text))
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        kind = list(KINDS)[index % len(KINDS)]
        yield kind, KINDS[kind](rng, rng.choice(good))


def judged(text: str, reply: str) -> str:
    """The kind of error, or "accepted" where a program results that is not `text`."""
    try:
        made = genomes.patch(text, reply)
    except genomes.GenomeError as error:
        said = str(error)
        result = type(error).__name__
    else:
        assert genomes.identity(made) != genomes.identity(text)
        return "accepted"
    assert len(said) < LONGEST, said
    assert "\n" not in said, repr(said)
    return result


def _good(text: str) -> Iterator[str]:
    """Usable replies in every format."""
    for edit in POOL:
        made = text
        for old, new in edit.changes:
            made = made.replace(old, new)
        if made != text:
            yield from (f"NOTE: {edit.name}\n\n{wording(text, edit, made)}\nThat is all.\n" for wording in WORDINGS.values())


def _lines(rng: random.Random, reply: str, change: Callable[[random.Random, str], list[str]]) -> str:
    """One line changed, and some others, few or many."""
    lines = reply.split("\n")
    share, one = rng.choice((0.01, 0.1, 0.5)), rng.randrange(len(lines))
    return "\n".join(new for at, line in enumerate(lines) for new in (change(rng, line) if at == one or rng.random() < share else [line]))


def _characters(rng: random.Random, reply: str, new: list[str]) -> str:
    for _ in range(rng.choice((1, 3, 30))):
        at = rng.randrange(len(reply) + 1)
        reply = reply[:at] + rng.choice(new) + reply[at + rng.randrange(2) :]
    return reply


def _unfenced(rng: random.Random, reply: str) -> str:
    fences = ["", "```", "````", "``", "~~~", "```python", "```javascript", "```diff", "   ```py", "'''"]
    return "\n".join(rng.choice(fences) if line.startswith("```") else line for line in reply.split("\n"))


def _shuffled(rng: random.Random, reply: str) -> str:
    lines = reply.split("\n")
    start = rng.randrange(len(lines))
    part = lines[start : start + rng.choice((2, 8, len(lines)))]
    return "\n".join([*lines[:start], *rng.sample(part, len(part)), *lines[start + len(part) :]])


def _given_back(rng: random.Random, reply: str) -> str:
    """Edits that say what stands in the program already."""
    text = TRAIN.read_text()
    lines = text.splitlines()
    at = rng.randrange(len(lines) - 6)
    part = "\n".join(lines[at : at + rng.randrange(1, 6)])
    diff = "\n".join(f" {line}" for line in part.split("\n"))
    function = rng.choice(genomes.definitions(text))
    return rng.choice(
        [
            f"```python\n{text}\n```",
            text,
            f"# {text}",
            f"<<<<<<< SEARCH\n{part}\n=======\n{part}\n>>>>>>> REPLACE",
            f"```diff\n@@ -{at} +{at} @@\n{diff}\n```",
            f"```diff\n-{lines[at]}\n+{lines[at]}  # as it was\n```",
            f"```python\n{function}\n```",
            function,
        ]
    )


def _random_text(rng: random.Random, _: str) -> str:
    pool = [*STRANGE, *MARKS, *"abc(){}[]'\"#:=+-@ ", "\n", "\n", "    ", "def f(x):", "return", "DEPTH"]
    return "".join(rng.choice(pool) for _ in range(rng.choice((3, 40, 400))))


KINDS: dict[str, Spoil] = {
    "truncated": lambda rng, reply: reply[: rng.randrange(len(reply))],
    "headless": lambda rng, reply: reply[rng.randrange(len(reply)) :],
    "wrong fences": _unfenced,
    "prose": lambda rng, reply: "\n\n".join(rng.choices(PROSE, k=rng.randrange(1, 5))),
    "prose inside": lambda rng, reply: _lines(rng, reply, lambda r, line: [line, r.choice(PROSE)]),
    "foreign": lambda rng, _: "\n".join(rng.choices(FOREIGN, k=rng.randrange(1, 4))),
    "megabytes": lambda rng, reply: rng.choice((rng.choice(MONSTERS), (reply + "\n") * (MEGABYTES // len(reply)), (reply + "\n") * 12)),
    "control characters": lambda rng, reply: _characters(rng, reply, STRANGE),
    "random": _random_text,
    "marks inside": lambda rng, reply: _lines(rng, reply, lambda r, line: [line, r.choice(MARKS)]),
    "indentation": lambda rng, reply: _lines(rng, reply, lambda r, line: [r.choice(("", " ", "    ", "\t", line[:1])) + line.lstrip()]),
    "lines lost": lambda rng, reply: _lines(rng, reply, lambda r, line: []),
    "lines twice": lambda rng, reply: _lines(rng, reply, lambda r, line: [line, line]),
    "shuffled": _shuffled,
    "characters": lambda rng, reply: _characters(rng, reply, [*"()[]{}:'\"#=+-@<>`\\ \n", "x", "0", ""]),
    "left out": lambda rng, reply: _lines(rng, reply, lambda r, line: [line[: len(line) - len(line.lstrip())] + "# ... rest unchanged"]),
    "twice": lambda rng, reply: reply + "\n" + _characters(rng, reply, ["1", "2", " "]),
    "reasoning": lambda rng, reply: f"<think>\n{reply}" + rng.choice(("", "</think>", "\n</think>\n", "\n</thinking>\n" + reply[:500])),
    "unlabelled": lambda rng, reply: (
        reply.replace("```python", "```").replace("```diff", "```").replace("@@ -1,9 +1,9 @@", rng.choice(("", "...")))
    ),
    "given back": _given_back,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text, counts, slowest = TRAIN.read_text(), Counter[tuple[str, str]](), (0.0, "", -1)
    began = time.process_time()
    for index, (kind, reply) in enumerate(garbage(text, options.seed, options.count)):
        start = time.process_time()
        counts[kind, judged(text, reply)] += 1
        slowest = max(slowest, (time.process_time() - start, kind, index))
    for (kind, result), count in sorted(counts.items()):
        print(f"{kind:20}{result:12}{count:6}")
    seconds = time.process_time() - began
    print(f"{options.count} replies in {seconds:.1f} s of processor time; slowest {slowest[0]:.3f} s: {slowest[1]}, number {slowest[2]}")


if __name__ == "__main__":
    main()
