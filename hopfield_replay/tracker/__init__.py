"""The history of a task sequence, free of any training framework."""

from hopfield_replay.tracker.generated import GeneratedTask
from hopfield_replay.tracker.pipeline_sampler import PipelineSampler
from hopfield_replay.tracker.record import BoundaryRecord, ProbeRecord, ProbeSet
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.summary import overall, summarize
from hopfield_replay.tracker.table import history_frame
from hopfield_replay.tracker.task_reader import sample_ids
from hopfield_replay.tracker.tracker import ForgettingTracker

__all__ = [
    "BoundaryRecord",
    "ForgettingTracker",
    "GeneratedTask",
    "PipelineSampler",
    "ProbeRecord",
    "ProbeSet",
    "TaskSource",
    "history_frame",
    "overall",
    "sample_ids",
    "summarize",
]
