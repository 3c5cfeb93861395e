"""Words that are the same wherever they are said."""

from evo.core.words import counted


def test_one_is_singular_and_all_else_plural() -> None:
    assert [counted(count, "scored genome") for count in (0, 1, 2)] == ["0 scored genomes", "1 scored genome", "2 scored genomes"]
