"""GeneratedTask: replay of what the model itself generates, where no old data may be kept."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.storage import plain
from hopfield_replay.encoders import Columns, Encoder, vectors_of
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.functional.rows import Matrix
from hopfield_replay.policies import requirements
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.task_reader import sample_ids
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.distributed import broadcast, raise_on_all_ranks, world
from hopfield_replay.utilities.nested import concatenate, rows
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.showing import ShownSettings

_GENERATED = 1 << 38  # in a sample's id: no position in a task's data


class GeneratedTask(ShownSettings):
    r"""Draws candidates from the model before each task; a policy keeps the best, which are replayed and then dropped.

    Give it to a ForgettingTracker or a ForgettingMonitor beside a buffer. At the start of a task the model is as the
    earlier ones left it: ``count`` samples are drawn from it, the buffer's policy chooses among them (with the new
    task's data, as ever), and what it keeps is replayed like stored samples. At the end of the task they are dropped,
    and nothing of the task's own data is kept, neither in the buffer nor, by default, to be followed.

    The draws have a random state of their own: training is as it would be without them.

    Args:
        sample: draws n samples with their conditions from the model as it is, as a batch of the task's loader: the same
            nesting, dtypes and scale. Called without gradients.
        count: candidates drawn before each task, >= 1; some times the buffer's capacity, so that there is a choice.
        first_task: the first task before which samples are drawn: 1, or 0 for a model that was trained before.
        keep_probes: also keep and follow real samples of every task, to measure what is forgotten of them: for studies,
            and where that may be done.
        batch_size: samples drawn at a time, >= 1.
        module: put in evaluation mode while samples are drawn; None: a ForgettingMonitor takes the trained module.
        seed: of the draws.

    Raises:
        ValueError: values out of range.
        TypeError: a ``sample`` that cannot be called.

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> centre = torch.zeros(2)  # the model: samples around a point
        >>> generated = GeneratedTask(lambda n: centre + torch.randn(n, 2), count=40)
        >>> tracker = ForgettingTracker(EnergyReplayBuffer(5), generated=generated)
        >>> for task in range(2):
        ...     source = TaskSource([torch.randn(20, 2) + 5.0 * task])
        ...     tracker.begin_task(source)
        ...     replayed = len(tracker.buffer)
        ...     _ = tracker.end_task(source)
        >>> replayed, len(tracker.buffer)
        (5, 0)

    Source: Shin et al., arXiv:1705.08690 (deep generative replay); the choice among what is drawn is this library's.
    """

    def __init__(
        self,
        sample: Callable[[int], Any],
        count: int,
        *,
        first_task: int = 1,
        keep_probes: bool = False,
        batch_size: int = 64,
        module: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        if not callable(sample):
            raise TypeError(f"sample must be a function of the number of samples, got {type(sample).__name__}.")
        for name, value, least in (("count", count, 1), ("first_task", first_task, 0), ("batch_size", batch_size, 1)):
            check_integer(value, name, least)
        self.sample = sample
        self.count = count
        self.first_task = first_task
        self.keep_probes = keep_probes
        self.batch_size = batch_size
        self.module = module
        self.seed = seed

    def check(self, buffer: EnergyReplayBuffer | None) -> None:
        """Refuse a buffer that cannot hold what is generated.

        Raises:
            ValueError: no buffer, or one whose policy needs losses.
        """
        if buffer is None:
            raise ValueError("GeneratedTask needs a buffer, which holds what is replayed.")
        if requirements(buffer.policy).losses:
            raise ValueError("The buffer's policy needs the model's loss on real samples, and none are kept here.")

    def draw(self, task: int, encoder: Encoder, source: TaskSource, columns: Columns) -> "Generated":
        """Candidates for replay during a task.

        Args:
            task: that begins.
            encoder: maps a prepared batch to vectors.
            source: of the task's data, whose batches they are like.
            columns: where in a batch the labels are.

        Raises:
            ValueError: another number of samples than was asked for, NaN or infinite samples; labels as
                :meth:`Columns.labels_of` refuses them.
            TypeError: samples without a floating tensor.
        """
        with raise_on_all_ranks(f"generating samples for task {task}"):
            batch = self._drawn(task) if world()[0] == 0 else None
        batch = broadcast(batch)
        with raise_on_all_ranks(f"encoding generated samples for task {task}"), torch.no_grad():
            vectors = vectors_of(encoder, source.ready(batch)).cpu()
            labels = columns.labels_of(source.shaped(batch), self.count)
        bad = (~torch.isfinite(vectors).all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {self.count} generated samples hold NaN or infinite values (first: {bad[:5].tolist()})."
            )
        return Generated(max(0, task - 1), batch, vectors, labels)

    def _drawn(self, task: int) -> Any:
        drawn: Any = None
        devices = [] if self.module is None else {p.device for p in self.module.parameters() if p.device.type == "cuda"}
        counts = [self.batch_size] * (self.count // self.batch_size) + [self.count % self.batch_size]
        with (
            torch.random.fork_rng(devices=list(devices)),
            torch.no_grad(),
            nullcontext() if self.module is None else evaluating(self.module),
        ):
            torch.manual_seed(self.seed + 1_000_003 * (task + 1))
            for count in track([count for count in counts if count], f"Generating for task {task}"):
                batch = plain(self.sample(count))
                if rows(batch) != count:
                    raise ValueError(f"sample({count}) must draw {count} samples, got {rows(batch)}.")
                drawn = batch if drawn is None else concatenate(drawn, batch)
        return drawn


@dataclass(frozen=True, eq=False)
class Generated:
    """Candidates that were drawn.

    Attributes:
        task: the task whose samples they stand for: the one before.
        batch: the samples.
        vectors: (n, d) float32.
        labels: (n,) int64, or None.
    """

    task: int
    batch: Any
    vectors: Tensor
    labels: Tensor | None

    def prepare_fill(
        self, buffer: EnergyReplayBuffer, coming: Matrix | None, masses: Tensor | None = None
    ) -> Callable[[], None]:
        """What makes the buffer's policy's choice among them all that the buffer holds.

        Args:
            buffer: of which nothing stays.
            coming: vectors (N, d) of the task that begins; None where they are not known yet.
            masses: (N,) of these; None: equal.
        """
        twin = buffer.resized(buffer.capacity)
        twin.clear()
        ids = sample_ids(self.task, torch.arange(len(self.vectors)) + _GENERATED)
        twin.update(self.batch, self.vectors, ids=ids, task=self.task, labels=self.labels, task_name="generated")
        if coming is not None:
            twin.refine(coming, masses=masses)
        return buffer.prepare_load(twin.state_dict())
