"""What a step of the search costs when a run is long: real records of real programs, told to a fresh search, and a few steps timed."""

from __future__ import annotations

import resource
import time
from random import Random
from statistics import median

from evo import operators
from evo.core.records import CALIBRATE, TUNE, Candidate, Proposal, Record
from searchbench.ours import Core, outcome
from searchbench.problem import Problem, Truth, Value, with_values

STEPS = 15
CALIBRATIONS = 4


def cost(problem: Problem, count: int) -> dict[str, float]:
    """Milliseconds of ask + tell and of writing for the tuner, seconds of resuming, at `count` records; megabytes of memory."""
    core = Core(problem, "evo", 0, CALIBRATIONS)
    records = _records(core, problem, count)
    started = time.perf_counter()
    core.search.resume(records)
    assert core.search.champion
    resumed = time.perf_counter() - started
    asked, written = [], []
    for number in range(STEPS):
        started = time.perf_counter()
        (proposal,) = core.search.ask(1)
        between = time.perf_counter()
        found = operators.write(proposal, core.library())
        parent = core.search.champion or core.founder.genome
        writing = time.perf_counter()
        operators.write(Proposal(10 * count + number, TUNE, (parent,), 0), core.library())
        back = time.perf_counter()
        if found.text:
            core.remember(found.candidate, found.text)
        core.search.tell(Record(found.candidate, found.outcome or outcome(Truth(0.98 + 1e-5 * number, True, 30.0), 0.98)))
        asked.append(between - started + time.perf_counter() - back)
        written.append(back - writing)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"records": count, "ask_tell_ms": 1e3 * median(asked), "write_ms": 1e3 * median(written), "resume_s": resumed, "rss_mb": memory}


def _records(core: Core, problem: Problem, count: int) -> list[Record]:
    """Calibrations, and children of the seed with values drawn around its own."""
    rng = Random("cost")
    founder = core.founder
    records = [
        Record(
            Candidate(Proposal(i, CALIBRATE, (), i), founder.genome, founder.species, founder.size, ""),
            outcome(Truth(0.99, True, 40.0), 0.99),
        )
        for i in range(CALIBRATIONS)
    ]
    dials = [dial for dial in problem.dials if dial.kind == "float"]
    for index in range(CALIBRATIONS, count):
        values: dict[str, Value] = {d.name: float(f"{rng.uniform(d.low, d.high):.4g}") for d in rng.sample(dials, min(3, len(dials)))}
        text = with_values(problem.text, values)
        made = operators.describe_seed(text)
        candidate = Candidate(Proposal(index, TUNE, (founder.genome,), index), made.genome, made.species, made.size, "")
        core.remember(candidate, text)
        records.append(Record(candidate, outcome(Truth(0.99, True, 40.0), 0.985 + 0.01 * rng.random())))
    return records
