"""What a tracker remembers: probe sets and boundary records, and the check of those that come from a file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_beta, check_finite
from hopfield_replay.utilities.nested import rows
from hopfield_replay.utilities.states import check_mapping, check_number, check_plain, check_whole


class _Record(Mapping[str, Any]):
    """A dataclass whose fields can also be read by name, as from a dict."""

    def __getitem__(self, name: str) -> Any:
        if name not in _names(type(self)):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(_names(type(self)))

    def __len__(self) -> int:
        return len(_names(type(self)))

    def __eq__(self, other: object) -> bool:
        """Whether every part is the same, bit for bit, but for the time it took."""
        return type(other) is type(self) and all(
            _same(getattr(self, part.name), getattr(other, part.name))
            for part in fields(self)  # type: ignore[arg-type]  # all of them are dataclasses
            if part.compare
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._line()})"

    def _line(self) -> str:
        """What it is of, without its tensors."""
        raise NotImplementedError

    __hash__ = None  # type: ignore[assignment]  # tensors have no value to hash

    def to_dict(self) -> dict[str, Any]:
        """The same in plain Python and tensors, which ``weights_only=True`` loads."""
        return {name: _plain(getattr(self, name)) for name in self}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The record of :meth:`to_dict`; what is missing is None."""
        return cls(**{name: state.get(name) for name in _names(cls)})


def _names(cls: type) -> tuple[str, ...]:
    return tuple(part.name for part in fields(cls))


def _plain(value: Any) -> Any:
    if isinstance(value, _Record):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.dtype != second.dtype or first.shape != second.shape:
            return False
        return bool(((first == second) | ((first != first) & (second != second))).all())
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(_same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return type(first) is type(second) and len(first) == len(second) and all(map(_same, first, second))
    return type(first) is type(second) and bool(first == second)


@dataclass(frozen=True, eq=False, repr=False)
class ProbeSet(_Record):
    """The samples of one task that are followed, and what was measured of them last.

    Attributes:
        task: their task.
        ids: (n,) int64.
        vectors: (n, d), the space of the energies.
        batch: the samples themselves; None where no denoiser is known.
        density: (n,) float64, distance to the 10th nearest sample of their own task.
        stored: (n,) bool, whether they were replayed during the newest task.
        energy: (n,) float64, after the newest task.
        energy_start: (n,) float64, after their own task.
        error: (n, timesteps) float64, after the newest task, or None.
        error_start: (n, timesteps) float64, after their own task, or None.
        model_energy: (n,) float64, after the newest task, or None.
        model_energy_start: (n,) float64, after their own task, or None.
        loss: (n,) float64, paired loss after the newest task, or None.
        loss_start: (n,) float64, after their own task, or None.

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> record = tracker.end_task(TaskSource([torch.arange(16.0).view(8, 2)]))
        >>> tracker.probe(0).vectors.shape
        torch.Size([8, 2])
    """

    task: int
    ids: Tensor
    vectors: Tensor
    batch: Any
    density: Tensor
    stored: Tensor
    energy: Tensor
    energy_start: Tensor
    error: Tensor | None = None
    error_start: Tensor | None = None
    model_energy: Tensor | None = None
    model_energy_start: Tensor | None = None
    loss: Tensor | None = None
    loss_start: Tensor | None = None

    def _line(self) -> str:
        return f"task={self.task}, {len(self.ids)} samples"


@dataclass(frozen=True, eq=False, repr=False)
class ProbeRecord(_Record):
    """One probe set at one boundary; also readable by name, ``record["energy"]``.

    Attributes:
        task: the task of the samples.
        ids: (n,) int64.
        stored: (n,) bool, whether they were replayed during the task that ended.
        energy_start: (n,) float64, energy after their own task.
        energy_before: (n,) float64, before the task that ended.
        energy: (n,) float64, after it.
        error_start: (n, timesteps) float64, reconstruction error after their own task, or None.
        error_before: (n, timesteps) float64, before the task that ended, or None.
        error: (n, timesteps) float64, after it, or None.
        density: (n,) float64, distance to the 10th nearest sample of their own task.
        model_energy_start: (n,) float64, energy under the model after their own task, or None.
        model_energy: (n,) float64, after the task that ended, or None.
        loss_start: (n,) float64, the model's own loss with paired draws, after their own task; None where
            reconstruction errors are known, or no loss.
        loss_before: (n,) float64, before the task that ended, or None.
        loss: (n,) float64, after it, or None.

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> record = tracker.end_task(TaskSource([torch.arange(16.0).view(8, 2)]))
        >>> record.probes[0].intrinsic.abs().max()  # nothing was learned since
        tensor(0., dtype=torch.float64)
    """

    task: int
    ids: Tensor
    stored: Tensor
    energy_start: Tensor
    energy_before: Tensor
    energy: Tensor
    error_start: Tensor | None
    error_before: Tensor | None
    error: Tensor | None
    density: Tensor
    model_energy_start: Tensor | None = None
    model_energy: Tensor | None = None
    loss_start: Tensor | None = None
    loss_before: Tensor | None = None
    loss: Tensor | None = None

    @classmethod
    def of(cls, now: ProbeSet, before: ProbeSet | None) -> Self:
        """The record of a probe set as it is now; ``before``: at the last boundary, None for a new one."""
        earlier = now if before is None else before
        return cls(
            task=now.task,
            ids=now.ids,
            stored=now.stored,
            energy_start=now.energy_start,
            energy_before=earlier.energy,
            energy=now.energy,
            error_start=now.error_start,
            error_before=earlier.error,
            error=now.error,
            density=now.density,
            model_energy_start=now.model_energy_start,
            model_energy=now.model_energy,
            loss_start=now.loss_start,
            loss_before=earlier.loss,
            loss=now.loss,
        )

    def _line(self) -> str:
        lost = {
            "intrinsic": self.intrinsic,
            "reconstruction": self.reconstruction,
            "loss_forgetting": self.loss_forgetting,
        }
        means = "".join(f", {name} {float(rise.mean()):.4g}" for name, rise in lost.items() if rise is not None)
        return f"task={self.task}, {len(self.ids)} samples{means}"

    @property
    def intrinsic(self) -> Tensor:
        """Intrinsic forgetting of each sample, (n,) float64: the rise of its energy since its own task."""
        return self.energy - self.energy_start

    @property
    def error_rises(self) -> Tensor | None:
        """Rise of each error since the own task, (n, timesteps) float64; None where no errors are known."""
        return None if self.error is None or self.error_start is None else self.error - self.error_start

    @property
    def reconstruction(self) -> Tensor | None:
        """Reconstruction forgetting of each sample, (n,) float64: the mean of its errors' rises; or None."""
        rises = self.error_rises
        return None if rises is None else rises.mean(1)

    @property
    def loss_forgetting(self) -> Tensor | None:
        """Loss forgetting of each sample, (n,) float64: the rise of its paired loss since its own task; or None."""
        return None if self.loss is None or self.loss_start is None else self.loss - self.loss_start


@dataclass(frozen=True, eq=False, repr=False)
class BoundaryRecord(_Record):
    """What was measured at the end of one task; also readable by name, ``record["probes"]``.

    Attributes:
        task: the task that ended.
        beta: inverse temperature of the energies.
        n_eff: median leave-one-out number of effective patterns.
        replay_ratio: share of the samples trained on that were replayed.
        replayed: number of samples in the buffer while the task was trained.
        timesteps: where the reconstruction errors were measured; None without a denoiser.
        probes: one :class:`ProbeRecord` for each task up to this one (the newest ``followed_tasks``).
        seconds: that the boundary took.
        trust: how errors came to be measured, in words; None where that was not decided.
        n_eff_error: standard error of ``n_eff``, from the sample of the task that was asked; 0 where all were.

    Example:
        >>> from hopfield_replay import ForgettingTracker, TaskSource
        >>> tracker = ForgettingTracker()
        >>> record = tracker.end_task(TaskSource([torch.arange(16.0).view(8, 2)]))
        >>> record.task, record["task"], len(record.probes[0].energy)
        (0, 0, 8)
    """

    task: int
    beta: float
    n_eff: float
    replay_ratio: float
    replayed: int
    timesteps: list[float] | None
    probes: list[ProbeRecord]
    seconds: float = field(compare=False)
    trust: str | None = None
    n_eff_error: float | None = None

    def _line(self) -> str:
        return f"task={self.task}, {len(self.probes)} tasks measured, beta={self.beta:.4g}, n_eff={self.n_eff:.3g}"

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "BoundaryRecord":
        """The record itself, or that of its :meth:`to_dict`."""
        return record if isinstance(record, BoundaryRecord) else cls.from_dict(record)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The record of :meth:`to_dict`; what is missing is None."""
        return super().from_dict({**state, "probes": [ProbeRecord.from_dict(probe) for probe in state["probes"]]})


_DTYPES = {"ids": torch.int64, "stored": torch.bool}
_NUMBERS = ("beta", "n_eff", "replay_ratio", "seconds")


def history_from(state: Mapping[str, Any]) -> tuple[list[BoundaryRecord], list[ProbeSet]]:
    """The history and the probe sets in the state of a ForgettingTracker.

    Raises:
        KeyError, TypeError, ValueError: parts that are missing, of another type or shape, or out of order.
    """
    _ = state["buffer"]  # None, or what the buffer itself checks
    for part in ("history", "probes"):
        check_plain(state[part])
        if not isinstance(state[part], list):
            raise TypeError(f"{part} is {type(state[part]).__name__}")
    first = check_mapping(state["history"][0], "a record")["task"] if state["history"] else 0
    for task, record in enumerate(state["history"], check_whole(first, "task")):
        check_mapping(record, "a record")
        if check_whole(record["task"], "task") != task:
            raise ValueError(f"record {task} is of another task")
        for name in _NUMBERS:
            check_number(record[name], name)
        check_whole(record["replayed"], "replayed")
        if not isinstance(record["trust"], str | None):
            raise TypeError(f"trust is {type(record['trust']).__name__}")
        if record.get("n_eff_error") is not None:
            check_number(record["n_eff_error"], "n_eff_error")
        for timestep in record["timesteps"] or ():
            check_number(timestep, "timesteps")
        for entry in record["probes"]:
            _check_probe(entry, ProbeRecord)
    learned = len(state["history"]) + first
    for probe in state["probes"]:
        count = _check_probe(probe, ProbeSet)
        if probe["vectors"].ndim != 2 or len(probe["vectors"]) != count or not probe["vectors"].is_floating_point():
            raise ValueError(f"vectors has shape {tuple(probe['vectors'].shape)} for {count} probes")
        check_finite(probe["vectors"], "vectors")
        if probe["batch"] is not None and rows(probe["batch"]) != count:
            raise ValueError(f"{rows(probe['batch'])} samples for {count} probes")
    tasks = [probe["task"] for probe in state["probes"]]
    if tasks != list(range(learned - len(tasks), learned)):  # none, where they are not stored
        raise ValueError(f"probes are of the tasks {tasks}, of {learned}")
    if state["open_task"] is not None and check_whole(state["open_task"], "open_task") != learned:
        raise ValueError(f"task {state['open_task']} is open after {learned}")
    if state["beta"] is not None:
        check_beta(state["beta"])
    return list(map(BoundaryRecord.from_dict, state["history"])), list(map(ProbeSet.from_dict, state["probes"]))


def _check_probe(probe: Mapping[str, Any], kind: type[_Record]) -> int:
    """The number of samples of one probe set or of its record, each of whose tensors has a row for each of them."""
    check_whole(check_mapping(probe, "a probe set")["task"], "task")
    count = len(probe["ids"])
    for name in _names(kind):
        if name in ("task", "vectors", "batch"):
            continue
        may_miss = name.startswith(("error", "model_energy", "loss"))
        tensor = probe[name]
        if tensor is None and may_miss:
            continue
        dimensions = 1 + name.startswith("error")
        dtype = _DTYPES.get(name, torch.float64)
        if tensor.ndim != dimensions or len(tensor) != count or tensor.dtype != dtype:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype} for {count} probes")
    return count


# a history that somebody has saved is loaded with weights_only=True, too
torch.serialization.add_safe_globals([BoundaryRecord, ProbeRecord, ProbeSet])
