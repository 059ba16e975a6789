"""Reread: chosen samples as they were when they were read to be kept, with what belongs to them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional.rows import replaced
from hopfield_replay.policies.candidates import Candidates


@dataclass(frozen=True, eq=False)
class Reread:
    """Samples that were read again, with the vector, the energy and the label of what was read.

    Where data is random, or changed meanwhile, that is not what was offered; it is what is kept.

    Attributes:
        samples: m samples, any nesting of tensors (m, ...) and lists of m strings.
        vectors: (m, d).
        energies: (m,) float64.
        labels: (m,) int64, or None.

    Example:
        >>> pool = Candidates(ids=torch.arange(2), tasks=torch.zeros(2).long(), energies=torch.zeros(2).double(),
        ...     vectors=torch.zeros(2, 1), keys=torch.rand(2))
        >>> again = Reread(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([5.0]).double(), None)
        >>> again.correct(pool, torch.tensor([1])).energies
        tensor([0., 5.], dtype=torch.float64)
    """

    samples: Any
    vectors: Tensor
    energies: Tensor
    labels: Tensor | None

    def correct(self, pool: Candidates, at: Tensor) -> Candidates:
        """The pool in which the candidates at these positions (m,) are what was read."""
        vectors = replaced(pool.rows, at, self.vectors.detach().cpu())
        energies = pool.energies.index_copy(0, at, self.energies.detach().cpu().to(torch.float64))
        labels = pool.labels
        if labels is not None and self.labels is not None:
            labels = labels.index_copy(0, at, self.labels.cpu())
        return replace(pool, vectors=vectors, energies=energies, labels=labels)  # type: ignore[arg-type]  # see rows


__all__ = ["Reread"]
