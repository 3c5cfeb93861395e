"""Changes exactly the characters of chosen nodes of a program; comments, layout and everything else stay as they were."""

from __future__ import annotations

import ast
from collections.abc import Iterable


def spliced(text: str, changes: Iterable[tuple[ast.expr, str]]) -> str:
    """The program with each node's characters replaced by a text.

    Args:
        changes: nodes of `ast.parse(text)`, none inside another, and what comes in their place.
    """
    raw = text.encode()  # ast counts columns in bytes
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    cuts = []
    for node, new in changes:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        cuts.append((starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset, new.encode()))
    for start, end, content in sorted(cuts, reverse=True):
        raw = raw[:start] + content + raw[end:]
    return raw.decode()
