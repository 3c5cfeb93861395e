"""Kills a real run with `kill -9` at random moments and checks that nothing finished is lost, run twice or left behind.

    python scripts/kill_drill.py [--kills 10] [--budget 2] [--evals 16] [--seed 0] [--run-dir DIR]

The same command is started again after each kill, until the run ends by itself. Checked against what is on disk:
after each kill every process that the driver had started is gone within 15 s; an evaluation that had finished by then is in the store
at the end with the same slot, start and end, so it was neither lost nor run again; the records have each index once. Needs /proc. The
run uses this machine's profile and real training.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evo.watchdog import alive, descendants

PATIENCE_SECONDS = 15.0


def left_after(started: dict[int, str], seconds: float) -> tuple[list[int], float]:
    """Those of `started` (pid -> start time) that still live after at most `seconds`, and how long the others took to go."""
    began = time.monotonic()
    while True:
        left = alive(started)
        if not left or time.monotonic() - began > seconds:
            return left, time.monotonic() - began
        time.sleep(0.1)


Witness = dict[int, tuple[str, float, float]]


def finished(run_dir: Path) -> Witness:
    """Index -> (slot, start, end) of every evaluation that has finished: outcome files, and what the store took in of them."""
    found: Witness = {}
    for path in (run_dir / "outcomes").glob("*.json"):
        report = json.loads(path.read_text())
        found[int(path.stem)] = (report["slot"], report["started"], report["finished"])
    if (run_dir / "run.sqlite").exists():
        with contextlib.closing(sqlite3.connect(f"file:{run_dir / 'run.sqlite'}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT idx, slot, started, finished FROM records WHERE slot != ''").fetchall()
        found |= {index: (slot, start, end) for index, slot, start, end in rows}
    return found


def session(command: list[str], seconds: float) -> tuple[bool, int, float, str]:
    """One start of the command, killed after `seconds` unless it ends before.

    Returns:
        Whether it ended by itself, processes left behind, seconds until the last was gone, and its last line.
    """
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: dict[int, str] = {}
    until = time.monotonic() + seconds
    while driver.poll() is None and time.monotonic() < until:
        seen |= descendants(driver.pid)
        time.sleep(0.05)
    ended = driver.poll() is not None
    if not ended:
        seen |= descendants(driver.pid)
        driver.send_signal(signal.SIGKILL)
    left, took = left_after(seen, PATIENCE_SECONDS)
    said, _ = driver.communicate()
    return ended, len(left), took, (said.strip().splitlines() or [""])[-1]


def check_records(run_dir: Path, witnessed: Witness) -> list[str]:
    """What is wrong with the finished run; empty if nothing is."""
    last = finished(run_dir)
    faults = [f"evaluation {i} had finished as {was} and is {last.get(i)} now" for i, was in witnessed.items() if last.get(i) != was]
    with contextlib.closing(sqlite3.connect(f"file:{run_dir / 'run.sqlite'}?mode=ro", uri=True)) as database:
        stored = [row[0] for row in database.execute("SELECT idx FROM records ORDER BY idx")]
    if stored != list(range(len(stored))):
        faults.append(f"indices of the records are not 0..{len(stored) - 1} once each: {stored}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of training per evaluation")
    parser.add_argument("--evals", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills and of the run")
    parser.add_argument("--longest", type=float, default=40.0, help="most seconds before a kill")
    parser.add_argument("--run-dir", type=Path, default=None)
    arguments = parser.parse_args()
    run_dir = arguments.run_dir or Path(tempfile.mkdtemp(prefix="evo-drill-")) / "run"
    command = [sys.executable, "-m", "evo.run", str(run_dir), "--evals", str(arguments.evals), "--pop", "4"]
    command += ["--budget", str(arguments.budget), "--seed", str(arguments.seed)]
    rng, strays, ended, slowest = random.Random(arguments.seed), 0, False, 0.0
    witnessed: Witness = {}
    for kill in range(arguments.kills):
        ended, left, took, _ = session(command, rng.uniform(1.0, arguments.longest))
        if ended:
            print(f"the run ended by itself before kill {kill + 1}: raise --evals")
            break
        strays, slowest = strays + left, max(slowest, took)
        found = finished(run_dir)
        witnessed |= {i: seen for i, seen in found.items() if i not in witnessed}
        print(f"kill {kill + 1}: {len(found)} evaluations finished, {left} processes left after {took:.1f} s", flush=True)
    while not ended:
        ended, left, took, last = session(command, 3600.0)
        strays += left
        print(f"ended by itself: {last}")
    faults = check_records(run_dir, witnessed) + ([f"{strays} processes were left behind"] if strays else [])
    print(json.dumps({"kills": arguments.kills, "witnessed": len(witnessed), "slowest_end_seconds": round(slowest, 1), "faults": faults}))
    if arguments.run_dir is None and not faults:
        shutil.rmtree(run_dir.parent)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
