"""ReplayStream: how many samples are replayed beside each batch, and which."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from hopfield_replay.buffer import EnergyReplayBuffer
from hopfield_replay.distributed import world

ReplayRatio = float | Callable[[int, int], float]


def check_replay_ratio(replay_ratio: ReplayRatio) -> ReplayRatio:
    """Return the ratio; a number must lie in (0, 1)."""
    if callable(replay_ratio):
        return replay_ratio
    if isinstance(replay_ratio, bool) or not isinstance(replay_ratio, int | float):
        raise TypeError(f"replay_ratio must be a number or a function of task and step, got {replay_ratio!r}.")
    if not 0.0 < replay_ratio < 1.0:
        raise ValueError(
            f"replay_ratio must lie in (0, 1), got {replay_ratio}: it is the share of every training batch that is "
            "replayed. For no replay, pass the loader itself."
        )
    return float(replay_ratio)


class ReplayStream:
    """An endless stream of draws from a buffer, whose position is part of the trainer's checkpoint.

    Args:
        buffer: read at every draw; an empty buffer yields nothing.
        replay_ratio: share of the joined batch that is replayed, or a function of task and step.
        seed: of the draws; each rank draws its own.
    """

    def __init__(self, buffer: EnergyReplayBuffer, replay_ratio: ReplayRatio, seed: int) -> None:
        self.buffer = buffer
        self.replay_ratio = check_replay_ratio(replay_ratio)
        self.seed = seed
        self._generator: torch.Generator | None = None
        self._owed = 0.0
        self._step = 0
        self._counts = [0, 0]  # new and replayed samples so far

    def __iter__(self) -> Iterator["ReplayStream"]:
        return self

    def __next__(self) -> "ReplayStream":
        return self  # how much is drawn depends on the batch it joins

    @property
    def share(self) -> float:
        """Share of the samples trained on that were replayed: the ratio, or what a schedule came to so far."""
        if callable(self.replay_ratio):
            return self._counts[1] / max(1, sum(self._counts))
        return self.replay_ratio

    def draw(self, batch_size: int) -> Any:
        """Samples to replay beside a batch of this size; None if the buffer is empty or none is due yet.

        batch_size * ratio / (1 - ratio) samples are due; fractions are carried over, so that the share is right over an
        epoch.
        """
        if not len(self.buffer):
            return None
        if self._generator is None:
            self._generator = torch.Generator().manual_seed(self.seed + 1_000_003 * world()[0])
        ratio = self.replay_ratio
        if callable(ratio):
            task = int(self.buffer.tasks.max()) + 1
            ratio = ratio(task, self._step)
            if not 0.0 <= ratio < 1.0:
                raise ValueError(f"The replay_ratio of task {task}, step {self._step} must lie in [0, 1), got {ratio}.")
        self._step += 1
        self._owed += batch_size * ratio / (1.0 - ratio)
        count = int(self._owed + 0.5)
        self._owed -= count
        self._counts = [self._counts[0] + batch_size, self._counts[1] + count]
        return self.buffer.sample(count, generator=self._generator) if count else None

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream: tensors and plain Python."""
        return {
            "owed": self._owed,
            "step": self._step,
            "counts": self._counts,
            "generator": None if self._generator is None else self._generator.get_state(),
            "rank": world()[0],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; a checkpoint holds rank 0's, the other ranks start their own stream anew."""
        self._owed, self._step, self._counts = state["owed"], state["step"], list(state["counts"])
        if state["generator"] is not None and state["rank"] == world()[0]:
            self._generator = torch.Generator()
            self._generator.set_state(state["generator"].cpu())
