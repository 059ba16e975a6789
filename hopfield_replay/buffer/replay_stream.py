"""ReplayStream: how much is replayed beside each batch, and which samples."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.drawn import Drawn
from hopfield_replay.encoders import Columns
from hopfield_replay.utilities.distributed import world
from hopfield_replay.utilities.nested import concatenate, identity, leaves, refilled, rows
from hopfield_replay.utilities.states import DAMAGE, check_mapping, check_number, check_whole

ReplayRatio = float | Callable[[int, int], float]
_SPREAD = (5**0.5 - 1) / 2  # its multiples, less whole numbers, fill [0, 1) evenly


def check_replay_ratio(replay_ratio: ReplayRatio) -> ReplayRatio:
    """Return the ratio; a number must lie in (0, 1)."""
    if callable(replay_ratio):
        try:
            inspect.signature(replay_ratio).bind(0, 0)
        except TypeError:
            raise TypeError(
                f"replay_ratio must be a number or a function of task and step, got a function that is called as "
                f"{inspect.signature(replay_ratio)}."
            ) from None
        except ValueError:  # something compiled, of which that is not known
            pass
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
    """An endless stream of draws from a buffer: a function of the seed, the rank and the epoch.

    Its position within an epoch is part of the trainer's checkpoint.

    Args:
        loader: what the draws join.
        buffer: read at every draw; an empty buffer yields nothing.
        replay_ratio: share of the joined batch that is replayed, or a function of task and step.
        seed: of the draws; each rank draws its own.

    Raises:
        ValueError: replay_ratio outside (0, 1).
        TypeError: a buffer that is none.

    Example:
        >>> buffer = EnergyReplayBuffer(4)
        >>> buffer.update(torch.zeros(4, 1), torch.rand(4, 1), ids=torch.arange(4), task=0)
        >>> stream = ReplayStream([], buffer, replay_ratio=0.25, seed=0)
        >>> stream.draw(9).shape, buffer.drawn.share()
        (torch.Size([3, 1]), 0.25)
    """

    def __init__(self, loader: Iterable[Any], buffer: EnergyReplayBuffer, replay_ratio: ReplayRatio, seed: int) -> None:
        if not isinstance(buffer, EnergyReplayBuffer):
            raise TypeError(f"buffer must be an EnergyReplayBuffer, got {type(buffer).__name__}.")
        self.loader = loader
        self.buffer = buffer
        self.replay_ratio = check_replay_ratio(replay_ratio)
        self.seed = seed
        self._begin(0, 0)
        self._joined: list[tuple[Any, Any]] = []
        self.columns: Columns | None = None  # where in a batch the samples are, if whoever joins the batches says so
        if not callable(self.replay_ratio):
            buffer.expect(self.replay_ratio)

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Where Lightning looks for a ``set_epoch`` to call when an epoch begins."""
        return SimpleNamespace(sampler=self)

    @property
    def epoch(self) -> int:
        """The epoch at hand."""
        return self._epoch

    @property
    def begins(self) -> tuple[int, ...] | None:
        """What the draws follow from, where those of an epoch begin with the next batch."""
        if self._generator is not None or not len(self.buffer):
            return None
        return self.buffer.newest_task, self.seed, self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch's draws; the epoch at hand goes on.

        Lightning restores the position inside an unfinished epoch only, so that no epoch's draws may build on the last
        one's.
        """
        if epoch != self._epoch:
            self._begin(epoch, epoch * length(self.loader))

    def next_epoch(self) -> None:
        """Begin the draws of the epoch after the one at hand, after as many batches as there were."""
        self._begin(self._epoch + 1, self._before + self._step)

    def _begin(self, epoch: int, before: int) -> None:
        self._epoch, self._before = epoch, before  # batches of the task before this epoch
        self._step = 0  # batches of the epoch
        self._generator: torch.Generator | None = None
        self._owed: float | None = None  # samples that are due; None: nothing has been drawn in the epoch

    def _first(self, due: float) -> float:
        """Samples that are due before an epoch's first batch, beside which ``due`` are, less than one half either way.

        What an epoch leaves over is lost, as none builds on the last one's. So each but the first begins with a part of
        a sample, evenly spread over epochs, that the share is right over all of them. Where one has less than a sample
        in all, the first does, too, by the task: those of an online stream have a single one.
        """
        few = 0 < length(self.loader) * due < 1.0
        begun = self._epoch + (max(0, self.buffer.newest_task) if few else 0)
        return (0.5 + _SPREAD * begun) % 1.0 - 0.5

    def __len__(self) -> int:
        """That of the loader, if it has one: Lightning takes limit_train_batches=0.5 of the length of each part."""
        return len(self.loader)  # type: ignore[arg-type]  # a TypeError says that there is none

    def __iter__(self) -> Iterator["ReplayStream"]:
        return self

    def __next__(self) -> "ReplayStream":
        return self  # how much is drawn depends on the batch it joins

    def _ratio(self) -> float:
        """The ratio at this step."""
        if not callable(self.replay_ratio):
            return self.replay_ratio
        task = self.buffer.newest_task + 1
        step = self._before + self._step
        ratio = self.replay_ratio(task, step)
        if not 0.0 <= ratio < 1.0:
            raise ValueError(f"The replay_ratio of task {task}, step {step} must lie in [0, 1), got {ratio}.")
        if ratio:
            self.buffer.replay_ratio = ratio  # the newest is the best guess of those to come
        return ratio

    @property
    def share(self) -> float:
        """Share of the samples that are replayed: the ratio, or what a schedule came to so far in the task at hand."""
        if not callable(self.replay_ratio):
            return self.replay_ratio
        return self.buffer.drawn.share() if self.buffer.drawn.new else self._ratio()

    def draw(self, batch_size: int) -> Any:
        """Samples to replay beside a batch of this size; None if the buffer is empty or none is due yet.

        batch_size * ratio / (1 - ratio) samples are due; fractions are carried over, so that the share is right over an
        epoch, and over several where that has too few samples.
        """
        if not len(self.buffer):
            return None
        if self._generator is None:
            self._generator = torch.Generator()
            self._generator.manual_seed(self.seed + 1_000_003 * world()[0] + 7_368_787 * self._epoch)
        ratio = self._ratio()
        self._step += 1
        due = batch_size * ratio / (1.0 - ratio)
        due += self._first(due) if self._owed is None else self._owed
        count = int(due + 0.5)
        self._owed = due - count
        constant = None if callable(self.replay_ratio) else self.replay_ratio
        if not count:
            self.buffer.drawn.add(new=batch_size, replayed=0, ratio=constant)
            return None
        return self.buffer.sample(count, generator=self._generator, beside=batch_size, ratio=constant)

    def join(self, batch: Any, mark: str | None = None, shape: Callable[[Any], Any] = identity) -> Any:
        """A batch of the loader with what is replayed beside it.

        Args:
            batch: of the loader.
            mark: name of a column that says which samples are replayed; None: none.
            shape: makes what the buffer holds look like the loader's batches.

        Raises:
            TypeError: a mark, but batches that are no mappings.
            ValueError: a mark that is the name of a column; a batch that replayed samples cannot be joined to.
        """
        own = rows(batch)
        replayed = self.draw(own)
        try:
            joined = batch if replayed is None else concatenate(batch, shape(replayed))
        except (TypeError, ValueError) as error:
            raise type(error)(f"Samples of {self.buffer!r} cannot join the task's batches. {error}") from error
        if mark is not None:
            joined = marked(joined, mark, own)
        if joined is not batch:
            self._joined = [*self._joined[-1:], (joined, batch)]  # a trainer may be one batch ahead
        return joined

    def own(self, joined: Any) -> Any:
        """The batch of the loader in one that :meth:`join` has returned lately."""
        return next((batch for made, batch in self._joined if made is joined), joined)

    def state_dict(self) -> dict[str, Any]:
        """Position of the stream: tensors and plain Python."""
        return {
            "epoch": self._epoch,
            "owed": self._owed or 0.0,
            "before": self._before,
            "step": self._step,
            "counts": self.buffer.drawn.state(),
            "generator": None if self._generator is None else self._generator.get_state(),
            "rank": world()[0],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken; a checkpoint holds rank 0's, the others begin their epoch anew.

        Raises:
            ValueError: parts that are missing or of another type; nothing has changed then.
        """
        try:
            check_mapping(state, "the state")
            epoch, step, rank = (check_whole(state[name], name) for name in ("epoch", "step", "rank"))
            before = check_whole(state.get("before", epoch * length(self.loader)), "before")
            drawn = Drawn()
            drawn.restore(*state["counts"])
            owed = check_number(state["owed"], "owed")
            if not -1.0 <= owed <= 1.0:
                raise ValueError(f"owed is {owed}")
            generator = None
            if state["generator"] is not None:
                generator = torch.Generator()
                generator.set_state(state["generator"].cpu())
        except DAMAGE as error:
            raise ValueError(f"The state of the replay stream is damaged: {error!r}.") from error
        self._epoch, self._before, self._step, self._owed = epoch, before, step, owed if step else None
        self.buffer.drawn.restore(*drawn.state())
        self._generator = generator if rank == world()[0] else None


def marked(batch: Any, mark: str, own: int) -> Any:
    """A batch with a boolean column (n,) that is False for its first samples, and True for those that are replayed.

    Args:
        batch: a mapping.
        mark: the column's name.
        own: how many are not replayed.

    Raises:
        TypeError: a batch that is no mapping.
        ValueError: a column of that name is there.

    Example:
        >>> marked({"x": torch.zeros(3, 1)}, "replayed", 2)["replayed"]
        tensor([False, False,  True])
    """
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"mark={mark!r} adds a column to batches that are mappings (dicts), got {type(batch).__name__}; let the "
            "data set return dicts, or leave mark out."
        )
    if mark in batch:
        raise ValueError(f"mark={mark!r} is the name of a column that the batches have: {list(batch)}; choose another.")
    device = next((leaf.device for _, leaf in leaves(batch) if isinstance(leaf, torch.Tensor)), None)
    return refilled(batch, {**batch, mark: torch.arange(rows(batch), device=device) >= own})


def length(loader: Iterable[Any]) -> int:
    """Its length, such as the batches of an epoch; 0 if that is unknown."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return 0
