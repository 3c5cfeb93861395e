"""Everything that the program around the search raises on purpose, named after what the catcher should do.

EvoError                print the one line and end
├── UserError           what was asked for cannot be done as asked: exit code 2, nothing was changed
│   ├── SettingError    … for the value of a setting: name the flag that gave it, if one did
│   ├── SeedFailsError  the lab's own program gets no score: mend it before anything can be evolved
│   │   └── SeedIgnoredError  … or the same score under every seed: noise cannot be measured
│   └── LineageError    a question about a run has no answer: ask another
├── ClusterError        what runs the slots is gone: exit code 1; all that is finished is kept, the run can go on
├── StudyError          the study, a view, cannot be written: say so and go on, the run is not affected
└── ModelError          the endpoint of a model gave no reply: built-in operators write, it is asked again later
    ├── KeyRefusedError   … for the key: set another, nothing else helps
    └── RequestTooLongError … for the length of the prompt: shorten it to what the server has room for, and ask again

What a candidate does is never an error (evaluator/outcome.py). `folder.StoreError` is translated where the store is opened,
`evaluate.HarnessError` where a slot reports it (it is raised once no slot is left), `genomes.GenomeError` where a lab is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from evaluator.printed import printable


class EvoError(Exception):
    """Base of the tree; the message is one line that says what is wrong and what to do."""

    exit_code = 1


class UserError(EvoError):
    """Wrong input: print the line, change nothing, exit with 2."""

    exit_code = 2


class SettingError(UserError):
    """A setting cannot have this value: say so of the flag that gave it, if one did."""

    def __init__(self, setting: str, said: str) -> None:
        """
        Args:
            setting: its full name, which the sentence begins with.
            said: the rest of the sentence.
        """
        super().__init__(f"{setting} {said}")
        self.setting, self.said = setting, said


class SeedFailsError(UserError):
    """The lab's own program fails, so there is nothing to start from."""


class SeedIgnoredError(SeedFailsError):
    """The lab's own program takes no seed, so there is no noise to compare a gain with."""


class LineageError(UserError):
    """The question cannot be answered as asked."""


class ClusterError(EvoError):
    """The machinery under a run failed: stop, and say how to go on."""


class StudyError(EvoError):
    """The file of the study cannot be written; the run itself is not affected."""


class ModelError(EvoError):
    """No reply of the model: let the built-in operators write, and try again later."""


class KeyRefusedError(ModelError):
    """The endpoint refuses the key, or wants one; the message says where to set it."""


class RequestTooLongError(ModelError):
    """The endpoint refuses the prompt as too long; what it has room for is known better now."""


def nearest(wanted: str, known: Iterable[str], section: str = "") -> str:
    """A clause that names the closest of the known words, those that `wanted` begins or is spelt like, or all of them if none is close.

    Args:
        section: the section whose keys the words are; the closest are shown with it.
    """
    words = sorted(known)
    close = [word for word in words if wanted and word.startswith(wanted)] or difflib.get_close_matches(wanted, words, n=3, cutoff=0.5)
    return f"nearest: {', '.join(section + word for word in close[:3])}" if close else f"known: {', '.join(words)}"


def one_line(text: str) -> str:
    """The text made safe for one line of a terminal or a log, whoever wrote it."""
    return " ".join(printable(text).split()).encode("utf-8", errors="backslashreplace").decode("utf-8")
