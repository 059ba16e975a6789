"""The most forgotten samples of a run, and those its buffer keeps, as pictures where they are some."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.analysis.run_losses import levels
from hopfield_replay.analysis.run_outcomes import HELD_OUT, POSITION
from hopfield_replay.tracker import BoundaryRecord, ForgettingTracker
from hopfield_replay.utilities.nested import take
from hopfield_replay.utilities.pictures import thumbnails

_LISTED = 12  # most forgotten samples
_KEPT = 16  # pictures of each task's share of the buffer


@dataclass(frozen=True)
class Lost:
    """One of the most forgotten samples.

    Attributes:
        task: its task.
        position: in its task's data.
        held_out: whether that is the held-out data.
        label: its class; None: unknown.
        before: error (or loss, or energy) when it was learned.
        now: the same now.
        pictures: of the sample, and of what the model made of it when it was learned and makes of it now, (h, w, 3)
            uint8 each, as far as they are known.
    """

    task: int
    position: int
    held_out: bool
    label: int | None
    before: float
    now: float
    pictures: tuple[Tensor, ...]

    def caption(self, level: str) -> str:
        """In three lines."""
        named = f"task {self.task}" + ("" if self.label is None else f", class {self.label}")
        place = f"{'held-out ' if self.held_out else ''}position {self.position}"
        return f"{named}\n{place}\n{level} {self.before:.3g} to {self.now:.3g}"


def most_lost(
    tracker: ForgettingTracker, record: BoundaryRecord, measure: str, labels: Mapping[int, Tensor]
) -> list[Lost]:
    """The most forgotten samples of all earlier tasks."""
    known: list[tuple[float, int, int, float, float]] = []
    for number, probe in enumerate(record.probes):
        if probe.task < record.task and (pair := levels(probe, measure)) is not None:
            rows = zip(*(values.tolist() for values in pair), strict=True)
            known += [(now - before, number, place, before, now) for place, (before, now) in enumerate(rows)]
    known.sort(key=lambda item: -item[0])
    found = []
    for _, number, place, before, now in known[:_LISTED]:
        probe = record.probes[number]
        sample_id = int(probe.ids[place])
        mine = labels.get(probe.task)
        label = None if mine is None else int(mine[place])
        pictures = _pictures(tracker, probe.task, sample_id, place)
        position, held_out = sample_id & POSITION, bool(sample_id & HELD_OUT)
        found.append(Lost(probe.task, position, held_out, label, before, now, pictures))
    return found


def _pictures(tracker: ForgettingTracker, task: int, sample_id: int, place: int) -> tuple[Tensor, ...]:
    """Of a sample and its reconstructions, or of the sample alone; none where it is no picture, or not held."""
    most = tracker.pictures.most
    if most is not None and sample_id in (ids := most.ids.tolist()):
        at = ids.index(sample_id)
        parts = (most.sample, most.before, most.after)
        return tuple(part[at] for part in parts if part is not None)
    try:
        batch = tracker.probe(task).batch
        drawn = None if batch is None else thumbnails(tracker.columns.inputs_of(take(batch, torch.tensor([place]))))
    except ValueError:
        return ()
    return () if drawn is None else (drawn[0],)


def kept_pictures(tracker: ForgettingTracker) -> dict[int, Tensor]:
    """Of each task's kept samples, best first, (k, h, w, 3) uint8; of those that are pictures."""
    buffer = tracker.buffer
    if buffer is None or not len(buffer):
        return {}
    found = {}
    for task in buffer.tasks.unique().tolist():
        mine = (buffer.tasks == task).nonzero().flatten()[:_KEPT]
        try:
            drawn = thumbnails(tracker.columns.inputs_of(buffer.gather(mine)))
        except ValueError:
            return {}
        if drawn is not None:
            found[task] = drawn
    return found
