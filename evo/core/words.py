"""Words for people that are the same wherever they are said."""

from __future__ import annotations


def counted(count: int, what: str) -> str:
    """`1 genome`, `2 genomes`.

    Args:
        what: in the singular, of a plural that ends in `s`; adjectives may stand before it.
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
