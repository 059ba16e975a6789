"""Checkpoints of an Avalanche strategy between experiences."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.checkpointing import maybe_load_checkpoint
from avalanche.checkpointing import save_checkpoint as upstream_save

from hopfield_replay.utilities.files import replacing


def save_checkpoint(strategy: Any, path: str | os.PathLike[str]) -> None:
    """Write a strategy with its plugins and the states of the random generators; an old file is replaced at the end.

    Call it after ``strategy.train(experience)``. Avalanche's own save_checkpoint fails under torch >= 2.6 (``Can't
    pickle ... sentinel``): torch.optim deletes the names of its submodules, so that dill takes the optimizers' classes
    for classes without a module and pickles their code. Here the names are there while it works.

    The buffer is written as what it keeps; no plugin of this package holds on to a data set. Like every pickle, the
    file can run code when it is loaded.

    Args:
        strategy: any strategy, between two experiences.
        path: file to write.

    Example:
        >>> import tempfile
        >>> from avalanche.training import Naive
        >>> from hopfield_replay.avalanche import loss_evaluator
        >>> model = torch.nn.Linear(2, 2)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> strategy = Naive(model=model, optimizer=sgd, evaluator=loss_evaluator)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_checkpoint(strategy, f"{folder}/run.pkl")
        ...     os.listdir(folder)
        ['run.pkl']
    """
    with _optimizer_modules(), replacing(path) as partial:
        upstream_save(strategy, str(partial))


def load_checkpoint(
    strategy: Any, path: str | os.PathLike[str], *, map_location: str | torch.device | None = None
) -> tuple[Any, int]:
    """Go on where :func:`save_checkpoint` was called; only load files that you trust.

    Args:
        strategy: made as in the run that was interrupted.
        path: file to read; if there is none, the strategy comes back as it is, with 0.
        map_location: device of the tensors.

    Returns:
        The strategy, and how many experiences it has been trained on: ``train_stream[count:]`` are left.

    Example:
        >>> load_checkpoint("a strategy", "no/such/file.pkl")
        ('a strategy', 0)
    """
    with _optimizer_modules():
        loaded: tuple[Any, int] = maybe_load_checkpoint(strategy, str(path), map_location=map_location)
    return loaded


@contextmanager
def _optimizer_modules() -> Iterator[None]:
    """Give ``torch.optim`` the names of its submodules back for a while."""
    missing = {
        name.removeprefix("torch.optim."): module
        for name, module in list(sys.modules.items())
        if name.startswith("torch.optim.") and name.count(".") == 2
    }
    missing = {name: module for name, module in missing.items() if not hasattr(torch.optim, name)}
    vars(torch.optim).update(missing)
    try:
        yield
    finally:
        for name in missing:
            delattr(torch.optim, name)
