"""The Lightning integration: a callback, a loader, a datamodule and a loop over tasks."""

from hopfield_replay.lightning.monitor import ForgettingMonitor
from hopfield_replay.lightning.replay_data_module import ReplayDataModule
from hopfield_replay.lightning.replay_distillation import ReplayDistillation
from hopfield_replay.lightning.replay_loader import ReplayLoader
from hopfield_replay.lightning.tasks import fit_tasks
from hopfield_replay.lightning.watch_module import watch_module

__all__ = ["ForgettingMonitor", "ReplayDataModule", "ReplayDistillation", "ReplayLoader", "fit_tasks", "watch_module"]
