"""How often final draws announce a gain, by how large it is and what they cost: evo's two stages beside one stage of four or of six pairs.

    python scripts/bench_finals.py [--runs 2000] [--slots 1 2 3 4 8] [--offset-sd 1]

Values are normal with the noise as unit. Slots march in step, and each scores `--offset-sd` noise sds (one sd of a normal) off the others,
the same for all draws of a run. No program is evaluated: what is measured is `evo/core/finals.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from random import Random
from statistics import fmean

from evaluator.outcome import Scored
from evo.core.finals import Group, next_draw
from evo.core.records import Candidate, Proposal, Record
from evo.core.statistics import announce

CHAMPION, SEED, SIZE = "champion", "seed", 4
Draw = Callable[[str, int], float]  # arm, slot -> val_bpb


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description="How often final draws announce a gain.")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 2, 3, 4, 8])
    parser.add_argument("--offset-sd", type=float, default=1.0, help="of slots, in noise sds")
    options = parser.parse_args()
    print(f"{'gain':>5} {'slots':>5}   two stages (draws)   4 + 4   6 + 6   share of {options.runs} runs that announce")
    for gain in (0.0, 1.0, 2.0, 3.0):
        for slots in options.slots:
            runs = [(_draw(gain, options.offset_sd, slots, seed), slots, seed) for seed in range(options.runs)]
            played = [_two_stages(*run) for run in runs]
            once = [[_one_stage(*run, size) for run in runs] for size in (4, 6)]
            staged = f"{100 * fmean(proven for proven, _ in played):9.1f} % ({fmean(count for _, count in played):.1f})"
            print(f"{gain:5g} {slots:5}   {staged:18} {100 * fmean(once[0]):7.1f} {100 * fmean(once[1]):7.1f}", flush=True)


def _draw(gain: float, offset_sd: float, slots: int, seed: int) -> Draw:
    rng = Random(f"{gain}/{slots}/{seed}")
    offsets = [rng.gauss(0, offset_sd) for _ in range(slots)]
    return lambda arm, slot: 1.0 - gain * (arm == CHAMPION) + offsets[slot] + rng.gauss(0, 1)


def _two_stages(draw: Draw, slots: int, seed: int) -> tuple[bool, int]:
    drawn, told = list[Proposal](), dict[int, Record]()
    while True:
        wave = list[Proposal]()
        while len(wave) < slots:
            group = Group(tuple(drawn), dict(told), SEED, SIZE) if drawn else None
            proposal = next_draw(group, CHAMPION, SEED, SIZE, len(drawn), seed)
            if proposal is None:
                break
            wave.append(proposal)
            drawn.append(proposal)
        if not wave:
            said = Group(tuple(drawn), told, SEED, SIZE).announcement
            return said is not None and said.proven, len(drawn)
        told |= {p.index: _record(p, draw(p.parents[0], slot)) for slot, p in enumerate(wave)}


def _one_stage(draw: Draw, slots: int, seed: int, size: int) -> bool:
    """The same random order, everything at once, at the whole share of the look."""
    arms = [CHAMPION, SEED] * size
    Random(seed).shuffle(arms)
    said = announce([_record(Proposal(i, "final", (arm, CHAMPION), i, 0), draw(arm, i % slots)) for i, arm in enumerate(arms)], CHAMPION)
    return said is not None and said.proven


def _record(proposal: Proposal, val_bpb: float) -> Record:
    return Record(Candidate(proposal, proposal.parents[0], "", 1, ""), Scored(val_bpb, 1.0, 1.0, 1, 1, 1, 0.0, "", ""))


if __name__ == "__main__":
    main()
