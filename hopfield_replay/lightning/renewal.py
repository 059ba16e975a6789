"""What Lightning's callbacks remember of one fit and must not carry into the next task's."""

import math
from collections.abc import Iterable

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay.lightning.namespaces import is_a


def renew(callbacks: Iterable[Callback]) -> None:
    """Let callbacks start a task as they started the first one.

    * EarlyStopping: patience and best score. Scores of two tasks do not compare.
    * ModelCheckpoint with a monitor: the best scores, for the same reason. Files of earlier tasks stay on disk.
    * Timer (``Trainer(max_time=...)``): the time that is left, as ``max_epochs`` and ``max_steps`` hold for each task.
    * WeightAveraging: the epoch of its last update. The new task's epochs start at 0, and those below it would not be
      averaged.
    """
    for callback in callbacks:
        if is_a(callback, EarlyStopping):
            worst = torch.tensor(math.inf if callback.mode == "min" else -math.inf)
            fresh = {"wait_count": 0, "stopped_epoch": 0, "best_score": worst, "patience": callback.patience}
            callback.load_state_dict(fresh)
        elif is_a(callback, ModelCheckpoint) and callback.monitor is not None:
            callback.best_k_models = {}
            callback.best_model_path = callback.kth_best_model_path = ""
            callback.best_model_score = callback.current_score = None
            callback.kth_value = torch.tensor(math.inf if callback.mode == "min" else -math.inf)
        elif is_a(callback, Timer):  # its state_dict leaves out the end of the last fit
            callback._start_time = dict.fromkeys(callback._start_time)
            callback._end_time = dict.fromkeys(callback._end_time)
            callback._offset = 0
        elif is_a(callback, WeightAveraging):  # its state_dict leaves the epoch out
            callback._latest_update_epoch = -1


def has_stopped(callbacks: Iterable[Callback]) -> bool:
    """Whether early stopping had ended the task when the checkpoint was written that its state is from."""
    return any(bool(callback.stopping_reason.value) for callback in callbacks if is_a(callback, EarlyStopping))


def averaging(callbacks: Iterable[Callback]) -> list[WeightAveraging]:
    """The callbacks that bring averaged weights when training ends."""
    return [callback for callback in callbacks if is_a(callback, WeightAveraging)]


def check_renewable(callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks that would throw away what later tasks train."""
    if any(is_a(callback, StochasticWeightAveraging) for callback in callbacks):
        raise MisconfigurationException(
            "StochasticWeightAveraging averages the first task only, and replaces what later tasks train by their "
            "first weights; use lightning.pytorch.callbacks.WeightAveraging or EMAWeightAveraging."
        )
