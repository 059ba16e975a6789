"""Reconstructions: how the model saw the followed samples when it had learned them, and sees the most forgotten now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from hopfield_replay.encoders import Columns
from hopfield_replay.tracker.meter import ErrorMeter
from hopfield_replay.tracker.record import BoundaryRecord, ProbeSet
from hopfield_replay.utilities.nested import rows, take
from hopfield_replay.utilities.pictures import thumbnails
from hopfield_replay.utilities.states import check_mapping, check_whole

_SHOWN = 12  # most forgotten samples
_CHUNK = 256  # samples that are prepared at a time


@dataclass(frozen=True, eq=False, repr=False)
class MostForgotten:
    """The most forgotten samples of all earlier tasks after one boundary, the worst first, as small pictures.

    Attributes:
        tasks: (k,) int64, the task of each.
        ids: (k,) int64.
        sample: (k, h, w, 3) uint8.
        before: what the model made of each, noised, when it had learned it, (k, h, w, 3) uint8; None: not kept.
        after: what it makes of it now, from the same noise.
    """

    tasks: Tensor
    ids: Tensor
    sample: Tensor
    before: Tensor | None
    after: Tensor


@dataclass(frozen=True)
class Reconstructions:
    """Small pictures of reconstructions, of samples that are pictures.

    Attributes:
        learned: for each task the ids (n,) of its followed samples, and their reconstructions (n, h, w, 3) uint8 by the
            model that had just learned them.
        most: the most forgotten ones after the last boundary; None: there are none, or they are no pictures.
    """

    learned: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    most: MostForgotten | None = None

    def after(
        self, record: BoundaryRecord, probes: Sequence[ProbeSet], meter: ErrorMeter | None, columns: Columns
    ) -> "Reconstructions":
        """Those after one more boundary; a model or samples of which no pictures can be made cost nothing but them."""
        if meter is None or not record.timesteps:
            return Reconstructions()
        timestep = record.timesteps[len(record.timesteps) // 2]
        learned = {probe.task: self.learned[probe.task] for probe in probes if probe.task in self.learned}
        try:
            for probe in probes:
                if probe.task == record.task and (drawn := _reconstructed(probe, meter, timestep, columns)) is not None:
                    learned[probe.task] = (probe.ids, drawn)
            return Reconstructions(learned, _most_forgotten(record, probes, learned, meter, timestep, columns))
        except Exception:  # of the model, or of functions of the user's: the numbers were had, and pictures are no more
            return Reconstructions(learned)

    def without(self, ids: Tensor) -> "Reconstructions":
        """The same without the samples of these ids."""
        learned = {}
        for task, (held, drawn) in self.learned.items():
            stays = ~torch.isin(held, ids)
            if bool(stays.any()):
                learned[task] = (held[stays], drawn[stays])
        return Reconstructions(
            learned, None if self.most is None else _part(self.most, ~torch.isin(self.most.ids, ids))
        )

    def state(self) -> dict[str, Any]:
        """Tensors and plain Python."""
        return {
            "learned": {str(task): {"ids": ids, "drawn": drawn} for task, (ids, drawn) in self.learned.items()},
            "most": None if self.most is None else dict(vars(self.most)),
        }

    @classmethod
    def from_state(cls, state: Any) -> Self:
        """Those of :meth:`state`; none for None.

        Raises:
            KeyError, TypeError, ValueError: parts that are missing, or of another type or shape.
        """
        if state is None:
            return cls()
        learned = {}
        for task, held in check_mapping(check_mapping(state, "pictures")["learned"], "learned").items():
            held = check_mapping(held, "pictures of a task")
            learned[check_whole(int(task), "task")] = (held["ids"], _checked(held["drawn"], held["ids"]))
        most = state["most"]
        if most is not None:
            most = check_mapping(most, "the most forgotten")
            for name in ("sample", "before", "after"):
                if most[name] is not None or name != "before":
                    _checked(most[name], most["ids"])
            if most["tasks"].shape != most["ids"].shape:
                raise ValueError("tasks and ids of pictures differ in number")
            most = MostForgotten(*(most[name] for name in ("tasks", "ids", "sample", "before", "after")))
        return cls(learned, most)


def _checked(drawn: Tensor, ids: Tensor) -> Tensor:
    if ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"ids of pictures are {ids.dtype} of shape {tuple(ids.shape)}")
    if drawn.dtype != torch.uint8 or drawn.ndim != 4 or drawn.shape[3] != 3 or len(drawn) != len(ids):
        raise ValueError(f"pictures are {drawn.dtype} of shape {tuple(drawn.shape)} for {len(ids)} samples")
    return drawn


def _part(most: MostForgotten, stays: Tensor) -> MostForgotten | None:
    if not bool(stays.any()):
        return None
    before = None if most.before is None else most.before[stays]
    return MostForgotten(most.tasks[stays], most.ids[stays], most.sample[stays], before, most.after[stays])


def _reconstructed(probe: ProbeSet, meter: ErrorMeter, timestep: float, columns: Columns) -> Tensor | None:
    """What the model makes of every sample of a set, as small pictures."""
    if probe.batch is None or not rows(probe.batch):
        return None
    if thumbnails(columns.inputs_of(take(probe.batch, torch.tensor([0])))) is None:
        return None
    parts = [
        meter.reconstruct(take(probe.batch, part), probe.ids[part], timestep)[1].cpu()
        for part in torch.arange(len(probe.ids)).split(_CHUNK)
    ]
    return thumbnails(torch.cat(parts))


def _most_forgotten(
    record: BoundaryRecord,
    probes: Sequence[ProbeSet],
    learned: Mapping[int, tuple[Tensor, Tensor]],
    meter: ErrorMeter,
    timestep: float,
    columns: Columns,
) -> MostForgotten | None:
    known = [
        (rise, probe, place)
        for entry, probe in zip(record.probes, probes, strict=True)
        if entry.task < record.task and entry.reconstruction is not None and probe.batch is not None
        for place, rise in enumerate(entry.reconstruction.tolist())
    ]
    known.sort(key=lambda item: -item[0])
    shown: list[tuple[Tensor, Tensor | None, Tensor]] = []
    for _, probe, place in known[:_SHOWN]:
        at = torch.tensor([place])
        one = take(probe.batch, at)
        sample = thumbnails(columns.inputs_of(one))
        after = thumbnails(meter.reconstruct(one, probe.ids[at], timestep)[1].cpu())
        if sample is None or after is None:
            return None
        ids, drawn = learned.get(probe.task, (probe.ids[:0], None))
        before = drawn[ids == probe.ids[place]] if drawn is not None else None
        shown.append((sample, before if before is not None and len(before) == 1 else None, after))
    if not shown:
        return None
    samples, befores, afters = zip(*shown, strict=True)
    return MostForgotten(
        tasks=torch.tensor([probe.task for _, probe, _ in known[: len(shown)]]),
        ids=torch.stack([probe.ids[place] for _, probe, place in known[: len(shown)]]),
        sample=torch.cat(samples),
        before=None if any(before is None for before in befores) else torch.cat(befores),
        after=torch.cat(afters),
    )


__all__ = ["MostForgotten", "Reconstructions"]
