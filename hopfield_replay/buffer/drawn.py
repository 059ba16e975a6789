"""Drawn: how much of what is trained on was replayed, counted where it is drawn."""

import warnings
from collections.abc import Callable
from typing import Any

from hopfield_replay.utilities.states import check_whole


class Drawn:
    """Counts, for the task at hand, the samples of its batches and the replayed ones beside them.

    Attributes:
        new: samples of the task's own batches since replay began.
        replayed: samples that were replayed beside them.
        alone: samples that were drawn beside batches that nobody counted, by :meth:`EnergyReplayBuffer.sample`.

    Example:
        >>> drawn = Drawn()
        >>> drawn.add(new=30, replayed=10)
        >>> drawn.share()
        0.25
    """

    def __init__(self) -> None:
        self.new = self.replayed = self.alone = 0

    def add(self, *, new: int, replayed: int) -> None:
        """Count one batch."""
        self.new += new
        self.replayed += replayed

    def clear(self) -> None:
        """Begin with another task."""
        self.new = self.replayed = self.alone = 0

    def share(self, gather: Callable[[Any], list[Any]] = lambda count: [count]) -> float:
        """Share of the samples trained on that were replayed, in [0, 1); 0 where nothing was drawn.

        Args:
            gather: collects one count from every process.

        Warns:
            UserWarning: samples were drawn, but not beside batches that are counted.
        """
        counts = gather((self.new, self.replayed, self.alone))
        new, replayed, alone = (sum(count[part] for count in counts) for part in range(3))
        if alone and not replayed:
            warnings.warn(
                f"{alone} samples were drawn from the buffer by sample() or draw(), but how many new ones were trained "
                "on beside them is not known: energies count none of them as replayed. Pass replay_ratio= to "
                "end_task(), or beside= to sample(), or let ReplayBatches, ReplayLoader or ReplayDataModule draw.",
                stacklevel=2,
            )
        return replayed / (new + replayed) if replayed else 0.0

    def state(self) -> list[int]:
        """The counts, as :meth:`restore` takes them."""
        return [self.new, self.replayed]

    def restore(self, new: int, replayed: int) -> None:
        """Go on with the counts of a state.

        Raises:
            TypeError, ValueError: no whole numbers >= 0.
        """
        self.new, self.replayed = (check_whole(count, "drawn") for count in (new, replayed))
        self.alone = 0
