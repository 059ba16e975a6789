"""The history of a task sequence, free of any training framework."""

from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord, ProbeSet
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.table import history_frame, summarize
from hopfield_replay.tracker.task_reader import sample_ids
from hopfield_replay.tracker.tracker import ForgettingTracker

__all__ = [
    "BoundaryRecord",
    "ForgettingTracker",
    "ProbeRecord",
    "ProbeSet",
    "TaskSource",
    "history_frame",
    "sample_ids",
    "summarize",
]
