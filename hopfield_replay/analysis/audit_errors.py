"""The errors of two models on the same samples, from the same noise."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.analysis.audit_energies import Encoded
from hopfield_replay.analysis.audit_sources import Sources
from hopfield_replay.analysis.journal import FirstErrors, Journal
from hopfield_replay.encoders import Encoder, first_labels, split_batch, vectors_of
from hopfield_replay.tracker.meter import ErrorMeter
from hopfield_replay.utilities.progress import track


@dataclass(frozen=True, eq=False)
class PairedErrors:
    """What was measured of n samples.

    Attributes:
        before: (n, timesteps) float64, mean squared errors of the first model.
        after: those of the second.
        labels: (n,) int64, the integers in the batches; None if a batch has none.
        encoded: vectors of the energies; None if they were not asked for.
        elements: numbers in one sample.
        noise: (n,) standard error of each sample's rise over the draws; None for one draw.
    """

    before: Tensor
    after: Tensor
    labels: Tensor | None
    encoded: Encoded | None
    elements: int
    noise: Tensor | None


def paired_errors(
    first: ErrorMeter,
    second: ErrorMeter,
    sources: Sources,
    prepare: Callable[[Any], Any],
    encode: Encoder | None = None,
    journal: Journal | None = None,
) -> PairedErrors:
    """Measure both models batch by batch.

    Args:
        first: of the first model.
        second: of the second one, with the same timesteps and seed.
        sources: the samples.
        prepare: what happens to a batch on its way to the models.
        encode: maps a prepared batch to vectors; None: none are read.
        journal: where errors are looked up and written, batch by batch; None: nowhere.

    Raises:
        ValueError: no samples, or samples that the models do not take; errors that are not finite.
    """
    before, after, labels, encoded, elements = [], [], list[Tensor | None](), list[Encoded](), 0
    for ids, raw in track(sources.batches(), "Auditing", sources.count):
        known = None if journal is None else journal.get(raw, ids)
        batch = None
        if known is None or encode is not None:
            with torch.no_grad():
                batch = prepare(raw)
        if known is None:
            held = None if journal is None else journal.get_first(raw, ids)
            known = _of_batch(first, second, batch, ids, held)
            if journal is not None:
                journal.put_first(raw, ids, FirstErrors(known[0], known[2], first.chunk_size))
                journal.put(raw, ids, *known)
        before.append(known[0])
        after.append(known[1])
        elements = known[2]
        labels.append(first_labels(raw, len(ids)))
        if encode is not None:
            encoded.append(Encoded.of(raw, vectors_of(encode, batch)))
    if not sum(map(len, before)):
        raise ValueError("data holds no samples to compare the two versions on.")
    found = [label for label in labels if label is not None]
    by_draw = torch.cat(before), torch.cat(after)
    draws = first.draws
    rises = (by_draw[1] - by_draw[0]).mean(1)  # (n, draws)
    measured = PairedErrors(
        by_draw[0].sum(-1) / draws,
        by_draw[1].sum(-1) / draws,
        torch.cat(found) if len(found) == len(labels) else None,
        Encoded.joined(encoded) if encoded else None,
        elements,
        rises.std(1) / draws**0.5 if draws > 1 else None,
    )
    _check_finite(measured)
    return measured


def _of_batch(
    first: ErrorMeter, second: ErrorMeter, batch: Any, ids: Tensor, held: FirstErrors | None
) -> tuple[Tensor, Tensor, int]:
    """Errors of both on one batch, measured in chunks of one size: rounding depends on it.

    What is held of the first one is taken, where it was measured in chunks of the second one's size.
    """
    if held is not None and held.chunk_size < second.chunk_size:
        first.chunk_size = second.chunk_size = held.chunk_size
    while True:
        try:
            if held is not None and held.chunk_size == first.chunk_size:
                before, elements = held.errors, held.elements
            else:
                before, elements = first.by_draw(batch, ids)
            after, _ = second.by_draw(batch, ids)
        except RuntimeError as error:
            shape = tuple(split_batch(batch)[0].shape[1:])
            raise ValueError(
                f"The models do not take samples of shape {shape} ({str(error).splitlines()[0]}). Give the data in the "
                "shape that they were trained on: images as (channels, height, width)."
            ) from error
        if first.chunk_size == second.chunk_size:
            return before, after, elements
        first.chunk_size = second.chunk_size = min(first.chunk_size, second.chunk_size)


def check_same_noise(first: ErrorMeter, second: ErrorMeter) -> None:
    """Refuse models whose noise levels differ: their errors are of different questions."""
    for step in first.timesteps:
        snrs = [meter.denoiser.snr(step) for meter in (first, second)]
        if not math.isclose(*snrs, rel_tol=1e-6):
            raise ValueError(
                f"The two versions noise differently: the signal-to-noise ratio at timestep {step} is {snrs[0]:.6g} "
                f"before and {snrs[1]:.6g} after. Their errors cannot be compared; they need one noise schedule."
            )


def _check_finite(measured: PairedErrors) -> None:
    for name, errors in (("old", measured.before), ("new", measured.after)):
        bad = (~errors.isfinite()).any(1).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{name}: the errors of {len(bad)} of {len(errors)} samples are not finite (first positions: "
                f"{bad[:5].tolist()}). The model's weights or its precision are broken."
            )


__all__ = ["PairedErrors", "check_same_noise", "paired_errors"]
