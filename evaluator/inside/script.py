"""Runs a program as `python train.py` does, inside the sandbox, and tells the harness which exception ended it, if one did. Untrusted code
shares this process: what is said here only helps to explain failures."""

from __future__ import annotations

import os
import runpy
import site
import socket
import sys
from types import TracebackType

import wire
from trainee import explain

OURS = ("wire", "eager", "trainee")  # a program may have modules of these names


def run(script: str) -> None:
    """Runs the program in a clean interpreter: its own folder first on the path, nothing of the harness in sight."""
    for name in [name for name in os.environ if name.startswith("EVO_")]:
        del os.environ[name]
    for name in OURS:
        del sys.modules[name]
    sys.path[:] = [os.path.dirname(script), *(entry for entry in sys.path if entry != os.path.dirname(os.path.abspath(__file__)))]
    sys.argv[:] = [script]
    site.setquit()  # exit() and quit(), which the interpreter lacks under -S
    runpy.run_path(script, run_name="__main__")


def of_the_program(trace: TracebackType | None, script: str) -> TracebackType | None:
    """The frames from the program's first one on; all of them where it has none."""
    frame = trace
    while frame is not None and frame.tb_frame.f_code.co_filename != script:
        frame = frame.tb_next
    return frame or trace


def main() -> None:
    """Runs the program to its end."""
    channel = socket.socket(fileno=os.dup(int(os.environ["EVO_CHANNEL"])))
    script = os.path.join(os.environ["EVO_LAB"], "train.py")
    try:
        run(script)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001  every end of an untrusted program is data
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return
        wire.send(channel, explain(error.with_traceback(of_the_program(error.__traceback__, script))))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    main()
