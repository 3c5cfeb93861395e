"""A small process that ends Ray's helpers after a driver that died without a word, and removes their folder:
`python watchdog.py DRIVER_PID [FOLDER]`, standard input a pipe.

When the driver is killed, its end of the pipe closes. Ray's own processes notice by themselves within seconds, except two agents that first
spend a minute reporting to a server that is gone (Ray 2.60, `publish_error` with a limit of 60 s). What the driver had started and is still
alive after a moment is killed. This process is started before Ray is, and watches what the driver starts until the driver writes that Ray
is up. Processes are known by number and start time, so that a reused number hits nobody.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

MOMENT_SECONDS = 3.0
LOOK_SECONDS = 0.1


def processes() -> dict[int, tuple[int, str]]:
    """pid -> (parent pid, start time) of all that live; zombies are dead."""
    if not os.path.isdir("/proc/self"):
        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,lstart="], capture_output=True, text=True, check=False).stdout
        rows = [line.split(None, 2) for line in listing.splitlines()]
        return {int(pid): (int(parent), started.strip()) for pid, parent, started in rows}
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if fields[0] != "Z":
                found[int(entry)] = (int(fields[1]), fields[19])
    return found


def alive(watched: Mapping[int, str]) -> list[int]:
    """Those of the watched (pid -> start time) that still live."""
    table = processes()
    return [pid for pid, started in watched.items() if table.get(pid, (0, ""))[1] == started]


def descendants(pid: int) -> dict[int, str]:
    """pid -> start time of all that descend from `pid` and live, the asking process left out."""
    table = processes()
    found: dict[int, str] = {}
    open_ = [pid]
    while open_:
        parent = open_.pop()
        children = [child for child, (its_parent, _) in table.items() if its_parent == parent and child != os.getpid()]
        found |= {child: table[child][1] for child in children}
        open_ += children
    return found


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's business
    driver, watched = int(sys.argv[1]), dict[int, str]()
    while not select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
        watched |= descendants(driver)
    watched |= descendants(driver)
    sys.stdin.read()  # until the driver is gone
    until = time.monotonic() + MOMENT_SECONDS
    while left := alive(watched):
        for pid in left:
            watched |= descendants(pid)  # Ray's node, killed while it starts, still starts its agents
            if time.monotonic() > until:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)
    for folder in sys.argv[2:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
