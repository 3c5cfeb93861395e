"""What the commands share."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from typing import NoReturn, TextIO

from evo.errors import SettingError

STOPPED = 130  # exit code of a process ended by SIGINT, as in shells
STAND_INS = {"±": "+-", "→": "->", "★": "*", "✗": "x", "✓": "ok", "×": "x", "…": "...", "–": "-", "−": "-"}
STAND_INS |= dict(zip("├└│─", "|`|-", strict=True)) | dict(zip("▁▂▃▄▅▆▇█", "_.-~=+*#", strict=True))


class Parser(argparse.ArgumentParser):
    """Reports in one line what is wrong, like every other error of a command, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; `{self.prog} --help` lists the options\n")


def entry(name: str, main: Callable[[], int]) -> int:
    """Runs a command as a process of its own and returns its exit code. Characters that the terminal's encoding lacks are shown by similar
    ones."""
    codecs.register_error("evo.stand_in", stand_in)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="evo.stand_in")
    try:
        code = main()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        drop_output()
        return 0
    except OSError as error:  # commands report themselves what they cannot read
        drop_output()
        print(f"{name}: {error.strerror}: {error.filename or 'standard output'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        return STOPPED
    return code


def tell(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, or several, at once; on a terminal they break between words."""
    stream = stream or sys.stdout
    width = width_of(stream)
    print("\n".join(folded(line, width) for line in text.split("\n")), file=stream, flush=True)


def width_of(stream: TextIO) -> int:
    """Columns of the terminal behind a stream; 0 where there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):  # no terminal, or no real stream
        return 0


def folded(line: str, width: int) -> str:
    """The line, broken between words where a terminal would break it inside one; what follows stands under the last column of a table.
    A command at the end is left whole, since it is there to be copied.

    Args:
        width: columns of the terminal; 0: there is none, and nothing is broken.
    """
    if not width or len(line) <= width or line.startswith(("  python -m ", "  optuna-dashboard ")):
        return line
    text, python, command = line.partition(" python -m ") if ": python -m " in line else (line, "", "")
    column = line.rfind("  ") + 2
    indent = column if 2 < column <= width // 2 else 2
    lines = textwrap.wrap(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, f" {python}{command}"] if python else lines)


def refusal(error: Exception, flags: Mapping[str, str], options: argparse.Namespace) -> str:
    """What an error says; of a setting under the name of the flag that gave its value.

    Args:
        flags: flag without dashes -> `section.key`.
    """
    if isinstance(error, SettingError):
        for flag, setting in flags.items():
            if setting == error.setting and getattr(options, flag) is not None:
                return f"--{flag} {error.said}"
    return str(error)


def stand_in(error: UnicodeError) -> tuple[str, int]:
    """Error handler for `codecs.register_error`: shows our own signs in ASCII, all others as `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(STAND_INS.get(character, "?") for character in error.object[error.start : error.end]), error.end


def drop_output() -> None:
    """Discards standard output from here on: nobody takes it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no real stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
