"""ForgettingTracker: the ledger of a task sequence, free of any training framework."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.denoisers import Denoiser
from hopfield_replay.functional import effective_patterns, energy, knn_distance
from hopfield_replay.memory.memory import HopfieldMemory
from hopfield_replay.tracker.meter import ErrorMeter
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.table import forgetting_table
from hopfield_replay.tracker.task_reader import Progress, TaskData, TaskReader, as_is, fetch, sample_ids, silent
from hopfield_replay.utilities.checks import Similarity, check_beta, check_integer, check_similarity
from hopfield_replay.utilities.interrupts import interrupts_wait
from hopfield_replay.utilities.states import DAMAGE, check_format, check_ledger

_FORMAT = "hopfield-replay tracker 1"


class ForgettingTracker:
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
        beta: inverse temperature, or ``"auto"``: a median leave-one-out n_eff of 5 on the first task's patterns.
        similarity: ``"distance"`` or ``"dot"``.
        encoder: maps a prepared batch to vectors (n, d), the space of the energies: a function of the batch, or a
            module (such as a diffusers autoencoder) of its samples; None: the first floating tensor of the batch,
            flattened.
        probe_size: samples of each task that are followed, >= 1.
        timesteps: timesteps of the reconstruction error; None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        samples: maps a prepared batch to what the model denoises, where that is not the batch's first floating tensor
            (e.g. ``LatentEncoder(vae).features`` for a latent model whose batches hold pixels).
        draws: noise draws at each timestep, >= 1.
        model_energy: also record each probe's energy under the model (ELBO form) from the errors at the timesteps.
        followed_tasks: only the newest tasks' probes are measured, this many, so that the work at a boundary does not
            grow with the number of tasks; None: those of all tasks. >= 1.
        history_size: only the newest records stay in :attr:`history`, this many, so that checkpoints do not grow; None:
            all. >= 1.
        seed: of the probes and of the noise.

    Attributes:
        history: one plain dict for each finished task (the newest ``history_size``), see :meth:`end_task`.

    Example:
        >>> import torch
        >>> tracker = ForgettingTracker(probe_size=4)
        >>> for task, centre in enumerate([0.0, 9.0]):
        ...     data = TaskSource([centre + torch.arange(16.0).view(8, 2) / 16])
        ...     tracker.begin_task(data)
        ...     record = tracker.end_task(data)
        >>> lost = tracker.history[1]["probes"][0]
        >>> bool((lost["energy"] > lost["energy_start"]).all())  # the second task is far from the first
        True

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (intrinsic forgetting).
    """

    def __init__(
        self,
        buffer: EnergyReplayBuffer | None = None,
        *,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        encoder: Callable[[Any], Tensor] | nn.Module | None = None,
        probe_size: int = 512,
        timesteps: Sequence[int] | None = None,
        samples: Callable[[Any], Tensor] | None = None,
        draws: int = 1,
        model_energy: bool = False,
        followed_tasks: int | None = None,
        history_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if buffer is not None and not isinstance(buffer, EnergyReplayBuffer):
            raise TypeError(f"buffer must be an EnergyReplayBuffer or None, got {type(buffer).__name__}.")
        check_similarity(similarity)
        check_integer(probe_size, "probe_size", 1)
        check_integer(draws, "draws", 1)
        for name, most in (("followed_tasks", followed_tasks), ("history_size", history_size)):
            if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
                raise ValueError(f"{name} must be a whole number >= 1, or None for no bound, got {most!r}.")
        if model_energy and timesteps is not None and len(timesteps) < 2:
            raise ValueError(f"model_energy integrates over at least two timesteps, got {list(timesteps)}.")
        if timesteps is not None and not len(timesteps):
            raise ValueError("timesteps is empty; give at least one, or None for the default.")
        self.buffer = buffer
        self.beta: float | None = None if beta == "auto" else check_beta(beta)
        self.similarity: Similarity = similarity
        self._reader = TaskReader(encoder)
        self.probe_size = probe_size
        self.timesteps = None if timesteps is None else list(timesteps)
        self.samples = samples
        self.draws = draws
        self.model_energy = model_energy
        self.followed_tasks = followed_tasks
        self.history_size = history_size
        self.seed = seed
        self.history: list[dict[str, Any]] = []
        self.open_task: int | None = None
        self._probes: list[dict[str, Any]] = []
        self._read_task: tuple[int, TaskData] | None = None

    @property
    def next_task(self) -> int:
        """Index of the task that begins next, or of the one that has begun and not ended."""
        return self.history[-1]["task"] + 1 if self.history else 0

    def probe(self, task: int) -> Mapping[str, Any]:
        """The followed samples of a task that has ended.

        Returns:
            Among others ``ids`` (n,), ``vectors`` (n, d) and ``batch``, the samples, None where no denoiser was known.

        Raises:
            ValueError: no samples of this task are followed.
        """
        for probe in self._probes:
            if probe["task"] == task:
                return probe
        raise ValueError(
            f"No samples of task {task} are followed, only of {[probe['task'] for probe in self._probes]}."
        )

    def begin_task(
        self, source: TaskSource, *, prepare: Callable[[Any], Any] = as_is, progress: Progress = silent
    ) -> None:
        """Read the new task's data, before a training step is spent on it, and refine the buffer's choice with it.

        Calling it again for a task that has begun (a resumed run) reads anew and changes nothing else.

        Args:
            source: the new task's training data.
            prepare: what happens to a batch on its way to the model (device, scaling).
            progress: wraps an iterable of batches to show a bar: ``progress(iterable, description)``.

        Raises:
            ValueError: an empty task, NaN or infinite samples (their positions are named), too few samples for beta.
            TypeError: a batch in which no floating tensor is found.
        """
        self._read_task = None  # a task that was begun and given up is no longer the one at hand
        data = self._read(source, prepare, progress)
        self.beta = self._calibrated(data.vectors)
        with interrupts_wait():
            if self.buffer is not None and self.open_task is None:
                self.buffer.refine(data.vectors)
            self._read_task = (self.next_task, data)
            self.open_task = self.next_task

    def end_task(
        self,
        source: TaskSource,
        *,
        denoiser: Denoiser | None = None,
        replay_ratio: float = 0.0,
        probe_source: TaskSource | None = None,
        prepare: Callable[[Any], Any] = as_is,
        progress: Progress = silent,
    ) -> dict[str, Any]:
        """Measure all probes after a task, choose what to keep of it, and append the record to :attr:`history`.

        Nothing changes if it fails.

        Args:
            source: the task's training data, as at :meth:`begin_task`.
            denoiser: the model as it is now; None: energies only.
            replay_ratio: share of each training batch that was replayed, in [0, 1).
            probe_source: where this task's probes come from, e.g. its validation data; None: from ``source``.
            prepare: as at :meth:`begin_task`.
            progress: as at :meth:`begin_task`.

        Returns:
            The record: ``task``, ``beta``, ``n_eff`` (median leave-one-out), ``replay_ratio``, ``replayed`` (number of
            samples in the buffer while the task was trained), ``timesteps``, ``seconds`` and ``probes``: for each task
            up to this one (the newest ``followed_tasks``) a dict of ``task``, ``ids`` (n,), ``stored`` (n,) (was it
            replayed during this task), ``energy_start``, ``energy_before``, ``energy`` (n,): after its own task, before
            and after this one; ``error_start``, ``error_before``, ``error`` (n, timesteps) or None;
            ``model_energy_start``, ``model_energy`` (n,) or None; ``density`` (n,), the distance to the 10th nearest
            sample of its own task.
        """
        started = time.perf_counter()
        if not 0.0 <= replay_ratio < 1.0:
            raise ValueError(f"replay_ratio must lie in [0, 1), got {replay_ratio}.")
        task = self.next_task
        data = self._read(source, prepare, progress)
        vectors, ids = data.vectors, data.ids
        beta = self._calibrated(vectors)
        patterns, masses, pattern_ids = self._mixture(vectors, ids, replay_ratio)
        meter = None
        if denoiser is not None:
            meter = ErrorMeter(denoiser, self.timesteps, self.seed, prepare, self.samples, self.draws)

        most = len(self._probes) if self.followed_tasks is None else self.followed_tasks - 1
        earlier = self._probes[max(0, len(self._probes) - most) :]
        probes = [dict(probe) for probe in earlier]
        newcomer = self._reader.probes(
            task,
            source,
            ids,
            size=self.probe_size,
            seed=self.seed,
            held_out=probe_source,
            prepare=prepare,
            progress=progress,
        )
        newcomer["density"] = _density(newcomer, vectors, ids)
        if denoiser is None:
            newcomer["batch"] = None
        probes.append(newcomer)
        for probe in progress(probes, f"Forgetting after task {task}"):
            probe["energy"] = energy(
                probe["vectors"],
                patterns,
                beta,
                masses=masses,
                similarity=self.similarity,
                exclude=_positions(probe["ids"], pattern_ids),
            )
            probe["error"] = probe["model_energy"] = None
            if meter is not None and probe["batch"] is not None:
                probe["error"], elements = meter.of_probes(probe["batch"], probe["ids"])
                if self.model_energy:
                    probe["model_energy"] = meter.model_energy(probe["error"], elements)
            probe["stored"] = torch.isin(probe["ids"], pattern_ids[len(ids) :])
        own = torch.arange(len(ids))
        few = own[:: max(1, len(ids) // 512)]
        record = {
            "task": task,
            "beta": beta,
            "n_eff": float(
                effective_patterns(vectors[few], vectors, beta, similarity=self.similarity, exclude=few).median()
            ),
            "replay_ratio": replay_ratio if len(patterns) > len(ids) else 0.0,
            "replayed": len(patterns) - len(ids),
            "timesteps": None if meter is None else meter.timesteps,
            "probes": [_entry(probe, old) for probe, old in zip(probes, [*earlier, None], strict=True)],
        }
        if self.buffer is not None:
            kept = None
            if len(self.buffer):
                kept = energy(
                    self.buffer.vectors.to(patterns.dtype),
                    patterns,
                    beta,
                    masses=masses,
                    similarity=self.similarity,
                    exclude=_positions(self.buffer.ids, pattern_ids),
                )
            losses = None
            if getattr(self.buffer.policy, "needs_losses", False):
                if meter is None:
                    raise ValueError(
                        "This buffer's policy needs the model's loss on every sample, but no denoiser is known."
                    )
                batches = progress(source.batches(), f"Losses of task {task}")
                losses = meter.losses((at, batch, sample_ids(task, at)) for at, batch in batches)
            own_energies = energy(vectors, vectors, beta, similarity=self.similarity, exclude=own)
        for probe in probes:
            probe.setdefault("energy_start", probe["energy"])
            probe.setdefault("error_start", probe["error"])
            probe.setdefault("model_energy_start", probe["model_energy"])
        with interrupts_wait():  # the buffer and the history belong together
            if self.buffer is not None:
                self.buffer.update(
                    lambda chosen: fetch(source, chosen),
                    vectors,
                    ids=ids,
                    task=task,
                    labels=data.labels,
                    energies=own_energies,
                    losses=losses,
                    observed=kept,
                    beta=beta,
                )
            record["seconds"] = time.perf_counter() - started
            self.beta, self._probes, self.open_task, self._read_task = beta, probes, None, None
            self.history.append(record)
            if self.history_size is not None:
                del self.history[: -self.history_size]
        return record

    def _read(self, source: TaskSource, prepare: Callable[[Any], Any], progress: Progress) -> TaskData:
        """The samples of the task at hand, read once."""
        task = self.next_task
        if self._read_task is not None and self._read_task[0] == task:
            return self._read_task[1]
        dimension = self._probes[0]["vectors"].shape[1] if self._probes else None
        data = self._reader.read(task, source, prepare, progress, dimension=dimension)
        if data.labels is None and self.buffer is not None and self.buffer.groups == "label":
            raise ValueError('groups="label" needs a tensor of integers (n,) in every batch, and found none.')
        return data

    def _calibrated(self, vectors: Tensor) -> float:
        if self.beta is not None:
            return self.beta
        return HopfieldMemory(vectors, "auto", similarity=self.similarity).beta

    def _mixture(self, vectors: Tensor, ids: Tensor, replay_ratio: float) -> tuple[Tensor, Tensor | None, Tensor]:
        """What the model trained on: patterns, their masses and their ids."""
        if self.buffer is None or not len(self.buffer) or not replay_ratio:
            return vectors, None, ids
        new = torch.full((len(vectors),), (1.0 - replay_ratio) / len(vectors), dtype=torch.float64)
        masses = torch.cat([new, replay_ratio * self.buffer.draw_shares])
        replayed = self.buffer.vectors.to(vectors.dtype)
        return torch.cat([vectors, replayed]), masses, torch.cat([ids, self.buffer.ids])

    def table(self) -> str:
        """Mean intrinsic and reconstruction forgetting of every task after every task, as text."""
        return forgetting_table(self.history)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on: tensors and plain Python only, loadable with ``weights_only=True``."""
        return {
            "format": _FORMAT,
            "beta": self.beta,
            "open_task": self.open_task,
            "history": list(self.history),  # the state must not grow with the tracker
            "probes": self._probes,
            "buffer": None if self.buffer is None else self.buffer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; nothing changes if it does not fit.

        Raises:
            ValueError: another format, parts that are missing or do not fit together, or a buffer in the state and none
                here (or the other way round).
        """
        check_format(state, _FORMAT, "a ForgettingTracker")
        try:
            check_ledger(state)
        except DAMAGE as error:
            raise ValueError(f"The state of the tracker is damaged: {error!r}.") from error
        if (state["buffer"] is None) != (self.buffer is None):
            raise ValueError(
                f"The state was written {'without' if state['buffer'] is None else 'with'} a buffer, but this run is "
                f"{'without' if self.buffer is None else 'with'} one; resume with the same configuration."
            )
        if self.buffer is not None:
            self.buffer.load_state_dict(state["buffer"])
        self.beta = state["beta"]
        self.open_task = state["open_task"]
        self.history = list(state["history"])
        self._probes = list(state["probes"])
        self._read_task = None


def _positions(ids: Tensor, among: Tensor) -> Tensor:
    """Where each id stands in ``among``, (n,); -1 where it does not."""
    order = among.argsort()
    at = torch.searchsorted(among[order], ids).clamp_(max=len(among) - 1)
    return torch.where(among[order][at] == ids, order[at], -1)


def _entry(probe: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any]:
    """The record of one probe set after one task."""
    before = probe if old is None else old
    return {
        "task": probe["task"],
        "ids": probe["ids"],
        "stored": probe["stored"],
        "energy_start": before.get("energy_start", probe["energy"]),
        "energy_before": before["energy"],
        "energy": probe["energy"],
        "error_start": before.get("error_start", probe["error"]),
        "error_before": before["error"],
        "error": probe["error"],
        "density": probe["density"],
        "model_energy_start": before.get("model_energy_start", probe["model_energy"]),
        "model_energy": probe["model_energy"],
    }


def _density(probe: dict[str, Any], vectors: Tensor, ids: Tensor) -> Tensor:
    """Distance of each probe to its 10th nearest other training sample of its task, (n,)."""
    exclude = _positions(probe["ids"], ids)
    inside = bool((exclude >= 0).any())
    others = len(vectors) - inside
    if others < 1:
        return torch.full((len(probe["ids"]),), torch.inf, dtype=torch.float64)
    return knn_distance(probe["vectors"], vectors, min(10, others), exclude=exclude if inside else None)
