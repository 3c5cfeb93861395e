"""A small process that ends Ray's helpers after a driver that died without a word: `python watchdog.py PID …`, standard input a pipe.

When the driver is killed, its end of the pipe closes. Ray's own processes notice by themselves within seconds, except two agents that
first spend a minute on telling a server that is gone (Ray 2.60, `publish_error` with a limit of 60 s). What of the given processes still
lives after a moment is killed. Processes are known by number and start time, so that a number given anew hits nobody.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

MOMENT_SECONDS = 3.0
LOOK_SECONDS = 0.1


def mark(pid: int) -> str:
    """When a process was started; "" if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        if os.path.isdir("/proc/self"):
            return ""
        return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
    return "" if fields[0] == "Z" else fields[19]


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's business
    watched = {pid: mark(pid) for pid in map(int, sys.argv[1:])}
    sys.stdin.read()  # until the driver is gone
    until = time.monotonic() + MOMENT_SECONDS
    while left := [pid for pid, started in watched.items() if started and mark(pid) == started]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()
