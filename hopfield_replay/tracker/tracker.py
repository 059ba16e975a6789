"""ForgettingTracker: the history of a task sequence, free of any training framework."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.removal import as_ids
from hopfield_replay.denoisers import Denoiser
from hopfield_replay.encoders import Column, Columns
from hopfield_replay.memory.settings import EnergySettings
from hopfield_replay.memory.vector_store import MEMORY
from hopfield_replay.policies import requirements
from hopfield_replay.tracker.fingerprint import check_same_data, check_same_settings, fingerprint, identity_from, named
from hopfield_replay.tracker.generated import GeneratedTask
from hopfield_replay.tracker.measurement import Measurement, Mixture
from hopfield_replay.tracker.meter import ErrorMeter, LossMeter
from hopfield_replay.tracker.read_again import ReadAgain
from hopfield_replay.tracker.reconstructions import Reconstructions
from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord, ProbeSet, history_from
from hopfield_replay.tracker.removal import left_of
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.table import forgetting_table, history_frame, history_rows
from hopfield_replay.tracker.task_at_hand import TaskAtHand
from hopfield_replay.tracker.task_reader import TaskData, TaskReader, sample_ids
from hopfield_replay.tracker.worst import MEASURES, curves, measure_of, worst_sentence
from hopfield_replay.utilities import html
from hopfield_replay.utilities.checks import Similarity, check_integer, check_seed
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.distributed import raise_on_all_ranks, warn_once
from hopfield_replay.utilities.drawing import draw_lines, legend_above
from hopfield_replay.utilities.interrupts import to_the_end
from hopfield_replay.utilities.memory import memory_for
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.showing import Shown, ShownText, jsonable
from hopfield_replay.utilities.states import DAMAGE, Migration, migrated

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ProbeStorage = Literal["samples", "vectors", "none"]
_FORMAT = "hopfield-replay tracker 3"
PROBE_SIZE = 512  # by default


def _check_numbers(timesteps: Any) -> None:
    listed = timesteps.tolist() if isinstance(timesteps, Tensor) else timesteps
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise TypeError(f"timesteps must be a list of numbers, or None for the default, got {timesteps!r}.")
    if not len(listed):
        raise ValueError("timesteps is empty; give at least one, or None for the default.")
    for step in listed:
        if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step):
            raise TypeError(f"timesteps must be finite numbers, got {step!r}.")


def _with_losses(state: Mapping[str, Any]) -> dict[str, Any]:
    """Formats 1 and 2 knew no losses."""
    none = dict.fromkeys(("loss", "loss_start", "loss_before"))
    history = [
        {**record, "trust": None, "probes": [{**none, **probe} for probe in record["probes"]]}
        for record in state["history"]
    ]
    probes = [{**none, **probe} for probe in state["probes"]]
    return {**state, "format": _FORMAT, "history": history, "probes": probes}


# each format that was ever written, and how its state becomes one of the next
_MIGRATIONS: dict[str, Migration] = {
    "hopfield-replay tracker 1": lambda state: {**state, "format": "hopfield-replay tracker 2"},
    "hopfield-replay tracker 2": _with_losses,
}


@dataclass(frozen=True, eq=False)
class _Measured:
    """All that a boundary measures, before anything is changed."""

    probes: list[ProbeSet]
    record: BoundaryRecord
    kept_energies: Tensor | None
    own_energies: Tensor | None
    losses: Tensor | None
    pictures: Reconstructions


_LESS_MEMORY = "give an encoder with shorter vectors, fewer samples a task, or a smaller probe_size"


class ForgettingTracker(Shown):
    r"""Measures, at every task boundary, what earlier tasks' samples lost, and keeps the replay buffer.

    At the end of task t the model's training data is the pattern set X_t: the task's samples, sharing a mass of
    1 - replay_ratio, and the replayed samples, sharing replay_ratio as the buffer draws them. Of every task a probe set
    is kept, with

    * energy: :math:`E(x \mid X_t)` after each task; its rise since the probe's own task is the intrinsic forgetting,
    * error: the paired-noise reconstruction error at several timesteps after each task, when a denoiser is known; its
      rise since the probe's own task is the reconstruction forgetting.

    A probe's energy never counts the probe itself: a probe that is a training sample is left out of its own task's
    patterns and of the replayed ones. Beta is calibrated on the first task and then stays.

    Args:
        buffer: filled at the end of every task; None: measure only.
        beta: inverse temperature; ``"auto"``: the buffer's, or, where that has none, a median leave-one-out n_eff of 5
            on the first task's patterns. Tracker and buffer share one beta.
        similarity: ``"distance"`` or ``"dot"``; None: the buffer's, or ``"distance"`` without a buffer.
        encoder: maps a prepared batch to vectors (n, d), the space of the energies: a function of the batch, or a
            module (such as a diffusers autoencoder) of its samples; None: the samples themselves, flattened.
        probe_size: samples of each task that are followed, >= 1.
        timesteps: timesteps of the reconstruction error; None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        samples: what the model denoises: a name or an index in the batch, or a function of the prepared batch (e.g.
            ``LatentEncoder(vae).features`` for a latent model whose batches hold pixels); None: by the rules of
            :class:`hopfield_replay.encoders.Columns`.
        labels: a name, an index or a function of the batch as the loader yields it; None: by the rules; False: none.
        condition: a name, an index or a function of the prepared batch; None: the batch without the samples; False:
            none.
        draws: noise draws at each timestep, >= 1.
        model_energy: also record each probe's energy under the model (ELBO form) from the errors at the timesteps.
        followed_tasks: only the newest tasks' probes are measured, this many, so that the work at a boundary does not
            grow with the number of tasks; None: those of all tasks. >= 1.
        history_size: only the newest records stay in :attr:`history`, this many, so that checkpoints do not grow; None:
            all. >= 1.
        generated: replay what the model itself generates, where no old data may be kept; None: replay stored samples.
        probe_storage: what states (checkpoints) hold of the samples that are followed; nothing changes as long as the
            process lives, whose memory holds them. ``"samples"``: samples and vectors, so that a resumed run measures
            all that one that was never interrupted does. ``"vectors"``: no samples; a resumed run goes on with the
            energies of earlier tasks, and has no errors or losses of them. Without an encoder (in pixel space) the
            vectors are the samples. ``"none"``: neither; a resumed run keeps the history, and measures only tasks that
            end in it. (What a buffer keeps is its own; of a stream whose task is not over the state holds its reserve.)
        device: where vectors are compared: ``"cpu"``, or a GPU, in pieces that fit its memory; None: where they are
            encoded, which is where the model trains. (A device without float64 leaves this to the CPU.)
        memory: bytes on the host that a task may take beside the buffer, >= 1 MiB. The vectors of a task stay in memory
            up to a sixteenth of it, and beyond that in temporary files, which the system may write to disk.
        scratch: folder for these files; None: the system's for temporary files (``TMPDIR``).
        seed: of the probes and of the noise.
        allow_changes: a state may be loaded into a run with other settings, and go on with other data; otherwise that
            is an error.

    Attributes:
        history: a :class:`~hopfield_replay.tracker.BoundaryRecord` for each finished task (the newest
            ``history_size``).

    Raises:
        ValueError: values out of range; a beta or a similarity that is not the buffer's.
        TypeError: a buffer that is none.

    Example:
        >>> import torch
        >>> tracker = ForgettingTracker(probe_size=4)
        >>> for task, centre in enumerate([0.0, 9.0]):
        ...     data = TaskSource([centre + torch.arange(16.0).view(8, 2) / 16])
        ...     tracker.begin_task(data)
        ...     record = tracker.end_task(data)
        >>> bool((record.probes[0].intrinsic > 0).all())  # the second task is far from the first
        True

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (intrinsic forgetting).
    """

    def __init__(
        self,
        buffer: EnergyReplayBuffer | None = None,
        *,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity | None = None,
        encoder: Callable[[Any], Tensor] | nn.Module | None = None,
        probe_size: int = PROBE_SIZE,
        timesteps: Sequence[int] | None = None,
        samples: Column | None = None,
        labels: Column | Literal[False] | None = None,
        condition: Column | Literal[False] | None = None,
        draws: int = 1,
        model_energy: bool = False,
        followed_tasks: int | None = None,
        history_size: int | None = None,
        generated: GeneratedTask | None = None,
        probe_storage: ProbeStorage = "samples",
        device: torch.device | str | None = None,
        memory: int = MEMORY,
        scratch: str | os.PathLike[str] | None = None,
        seed: int = 0,
        allow_changes: bool = False,
    ) -> None:
        if buffer is not None and not isinstance(buffer, EnergyReplayBuffer):
            raise TypeError(f"buffer must be an EnergyReplayBuffer or None, got {type(buffer).__name__}.")
        check_integer(probe_size, "probe_size", 1)
        check_integer(draws, "draws", 1)
        if probe_storage not in get_args(ProbeStorage):
            raise ValueError(
                f'probe_storage must be "samples", "vectors" or "none", got {probe_storage!r}.'
                f"{did_you_mean(probe_storage, get_args(ProbeStorage))}"
            )
        for name, most in (("followed_tasks", followed_tasks), ("history_size", history_size)):
            if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
                raise ValueError(f"{name} must be a whole number >= 1, or None for no bound, got {most!r}.")
        if timesteps is not None:
            _check_numbers(timesteps)
        if model_energy and timesteps is not None and len(timesteps) < 2:
            raise ValueError(f"model_energy integrates over at least two timesteps, got {list(timesteps)}.")
        if buffer is None:
            self._settings = EnergySettings(beta, similarity or "distance")
        else:
            buffer.settings.agree(beta, similarity, "the buffer", type(self).__name__)
        self.buffer = buffer
        self._reader = TaskReader(
            encoder,
            Columns(samples, labels, condition),
            keeps=buffer is not None,
            device=device,
            memory=memory,
            scratch=scratch,
        )
        if buffer is not None:
            buffer.memory = memory
        self.probe_size = probe_size
        self.timesteps = None if timesteps is None else list(timesteps)
        self.draws = draws
        self.model_energy = model_energy
        self.followed_tasks = followed_tasks
        self.history_size = history_size
        self.probe_storage = probe_storage
        self.generated = generated
        if generated is not None:
            if not isinstance(generated, GeneratedTask):
                raise TypeError(
                    f"generated must be a GeneratedTask, got {type(generated).__name__}. Give GeneratedTask(sample, "
                    "count=...) with a function of the number of samples."
                )
            generated.check(buffer)
        self.seed = check_seed(seed)
        self.history: list[BoundaryRecord] = []
        self.open_task: int | None = None
        self._probes: list[ProbeSet] = []
        self._pictures = Reconstructions()
        self._at_hand = TaskAtHand(self._reader)
        self.allow_changes = allow_changes
        self._asked = self._as_asked(encoder)
        self._data: dict[int, dict[str, Any]] = {}  # fingerprint of each task's data
        self._resumed = False  # the open task was begun in another process, or before the state was loaded
        self._calibrates = (
            False  # beta was calibrated on the task at hand, and is again if its data turns out otherwise
        )
        self._warned = False
        self._unlike: str | None = None

    @property
    def columns(self) -> Columns:
        """What in a batch is the sample, the label and the condition."""
        return self._reader.columns

    @property
    def reads_by_functions(self) -> bool:
        """Whether functions of the user's are asked where samples, condition or vectors are."""
        return self._reader.reads_by_functions

    @property
    def taken(self) -> str | None:
        """What was taken of the batches, in a line; None before the first task was read."""
        return self._reader.taken

    def use_columns(self, columns: Columns) -> None:
        """Take the samples, the labels and the condition elsewhere, from the next task on.

        Args:
            columns: where they are in a batch.
        """
        self._reader.use(columns)

    @property
    def settings(self) -> EnergySettings:
        """Beta and similarity, the buffer's where there is one."""
        return self._settings if self.buffer is None else self.buffer.settings

    @property
    def beta(self) -> float | None:
        """Inverse temperature of all energies; None until it is calibrated."""
        return self.settings.beta

    @property
    def similarity(self) -> Similarity:
        """Similarity of all energies."""
        return self.settings.similarity

    @property
    def next_task(self) -> int:
        """Index of the task that begins next, or of the one that has begun and not ended."""
        return self.history[-1].task + 1 if self.history else 0

    @property
    def pictures(self) -> Reconstructions:
        """Small pictures of how the model saw the followed samples when it had learned them, and the most forgotten."""
        return self._pictures

    def probe(self, task: int) -> ProbeSet:
        """The followed samples of a task that has ended.

        Raises:
            ValueError: no samples of this task are followed.
        """
        for probe in self._probes:
            if probe.task == task:
                return probe
        raise ValueError(f"No samples of task {task} are followed, only of {[probe.task for probe in self._probes]}.")

    def begin_task(self, source: TaskSource) -> None:
        """Read the new task's data, before a training step is spent on it, and refine the buffer's choice with it.

        Calling it again for a task that has begun (a resumed run) reads anew and changes nothing else; with other data
        that task is given up for the new one.

        Args:
            source: the new task's training data.

        Raises:
            ValueError: an empty task, NaN or infinite samples (their positions are named), too few samples for beta, a
                task for which the buffer has no place.
            TypeError: a batch in which no floating tensor is found.
            MemoryError: not enough memory. Under torch.distributed, whatever one process raises, the others raise a
                RuntimeError that names it.
        """
        taken = self._reader.taken
        try:
            task = self.next_task
            with raise_on_all_ranks(f"beginning task {task}"), memory_for(f"the data of task {task}", _LESS_MEMORY):
                change = self._prepare_begin(source)
        except BaseException:
            self._reader.taken = taken  # of a task that is refused nothing was taken
            raise
        to_the_end(change)

    def _prepare_begin(self, source: TaskSource) -> Callable[[], None]:
        """All of :meth:`begin_task` but the change itself, which is returned."""
        self._at_hand.forget()  # a task that was begun and given up is no longer the one at hand
        if self.buffer is not None and self.generated is None:
            self.buffer.check_place(self.next_task)
        if self._resumed:
            self.check_data(self.next_task, source)
        if source.ahead and self._at_hand.encoder_changed(source):
            self._renew(source)
        with memory_for(f"the vectors of task {self.next_task}", _LESS_MEMORY):
            data = self._at_hand.read(self.next_task, source, self._dimension)
            self._check_labels(data)
            self._check_held(data)
            self._check_room(data)
            print_of, task = fingerprint(source), self.next_task
            again = self.open_task is not None and print_of == self._data.get(task)
            beta = self.settings.beta
            if data is not None and (beta is None or (self._calibrates and not again)):
                beta = EnergySettings("auto", self.similarity).calibrated(data.near)
        calibrates = self._calibrates or self.settings.beta is None
        guessed = source.positions is not None and source.positions.guessed
        buffer = None if again else self.buffer
        refine = None
        if buffer is not None:
            with memory_for(f"the choice before task {self.next_task}", _LESS_MEMORY), self.settings.at(beta):
                refine = self._prepare_choice(buffer, source, None if guessed else data)
        look = self._at_hand.prepare_look(source)

        def change() -> None:
            self.settings.beta, self._calibrates = beta, calibrates
            look()
            if buffer is not None:
                if refine is not None:
                    refine()
                buffer.drawn.clear()
            self._at_hand.keep(task, None if data is None else data.away())
            self._data[task] = print_of
            self.open_task, self._resumed = task, False

        return change

    def check_batch(self, source: TaskSource, batch: Any) -> None:
        """Look at a batch of a stream that is going to be trained on: what is wrong with it is said before it costs.

        Args:
            source: as at :meth:`begin_task`.
            batch: as the loader yields it.

        Raises:
            ValueError, TypeError: as :meth:`begin_task`.
        """
        self._reader.check(self.next_task, source, batch, dimension=self._dimension)

    def check_encoder(self, source: TaskSource) -> bool:
        """Read the task at hand again if the encoder is no longer what it was when the task began.

        To be called after the first training step: some modules rescale what they encode by the first batch.

        Args:
            source: as at :meth:`begin_task`.

        Returns:
            Whether it has changed.
        """
        task = self.next_task
        with raise_on_all_ranks(f"encoding task {task} anew"):
            if self._at_hand.begun(task) is None or not self._at_hand.encoder_changed(source):
                return False
            self._renew(source)
            data = self._at_hand.read(task, source, self._dimension)
            beta = self.settings.beta
            if self._calibrates and data is not None:
                beta = EnergySettings("auto", self.similarity).calibrated(data.near)
            look = self._at_hand.prepare_look(source)

        def change() -> None:
            self.settings.beta = beta
            look()
            self._at_hand.keep(task, None if data is None else data.away())

        to_the_end(change)
        return True

    def _prepare_choice(
        self, buffer: EnergyReplayBuffer, source: TaskSource, coming: TaskData | None
    ) -> Callable[[], None] | None:
        """Fills the buffer with what is replayed in the task that begins; ``coming``: None where unknown."""
        if self.generated is not None and self.next_task >= self.generated.first_task:
            drawn = self.generated.draw(self.next_task, self._reader.encoder, source, self.columns)
            known = (None, None) if coming is None else (coming.vectors, coming.masses)
            return drawn.prepare_fill(buffer, *known)
        if coming is None:
            return None
        buffer.device = coming.device
        return buffer.prepare_refine(coming.vectors, masses=coming.masses)

    def _calibrated(self, data: TaskData) -> float:
        """Beta; calibrated on this task where there is none."""
        return self.settings.calibrated(data.vectors if self.settings.beta is not None else data.near)

    def end_task(
        self,
        source: TaskSource,
        *,
        denoiser: Denoiser | None = None,
        replay_ratio: float | None = None,
        probe_source: TaskSource | None = None,
        beta: float | None = None,
        read: Callable[[Any], tuple[Tensor, Any]] | None = None,
        loss: Callable[[Any], Tensor] | None = None,
        trust: str | None = None,
    ) -> BoundaryRecord:
        """Measure all probes after a task, choose what to keep of it, and append the record to :attr:`history`.

        Nothing changes if it fails.

        Args:
            source: the task's training data, as at :meth:`begin_task`.
            denoiser: the model as it is now; None: energies only.
            replay_ratio: share of the samples trained on that were replayed, in [0, 1); None: as they were drawn from
                the buffer beside the task's batches (by ReplayLoader, ReplayDataModule, ReplayBatches or Avalanche),
                in all processes together.
            probe_source: where this task's probes come from, e.g. its validation data; None: from ``source``.
            beta: inverse temperature of this boundary alone, for a task too small to calibrate one on; None: that of
                the whole sequence.
            read: maps a prepared batch to what the denoiser denoises and its condition, where these are not what
                ``samples`` and ``condition``, or the rules, say.
            loss: maps a prepared batch to a loss (n,) of each sample, with the same draws every time: where no denoiser
                is known, its rise is the loss forgetting.
            trust: how errors came to be measured, for the record.

        Returns:
            The record.

        Raises:
            ValueError: as :meth:`begin_task`; a replay_ratio outside [0, 1).
            MemoryError: as :meth:`begin_task`.
        """
        started = time.perf_counter()
        if replay_ratio is not None and not 0.0 <= replay_ratio < 1.0:
            raise ValueError(f"replay_ratio must lie in [0, 1), got {replay_ratio}.")
        task, settled = self.next_task, self.settings.beta
        try:
            said = memory_for(f"the boundary of task {task}", _LESS_MEMORY)
            with raise_on_all_ranks(f"measuring after task {task}"), said:
                if self._at_hand.begun(task) is None and self.open_task == task:  # in another process, or a stream
                    self.check_data(task, source)
                if self._at_hand.encoder_changed(source):
                    self._renew(source)
                    self._at_hand.forget()
                with memory_for(f"the vectors of task {task}", _LESS_MEMORY):
                    data = self._at_hand.trained(task, source, self._dimension)
                self._check_labels(data)
                if self._calibrates and data is not self._at_hand.begun(task):
                    self.settings.beta = None  # what it was calibrated on was not all that was trained on
                with self.settings.at(beta):
                    used = self._calibrated(data)
                    mixture = Mixture.of(data, self.buffer, replay_ratio)
                    meter = None if denoiser is None else self.meter(denoiser, source.ready, read)
                    losses = None if loss is None else LossMeter(loss, source.ready)
                    measurement = Measurement(data, mixture, self.similarity, used, meter, self.model_energy, losses)
                    measured = self._measure(source, probe_source, measurement, trust)
                    commit = self._prepare_commit(source, data, measured, used, started, settle=beta is None)
        except BaseException:
            self.settings.beta = settled
            raise
        record = to_the_end(commit)  # the buffer and the history belong together
        self._warn_of_other_samples()
        return record

    def _warn_of_other_samples(self) -> None:
        """Say once that samples which were read again were others; after the boundary, which must not be lost."""
        unlike, self._unlike = self._unlike, None
        if unlike is not None and not self._warned:
            self._warned = True
            warn_once(unlike)

    def _measure(
        self, source: TaskSource, probe_source: TaskSource | None, measurement: Measurement, trust: str | None
    ) -> _Measured:
        task, meter, mixture = self.next_task, measurement.meter, measurement.mixture
        most = len(self._probes) if self.followed_tasks is None else self.followed_tasks - 1
        earlier = self._probes[max(0, len(self._probes) - most) :]
        new = self._reader.probes(
            task, source, measurement.data.ids, size=self.probe_size, seed=self.seed, held_out=probe_source
        )
        if probe_source is not None and (known := measurement.known(new)):
            warn_once(
                f"{known} of the {len(new.ids)} probes of task {task} are training samples of it, though probe_source "
                "was to hold them out: their energies count themselves, and rise by too much. Give data that is not "
                'trained on, or follow training samples (ForgettingMonitor(probe_source="train")).'
            )
        probes = [measurement.again(probe) for probe in track(earlier, f"Forgetting after task {task}")]
        keeps = self._at_hand.moves or self._reader.encodes  # what an encoder makes of them may change
        probes.append(measurement.first(task, new, keeps=keeps))
        n_eff, n_eff_error = measurement.n_eff()
        record = BoundaryRecord(
            task=task,
            beta=measurement.beta,
            n_eff=n_eff,
            n_eff_error=n_eff_error,
            replay_ratio=mixture.replay_ratio,
            replayed=len(mixture.replayed),
            timesteps=None if meter is None else meter.timesteps,
            probes=[ProbeRecord.of(now, old) for now, old in zip(probes, [*earlier, None], strict=True)],
            seconds=0.0,
            trust=trust,
        )
        pictures = self._pictures.after(record, probes, meter, self.columns)
        if self.buffer is None:
            return _Measured(probes, record, None, None, None, pictures)
        losses, needs = None, requirements(self.buffer.policy)
        if needs.losses:
            every = measurement.loss_meter if meter is None else meter
            if every is None:
                raise ValueError(
                    "This buffer's policy needs the model's loss on every sample, but no denoiser is known."
                )
            batches = track(source.batches(measurement.data.positions), f"Losses of task {task}")
            losses = every.losses((at, batch, sample_ids(task, at)) for at, batch in batches)
        return _Measured(
            probes,
            record,
            kept_energies=measurement.energies(self.buffer.vectors, self.buffer.ids) if len(self.buffer) else None,
            own_energies=measurement.own_energies() if needs.energies and self.generated is None else None,
            losses=losses,
            pictures=pictures,
        )

    def _prepare_commit(
        self, source: TaskSource, data: TaskData, measured: _Measured, beta: float, started: float, *, settle: bool
    ) -> Callable[[], BoundaryRecord]:
        """Let the buffer choose; what is returned makes its choice true and remembers what was measured."""
        update = None
        again = ReadAgain(self._reader, source, measured.record.task, data, beta, self.similarity)
        if self.buffer is not None and self.generated is not None:
            update = self.buffer.prepare_clear()
        elif self.buffer is not None:
            self.buffer.device = data.device
            update = self.buffer.prepare_update(
                again,
                data.vectors,
                ids=data.ids,
                task=measured.record.task,
                labels=data.labels,
                energies=measured.own_energies,
                losses=measured.losses,
                observed=measured.kept_energies,
                beta=beta,
                weights=None if data.masses is None else data.masses * (len(data.masses) / data.masses.sum()),
            )
        look = self._at_hand.prepare_look(source)
        self._unlike = again.warning()
        record = replace(measured.record, seconds=time.perf_counter() - started)
        keeps = self.generated is None or self.generated.keep_probes
        probes, pictures = (measured.probes, measured.pictures) if keeps else ([], Reconstructions())

        def commit() -> BoundaryRecord:
            settled = beta if settle else self.settings.beta
            if self.buffer is not None and update is not None:
                update()
                self.buffer.drawn.clear()
            self.settings.beta = settled
            self._probes, self._pictures, self.open_task, self._calibrates = probes, pictures, None, False
            look()
            self._at_hand.forget()
            self.history.append(record)
            if self.history_size is not None:
                del self.history[: -self.history_size]
            return record

        return commit

    def meter(
        self,
        denoiser: Denoiser,
        prepare: Callable[[Any], Any],
        read: Callable[[Any], tuple[Tensor, Any]] | None = None,
    ) -> ErrorMeter:
        """What measures a model's errors with this tracker's timesteps, noise and draws.

        Args:
            denoiser: the model.
            prepare: what happens to a batch on its way to it.
            read: as at :meth:`end_task`.
        """
        return ErrorMeter(denoiser, self.timesteps, self.seed, prepare, self.columns, self.draws, read)

    def _as_asked(self, encoder: Any) -> dict[str, Any]:
        """The settings that a resumed run must share."""
        asked = {
            "beta": "auto" if self.beta is None else self.beta,
            "similarity": self.similarity,
            "seed": self.seed,
            "timesteps": self.timesteps,
            "draws": self.draws,
            "encoder": named(encoder),
        }
        if self.buffer is not None:
            asked |= {
                "policy": named(self.buffer.policy),
                "groups": self.buffer.groups,
                "sampling": self.buffer.sampling,
                "buffer_seed": self.buffer.seed,
            }
        return asked

    def check_data(self, task: int, source: TaskSource) -> None:
        """Refuse data of a task that has begun, or ended, in a loaded state and is not what it was.

        Args:
            task: its number.
            source: its data.

        Raises:
            ValueError: other data; both are named.
        """
        if not self.allow_changes:
            check_same_data(task, fingerprint(source), self._data)

    @property
    def _dimension(self) -> int | None:
        """Of the vectors so far."""
        if self._probes:
            return self._probes[0].vectors.shape[1]
        return self.buffer.vectors.shape[1] if self.buffer is not None and len(self.buffer) else None

    def _check_labels(self, data: TaskData | None) -> None:
        if data is None or data.labels is not None or self.buffer is None:
            return
        policy = type(self.buffer.policy).__name__
        asks = 'groups="label"' if self.buffer.groups == "label" else f"The policy {policy}"
        if self.buffer.groups == "label" or requirements(self.buffer.policy).labels:
            raise ValueError(
                f"{asks} needs a tensor of integers (n,) in every batch, and found none that is called label, labels, "
                "y, target, class, class_label or cls, or is the second of a pair. Say where it is with labels=."
            )

    def _check_held(self, data: TaskData | None) -> None:
        """Refuse, before it is trained, a task whose samples the buffer could not take beside those that it holds."""
        buffer = self.buffer
        if buffer is None or not len(buffer) or self.generated is not None:
            return
        first, end = sample_ids(self.next_task, torch.tensor([0])), sample_ids(self.next_task + 1, torch.tensor([0]))
        of_task = (buffer.ids >= first) & (buffer.ids < end)  # of a stream these are all that can be known
        twice = buffer.ids[of_task if data is None else torch.isin(buffer.ids, data.ids)]
        if len(twice):
            raise ValueError(
                f"The buffer was filled before this run, and holds samples of the ids {twice[:5].tolist()}, which "
                f"samples of task {self.next_task} would get. Fill it under ids that no task here has, such as "
                "hopfield_replay.tracker.sample_ids(1000, positions) with task=1000, or empty it with buffer.clear()."
            )
        if data is not None and (data.labels is None) != (buffer.labels is None):
            have, lack = ("the buffer", "the task") if data.labels is None else ("the task", "the buffer")
            raise ValueError(
                f"The samples of {have} have labels, and those of {lack} have none: all must, or none. Give labels at "
                "buffer.update(labels=...) and in the batches, or leave them out of both (labels=False here)."
            )

    def _check_room(self, data: TaskData | None) -> None:
        """Refuse, before it is trained, a task whose vectors the policy cannot be given."""
        if data is None or self.buffer is None or isinstance(data.vectors, Tensor):
            return
        needed = 4 * data.vectors.shape[0] * data.vectors.shape[1]
        memory, policy = self._reader.memory, self.buffer.policy
        if not requirements(policy).in_pieces and needed > memory:
            raise ValueError(
                f"{type(policy).__name__} needs all vectors of a task in memory: {len(data.ids)} of "
                f"{data.vectors.shape[1]} numbers are {needed / 2**20:.0f} MiB, and memory= allows "
                f"{memory / 2**20:.0f} MiB. Raise memory=, give an encoder= of fewer numbers, or choose a policy that "
                'reads them in pieces, such as "greedy_gain" or "reservoir".'
            )

    def _renew(self, source: TaskSource) -> None:
        """Take all vectors that are held anew, with the encoder as it is now."""
        warn_once(
            f"The encoder is no longer what it was (seen in task {self.next_task}): the vectors of the task, of the "
            "buffer and of the followed samples are taken anew. Energies from before the change are those of another "
            "space, and rises across it compare the two; a frozen encoder has one."
        )
        if lost := [probe.task for probe in self._probes if probe.batch is None]:
            warn_once(
                f"The samples of the tasks {lost} were not stored (probe_storage), so that their vectors cannot be "
                "taken anew: they are followed no more."
            )
        probes = [
            replace(probe, vectors=self._reader.encode(source, probe.batch))
            for probe in self._probes
            if probe.batch is not None
        ]
        buffer = self.buffer
        renew = None if buffer is None else buffer.prepare_renew(lambda samples: self._reader.encode(source, samples))

        def change() -> None:
            if renew is not None:
                renew()
            self._probes = probes

        to_the_end(change)

    def remove(self, ids: Tensor | Sequence[int]) -> None:
        """Delete samples from the buffer, from what is followed and from the history, as a deletion request asks.

        A task whose followed samples are all gone is measured no more. Checkpoints that were written before still hold
        them: ``hopfield-replay buffer FILE --remove``. See :meth:`EnergyReplayBuffer.remove`.

        Args:
            ids: (m,) of the samples; others change nothing.

        Raises:
            TypeError: ids that are no whole numbers.
        """
        gone = as_ids(ids)
        remove = None if self.buffer is None else self.buffer.prepare_remove(gone)
        probes = [ProbeSet.from_dict(left) for left in left_of([probe.to_dict() for probe in self._probes], gone)]
        records = [record.to_dict() for record in self.history]
        history = [
            BoundaryRecord.from_dict({**record, "probes": left_of(record["probes"], gone)}) for record in records
        ]

        pictures = self._pictures.without(gone)

        def change() -> None:
            self._probes, self.history[:], self._pictures = probes, history, pictures
            self._at_hand.forget()
            self._at_hand.forget_samples()
            if remove is not None:
                remove()

        to_the_end(change)

    def table(self) -> ShownText:
        """Mean intrinsic and reconstruction forgetting of every task after every task, and the worst of them, as text.

        It shows itself: at a prompt as it prints, in a notebook as a table.
        """
        table = forgetting_table(self.history)
        if self.taken is None or not self.history:
            return table
        return ShownText(f"{table}\n{self.taken}", table._repr_html_())

    def _line(self) -> str:
        kept = "no buffer" if self.buffer is None else repr(self.buffer)
        worst = worst_sentence(self.history[-1]) if self.history else None
        return f"{type(self).__name__}({self.next_task} tasks, {f'{worst}, ' if worst else ''}{kept})"

    def rows(self) -> list[dict[str, Any]]:
        """A row for each task after each task, see :func:`hopfield_replay.tracker.summarize`."""
        return history_rows(self.history)

    def to_dict(self) -> dict[str, Any]:
        """Settings and history in plain Python, ready for JSON; no samples."""
        result: dict[str, Any] = jsonable({"settings": self._asked | {"beta": self.beta}, "history": self.rows()})
        return result

    def _repr_html_(self) -> str:
        return html.paragraph(repr(self)) + (self.table()._repr_html_() if self.history else "")

    def _draw(self, axis: "Axes") -> None:
        measure = measure_of(self.history[-1]) if self.history else "intrinsic"
        lines = curves(self.history)
        draw_lines(axis, lines)
        axis.set(xlabel="after task", ylabel=MEASURES[measure])
        axis.set_xticks([record.task for record in self.history])
        if lines:
            legend_above(axis, columns=min(6, len(lines)))

    def to_frame(self, *, samples: bool = False) -> "pd.DataFrame":
        """As :meth:`history_frame`, under the name that every result has."""
        return self.history_frame(samples=samples)

    def history_frame(self, *, samples: bool = False) -> "pd.DataFrame":
        """The history as a tidy pandas DataFrame, see :func:`hopfield_replay.tracker.history_frame`.

        Args:
            samples: a row for each followed sample, not only for each probe set.

        Raises:
            ImportError: pandas is not installed.
        """
        return history_frame(self.history, samples=samples)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on: tensors and plain Python only, loadable with ``weights_only=True``."""
        nothing_real = self.probe_storage != "samples" or (
            self.generated is not None and not self.generated.keep_probes
        )
        probes = [] if self.probe_storage == "none" else self._probes
        return {
            "format": _FORMAT,
            "beta": self.beta,
            "open_task": self.open_task,
            "history": [record.to_dict() for record in self.history],
            "probes": [{**probe.to_dict(), "batch": None} if nothing_real else probe.to_dict() for probe in probes],
            "buffer": None if self.buffer is None else self.buffer.state_dict(),
            "encoder": None if nothing_real else self._at_hand.state_dict(),
            "calibrates": self._calibrates,
            "settings": self._asked,
            "data": {str(task): print_of for task, print_of in self._data.items()},
            "taken": self.taken,
            "pictures": (Reconstructions() if nothing_real else self._pictures).state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; nothing changes if it does not fit.

        Raises:
            ValueError: another format, parts that are missing or do not fit together, or a buffer in the state and none
                here (or the other way round).
        """
        state = migrated(state, _FORMAT, _MIGRATIONS, "a ForgettingTracker")
        try:
            history, probes = history_from(state)
            settings, data = identity_from(state)
            taken = state.get("taken")
            pictures = Reconstructions.from_state(state.get("pictures"))
            if not isinstance(taken, str | None):
                raise TypeError(f"taken is {type(taken).__name__}")
        except DAMAGE as error:
            raise ValueError(f"The state of the tracker is damaged: {error!r}.") from error
        if (state["buffer"] is None) != (self.buffer is None):
            raise ValueError(
                f"The state was written {'without' if state['buffer'] is None else 'with'} a buffer, but this run is "
                f"{'without' if self.buffer is None else 'with'} one; resume with the same configuration."
            )
        if not self.allow_changes:
            same = self._asked["beta"] == state["beta"]  # the one that the state's run has calibrated is no other
            check_same_settings(settings, {**self._asked, "beta": settings.get("beta")} if same else self._asked)
        at_hand = TaskAtHand(self._reader)
        at_hand.load_state_dict(state.get("encoder"))
        load_buffer = None if self.buffer is None else self.buffer.prepare_load(state["buffer"], of_any_kind=True)

        def change() -> None:
            if load_buffer is not None:
                load_buffer()
            if state["beta"] is not None:
                self.settings.beta = state["beta"]
            self.open_task = state["open_task"]
            self._resumed = self.open_task is not None
            self.history, self._probes, self._pictures = history, probes, pictures
            self._at_hand, self._data = at_hand, data
            self._calibrates = bool(state.get("calibrates", False))
            self._reader.taken = taken

        to_the_end(change)
