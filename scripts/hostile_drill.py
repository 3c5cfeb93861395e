"""Evaluates hundreds of hostile, crashing and honest programs in a row in one slot, and looks for anything that they leave behind.

    python scripts/hostile_drill.py --count 500            # about 40 minutes on two cores
    python scripts/hostile_drill.py --count 20 --every 5
    python scripts/hostile_drill.py --messages             # every field of every message to the harness, with every hostile value

The programs are those of tests/cheats and tests/oddities, and some that crash, on the CPU profile at tiny budgets; with `--messages` they
are the seed, each with one lie in what it sends. After every few the drill counts descendant processes, open descriptors, folders of
evaluations, shared memory (memfds, files in /dev/shm, System V segments) and its own memory, and prints a line. Exit code 1: something was
left behind, memory grew, or a program came to an outcome that it must not have.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evaluator.meter import descendants  # noqa: E402
from evaluator.outcome import Failed, Interrupted, Outcome, Scored  # noqa: E402
from evaluator.slot import Slot, SlotConfig  # noqa: E402
from evo import assembly  # noqa: E402
from evo.config import load  # noqa: E402

CRASHES = {
    "syntax": "def main(:\n",
    "no main": "def build_model():\n    return None\n",
    "raises at import": "1 / 0\n",
    "raises": "def build_model(): ...\ndef main():\n    raise RuntimeError('no')\n",
    "exits": "import os\ndef build_model(): ...\ndef main():\n    os._exit(3)\n",
    "aborts": "import os\ndef build_model(): ...\ndef main():\n    os.abort()\n",
    "segfaults": "import ctypes\ndef build_model(): ...\ndef main():\n    ctypes.string_at(0)\n",
    "saves nothing": "def build_model(): ...\ndef main(): ...\n",
    "hangs": "import time\ndef build_model(): ...\ndef main():\n    time.sleep(600)\n",
}
FIELDS = (  # fields of the messages that a program's processes send: operation and name
    *(("start", name) for name in ("batch_size", "vocab_size")),
    *(("step", name) for name in ("step", "tokens", "loss")),
    *(("weights", name) for name in ("op", "bytes", "parameters", "steps", "tokens", "peak_memory_gib")),
    *(("error", name) for name in ("op", "type", "message", "trace")),
    *(("built", name) for name in ("op",)),
    *(("ready", name) for name in ("op", "parameters")),
    *(("shared", name) for name in ("op", "mapped", "pinned")),
    *(("logits", name) for name in ("op", "shape")),
)
NUMBERS = ("10**400", "-10**400", "10**18", "1e308", "float('inf')", "float('nan')", "-1", "True")
VALUES = (*NUMBERS, "None", "[]", "{}", "'x'", "'9' * 100_000")
LIE = """    import wire
    def lie(old):
        return lambda one, m, *rest: old(one, m | ({{{name!r}: {value}}} if m.get("op") == {operation!r} else {{}}), *rest)
    wire.send, prepare._Channel.send = lie(wire.send), lie(prepare._Channel.send)
"""
MEMORY_GROWTH_MIB = 64.0  # growth after the first tenth that still counts as flat


@dataclass(frozen=True)
class Left:
    """What exists beside the drill itself."""

    processes: int
    descriptors: int
    folders: int
    segments: int
    memory_mib: float
    judge_mib: float

    @classmethod
    def now(cls) -> Left:
        pids = descendants(os.getpid())
        folders = len(list(Path(tempfile.gettempdir()).glob("evo-slot-*/evaluation-*")))
        shared = len(os.listdir("/dev/shm")) + len(Path("/proc/sysvipc/shm").read_text().splitlines()) - 1
        memfds = sum(_target(name).startswith("/memfd:") for name in os.listdir("/proc/self/fd"))
        memory = [_rss_mib(pid) for pid in (os.getpid(), *pids[:1])]
        return cls(len(pids), len(os.listdir("/proc/self/fd")), folders, shared + memfds, memory[0], sum(memory[1:]))


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:  # the descriptor that lists the folder
        return ""


def _rss_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return 0.0


def programs() -> dict[str, str]:
    """Name -> text of all that is evaluated; what needs CUDA is left out."""
    folders = {"cheats": "cheat", "oddities": "honest"}
    found = {f"{kind} {path.stem}": path.read_text() for name, kind in folders.items() for path in (ROOT / "tests" / name).glob("*.py")}
    found = {name: text for name, text in found.items() if "Needs a CUDA device" not in text}
    return {**found, **{f"crash {name}": text for name, text in CRASHES.items()}}


def messages(seed_text: str) -> dict[str, str]:
    """Name -> text of programs that lie in one field of one message; apart from that they are honest."""
    head = "def build_model() -> GPT:\n"
    assert seed_text.count(head) == 1
    found = {}
    for operation, name in FIELDS:
        for value in VALUES:
            lie = LIE.format(operation=operation, name=name, value=value) + ("    raise RuntimeError\n" if operation == "error" else "")
            found[f"message {operation}.{name} = {value}"] = seed_text.replace(head, head + lie)
    return found


def wrong(name: str, outcome: Outcome) -> str:
    """Why such a program may not come to this outcome, or ""."""
    if isinstance(outcome, Interrupted):
        return f"{name}: {outcome.why}"
    if name.startswith("crash") and not isinstance(outcome, Failed):
        return f"{name}: {type(outcome).__name__}"
    if isinstance(outcome, Scored):
        counts = outcome.steps, outcome.tokens, outcome.parameters, outcome.peak_memory_gib
        if not all(0 <= count < 2**63 for count in counts):
            return f"{name}: {counts}"
    if "CHEATED" in getattr(outcome, "log", ""):
        return f"{name}: {[line for line in outcome.log.splitlines() if 'CHEATED' in line]}"  # type: ignore[union-attr]
    return ""


def drill(
    slot: Slot, pool: dict[str, str], count: int, every: int, budget_seconds: float, rng: random.Random
) -> tuple[list[Left], list[str], Counter[str]]:
    """The looks that were taken, what went wrong, and how often each outcome occurred."""
    looks, troubles, ends = list[Left](), list[str](), Counter[str]()
    order = [name for _ in range(count // len(pool) + 1) for name in rng.sample(sorted(pool), len(pool))][:count]
    print(
        f"{len(pool)} programs, {count} evaluations\n  done  minutes  processes  descriptors  folders  segments  memory MiB  judge MiB",
        flush=True,
    )
    began = time.monotonic()
    for done, name in enumerate(order, start=1):
        outcome = slot(pool[name], done, budget_seconds)
        ends[outcome.reason if isinstance(outcome, Failed) else type(outcome).__name__] += 1
        trouble = wrong(name, outcome)
        if trouble:
            troubles.append(trouble)
            print(trouble, flush=True)
        if done % every == 0 or done == count:
            left = Left.now()
            looks.append(left)
            figures = f"{left.processes:9d}  {left.descriptors:11d}  {left.folders:7d}  {left.segments:8d}"
            minutes = (time.monotonic() - began) / 60
            print(f"{done:6d}  {minutes:7.1f}  {figures}  {left.memory_mib:10.1f}  {left.judge_mib:9.1f}", flush=True)
    return looks, troubles, ends


def grown(looks: list[Left]) -> list[str]:
    """What there is more of at the end than after the first tenth."""
    first, last = looks[len(looks) // 10], looks[-1]
    found = [f"{name}: {getattr(first, name)} → {getattr(last, name)}" for name in ("processes", "descriptors", "folders", "segments")
             if getattr(last, name) > getattr(first, name)]  # fmt: skip
    for name in ("memory_mib", "judge_mib"):
        if getattr(last, name) - getattr(first, name) > MEMORY_GROWTH_MIB:
            found.append(f"{name}: {getattr(first, name):.0f} → {getattr(last, name):.0f}")
    return found


def config() -> tuple[SlotConfig, str]:
    """The CPU profile's slot, with limits at which a drill ends in time, and its seed program."""
    assembled = assembly.build(assembly.plan(load(None, [], {"run.profile": "cpu", "run.slots": 1})), lambda line: print(line, flush=True))
    found = assembled.evaluators[0]
    assert isinstance(found, SlotConfig)
    limits = replace(found.limits, setup_seconds=20.0, host_memory_gib=2.0, file_gib=0.05, tasks=300)
    return replace(found, limits=limits), assembled.rendered.seed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=500, help="evaluations (default: %(default)s)")
    parser.add_argument("--every", type=int, default=25, help="evaluations between two looks (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds of training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (default: %(default)s)")
    parser.add_argument("--messages", action="store_true", help="lies in messages, each once, instead of cheats, oddities and crashes")
    options = parser.parse_args()
    slot_config, seed_text = config()
    pool = messages(seed_text) if options.messages else programs()
    count = len(pool) if options.messages else options.count
    slot = Slot(slot_config)
    try:
        looks, troubles, ends = drill(slot, pool, count, options.every, options.budget, random.Random(options.seed))
    finally:
        slot.close()
    after = Left.now()
    print(f"closed: {after.processes} processes, {after.folders} folders")
    print("ends: " + ", ".join(f"{name} {count}" for name, count in ends.most_common()))
    kept = grown(looks) + ([f"after the end: {after}"] if after.processes or after.folders else [])
    print(f"left behind or grown: {'; '.join(kept) or 'nothing'}\ntroubles: {len(troubles)}")
    return 1 if kept or troubles else 0


if __name__ == "__main__":
    sys.exit(main())
