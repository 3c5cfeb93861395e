"""What the commands share: lines on a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from contextlib import closing

import pytest

from evo.cli import folded, tell, width_of

SENTENCE = "best genome: 1cd5d211ec8a5a7a, the seed itself: nothing better was found on this machine"
GO_ON = f"stopped; go on: python -m evo.run '{'a folder ' * 9}' --evals 40"


@pytest.mark.parametrize("width", [20, 60, 80])
def test_a_line_breaks_between_words_and_loses_none(width: int) -> None:
    lines = folded(SENTENCE, width).splitlines()
    assert " ".join(line.strip() for line in lines) == SENTENCE
    assert max(map(len, lines)) <= width


def test_a_line_that_fits_is_left_as_it_is() -> None:
    assert folded(SENTENCE, len(SENTENCE)) == folded(SENTENCE, 0) == SENTENCE


def test_a_command_is_left_whole_to_be_copied() -> None:
    assert folded(GO_ON, 40).splitlines() == ["stopped; go on:", f"  {GO_ON.partition(': ')[2]}"]
    for command in ("  python -m evo.lineage " + "r" * 80, "  optuna-dashboard " + "r" * 80):
        assert folded(command, 40) == command


def test_the_last_column_of_a_table_goes_on_under_itself() -> None:
    row = "-0.0807 ± 0.0610  2  TOTAL_BATCH_SIZE 1024 → 256; DEVICE_BATCH_SIZE 4 → 1"
    first, second = folded(row, 60).splitlines()
    assert first == "-0.0807 ± 0.0610  2  TOTAL_BATCH_SIZE 1024 → 256;"
    assert second == " " * 21 + "DEVICE_BATCH_SIZE 4 → 1"


def test_only_a_terminal_has_lines_broken(capsys: pytest.CaptureFixture[str]) -> None:
    tell(GO_ON)
    tell(SENTENCE, sys.stderr)
    assert capsys.readouterr() == (f"{GO_ON}\n", f"{SENTENCE}\n")
    assert width_of(io.StringIO()) == 0
    main, side = pty.openpty()
    with closing(os.fdopen(main, "rb", buffering=0)), open(side, "w", encoding="utf-8") as terminal:
        assert width_of(terminal) == os.get_terminal_size(side).columns


def test_lines_of_a_message_stay_apart_on_a_terminal() -> None:
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    with closing(os.fdopen(main, "rb", buffering=0)) as screen, open(side, "w", encoding="utf-8") as terminal:
        tell("one line of it\nanother that is too long", terminal)
        assert screen.read(200).decode().splitlines() == ["one line of it", "another that is too", "  long"]
