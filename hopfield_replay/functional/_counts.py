"""The check of how many to pick, shared by every selection."""


def check_count(k: int, available: int, things: str) -> None:
    """Refuse a number of picks that is not a whole number from 1 to what there is."""
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"k must be a whole number, got {k!r}.")
    if not 1 <= k <= available:
        raise ValueError(f"k must lie between 1 and the number of {things}, {available}, got {k}.")
