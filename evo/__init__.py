"""What to try next, and everything around it."""

import os

# The driver is one thread among many processes: with threads of its own, evo/numeric would spin against whatever trains beside it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is loaded
