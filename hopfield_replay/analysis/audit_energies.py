"""Hopfield energies of the audited samples, and how they rank against what was forgotten."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from hopfield_replay.analysis.vectors import Compared
from hopfield_replay.encoders import Encoder, vectors_of
from hopfield_replay.functional import Correlation, PatternTiles, spearman_interval
from hopfield_replay.functional.many import distances_of, energies_of
from hopfield_replay.functional.rows import placed
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.memory.temperature import calibrate_beta, default_n_eff, diagnose
from hopfield_replay.tracker.contents import contents, positions_of, sample_contents
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.checks import Similarity, check_finite

_NEIGHBOUR = 10
_LEAST = 5  # samples of a rank correlation


@dataclass(frozen=True, eq=False)
class Encoded:
    """Samples as vectors, and what tells which of them are the same.

    Attributes:
        vectors: (n, d).
        contents: (n,) a number for each sample as the data holds it.
    """

    vectors: Tensor
    contents: Tensor

    @classmethod
    def of(cls, raw: Any, vectors: Tensor) -> Self:
        """A batch as the data holds it, and its vectors."""
        return cls(vectors.cpu(), sample_contents(raw, vectors))

    @classmethod
    def joined(cls, parts: "Sequence[Encoded]") -> Self:
        """Batches in one; at least one."""
        return cls(torch.cat([part.vectors for part in parts]), torch.cat([part.contents for part in parts]))


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
    audited: Encoded,
    old_data: Tensor | Iterable[Any],
    new_data: Tensor | Iterable[Any] | None,
    encode: Encoder,
    beta: float | Literal["auto"],
    similarity: Similarity,
    device: torch.device,
) -> Energies:
    """Energies of the audited samples under two data sets; see :func:`audit`."""
    stored, vectors = _encoded(old_data, encode, audited, "old_data"), audited.vectors
    old = stored.vectors
    compared = Compared(old, device)
    given, value = as_beta(beta), as_beta(beta)
    if value is None:
        value = compared.worked_out(lambda x: calibrate_beta(x, n_eff=default_n_eff(len(x)), similarity=similarity))
    own = _own_positions(audited, stored)
    patterns = PatternTiles.of_rows(compared.near)
    before = energies_of(vectors, patterns, value, similarity=similarity, exclude=own)
    rises = None
    if new_data is not None:
        new = _encoded(new_data, encode, audited, "new_data").vectors
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


def _encoded(data: Tensor | Iterable[Any], encode: Encoder, audited: Encoded, name: str) -> Encoded:
    batches = [data] if isinstance(data, Tensor) else (batch for _, batch in TaskSource(data).batches())
    parts = [Encoded.of(batch, vectors_of(encode, batch)) for batch in batches]
    if not sum(len(part.vectors) for part in parts):
        raise ValueError(f"{name} holds no samples.")
    found = Encoded.joined(parts)
    check_finite(found.vectors, name)
    if found.vectors.shape[1] != audited.vectors.shape[1]:
        raise ValueError(
            f"{name} has vectors of {found.vectors.shape[1]} numbers, the audited samples have "
            f"{audited.vectors.shape[1]}."
        )
    return found


def _own_positions(audited: Encoded, stored: Encoded) -> Tensor:
    """Where each sample itself is stored, -1 if it is not: no sample may vouch for itself."""
    own = positions_of(contents(audited.vectors, len(audited.vectors)), contents(stored.vectors, len(stored.vectors)))
    same = positions_of(audited.contents, stored.contents)
    return torch.where(same < 0, own, same)


__all__ = ["Encoded", "Energies", "hopfield_energies", "rank_correlations"]
