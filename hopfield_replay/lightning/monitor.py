"""ForgettingMonitor: the callback that keeps the history of a Trainer's task sequence."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.replay_stream import ReplayStream, length
from hopfield_replay.denoisers import Denoiser, Trust
from hopfield_replay.denoisers.guarded import NotMeasured
from hopfield_replay.encoders import Column, Columns
from hopfield_replay.lightning.first_step import FirstStep, Weights
from hopfield_replay.lightning.given_denoiser import check_given
from hopfield_replay.lightning.logging import BoundaryLog
from hopfield_replay.lightning.namespaces import EitherCallback
from hopfield_replay.lightning.own_step import measuring
from hopfield_replay.lightning.renewal import averaging
from hopfield_replay.lightning.replay_loader import stream_in
from hopfield_replay.lightning.strategies import check_launcher, check_whole_model
from hopfield_replay.lightning.views import Boundary
from hopfield_replay.lightning.watched_task import WatchedTask
from hopfield_replay.memory.vector_store import MEMORY
from hopfield_replay.policies.base import requirements
from hopfield_replay.tracker.generated import GeneratedTask
from hopfield_replay.tracker.meter import ModelDoesNotFit
from hopfield_replay.tracker.record import BoundaryRecord
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.tracker import ForgettingTracker, ProbeStorage
from hopfield_replay.utilities import html
from hopfield_replay.utilities.checks import Similarity, check_integer
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.progress import show_progress
from hopfield_replay.utilities.showing import Shown, ShownText

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class ForgettingMonitor(Shown, EitherCallback):
    """Tracks per-sample Hopfield energy and reconstruction error across task boundaries, and fills the buffer.

    One fit is one task, and a task is what was trained on: the positions that the loader's sampler draws, within the
    Trainer's limits, or the batches of a stream. At its start the task's data is read (so bad samples stop the run
    before a step is spent; a stream is looked at as it passes); at
    its end probes of all tasks are measured, the buffer takes its share of the task, and everything is logged. Works
    on any LightningModule: energies need data only; how reconstruction errors are measured is decided on the module's
    own first training step, before an optimizer takes a step, and said in one line. In this order of trust: a denoiser
    that is given; one found on the module (a diffusers network and scheduler); one inferred from the step (its noise
    schedule, its way of counting time and its target); the step itself, asked what it shows its network (latents, text
    embeddings); the rise of the module's own loss with paired draws; energies only. The first two are verified against
    the step. While something is measured, the whole module is in eval mode and the trainer's flags say so: augmentation
    that hooks do in training alone is off. List a weight-averaging callback before this one. Weights are measured in
    the precision they have, without autocast. With ``reload_dataloaders_every_n_epochs`` the task is the data that it
    began with.

    A Trainer takes one monitor. A callback that does something with a boundary's result (saves the buffer, say) is
    listed after this one and does it in on_fit_end: for a run that was killed between a task's last checkpoint and
    on_train_end, Lightning calls on_train_end no more, and the boundary is made up for in on_fit_end.

    Args:
        buffer: filled at every boundary; None: measure only.
        beta: inverse temperature; ``"auto"``: the buffer's, or, where that has none, a median leave-one-out n_eff of 5
            on the first task.
        similarity: ``"distance"`` or ``"dot"``; None: the buffer's, or ``"distance"`` without a buffer.
        encoder: maps a batch (on the device, after the transfer hooks) to vectors (n, d), the space of the energies: a
            function of the batch, or a module of its samples; None: the samples themselves, flattened.
        denoiser: a Denoiser, or a function from the LightningModule to one; None: looked for on the module, or inferred
            from its training step.
        probe_size: samples of each task that are followed.
        timesteps: timesteps of the reconstruction error; None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        probe_source: ``"train"``, or ``"val"``: probes come from the task's (first) validation loader, so that they
            were never trained on.
        samples: what the model denoises: a name or an index in the batch, or a function of it (e.g.
            ``LatentEncoder(vae).features`` for a latent model whose batches hold pixels); None: by the rules of
            :class:`hopfield_replay.encoders.Columns`.
        labels: a name, an index or a function of the batch as the loader yields it; None: by the rules; False: none.
        condition: a name, an index or a function of the batch; None: the batch without the samples; False: none.
        draws: noise draws at each timestep, >= 1.
        model_energy: also record each probe's energy under the model itself (ELBO form).
        followed_tasks: only the newest tasks' probes are measured, this many, so that the work at a boundary does not
            grow with the number of tasks; None: those of all tasks.
        history_size: only the newest records stay in :attr:`history`, this many, so that checkpoints do not grow; None:
            all.
        reserve: of a stream, or of a small random part of a data set, so many samples are chosen as they are trained on
            (uniformly, and all of fewer): they are what is measured and kept from.
        scratch: folder for these samples, as memory-mapped files, and for the vectors of a large task; None: these
            samples in memory, and the vectors in the system's folder for temporary files (``TMPDIR``).
        embedding: also show the buffer's vectors in TensorBoard's projector.
        weights: ``"auto"``: where the module keeps one average of its trained weights (ema_pytorch, diffusers'
            EMAModel, LitEma, AveragedModel, a copy named ema), that is measured, unless a denoiser is given; ``"ema"``:
            it must be there; ``"last"``: never.
        verify: compare a denoiser that is given with the module's first training step.
        loss_draws: random draws of the module's own loss for each sample, where that is what is measured.
        generated: replay what the model itself generates, where no old data may be kept.
        probe_storage: what checkpoints hold of the samples that are followed, of each task ``probe_size``, with or
            without a buffer: ``"samples"``: the samples and their vectors. ``"vectors"``: no samples; after a resume
            the energies of earlier tasks are measured, and no errors or losses of them. Without an encoder the vectors
            are the samples (in pixel space: the images). ``"none"``: neither; after a resume only tasks that end in the
            resumed run are measured, and the history stays.
        device: where vectors are compared; None: where the model trains; ``"cpu"``: never there.
        memory: bytes on the host that a task may take beside the buffer; vectors beyond a sixteenth of it lie in
            temporary files.
        seed: of the probes and of the noise.
        allow_changes: a checkpoint may be resumed with other settings, or with other data; otherwise that is an error.

    Raises:
        MisconfigurationException: a strategy under which boundaries cannot be measured (ddp_spawn, FSDP1, DeepSpeed's
            stage 3, tensor parallel);
            data in which a task's samples cannot be found; a training loader without a batch; a given denoiser that
            contradicts the module's training step, or fails on its first batch.
        TypeError: a denoiser that is none.
        ValueError: a probe_source that is neither; and see ForgettingTracker for both.

    Example:
        >>> monitor = ForgettingMonitor(EnergyReplayBuffer(100), probe_size=64)
        >>> print(monitor.table())
        No task has ended yet.
    """

    def __init__(
        self,
        buffer: EnergyReplayBuffer | None = None,
        *,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity | None = None,
        encoder: Callable[[Any], Tensor] | nn.Module | None = None,
        denoiser: Denoiser | Callable[[LightningModule], Denoiser] | None = None,
        probe_size: int = 512,
        timesteps: Sequence[int] | None = None,
        probe_source: Literal["train", "val"] = "train",
        samples: Column | None = None,
        labels: Column | Literal[False] | None = None,
        condition: Column | Literal[False] | None = None,
        draws: int = 1,
        model_energy: bool = False,
        followed_tasks: int | None = None,
        history_size: int | None = None,
        reserve: int = 4096,
        scratch: str | os.PathLike[str] | None = None,
        embedding: bool = False,
        weights: Weights = "auto",
        verify: bool = True,
        loss_draws: int = 64,
        generated: GeneratedTask | None = None,
        probe_storage: ProbeStorage = "samples",
        device: torch.device | str | None = None,
        memory: int = MEMORY,
        seed: int = 0,
        allow_changes: bool = False,
    ) -> None:
        if weights not in get_args(Weights):
            raise ValueError(
                f"weights must be one of {get_args(Weights)}, got {weights!r}."
                f"{did_you_mean(weights, get_args(Weights))}"
            )
        check_integer(loss_draws, "loss_draws", 1)
        check_integer(reserve, "reserve", 1)
        if probe_source not in ("train", "val"):
            raise ValueError(
                f'probe_source must be "train" or "val", got {probe_source!r}.'
                f"{did_you_mean(probe_source, ('train', 'val'))}"
            )
        check_given(denoiser)
        self.tracker = ForgettingTracker(
            buffer,
            beta=beta,
            similarity=similarity,
            encoder=encoder,
            probe_size=probe_size,
            timesteps=timesteps,
            samples=samples,
            labels=labels,
            condition=condition,
            draws=draws,
            model_energy=model_energy,
            followed_tasks=followed_tasks,
            history_size=history_size,
            generated=generated,
            probe_storage=probe_storage,
            device=device,
            memory=memory,
            scratch=scratch,
            seed=seed,
            allow_changes=allow_changes,
        )
        self.denoiser = denoiser
        self.probe_source = probe_source
        self._of_datamodule = False  # the columns are
        self._first = FirstStep(
            denoiser,
            columns=lambda: self.tracker.columns,
            timesteps=self.tracker.timesteps,
            weights=weights,
            verify=verify,
            loss_draws=loss_draws,
            seed=seed,
        )
        self._log = BoundaryLog(embedding)
        self._ran = False
        self._said = self._said_plain = self._said_other = self._stepped = False
        self._begun: Iterable[Any] | None = None
        self._task = WatchedTask(reserve, scratch)

    @property
    def buffer(self) -> EnergyReplayBuffer | None:
        """The buffer that is filled."""
        return self.tracker.buffer

    @property
    def history(self) -> list[BoundaryRecord]:
        """A :class:`~hopfield_replay.tracker.BoundaryRecord` for each finished task (the newest ``history_size``)."""
        return self.tracker.history

    def trust(self, pl_module: LightningModule) -> Trust | None:
        """How a module's errors are measured; None before it has taken its first training step in this process.

        Example:
            >>> print(ForgettingMonitor().trust(LightningModule()))
            None
        """
        return self._first.decided(pl_module)

    def history_frame(self, *, samples: bool = False) -> "pd.DataFrame":
        """The history as a tidy pandas DataFrame, see :func:`hopfield_replay.tracker.history_frame`."""
        return self.tracker.history_frame(samples=samples)

    def table(self) -> ShownText:
        """Mean intrinsic and reconstruction forgetting of every task after every task, and the worst of them, as text.

        It shows itself: at a prompt as it prints, in a notebook as a table.
        """
        return self.tracker.table()

    def _line(self) -> str:
        return self.tracker._line().replace(type(self.tracker).__name__, type(self).__name__, 1)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each task after each task, see :func:`hopfield_replay.tracker.summarize`."""
        return self.tracker.rows()

    def to_dict(self) -> dict[str, Any]:
        """Settings and history in plain Python, ready for JSON; no samples."""
        return self.tracker.to_dict()

    def to_frame(self, *, samples: bool = False) -> "pd.DataFrame":
        """As :meth:`history_frame`, under the name that every result has."""
        return self.tracker.to_frame(samples=samples)

    def _repr_html_(self) -> str:
        return html.paragraph(repr(self)) + (self.table()._repr_html_() if self.history else "")

    def _draw(self, axis: "Axes") -> None:
        self.tracker._draw(axis)

    def say_nothing_is_replayed(self, tasks: str) -> None:
        """Say once that the buffer is filled, and tasks are trained without it.

        Args:
            tasks: which, in words.
        """
        if not self._said_plain:
            self._said_plain = True
            rank_zero_warn(
                f"Nothing is replayed in {tasks}: ForgettingMonitor fills {self.buffer!r}, but the training data is "
                "not wrapped. Give fit_tasks a ReplayDataModule(datamodule, buffer) for each task, or leave buffer out "
                "of ForgettingMonitor to measure only."
            )

    def say_other_buffer(self, other: EnergyReplayBuffer) -> None:
        """Say once that tasks replay from a buffer that is not filled here.

        Args:
            other: that buffer.
        """
        if not self._said_other:
            self._said_other = True
            filled = "none" if self.buffer is None else f"another object, {self.buffer!r}"
            rank_zero_warn(
                f"The training batches replay from one buffer, {other!r}, and ForgettingMonitor fills {filled}: what "
                "is replayed is not measured, and what is kept not replayed. Make one EnergyReplayBuffer, and give it "
                "to both ForgettingMonitor and ReplayDataModule."
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies under which a boundary cannot be measured."""
        if stage != "fit":
            return
        self._ran, self._begun, self._stepped = False, None, False
        check_launcher(trainer.strategy)
        check_whole_model(trainer.strategy)
        self._log.begin(trainer, self.tracker)
        if late := averaging(_after(trainer, self)):
            rank_zero_warn(
                f"{type(late[0]).__name__} is listed after ForgettingMonitor: boundaries measure the last weights, not "
                "the averaged ones. List it before the monitor."
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the task's data, and look for all that its end will need: errors cost no training yet."""
        self._ran = True
        loader, stream = self._training(trainer)
        self._begun = loader
        if stream is not None and stream.buffer is not self.buffer:
            self.say_other_buffer(stream.buffer)
        elif stream is None and self.buffer is not None and len(self.buffer):
            self.say_nothing_is_replayed("this task")
        if self.probe_source == "val":
            self._validation(trainer)
        if (generated := self.tracker.generated) is not None and generated.module is None:
            generated.module = pl_module
        self._agree_on_columns(stream)
        self._first.make(pl_module)
        source = self._task.begin(trainer, pl_module, loader, stream, lambda: self.tracker.reads_by_functions)
        with _progress(trainer), measuring(trainer, pl_module):
            self.tracker.begin_task(source)
        self._say_what_was_taken()
        self._task.watch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at a stream as it passes, so that what is wrong with it costs no step; watch the first training step."""
        source = self._task.source
        if source is not None and not source.ahead:
            with measuring(trainer, pl_module, together=True):
                self.tracker.check_batch(source, self._task.own())
            self._say_what_was_taken()
        self._first.watch(trainer, pl_module, batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Let the backward pass alone."""
        self._first.goes_backward(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Decide what is measured, before a weight is changed."""
        self._check_policy(self._first.conclude(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what was trained on; decide what is measured, where no optimizer took a step."""
        self._check_policy(self._first.conclude(trainer, pl_module, ended=True))
        self._task.passed()
        if self._task.source is not None and not self._stepped:
            self._stepped = True
            with _progress(trainer), measuring(trainer, pl_module):
                self.tracker.check_encoder(self._task.source)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Watch no longer."""
        self._first.leave()
        self._task.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no longer."""
        self._first.leave()  # not every end of a fit comes as an exception
        self._task.close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, choose and log."""
        self._end_task(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make up for a boundary that a crash cut off, and say so when a fit did nothing."""
        if self._ran:
            return
        if self.tracker.open_task is not None:  # killed between the task's last checkpoint and on_train_end
            pl_module.to(trainer.strategy.root_device)  # Lightning has taken it away already
            for callback in averaging(trainer.callbacks):  # type: ignore[attr-defined]  # not annotated upstream
                callback.on_train_end(trainer, pl_module)  # the end that never came, and brings the averaged weights
            self._end_task(trainer, pl_module)
            pl_module.cpu()
        elif trainer.num_training_batches == 0:
            raise MisconfigurationException(
                f"The training loader of task {self.tracker.next_task} yields no batch, so nothing was trained: the "
                "data set is empty, or smaller than one batch and the loader has drop_last=True."
            )
        elif self.history and trainer.ckpt_path is None:  # else: resumed where the history is complete
            rank_zero_warn(
                f"This fit trained nothing: the trainer's limits (max_epochs={trainer.max_epochs}, "
                f"max_steps={trainer.max_steps}, limit_train_batches={trainer.limit_train_batches}) leave nothing to "
                "do after the fits before it. Use hopfield_replay.fit_tasks(trainer, model, datamodules), which renews "
                "max_epochs and max_steps for every task."
            )

    def _end_task(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._task.close()
        loader, stream = self._training(trainer)
        if self._begun is not None and self._begun is not loader:  # reload_dataloaders_every_n_epochs
            self._same_data(self._begun, loader)
        source = self._task.source
        if source is None:  # the boundary that a crash cut off
            self._agree_on_columns(stream)
            source = self._task.begin(trainer, pl_module, loader, stream, lambda: self.tracker.reads_by_functions)
        probes = None
        if self.probe_source == "val":
            quick: bool = trainer.fast_dev_run  # type: ignore[attr-defined]  # public, but not annotated upstream
            probes = TaskSource(self._validation(trainer), prepare=source.prepare, limit=1 if quick else None)
        held = None if self.buffer is None else (self.buffer.ids, self.buffer.tasks)
        with _progress(trainer), measuring(trainer, pl_module):
            trust = self._first.trust(trainer, pl_module, lambda: source.ready(self._some(source)))
            try:
                self._measure(pl_module, source, probes, trust)
            except (NotMeasured, ModelDoesNotFit) as error:  # the task was trained: its boundary does without
                trust = self._first.fall(trainer, pl_module, error, lambda: source.ready(self._some(source)))
                try:
                    self._measure(pl_module, source, probes, trust)
                except (NotMeasured, ModelDoesNotFit) as again:
                    trust = self._first.fall(trainer, pl_module, again, lambda: source.ready(self._some(source)))
                    self._measure(pl_module, source, probes, trust)
            self._task.end()
            with self._first.averaged(pl_module):
                self._log.log(trainer, Boundary(self.tracker, held, trust.denoiser, source.ready, trust.read))

    def _measure(self, module: LightningModule, source: TaskSource, probes: TaskSource | None, trust: Trust) -> None:
        safe = trust.safe
        with self._first.averaged(module):
            self.tracker.end_task(
                source,
                denoiser=safe.denoiser,
                probe_source=probes,
                read=safe.read,
                loss=safe.loss,
                trust=str(trust),
            )

    def _check_policy(self, trust: Trust | None) -> None:
        """Say at the start that a policy needs what cannot be measured."""
        if trust is None or self.buffer is None or trust.denoiser is not None or trust.loss is not None:
            return
        if requirements(self.buffer.policy).losses:
            raise MisconfigurationException(
                f"The policy {type(self.buffer.policy).__name__} needs the model's error or loss on every sample, and "
                f"neither can be measured here: {'; '.join(trust.reasons)}. Pass denoiser=, or choose another policy."
            )

    def _some(self, source: TaskSource) -> Any:
        """A few of the task's samples."""
        few = source.some()
        if few is None:
            raise ValueError(f"Task {self.tracker.next_task} has no training samples: its data set is empty.")
        return few

    def _agree_on_columns(self, stream: ReplayStream | None) -> None:
        """Take over what the datamodule says of its batches."""
        given = None if stream is None else stream.columns
        if given is None or given == self.tracker.columns:
            return
        if self.tracker.columns != Columns() and not self._of_datamodule:
            raise MisconfigurationException(
                f"ForgettingMonitor has {self.tracker.columns}, but the task's ReplayDataModule has {given}; say in "
                "one place where samples, labels and condition are."
            )
        self._of_datamodule = True
        self.tracker.use_columns(given)

    def _say_what_was_taken(self) -> None:
        if self.tracker.taken is not None and not self._said:
            self._said = True
            rank_zero_info(f"ForgettingMonitor takes {self.tracker.taken}")

    def _training(self, trainer: Trainer) -> tuple[Iterable[Any], ReplayStream | None]:
        """The task's own loader, and the replay beside it."""
        loaders: Any = trainer.train_dataloader
        if (stream := stream_in(loaders)) is not None:
            return loaders[0], stream
        if loaders is None or isinstance(loaders, list | tuple | dict):
            raise MisconfigurationException(
                f"A task's samples cannot be told from a training loader of type {type(loaders).__name__}; use one "
                "DataLoader for each task (wrapped in ReplayDataModule for replay)."
            )
        return loaders, None

    def _validation(self, trainer: Trainer) -> Iterable[Any]:
        if trainer.enable_validation:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()  # Lightning may do it later, or, resuming, not at all
        loaders = trainer.val_dataloaders
        if isinstance(loaders, list | tuple) and loaders:
            loaders = loaders[0]
        if loaders is None or isinstance(loaders, list | tuple | dict):
            raise MisconfigurationException(
                'probe_source="val" needs a validation loader in the task\'s datamodule (and a validation_step in the '
                'module); use probe_source="train" without one.'
            )
        return loaders  # type: ignore[no-any-return]

    def _same_data(self, begun: Iterable[Any], now: Iterable[Any]) -> None:
        """Say that a task is the data that it began with."""
        before, after = (length(getattr(loader, "dataset", loader)) for loader in (begun, now))
        if before != after:
            rank_zero_warn(
                f"The training data of task {self.tracker.next_task} was reloaded and changed, from {before} to "
                f"{after} samples: only the first are measured and kept. Give each data set its own task in fit_tasks."
            )

    def state_dict(self) -> dict[str, Any]:
        """The history, the buffer, how much of the task at hand was replayed so far, and what of it was trained on."""
        return {
            **self.tracker.state_dict(),
            "passed": self._task.state_dict(),
            "measured": self._first.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history and the buffer of a checkpoint."""
        self.tracker.load_state_dict(state_dict)
        self._task.load_state_dict(state_dict.get("passed"))
        self._first.load_state_dict(state_dict.get("measured"))
        if self.buffer is not None and "counts" in state_dict:  # where the tracker's first format kept them
            self.buffer.drawn.restore(*state_dict["counts"])


def _after(trainer: Trainer, monitor: Callback) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # public, but not annotated upstream
    return callbacks[callbacks.index(monitor) + 1 :] if monitor in callbacks else []


def _progress(trainer: Trainer) -> AbstractContextManager[None]:
    """Shows bars where the trainer shows its own."""
    return show_progress(trainer.is_global_zero and trainer.progress_bar_callback is not None, everywhere=True)
