"""The one place that makes figures; matplotlib loads only here."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty matplotlib figure that belongs to no window and no global state.

    Args:
        width: inches, > 0.
        height: inches, > 0.

    Returns:
        The figure; ``figure.savefig(path)`` writes it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Figures need matplotlib: pip install "hopfield-replay[tensorboard]".') from error
    return Figure(figsize=(width, height), layout="constrained")
