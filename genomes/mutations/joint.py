"""Moves of several knobs that keep something: parameters, tokens of a step, the mean rate, the values of a list."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator

from genomes import ranges
from genomes.knobs import Knob, Spot
from genomes.literals import Value
from genomes.mutations.literal import moved, number, rates_of, set_values
from genomes.mutations.mutation import LITERAL, Mutation, Program, Rewrite, pick, significant

_DEPTH = re.compile(r"(num_|n_)?(depth|layers?)", re.IGNORECASE)
_ASPECT = re.compile(r"aspect(_ratio)?", re.IGNORECASE)
_WIDTH = re.compile(r"width|dim|n_embd|embd|hidden|hidden_size|d_model|model_dim", re.IGNORECASE)
_HEADS = re.compile(r"(num_|n_)?(kv_)?heads?", re.IGNORECASE)
_ROWS = re.compile(r"(device_|micro_)?batch(_size)?|rows|B", re.IGNORECASE)
_PASSES = re.compile(r"(grad_)?accum(ulation)?(_steps)?", re.IGNORECASE)
_FALL = re.compile(r"warm_?down|cool_?down|\bcool\b|decay_frac", re.IGNORECASE)
_MULTIPLE = 16  # widths are multiples of this, as matrix units like them


def _depth_with_width(parent: Program, rng: random.Random) -> Rewrite | None:
    """More blocks that are narrower, or fewer and wider: depth × width² and so the parameters of the blocks stay about the same.

    An aspect ratio is the width over the depth, so that it goes with depth ** -1.5.
    """
    depth = pick(_whole(parent, _DEPTH), rng)
    aspect, width = pick(_whole(parent, _ASPECT), rng), pick(_whole(parent, _WIDTH), rng)
    second = aspect or width
    if depth is None or second is None:
        return None
    here = int(number(depth))
    new = max(1, here + rng.choice((-2, -1, 1, 2)) if here < 12 else round(here * math.exp(rng.gauss(0.0, 0.35))))
    unit = 1 if aspect else _unit(parent, int(number(second)))
    target = number(second) * (here / new) ** (1.5 if aspect else 0.5)
    other = max(1, round(target / unit)) * unit
    if new == here or other == second.value or not _fits(depth, new) or not _fits(second, other):
        return None
    return set_values(parent, {depth.name: new, second.name: other})


def _unit(parent: Program, width: int) -> int:
    """What a width must be a multiple of: an even number of channels for each head."""
    heads = [max(1, int(number(knob))) for knob in _whole(parent, _HEADS)]
    unit = math.lcm(_MULTIPLE, *(2 * count for count in heads))
    return unit if width % unit == 0 else width


def _rows_with_passes(parent: Program, rng: random.Random) -> Rewrite | None:
    """Rows of a forward pass × passes of a step: one twice and the other half of it, so that a step sees the same tokens."""
    rows, passes = pick(_whole(parent, _ROWS), rng), pick(_whole(parent, _PASSES), rng)
    if rows is None or passes is None:
        return None
    options = [(2 * int(number(rows)), int(number(passes)) // 2)] if number(passes) % 2 == 0 else []
    options += [(int(number(rows)) // 2, 2 * int(number(passes)))] if number(rows) % 2 == 0 else []
    chosen = pick((pair for pair in options if _fits(rows, pair[0]) and _fits(passes, pair[1])), rng)
    return set_values(parent, {rows.name: chosen[0], passes.name: chosen[1]}) if chosen else None


def _fall_with_rates(parent: Program, rng: random.Random) -> Rewrite | None:
    """A longer fall of the rates from a higher start, or a shorter one from a lower: the mean rate over the budget stays.

    Where rates fall linearly over a share s of the budget, their mean is 1 − s / 2 of the start.
    """
    share = pick((spot.knob for spot in parent.tunable if spot.knob.kind == ranges.FLOAT and _FALL.search(spot.knob.name)), rng)
    rates = rates_of(parent)
    if share is None or not rates or not 0.0 < number(share) <= 1.0:
        return None
    value = moved(share, rng)
    if not isinstance(value, float) or not 0.0 < value <= 1.0:
        return None
    factor = (1.0 - number(share) / 2.0) / (1.0 - value / 2.0)
    new: dict[str, Value] = {knob.name: significant(number(knob) * factor, 3) for knob in rates}
    return set_values(parent, {share.name: value, **new})


def _swap(parent: Program, rng: random.Random) -> Rewrite | None:
    """Two neighbours of one list change places: the second of two betas with the first, or two letters of a window pattern."""
    options = [*_swapped_numbers(parent), *_swapped_letters(parent)]
    values = pick(options, rng)
    return set_values(parent, values) if values else None


def _swapped_numbers(parent: Program) -> Iterator[dict[str, Value]]:
    by_name = {spot.knob.name: spot for spot in parent.tunable if spot.constant}
    for name, spot in by_name.items():
        if not (match := re.fullmatch(r"(.*)\[(\d+)\]", name)):
            continue
        neighbour = by_name.get(f"{match[1]}[{int(match[2]) + 1}]")
        if neighbour is not None and _exchangeable(spot, neighbour):
            yield {name: neighbour.knob.value, neighbour.knob.name: spot.knob.value}


def _exchangeable(first: Spot, second: Spot) -> bool:
    a, b = first.knob, second.knob
    if a.kind != b.kind or a.kind not in (ranges.FLOAT, ranges.INT) or a.value == b.value or type(a.value) is not type(b.value):
        return False
    return _fits(a, number(b)) and _fits(b, number(a))


def _swapped_letters(parent: Program) -> Iterator[dict[str, Value]]:
    """Permutations of a pattern that its comment offers."""
    for knob in (spot.knob for spot in parent.tunable if spot.knob.kind == ranges.CHOICE):
        if isinstance(word := knob.value, str):
            swaps = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
            for other in sorted(swaps & set(knob.choices) - {word}):
                yield {knob.name: other}


def _whole(parent: Program, pattern: re.Pattern[str]) -> list[Knob]:
    """Whole numbers whose own name, without what it is a part of, is of the pattern; constants before fields, which they often set."""
    knobs = [spot.knob for spot in parent.tunable if spot.knob.kind in (ranges.INT, ranges.POWER_OF_TWO) and (spot.constant or spot.named)]
    found = [knob for knob in knobs if pattern.fullmatch(knob.name.rsplit(".", 1)[-1])]
    return [knob for knob in found if knob.name.isupper()] or found


def _fits(knob: Knob, value: float) -> bool:
    return min(knob.low, number(knob)) <= value <= max(knob.high, number(knob))


JOINT_MUTATIONS = (
    Mutation(
        "depth-with-width",
        "more, narrower blocks or fewer, wider ones, at about equal parameters",
        "Kaplan et al. 2020, arXiv 2001.08361",
        LITERAL,
        4,
        _depth_with_width,
    ),
    Mutation(
        "rows-with-passes", "device batch × accumulation stays the same", "Ott et al. 2018, arXiv 1806.00187", LITERAL, 2, _rows_with_passes
    ),
    Mutation(
        "fall-with-rates",
        "a longer warmdown from higher rates, or a shorter one from lower",
        "Hägele et al. 2024, arXiv 2405.18392",
        LITERAL,
        4,
        _fall_with_rates,
    ),
    Mutation("swap-neighbours", "two neighbours of a list change places", "Koza 1992, Genetic Programming, permutation", LITERAL, 2, _swap),
)
