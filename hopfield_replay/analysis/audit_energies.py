"""Hopfield energies of the audited samples, and how they rank against what was forgotten."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.analysis.vectors import Compared
from hopfield_replay.encoders import Encoder, vectors_of
from hopfield_replay.functional import Correlation, PatternTiles, spearman_interval
from hopfield_replay.functional.many import distances_of, energies_of
from hopfield_replay.functional.rows import placed
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.memory.temperature import calibrate_beta, default_n_eff, diagnose
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.checks import Similarity, check_finite

_NEIGHBOUR = 10
_LEAST = 5  # samples of a rank correlation


@dataclass(frozen=True, eq=False)
class Energies:
    """Energies of n samples.

    Attributes:
        before: (n,) under the old data, each sample itself left out.
        rises: (n,) under the new data less that, or None.
        density: (n,) distance to the tenth neighbour in the old data, or None if there are not enough.
        beta: inverse temperature.
        warnings: why energies at this beta may rank badly.
    """

    before: Tensor
    rises: Tensor | None
    density: Tensor | None
    beta: float
    warnings: tuple[str, ...]


def hopfield_energies(
    vectors: Tensor,
    old_data: Tensor | Iterable[Any],
    new_data: Tensor | Iterable[Any] | None,
    encode: Encoder,
    beta: float | Literal["auto"],
    similarity: Similarity,
    device: torch.device,
) -> Energies:
    """Energies of vectors (n, d) under two data sets; see :func:`audit`."""
    old = _vectors(old_data, encode, vectors, "old_data")
    compared = Compared(old, device)
    given, value = as_beta(beta), as_beta(beta)
    if value is None:
        value = compared.worked_out(lambda x: calibrate_beta(x, n_eff=default_n_eff(len(x)), similarity=similarity))
    own = _own_positions(vectors, old)
    patterns = PatternTiles.of_rows(compared.near)
    before = energies_of(vectors, patterns, value, similarity=similarity, exclude=own)
    rises = None
    if new_data is not None:
        new = _vectors(new_data, encode, vectors, "new_data")
        others = PatternTiles.of_rows(placed(new, compared.device))
        rises = energies_of(vectors, others, value, similarity=similarity) - before
    dense = len(old) > _NEIGHBOUR
    return Energies(
        before=before,
        rises=rises,
        density=distances_of(vectors, compared.near, _NEIGHBOUR, exclude=own) if dense else None,
        beta=value,
        warnings=(
            compared.worked_out(lambda x: diagnose(x, value, similarity=similarity, calibrated=given is None)).warnings
            if len(old) > 3
            else ()
        ),
    )


def rank_correlations(energies: Energies, rises: Tensor, seed: int) -> dict[str, Correlation]:
    """Correlations of the reconstruction forgetting (n,) with the energies, also at equal density."""
    if len(rises) < _LEAST:
        return {}
    correlations = {}
    for name, values in (("energy", energies.before), ("energy rise", energies.rises)):
        if values is not None:
            correlations[name] = spearman_interval(values, rises, seed=seed)
            if energies.density is not None:
                given = spearman_interval(values, rises, control=energies.density, seed=seed)
                correlations[f"{name} at equal density"] = given
    return correlations


def _vectors(data: Tensor | Iterable[Any], encode: Encoder, audited: Tensor, name: str) -> Tensor:
    batches = [data] if isinstance(data, Tensor) else (batch for _, batch in TaskSource(data).batches())
    parts = [vectors_of(encode, batch).cpu() for batch in batches]
    if not sum(map(len, parts)):
        raise ValueError(f"{name} holds no samples.")
    vectors = torch.cat(parts)
    check_finite(vectors, name)
    if vectors.shape[1] != audited.shape[1]:
        raise ValueError(
            f"{name} has vectors of {vectors.shape[1]} numbers, the audited samples have {audited.shape[1]}."
        )
    return vectors


def _own_positions(vectors: Tensor, stored: Tensor) -> Tensor:
    """Where each vector (n, d) itself is stored, -1 if it is not: no sample may vouch for itself."""
    held = {row.numpy().tobytes(): position for position, row in enumerate(stored)}
    return torch.tensor([held.get(row.numpy().tobytes(), -1) for row in vectors])


__all__ = ["Energies", "hopfield_energies", "rank_correlations"]
