"""ReadAgain: chosen samples are read once more, and kept with the vector, energy and label that they then have."""

import torch
from torch import Tensor

from hopfield_replay.buffer.reread import Reread
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.task_reader import TaskData, TaskReader, fetch
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.distributed import raise_on_all_ranks

_ROUNDING = 1e-5  # of a vector's largest number: what other batch sizes do to a network's features
OTHER = 1e-2  # beyond this it is another sample


class ReadAgain:
    """Reads samples of a task by their place in its data, and notes how many are not what they were.

    Args:
        reader: encodes them, and finds their labels.
        source: where they are read.
        task: its number.
        data: what they were when the task was read.
        beta: inverse temperature of their energies.
        similarity: of their energies.

    Attributes:
        count: samples that were read so far.
        others: those that were others than before.
    """

    def __init__(
        self, reader: TaskReader, source: TaskSource, task: int, data: TaskData, beta: float, similarity: Similarity
    ) -> None:
        self._reader, self._source, self._task, self._data = reader, source, task, data
        self._beta, self._similarity = beta, similarity
        self.count = self.others = 0

    def __call__(self, chosen: Tensor) -> Reread:
        """The samples at these places (m,) of the data.

        Raises:
            ValueError: NaN or infinite samples that were finite before; their positions are named.
        """
        data = self._data
        before, positions = data.vectors[chosen], data.positions[chosen]
        samples = fetch(self._source, positions)
        with raise_on_all_ranks("encoding the chosen samples"):
            now = self._reader.encode(self._source, samples)
            labels = self._reader.columns.labels_of(samples, len(chosen))
        bad = positions[~torch.isfinite(now).all(1)]
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(chosen)} chosen samples of task {self._task} were finite when they were read "
                f"first, and hold NaN or infinite values now (positions {bad[:5].tolist()}). Repair the data or its "
                "random transforms; the task's last checkpoint goes on from here."
            )
        offset = (now - before).abs().amax(1)
        scale = before.abs().amax(1)
        moved = offset > _ROUNDING * scale
        named = torch.zeros(len(chosen), dtype=torch.bool)
        known = None if data.labels is None else data.labels[chosen]
        if labels is not None and known is not None:
            named = labels != known
        self.count += len(chosen)
        self.others += int(((offset > OTHER * scale) | named).sum())
        vectors = torch.where(moved[:, None], now, before)
        energies = self._energies(vectors, chosen)
        return Reread(samples, vectors, energies, known if labels is None else labels)

    def _energies(self, vectors: Tensor, chosen: Tensor) -> Tensor:
        """Leave-one-out energies under the task's samples."""
        return self._data.patterns.energies(vectors, self._beta, similarity=self._similarity, exclude=chosen)

    def warning(self) -> str | None:
        """What was seen, and what to do; None if all samples were what they had been."""
        if not self.others:
            return None
        return (
            f"{self.others} of {self.count} chosen samples of task {self._task} were not what they had been when they "
            "were read again: the data set draws random numbers (augmentation), or it has changed. Each is kept with "
            "the vector, energy and label of what was read last; the energies of all others are those of one random "
            "look at the data. For energies of the data itself, move random transforms into the module's "
            "on_after_batch_transfer (under self.trainer.training), or pass an encoder that does not see them."
        )


__all__ = ["OTHER", "ReadAgain"]
