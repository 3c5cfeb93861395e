"""The three-way merge against `git merge-file`, on pairs of mutations of the seed.

    python scripts/bench_merge.py [--pairs 1000] [--out DIR] [--train N] [--jobs 1] [--budget 3] [--seed 0] [--json]

Four classes, equally many pairs of each:

    far apart    all that one side changes is at least 20 lines from all that the other changes
    near         something of both within three lines, and nothing of both in one statement
    same list    different arguments of one call, or different items of one list or expression
    moved        one side moves a function, the other changes lines in it or within three lines of where it stood

Reported by class: pairs in conflict for git and for us; pairs where both are clean and the texts differ, which are to be judged by hand
(`--out` writes their five texts); merges with a mistake that neither parent has. `--train` evaluates a sample of the merged children,
equally many of each class, on the CPU profile, and says how many reach a finite score; a pair one of whose parents reaches none gives its
place to the next.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random

from report_catalogue import trained

import genomes
from evo import assembly
from evo.config import load

SEED = Path(__file__).resolve().parent.parent / "trainer" / "train.py"
FAR, NEAR = 20, 3  # lines
PROGRESS = 50  # pairs between two lines of progress
POOL = 300  # mutants from which pairs are drawn


@dataclass(frozen=True)
class Pair:
    kind: str
    a: str
    b: str
    note: str


@dataclass(frozen=True)
class Judged:
    """One pair, merged twice; None where git has a conflict."""

    pair: Pair
    ours: genomes.Merge
    git: str | None
    mistakes: tuple[str, ...]

    @property
    def disagrees(self) -> bool:
        return self.git is not None and not self.ours.conflicts and self.git != self.ours.text


# ---- pairs


@dataclass(frozen=True)
class Child:
    """A mutant, the lines of the seed that it changed, and the characters of each statement."""

    text: str
    note: str
    lines: tuple[tuple[int, int], ...]
    places: frozenset[tuple[tuple[int, ...], int, int]]  # path of a statement, first and past-the-end character


def child_of(seed: str, text: str, note: str) -> Child:
    return Child(text, note, changed_lines(seed, text), frozenset(map(place, genomes.diff(seed, text))))


def changed_lines(seed: str, text: str) -> tuple[tuple[int, int], ...]:
    opcodes = difflib.SequenceMatcher(None, seed.splitlines(), text.splitlines(), autojunk=False).get_opcodes()
    return tuple((i1, i2) for tag, i1, i2, _, _ in opcodes if tag != "equal")


def place(edit: genomes.Edit) -> tuple[tuple[int, ...], int, int]:
    """Where the old text differs from the new one."""
    same = next((i for i, (x, y) in enumerate(zip(edit.old, edit.new, strict=False)) if x != y), min(len(edit.old), len(edit.new)))
    left, right = edit.old[same:], edit.new[same:]
    back = next((i for i, (x, y) in enumerate(zip(reversed(left), reversed(right), strict=False)) if x != y), min(len(left), len(right)))
    return edit.path, edit.at + same, edit.at + len(edit.old) - back


def gap(a: Child, b: Child) -> int:
    """Lines between what the two changed, where they come closest; below 0 where they overlap."""
    return min(max(i1, j1) - min(i2, j2) for i1, i2 in a.lines for j1, j2 in b.lines)


def shared(a: Child, b: Child) -> bool:
    return bool({path for path, _, _ in a.places} & {path for path, _, _ in b.places})


def apart(a: Child, b: Child) -> bool:
    """Whether nothing that both changed overlaps within a statement."""
    return all(path != other or end < begin or stop < start for path, start, end in a.places for other, begin, stop in b.places)


def pool(seed: str, rng: Random) -> list[Child]:
    mutants = [genomes.mutate(seed, rng) for _ in range(POOL)]
    children = {mutant.text: child_of(seed, mutant.text, f"{mutant.mutation}: {mutant.note}") for mutant in mutants}
    return [child for child in children.values() if child.lines]


def drawn(kind: str, children: list[Child], wanted: Callable[[Child, Child], bool], rng: Random) -> Iterator[Pair]:
    while True:
        a, b = rng.sample(children, 2)
        if wanted(a, b):
            yield Pair(kind, a.text, b.text, f"{a.note} | {b.note}")


def same_list(seed: str, children: list[Child], rng: Random) -> Iterator[Pair]:
    """In turn, two mutants that meet in a statement, and two programs with one item of the same list changed in each."""
    mutants = drawn("same list", children, lambda a, b: shared(a, b) and apart(a, b), rng)
    lists = [items for node in ast.walk(ast.parse(seed)) if len(items := list(filter(is_number, listed(node)))) > 1]
    while True:
        yield next(mutants)
        one, two = rng.sample(rng.choice(lists), 2)
        a, b = changed_item(seed, one, rng), changed_item(seed, two, rng)
        if not (genomes.check(a) or genomes.check(b)):
            yield Pair("same list", a, b, f"items of line {one.lineno}")


def listed(node: ast.AST) -> list[ast.expr]:
    """Arguments of a call, elements, values or operands, of the seed's ASCII lines."""
    if isinstance(node, ast.Call):
        return [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg)]
    if isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load):
        return node.elts
    if isinstance(node, ast.Dict):
        return node.values
    return [node.left, node.right] if isinstance(node, ast.BinOp) else []


def is_number(item: ast.expr) -> bool:
    """Whether an item is a number, as far as the text shows: a literal, a constant, or something computed."""
    literal = isinstance(item, ast.Constant) and isinstance(item.value, int | float)
    return literal or isinstance(item, ast.BinOp) or (isinstance(item, ast.Name) and item.id.isupper() and len(item.id) > 1)


def changed_item(seed: str, item: ast.expr, rng: Random) -> str:
    """Another value for a number or a boolean; anything else is written differently, so that the program still trains."""
    lines = seed.encode().splitlines(keepends=True)
    code = ast.get_source_segment(seed, item) or ""
    start = sum(map(len, lines[: item.lineno - 1])) + item.col_offset
    value = item.value if isinstance(item, ast.Constant) else None
    if isinstance(value, bool):
        new = str(not value)
    elif isinstance(value, int | float):
        new = repr(value * 2 if value else 1)
    else:
        new = rng.choice(["(1 * {})", "({} + 0)", "(0 + {})"]).format(f"({code})" if isinstance(item, ast.BinOp) else code)
    return (seed.encode()[:start] + new.encode() + seed.encode()[start + len(code.encode()) :]).decode()


def moved(seed: str, children: list[Child], rng: Random) -> Iterator[Pair]:
    lines = seed.splitlines(keepends=True)
    tops = [node for node in ast.parse(seed).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    functions = [node for node in tops if isinstance(node, ast.FunctionDef)]
    while True:
        node, other = rng.choice(functions), rng.choice(tops)
        first, last = node.lineno - 1, node.end_lineno or 0
        near = [one for one in children if any(i1 <= last + NEAR and i2 >= first - NEAR for i1, i2 in one.lines)]
        if node is other or not near:
            continue
        block, target = [*lines[first:last], "\n", "\n"], other.lineno - 1
        after = last + 2 if lines[last : last + 2] == ["\n", "\n"] else last
        if target < first:
            text = "".join([*lines[:target], *block, *lines[target:first], *lines[after:]])
        elif target >= after:
            text = "".join([*lines[:first], *lines[after:target], *block, *lines[target:]])
        else:
            continue
        if text != seed and not genomes.check(text):
            b = rng.choice(near)
            yield Pair("moved", text, b.text, f"{node.name} before {other.name} | {b.note}")


def pairs(seed: str, count: int, rng: Random) -> Iterator[Pair]:
    children = pool(seed, rng)
    classes = (
        drawn("far apart", children, lambda a, b: gap(a, b) >= FAR, rng),
        drawn("near", children, lambda a, b: -1 < gap(a, b) <= NEAR and not shared(a, b), rng),
        same_list(seed, children, rng),
        moved(seed, children, rng),
    )
    for found in classes:
        yield from islice(found, count // len(classes))


# ---- judging


def judged(seed: str, pair: Pair, rng: Random) -> Judged:
    ours = genomes.merge(seed, pair.a, pair.b, genomes.seeded(rng))
    found = mistakes(ours.text)
    known = mistakes(pair.a) | mistakes(pair.b) if found else found
    return Judged(pair, ours, git_merge(seed, pair.a, pair.b), tuple(sorted(found - known)))


@cache
def mistakes(text: str) -> frozenset[str]:
    return frozenset(problem.message for problem in genomes.check(text))


def git_merge(base: str, a: str, b: str) -> str | None:
    """What `git merge-file` makes of them; None where it finds a conflict."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("a", "base", "b")]
        for path, text in zip(paths, (a, base, b), strict=True):
            path.write_text(text, encoding="utf-8")
        done = subprocess.run(["git", "merge-file", "-p", *map(str, paths)], capture_output=True, check=False)
    if done.returncode < 0 or done.returncode > 127:
        raise RuntimeError(f"git merge-file failed with {done.returncode}: {done.stderr.decode()}")
    return done.stdout.decode() if done.returncode == 0 else None


def write_out(folder: Path, seed: str, found: list[Judged]) -> None:
    """The texts of every clean disagreement, for judging."""
    for number, one in enumerate(found):
        own = folder / f"{number:03d}"
        own.mkdir(parents=True, exist_ok=True)
        texts = {"base": seed, "a": one.pair.a, "b": one.pair.b, "ours": one.ours.text, "git": one.git or ""}
        for name, text in texts.items():
            (own / f"{name}.py").write_text(text, encoding="utf-8")
        difference = difflib.unified_diff((one.git or "").splitlines(True), one.ours.text.splitlines(True), "git", "ours")
        (own / "note.txt").write_text(f"{one.pair.kind}: {one.pair.note}\n\n{''.join(difference)}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the texts of clean disagreements go")
    parser.add_argument("--train", type=int, default=0, metavar="N", help="evaluate N merged children whose parents train")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="evaluations at once")
    parser.add_argument("--budget", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load(None, [], {"run.profile": "cpu", "run.slots": options.jobs, "run.budget_seconds": options.budget})
    assembled = assembly.build(assembly.plan(config), lambda line: print(line, file=sys.stderr, flush=True)) if options.train else None
    seed, rng = assembled.rendered.seed if assembled else SEED.read_text(encoding="utf-8"), Random(f"{options.seed}/pairs")
    found = list[Judged]()
    for pair in pairs(seed, options.pairs, rng):
        found.append(judged(seed, pair, rng))
        if len(found) % PROGRESS == 0:
            print(f"{len(found)} pairs merged", file=sys.stderr, flush=True)
    kinds = classes_of(found)
    rows = {kind: figures([one for one in found if one.pair.kind == kind]) for kind in kinds}
    disagreements = [one for one in found if one.disagrees]
    if options.out:
        write_out(options.out, seed, disagreements)
    trained_as = evaluated(found, options.train // len(kinds), assembled, options.jobs, rng) if assembled else {}
    if options.json:
        print(json.dumps({"classes": rows, "trained": trained_as}, indent=2))
        return 0
    for kind, row in rows.items():
        print(f"{kind:10} " + ", ".join(f"{value} {name}" for name, value in row.items()))
    for one in found:
        if one.mistakes:
            print(f"mistake in {one.pair.kind} ({one.pair.note}): {one.mistakes[0]}")
    if trained_as:
        print(f"at {options.budget:g} s: " + ", ".join(f"{value} {name}" for name, value in trained_as.items()))
    return 0


def evaluated(found: list[Judged], of_each: int, assembled: assembly.Assembly, jobs: int, rng: Random) -> dict[str, int]:
    """How many of a sample of merged children reach a finite score. Where one does not, its parents are evaluated; if one of them does not
    either, the merge had nothing to keep, and the next pair of its class takes its place."""
    kinds = classes_of(found)
    shuffled = {kind: [one for one in found if one.pair.kind == kind] for kind in kinds}
    for of_kind in shuffled.values():
        rng.shuffle(of_kind)
    waiting, alone, replaced = [one for of_kind in shuffled.values() for one in take(of_kind, of_each)], 0, 0
    while waiting:
        scores = trained([genomes.Mutant(one.ours.text, one.pair.kind, one.pair.note) for one in waiting], assembled, jobs)
        failed = [one.pair for one, score in zip(waiting, scores, strict=True) if score.val_bpb is None]
        parents = trained([genomes.Mutant(text, "parent", pair.note) for pair in failed for text in (pair.a, pair.b)], assembled, jobs)
        sound = [one.val_bpb is not None for one in parents]
        unsound = [pair.kind for pair, a, b in zip(failed, sound[::2], sound[1::2], strict=True) if not (a and b)]
        alone, replaced = alone + len(failed) - len(unsound), replaced + len(unsound)
        waiting = [one for kind in unsound for one in take(shuffled[kind], 1)]
    sample = of_each * len(kinds)
    return {"merged children evaluated": sample, "with a finite score": sample - alone, "replaced, as a parent does not train": replaced}


def take(found: list[Judged], count: int) -> list[Judged]:
    """The first few, which are removed."""
    taken = found[:count]
    del found[:count]
    return taken


def classes_of(found: list[Judged]) -> list[str]:
    return list(dict.fromkeys(one.pair.kind for one in found))


def figures(found: list[Judged]) -> dict[str, int]:
    return {
        "pairs": len(found),
        "conflicts of git": sum(one.git is None for one in found),
        "of ours": sum(bool(one.ours.conflicts) for one in found),
        "of ours alone": sum(bool(one.ours.conflicts) and one.git is not None for one in found),
        "clean disagreements": sum(one.disagrees for one in found),
        "with a new mistake": sum(bool(one.mistakes) for one in found),
    }


if __name__ == "__main__":
    sys.exit(main())
