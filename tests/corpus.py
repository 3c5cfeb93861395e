"""Real programs for the tests of genomes: the seed, training scripts in different styles, and modules of the standard library."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEED = (ROOT / "trainer" / "train.py").read_text(encoding="utf-8")
SCRIPTS = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests" / "programs").glob("*.*"))} | {"seed": SEED}

# Small for the most part, and of as many hands as possible; each is there from Python 3.11 on.
_MODULES = re.findall(
    r"\S+",
    """
    __future__ abc asyncio/queues asyncio/staggered asyncio/taskgroups asyncio/timeouts base64 bisect code codeop colorsys
    concurrent/futures/thread copyreg ctypes/_endian curses/ascii curses/has_key email/charset encodings/punycode fnmatch getopt graphlib
    hashlib heapq html/__init__ json/decoder json/scanner keyword linecache multiprocessing/heap numbers opcode queue quopri re/_casefix
    reprlib rlcompleter sched secrets shlex this tomllib/_parser unittest/signals unittest/util urllib/robotparser wave
    wsgiref/headers xml/dom/minicompat zoneinfo/_common
""",
)
_LIBRARY = Path(sysconfig.get_path("stdlib"))
LIBRARY = {name: (_LIBRARY / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES if (_LIBRARY / f"{name}.py").exists()}

PROGRAMS = SCRIPTS | LIBRARY
