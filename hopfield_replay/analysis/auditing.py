"""The measurement: two denoisers, the same samples, the same noise."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hopfield_replay.analysis.audit_energies import hopfield_energies, rank_correlations
from hopfield_replay.analysis.audit_errors import check_same_noise, paired_errors
from hopfield_replay.analysis.audit_examples import reconstructed_examples
from hopfield_replay.analysis.audit_report import AuditReport
from hopfield_replay.analysis.audit_sources import Data, Sources
from hopfield_replay.analysis.drift import Label, drift, drift_by_label
from hopfield_replay.analysis.journal import Journal
from hopfield_replay.denoisers import Denoiser, find_denoiser
from hopfield_replay.denoisers.discovery import is_guess
from hopfield_replay.encoders import as_encoder
from hopfield_replay.tracker.meter import ErrorMeter
from hopfield_replay.utilities.checks import Similarity, check_integer
from hopfield_replay.utilities.device import CPU, check_device, device_of
from hopfield_replay.utilities.nested import identity

_POOLED = (
    "The rank correlations run over all tasks together, so that the difference between learned and forgotten tasks "
    "weighs in them; for what happens within a task audit its samples alone."
)
_GUESSED = (
    "The network and the scheduler of {} were not held against its training_step, which may denoise something else "
    "(latents, scaled samples): pass the denoiser and read of hopfield_replay.lightning.watch_module(module, batch)."
)


def audit(
    old: Denoiser | nn.Module,
    new: Denoiser | nn.Module,
    data: Data | Mapping[str, Data],
    *,
    labels: Tensor | Sequence[Label] | None = None,
    old_data: Data | None = None,
    new_data: Data | None = None,
    encoder: Callable[[Any], Tensor] | nn.Module | None = None,
    beta: float | Literal["auto"] = "auto",
    similarity: Similarity = "distance",
    timesteps: Sequence[float] | None = None,
    draws: int = 1,
    seed: int = 0,
    examples: int = 8,
    names: Sequence[str] = (),
    prepare: Callable[[Any], Any] | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str | None = None,
    journal: Journal | None = None,
    read: Callable[[Any], tuple[Tensor, Any]] | None = None,
) -> AuditReport:
    r"""Compare two versions of a diffusion model on the same samples, with the same noise, without training anything.

    The rise of a sample is :math:`\frac1T\sum_t |x_0 - \hat x_0^{new}(x_t)|^2/d - |x_0 - \hat x_0^{old}(x_t)|^2/d`
    with one x_t for both: their difference is the models' alone.

    Args:
        old: the first version: a Denoiser, or a module that holds one (see :func:`find_denoiser`).
        new: the second one, likewise, with the same noise levels.
        data: samples: a tensor (n, *shape), or batches (a DataLoader, a list); the conditions come from the batches.
            Or a dict of these by task, for the table by task.
        labels: one for each sample, whole numbers or names, for the table by class; None: the integers (n,) in the
            batches, if any.
        old_data: what the first version was trained on, tensor or batches: gives each sample's Hopfield energy under
            it. A sample that is in it itself is left out of its own energy.
        new_data: what the second one was trained on since: gives the energy's rise. Needs ``old_data``.
        encoder: maps a batch to the vectors of the energies; None: its samples (:class:`Columns`).
        beta: inverse temperature of the energies, or ``"auto"``: calibrated on the old data.
        similarity: form of the energies, ``"distance"`` or ``"dot"``.
        timesteps: where errors are measured; None: 10, 20, 30, 40 and 50 % of the first version's range.
        draws: noise draws at each timestep, >= 1.
        seed: of the noise and of the intervals.
        examples: so many of the most, and of the least forgotten samples are kept with their reconstructions.
        names: what to call the samples (file names); empty: by their positions.
        prepare: maps a batch of any of the data to what the models and the encoder take; None: it is that.
        decode: maps what the models denoise (latents) to images, for the examples; None: it is that.
        device: where the vectors of the energies are compared, in parts that fit; None: where the first version's
            weights are, and the CPU where none are found; ``"cpu"`` forces the CPU. The models run where they are.
        journal: where errors are written as they are measured, and looked up first: an audit that was interrupted goes
            on; None: nowhere.
        read: maps a prepared batch to what the models denoise and its condition, such as that of
            :func:`hopfield_replay.lightning.watch_module`; None: by the rules for batches.

    Returns:
        An :class:`AuditReport`.

    Raises:
        ValueError: no denoiser in a module, or several; noise levels that differ; samples that the models do not take;
            errors that are not finite; no samples; labels or names that do not fit; new data without old data; a
            device that is not there.
        TypeError: neither a denoiser nor a module.
        MemoryError: not even one sample at a time fits on the device.

    Example:
        >>> import torch
        >>> from hopfield_replay.denoisers import CallableDenoiser, VarianceSchedule
        >>> schedule = VarianceSchedule(torch.linspace(0.99, 0.01, 10))
        >>> right = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
        >>> wrong = CallableDenoiser(lambda x, t: torch.ones_like(x), schedule, prediction_type="sample")
        >>> report = audit(right, wrong, torch.zeros(5, 1, 2, 2))
        >>> report.mean, report.worse
        (1.0, 1.0)

    Source: paired noise as in the reconstruction forgetting of :class:`ForgettingTracker`.
    """
    if new_data is not None and old_data is None:
        raise ValueError("new_data needs old_data: the energy rises from the one to the other.")
    check_integer(examples, "examples", 0)
    place = check_device(device)
    prepare = prepare or identity
    first = ErrorMeter(_denoiser(old, "old"), timesteps, seed, identity, draws=draws, read=read)
    second = ErrorMeter(_denoiser(new, "new"), first.timesteps, seed, identity, draws=draws, read=read)
    check_same_noise(first, second)
    sources = Sources(data)
    encode = as_encoder(encoder)
    measured = paired_errors(first, second, sources, prepare, None if old_data is None else encode, journal)
    n = len(measured.before)
    rises = (measured.after - measured.before).mean(1)
    worst = rises.argsort(descending=True, stable=True)
    by_class = _labels(labels, measured.labels, n)
    if names and len(names) != n:
        raise ValueError(f"names must hold one name for each of the {n} samples, got {len(names)}.")
    energies = None
    if measured.encoded is not None:
        assert old_data is not None  # else nothing was encoded
        energies = hopfield_energies(
            measured.encoded,
            old_data,
            new_data,
            lambda batch: encode(prepare(batch)),
            beta,
            similarity,
            (device_of(old) or CPU) if place is None else place,
        )
    shown = None
    if examples:
        shown = reconstructed_examples(first, second, sources, worst, examples, prepare, decode or identity)
    errors = measured.before.mean(1), measured.after.mean(1)
    tasks = sources.tasks()
    has_energy = _integrable(first)
    return AuditReport(
        errors_old=measured.before,
        errors_new=measured.after,
        rises=rises,
        worst=worst,
        overall=drift(*errors, seed),
        classes=_as_dicts(errors, by_class, seed),
        tasks=_as_dicts(errors, tasks, seed),
        timesteps=tuple(first.timesteps),
        model_energy_old=first.model_energy(measured.before, measured.elements) if has_energy else None,
        model_energy_new=second.model_energy(measured.after, measured.elements) if has_energy else None,
        energies=None if energies is None else energies.before,
        energy_rises=None if energies is None else energies.rises,
        correlations={} if energies is None else rank_correlations(energies, rises, seed),
        beta=None if energies is None else energies.beta,
        examples=shown,
        names=tuple(names),
        labels=tuple(by_class or ()),
        task_of=tuple(tasks or ()),
        warnings=(
            *(["One sample: intervals are undefined."] if n == 1 else []),
            *_unverified(old, new),
            *([_POOLED] if energies is not None and tasks else []),
            *(() if energies is None else energies.warnings),
        ),
        noise=measured.noise,
    )


def _labels(labels: Tensor | Sequence[Label] | None, in_batches: Tensor | None, n: int) -> list[Label] | None:
    if labels is None:
        return None if in_batches is None else in_batches.tolist()
    if isinstance(labels, Tensor) and labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {tuple(labels.shape)}.")
    listed: list[Label] = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(listed) != n:
        raise ValueError(f"labels must hold one label for each of the {n} samples, got {len(listed)}.")
    return listed


def _as_dicts(
    errors: tuple[Tensor, Tensor], labels: Sequence[Label] | None, seed: int
) -> dict[Label, dict[str, float]]:
    drifts = {} if labels is None else drift_by_label(*errors, labels, seed)
    return {label: asdict(one) for label, one in drifts.items()}


def _integrable(meter: ErrorMeter) -> bool:
    ratios = {meter.denoiser.snr(step) for step in meter.timesteps}
    return len(ratios) == len(meter.timesteps) > 1 and all(0 < ratio < math.inf for ratio in ratios)


def _unverified(*models: Denoiser | nn.Module) -> list[str]:
    guessed = [type(one).__name__ for one in models if isinstance(one, nn.Module) and is_guess(one, find_denoiser(one))]
    return [_GUESSED.format(guessed[0])] if guessed else []


def _denoiser(model: Denoiser | nn.Module, name: str) -> Denoiser:
    if isinstance(model, Denoiser):
        return model
    if not isinstance(model, nn.Module):
        file = isinstance(model, str | os.PathLike)
        raise TypeError(
            f"{name} must be a Denoiser or a torch module that holds one, got {type(model).__name__}."
            + (" hopfield_replay.checkpoints.load_version opens a file, and so does hopfield-replay audit." * file)
        )
    denoiser = find_denoiser(model)
    if denoiser is None:
        raise ValueError(
            f"{name}: no denoiser was found on {type(model).__name__}. Wrap the model with "
            "hopfield_replay.denoisers.DiffusersDenoiser or CallableDenoiser, or let "
            "hopfield_replay.lightning.watch_module(module, batch) read one off its training step."
        )
    return denoiser


__all__ = ["audit"]
