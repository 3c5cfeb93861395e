"""A module of the checkout beside its three files."""


def warmdown(progress, ratio):
    """Rate multiplier: constant, then straight down to 0 at the end of the budget."""
    return min(1.0, max(0.0, 1.0 - progress) / ratio) if ratio > 0 else 1.0
