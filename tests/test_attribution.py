"""What edits are worth: known effects lie within the stated sds, noise has none, and an edit is the same one in every genome."""

from __future__ import annotations

import math

import numpy as np
import pytest

import genomes
from evo.core.history import Genome
from evo.numeric.attribution import Attribution, Observed, attribute, diverged
from evo.traits import Edits, Traits, traits

NOISE = 0.0003
SEED = '''"""A program of the test."""

import torch.nn as nn

MATRIX_LR = 0.04  # rate of the matrices
DEPTH = 4  # blocks
ACTIVATION = "relu"  # one of: relu, gelu


class MLP(nn.Module):
    def forward(self, x):
        x = self.up(x)
        x = F.relu(x).square()
        return self.down(x)


def main():
    rows = 64
    loss = train(MLP(), DEPTH, MATRIX_LR)
    return loss, rows
'''


def lineage(seed: int, size: int, worth: np.ndarray, together: float = 0.0) -> list[Observed]:
    """A made-up run: children take over a parent's edits and have one more, or unite two parents'. The first two edits interact."""
    rng = np.random.default_rng(seed)
    members = [frozenset[int]()]
    for _ in range(size - 1):
        parent = members[rng.integers(len(members))]
        other = members[rng.integers(len(members))] if rng.random() < 0.3 else frozenset({int(rng.integers(len(worth)))})
        members.append(parent | other)
    rows = []
    for index, edits in enumerate(members):
        draws = 4 if index == 0 else 1
        truth = 1 + sum(worth[e] for e in edits) + together * ({0, 1} <= edits)
        rows.append(Observed(f"g{index:03}", truth + rng.normal() * NOISE / math.sqrt(draws), draws, {f"e{e}": 1.0 for e in edits}))
    return rows


def errors(found: Attribution, worth: np.ndarray) -> list[float]:
    """Of each effect, in its sds."""
    return [(e.worth - sum(worth[int(name[1:])] for name in e.edits)) / e.sd for e in found.effects]


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("size", [12, 40])
def test_additive_effects_lie_within_two_stated_sds_as_often_as_that_says(size: int, share: float) -> None:
    z = []
    for seed in range(40):
        rng = np.random.default_rng(1000 + seed)
        worth = rng.normal(size=10) * 0.002 * (rng.random(10) < share)
        z += errors(attribute(lineage(seed, size, worth), NOISE), worth)
    inside = float(np.mean(np.abs(z) < 2))
    assert 0.92 <= inside <= 1.0
    assert float(np.sqrt(np.mean(np.square(z)))) > 0.5, "sds that are far too wide say nothing"


def test_an_interaction_is_told_from_the_effects() -> None:
    worth, first, ratios, others = np.array([-0.002, -0.001, 0.001, 0.0, 0.0, 0.0]), 0, [], []
    for seed in range(25):
        found = attribute(lineage(seed, 60, worth, together=-0.003), NOISE)
        by_pair = {frozenset(e for effect in i.pair for e in effect.edits): i for i in found.interactions}
        assert all(i.together >= 2 for i in found.interactions)
        others += [i.worth / i.sd for pair, i in by_pair.items() if pair != {"e0", "e1"}]
        if planted := by_pair.get(frozenset({"e0", "e1"})):
            first += found.interactions[0] == planted
            ratios.append(planted.worth / -0.003)
    assert first >= 0.9 * len(ratios) >= 15
    assert 0.7 < np.mean(ratios) < 1.05, "drawn towards nothing, but not far"
    assert np.mean(np.abs(others) < 2) >= 0.93


def test_noise_has_no_worth() -> None:
    nothing = np.zeros(10)
    clear = [abs(e.worth) > 2 * e.sd for seed in range(40) for e in attribute(lineage(seed, 40, nothing), NOISE).effects]
    assert len(clear) > 300
    assert np.mean(clear) <= 0.05


def test_what_is_not_additive_widens_the_sds() -> None:
    worth = np.random.default_rng(5).normal(size=8) * 0.002
    plain = lineage(3, 60, worth)
    odd = [Observed(r.genome, r.val_bpb + 0.002 * math.sin(7 * i), r.draws, r.edits) for i, r in enumerate(plain)]
    before, after = attribute(plain, NOISE), attribute(odd, NOISE)
    assert after.unexplained_sd > 0.0005 > before.unexplained_sd
    assert np.median([e.sd for e in after.effects]) > 2 * np.median([e.sd for e in before.effects])
    assert np.mean(np.abs(errors(after, worth)) < 2) >= 0.75


def test_ruinous_scores_leave_the_others_as_they_were() -> None:
    worth = np.random.default_rng(6).normal(size=8) * 0.002
    rows = lineage(4, 60, worth)
    ruined = [Observed(f"r{i}", 1.7 + i, 1, {**rows[i].edits, f"e{90 + i}": 1.0}) for i in range(3)]
    before = {e.edits: e for e in attribute(rows, NOISE).effects}
    after = {e.edits: e for e in attribute([*rows, *ruined], NOISE).effects}
    for edits, effect in before.items():
        assert after[edits].worth == pytest.approx(effect.worth, abs=effect.sd)
        assert after[edits].sd < 1.5 * effect.sd
    assert all(after[f"e{90 + i}",].worth > 3 * max(e.worth for e in before.values()) for i in range(3))


def test_diverged_scores_are_told_from_bad_ones() -> None:
    """Of a run on a seed that was far from its best, so that what is ruinous by the distance from best to seed is far off."""
    rng = np.random.default_rng(9)
    rows = [Observed("seed", 2.9, 4, {}), *(Observed(f"g{i}", 2.4 + 0.1 * rng.random(), 1, {f"e{i % 7}": 1.0}) for i in range(40))]
    bad = Observed("bad", 2.75, 1, {"e1": 1.0, "worse": 1.0})
    broken = [Observed(f"d{i}", 4.0 + i, 1, {"e2": 1.0, f"broken{i}": 1.0}) for i in range(2)]
    assert diverged([*rows, bad, *broken], NOISE) == {"d0", "d1"}
    assert diverged([*rows, bad], NOISE) == frozenset()
    assert diverged([], NOISE) == frozenset()


def test_what_is_left_of_a_run_is_never_without_its_usual_scores() -> None:
    """A spread of nothing, as of a seed and its repeats, makes no small loss a divergence."""
    rows = [Observed("seed", 1.0, 4, {}), *(Observed(f"g{i}", 1.0, 1, {"a": 1.0}) for i in range(9)), Observed("x", 1.05, 1, {"b": 1.0})]
    assert diverged(rows, NOISE) == frozenset()


def test_the_order_of_genomes_and_edits_changes_no_bit() -> None:
    rows = lineage(7, 40, np.random.default_rng(7).normal(size=10) * 0.001, together=-0.002)
    shuffled = [Observed(r.genome, r.val_bpb, r.draws, dict(reversed(r.edits.items()))) for r in reversed(rows)]
    assert attribute(rows, NOISE) == attribute(shuffled, NOISE)


def test_edits_that_only_occur_together_are_one_effect() -> None:
    both = {"def": 1.0, "use": 1.0}
    rows = [Observed("a", 1.0, 4, {}), Observed("b", 0.99, 1, both), Observed("c", 0.985, 1, {**both, "more": 1.0})]
    found = {e.edits: e for e in attribute(rows, NOISE).effects}
    assert set(found) == {("def", "use"), ("more",)}
    assert found["def", "use"].genomes == 2
    assert found["def", "use"].worth == pytest.approx(-0.01, abs=2 * found["def", "use"].sd)


def test_a_knob_with_many_values_is_one_effect_at_the_leaders_value() -> None:
    rng = np.random.default_rng(8)
    places = rng.uniform(-0.4, 0.4, size=40)
    rows = [Observed("seed", 1.0, 4, {})]
    rows += [Observed(f"g{i}", 1 + 0.05 * ((p - 0.2) ** 2 - 0.04) + rng.normal() * NOISE, 1, {"RATE": p}) for i, p in enumerate(places)]
    for leader in ("g3", "g11"):
        (effect,) = attribute(rows, NOISE, leader).effects
        place = places[int(leader[1:])]
        assert (effect.amount, effect.values, effect.genomes) == (place, 40, 40)
        assert effect.worth == pytest.approx(0.05 * ((place - 0.2) ** 2 - 0.04), abs=3 * effect.sd)
        assert effect.sd < NOISE


def test_nothing_to_compare_has_no_effects() -> None:
    assert attribute([], NOISE).effects == ()
    assert attribute([Observed("a", 1.0, 4, {}), Observed("b", 1.0, 1, {})], NOISE) == Attribution((), (), 2, 0.0)


# ---- which edits a genome carries


def carried(*texts: str) -> tuple[Traits, list[set[str]]]:
    """The edits of some programs, the first being the seed."""
    by_id = {f"{i}": text for i, text in enumerate(texts)}
    history = {
        id_: Genome(
            id=id_,
            index=int(id_),
            species=genomes.species(text),
            size=genomes.size(text),
            operator="mutate",
            parents=(),
            scores=(1.0,),
            failures=0,
        )
        for id_, text in by_id.items()
    }
    found = traits(Edits("0", by_id.__getitem__), history)
    return found, [set(row.edits) for row in found.observed]


def edited(*replacements: tuple[str, str], text: str = SEED) -> str:
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


SQUARE = ("F.relu(x).square()", "F.relu(x)")
LINES_MOVED = [
    ("import torch.nn as nn\n", "import math\nimport torch.nn as nn\n\nEXTRA = 3\n"),
    ("class MLP", "def helper(x):\n    # a remark\n    return x + EXTRA\n\n\nclass MLP"),
    ("        x = self.up(x)\n", "        x = helper(x)\n        x = self.up(x)\n"),
    ("    rows = 64\n", ""),
]


def test_an_edit_is_the_same_whatever_other_edits_move_its_lines() -> None:
    _, (seed, alone, *others) = carried(
        SEED, edited(SQUARE), *(edited(SQUARE, other) for other in LINES_MOVED), edited(SQUARE, *LINES_MOVED)
    )
    assert seed == set()
    assert len(alone) == 1
    assert all(alone < other for other in others)
    assert len({frozenset(other) for other in others}) == len(others)


def test_the_same_words_in_another_place_are_another_edit() -> None:
    line = "    loss = loss * 2\n"
    after = edited(("    return loss, rows\n", line + "    return loss, rows\n"))
    before = edited(("    rows = 64\n", line + "    rows = 64\n"))
    _, (_, one, other) = carried(SEED, after, before)
    assert len(one) == len(other) == 1
    assert one != other


def test_comments_and_layout_are_no_edit() -> None:
    _, (_, same) = carried(SEED, edited(("# rate of the matrices", "# another word"), ("    rows = 64\n", "    # why\n    rows = 64\n")))
    assert same == set()


@pytest.mark.parametrize("line", ["import math\n", "from math import pi, tau\n", "import math\nimport os\n"])
def test_an_import_alone_is_no_edit_and_its_use_is_one(line: str) -> None:
    """Fitted apart, what the use is worth would be shared with the import."""
    imported = ("import torch.nn as nn\n", f"{line}import torch.nn as nn\n")
    use = ("    rows = 64\n", "    rows = int(math.pi)\n")
    _, (_, alone, used, only) = carried(SEED, edited(imported), edited(imported, use), edited(use))
    assert alone == set()
    assert used == only
    assert len(used) == 1


def test_a_docstring_is_no_edit() -> None:
    _, (_, one, other) = carried(
        SEED, edited(('"""A program of the test."""', '"""Another one."""')), edited(("    rows = 64\n", '    """Why."""\n    rows = 64\n'))
    )
    assert one == other == set()


def test_a_number_is_one_edit_whatever_its_value_and_structure() -> None:
    rates = [edited(("0.04", value)) for value in ("0.02", "0.08", "0.16")]
    both = edited(("0.04", "0.08"), SQUARE, *LINES_MOVED)
    found, (_, *names, with_structure) = carried(SEED, *rates, both)
    assert all(name == {"MATRIX_LR"} for name in names)
    assert "MATRIX_LR" in with_structure
    halved, doubled, fourfold, moved = (row.edits["MATRIX_LR"] for row in found.observed[1:])
    assert halved == pytest.approx(-doubled), "a rate is on a logarithmic scale"
    assert fourfold == pytest.approx(2 * doubled)
    assert moved == doubled
    assert str(found.edits["MATRIX_LR", doubled]) == "MATRIX_LR 0.04 → 0.08"


def test_a_choice_is_one_edit_for_each_value() -> None:
    _, (_, chosen) = carried(SEED, edited(('"relu"', '"gelu"')))
    assert chosen == {"ACTIVATION = gelu"}


def test_numbers_tuned_inside_new_code_leave_it_the_same_edit() -> None:
    first, tuned = (edited(("        x = self.up(x)\n", f"        x = self.up(x) * {value}\n")) for value in ("0.5", "1.7e-1"))
    _, (_, one, other) = carried(SEED, first, tuned)
    assert one == other != set()


def test_a_program_that_fits_no_tree_of_the_seed_is_one_edit_of_the_whole() -> None:
    found, (_, whole) = carried(SEED, "def build_model():\n    return 1\n\n\ndef main():\n    return 2\n")
    assert whole
    assert genomes.describe(edit for (name, _), edit in found.edits.items() if name in whole)
