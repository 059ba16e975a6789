"""HopfieldMemory: patterns, masses and inverse temperature as one object."""

from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor

from hopfield_replay import functional as F
from hopfield_replay.functional import PatternTiles
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.memory.temperature import Diagnosis, calibrate_beta, default_n_eff, diagnose
from hopfield_replay.utilities.checks import Similarity, as_matrix, check_masses, check_similarity
from hopfield_replay.utilities.device import float64_device


class HopfieldMemory:
    r"""A modern Hopfield network: stored patterns with masses, and the energy they give to any query.

    .. math:: E_d(x) = -\frac1\beta \log \sum_\mu w_\mu e^{-\beta|x-\xi_\mu|^2/2}, \quad \sum_\mu w_\mu = 1

    Args:
        patterns: (N, d) or (N, *shape), floating and finite; N >= 1, and N >= 3 for ``beta="auto"``. Or patterns that
            do not fit: an iterable of batches that can be read again and again (a DataLoader without shuffling,
            batches of a memory-mapped file), or :class:`~hopfield_replay.functional.PatternTiles`, also spread over
            ranks. They are streamed once for each result, in memory that does not grow with N.
        beta: inverse temperature, > 0; ``"auto"`` calibrates it to a median leave-one-out n_eff of 5 (less for fewer
            than 11 patterns, see :func:`~hopfield_replay.calibrate_beta`).
        masses: (N,), >= 0; ones if None. They are normalised to sum 1 inside every energy.
        similarity: ``"distance"`` (images, latents) or ``"dot"`` (unit-norm patterns).

    Raises:
        ValueError: no patterns, or values and shapes that do not fit.
        TypeError: patterns that are not a floating tensor.

    Example:
        >>> import torch
        >>> memory = HopfieldMemory(torch.eye(4), beta=8.0)
        >>> memory.energy(torch.zeros(1, 4))
        tensor([0.5000], dtype=torch.float64)
        >>> memory.energy(torch.eye(4), exclude=torch.arange(4)).round(decimals=9)  # leave-one-out
        tensor([1., 1., 1., 1.], dtype=torch.float64)

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975; Ramsauer et al., arXiv:2008.02217.
    """

    def __init__(
        self,
        patterns: Tensor | Iterable[Any],
        beta: float | Literal["auto"] = "auto",
        *,
        masses: Tensor | None = None,
        similarity: Similarity = "distance",
    ) -> None:
        check_similarity(similarity)
        self.patterns: Tensor | PatternTiles
        if isinstance(patterns, Tensor) or hasattr(patterns, "__array__"):
            self.patterns = as_matrix(patterns, "patterns")  # type: ignore[arg-type]  # refuses arrays
            self.masses = check_masses(masses, self.patterns)
        else:
            self.patterns = patterns if isinstance(patterns, PatternTiles) else PatternTiles(patterns)
            self.masses = None
            if masses is not None:
                raise TypeError("Patterns in batches bring their masses along: yield pairs (patterns, masses).")
        if not len(self.patterns):
            raise ValueError("A HopfieldMemory needs at least one pattern, got none (an empty data set?).")
        self.similarity: Similarity = similarity
        given = as_beta(beta)
        self._calibrated = given is None
        if given is None:
            n_eff = default_n_eff(len(self.patterns))
            given = calibrate_beta(self.patterns, n_eff=n_eff, similarity=similarity, masses=self.masses)
        self.beta = given

    def __len__(self) -> int:
        return len(self.patterns)

    def __repr__(self) -> str:
        d = self.patterns.shape[1] if isinstance(self.patterns, Tensor) else self.patterns.dimension
        return f"HopfieldMemory(patterns=({len(self)}, {d}), beta={self.beta:.6g}, similarity={self.similarity!r})"

    def to(self, device: torch.device | str) -> Self:
        """Move patterns and masses to a device, in place; returns the memory itself.

        They stay on the CPU where the device has no float64, which is where queries from there are brought to.

        Raises:
            TypeError: patterns in batches stay on the device their batches come on.
        """
        if not isinstance(self.patterns, Tensor):
            raise TypeError("Patterns in batches cannot be moved; yield the batches on that device.")
        place = float64_device(torch.device(device))
        self.patterns = self.patterns.to(place)
        self.masses = None if self.masses is None else self.masses.to(place)
        return self

    def energy(self, x: Tensor, *, exclude: Tensor | None = None) -> Tensor:
        """Energy (n,) of queries (n, *shape); ``exclude`` (n,): index of the pattern that x[i] itself is, -1: none."""
        return F.energy(x, self.patterns, self.beta, masses=self.masses, similarity=self.similarity, exclude=exclude)

    def responsibilities(self, x: Tensor, *, exclude: Tensor | None = None) -> Tensor:
        """Responsibility (n, N) of each pattern for each query; needs the patterns as one tensor.

        Raises:
            TypeError: patterns in batches.
        """
        if not isinstance(self.patterns, Tensor):
            raise TypeError("Responsibilities are (n, N) and need the patterns as one tensor, not in batches.")
        return F.responsibilities(
            x, self.patterns, self.beta, masses=self.masses, similarity=self.similarity, exclude=exclude
        )

    def retrieve(self, x: Tensor, *, steps: int = 1) -> Tensor:
        """Retrieval (n, d) after ``steps`` updates."""
        return F.retrieve(x, self.patterns, self.beta, masses=self.masses, similarity=self.similarity, steps=steps)

    def fixed_points(self, x: Tensor, *, tol: float = 1e-10, max_iter: int = 1000) -> Tensor:
        """Fixed point (n, d) that is reached from each query."""
        return F.fixed_points(
            x, self.patterns, self.beta, masses=self.masses, similarity=self.similarity, tol=tol, max_iter=max_iter
        )

    def effective_patterns(self, x: Tensor, *, exclude: Tensor | None = None) -> Tensor:
        """Effective number of patterns (n,) that share each query."""
        return F.effective_patterns(
            x, self.patterns, self.beta, masses=self.masses, similarity=self.similarity, exclude=exclude
        )

    def diagnose(self) -> Diagnosis:
        """Whether energies at this beta can rank samples, and which beta would work if they cannot."""
        return diagnose(
            self.patterns, self.beta, masses=self.masses, similarity=self.similarity, calibrated=self._calibrated
        )
