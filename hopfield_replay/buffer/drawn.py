"""Drawn: how much of what is trained on was replayed, counted where it is drawn."""

import warnings
from collections.abc import Callable
from typing import Any

from hopfield_replay.utilities.states import check_number, check_whole


class Drawn:
    """Counts, for the task at hand, the samples of its batches and the replayed ones beside them.

    Attributes:
        new: samples of the task's own batches since replay began.
        replayed: samples that were replayed beside them.
        ratio: the share that all of them were drawn by, which the counts only come near to; None: there is no such one.
        alone: samples that were drawn beside batches that nobody counted, by :meth:`EnergyReplayBuffer.sample`.
        begun: who began which draws, by what they follow from.

    Example:
        >>> drawn = Drawn()
        >>> drawn.add(new=30, replayed=10)
        >>> drawn.share()
        0.25
    """

    def __init__(self) -> None:
        self.new = self.replayed = self.alone = 0
        self.ratio: float | None = None
        self.begun: dict[tuple[int, ...], object] = {}

    def add(self, *, new: int, replayed: int, ratio: float | None = None) -> None:
        """Count one batch; ``ratio``: the share it was drawn by, where that is one number for the whole task."""
        self.ratio = ratio if not self.new or self.ratio == ratio else None
        self.new += new
        self.replayed += replayed

    def clear(self) -> None:
        """Begin with another task."""
        self.new = self.replayed = self.alone = 0
        self.ratio = None
        self.begun = {}

    def share(self, gather: Callable[[Any], list[Any]] = lambda count: [count]) -> float:
        """Share of the samples trained on that were replayed, in [0, 1); 0 where nothing was drawn.

        Args:
            gather: collects one count from every process.

        Warns:
            UserWarning: samples were drawn, but not beside batches that are counted.
        """
        counts = gather((self.new, self.replayed, self.alone, self.ratio))
        new, replayed, alone = (sum(count[part] for count in counts) for part in range(3))
        ratios = {ratio for own, *_, ratio in counts if own}
        if alone and not replayed:
            warnings.warn(
                f"{alone} samples were drawn from the buffer by sample() or draw(), but how many new ones were trained "
                "on beside them is not known: energies count none of them as replayed. Pass replay_ratio= to "
                "end_task(), or beside= to sample(), or let ReplayBatches, ReplayLoader or ReplayDataModule draw.",
                stacklevel=2,
            )
        if not replayed:
            return 0.0
        # the ratio itself, so that energies do not depend on the number of processes and batches
        ratio = ratios.pop() if len(ratios) == 1 else None
        return float(replayed / (new + replayed) if ratio is None else ratio)

    def state(self) -> list[int | float | None]:
        """The counts, as :meth:`restore` takes them."""
        return [self.new, self.replayed, self.ratio]

    def restore(self, new: Any, replayed: Any, ratio: Any = None) -> None:
        """Go on with the counts of a state.

        Raises:
            TypeError, ValueError: no whole numbers >= 0, no ratio.
        """
        counts = [check_whole(count, "drawn") for count in (new, replayed)]
        self.ratio = None if ratio is None else check_number(ratio, "ratio")
        self.new, self.replayed = counts
        self.alone = 0
