"""Dry runs: what is going to be measured at the boundaries is tried on a batch, before a step is spent."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.batch_reader import BatchReader
from hopfield_replay.denoisers.paired_loss import PairedLoss
from hopfield_replay.denoisers.verification import near
from hopfield_replay.functional.denoiser import Denoiser, undisturbed
from hopfield_replay.functional.diffusion import reconstruction_error
from hopfield_replay.functional.noise_levels import default_timesteps
from hopfield_replay.utilities.nested import rows, take

Read = Callable[[Any], tuple[Tensor, Any]]  # a prepared batch to what a denoiser denoises, and its condition

_TRIED = 2  # samples
_MIXED = "what the network is shown of a sample depends on the others of its batch"


def dry_run(denoiser: Denoiser, read: Read, module: nn.Module, batch: Any, timesteps: Sequence[float] | None) -> str:
    """Measure the errors of a batch's first samples, together and one by one.

    Args:
        denoiser: what measures.
        read: a batch to what it denoises.
        module: comes back as it was.
        batch: a prepared batch.
        timesteps: of the errors; None: by default.

    Returns:
        What went wrong, in words; empty if nothing did.
    """
    try:
        few = take(batch, torch.arange(min(_TRIED, rows(batch))))
        with undisturbed(module, denoiser), torch.compiler.set_stance("force_eager"):  # nothing is compiled for a trial
            samples, condition = read(few)
            if len(samples) != rows(few):
                return f"the network is shown {len(samples)} samples where the batch holds {rows(few)}"
            alone, _ = read(_row(few, -1))
            steps = default_timesteps(denoiser) if timesteps is None else timesteps
            errors = reconstruction_error(denoiser, samples, steps, 0, condition=condition)
    except Exception as error:  # somebody's code: whatever it raises now it would raise at the end of the task
        return f"it cannot be measured ({type(error).__name__}: {error})"
    if not _alike(alone, samples[-1:]):
        return _MIXED
    return "" if bool(errors.isfinite().all()) else "its errors are not finite"


def scaled_by_the_batch(reader: BatchReader, step: Read, batch: Any) -> str:
    """Whether what samples are scaled by on their way to the network is another number in every batch.

    Args:
        reader: scales samples by what was seen in this batch.
        step: the same, as the module's own step does it.
        batch: that batch.

    Returns:
        That, in words; empty if it is not so, or cannot be seen.
    """
    if (reader.scale, reader.shift) == (1.0, 0.0):
        return ""
    try:
        one = _row(batch, 0)
        seen = _alike(step(batch)[0], reader(batch)[0])
        return _MIXED if seen and not _alike(step(one)[0], reader(one)[0]) else ""
    except Exception:  # somebody's step, which may want more than one sample
        return ""


def try_loss(loss: PairedLoss, batch: Any) -> str:
    """Measure the loss of one sample; what went wrong, in words, empty if nothing did."""
    try:
        with torch.compiler.set_stance("force_eager"):
            losses = PairedLoss(loss.step, loss.module, 2, loss.seed)(_row(batch, 0))
    except Exception as error:  # as above
        return f"its own loss cannot be measured ({type(error).__name__}: {error})"
    return "" if bool(losses.isfinite().all()) else "its own loss is not finite"


def _row(batch: Any, row: int) -> Any:
    return take(batch, torch.tensor([range(rows(batch))[row]]))


def _alike(given: Tensor, wanted: Tensor) -> bool:
    return near(*(tensor.detach().cpu().to(torch.float64) for tensor in (given, wanted)))


__all__ = ["Read", "dry_run", "scaled_by_the_batch", "try_loss"]
