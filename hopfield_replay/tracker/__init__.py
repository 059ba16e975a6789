"""The history of a task sequence, free of any training framework."""

from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.tracker.table import error_rise, summarize
from hopfield_replay.tracker.task_reader import sample_ids
from hopfield_replay.tracker.tracker import ForgettingTracker

__all__ = ["ForgettingTracker", "TaskSource", "error_rise", "sample_ids", "summarize"]
