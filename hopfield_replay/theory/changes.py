"""Task changes as objects: how the patterns of the old task become those of the new one."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hopfield_replay.functional import energy, expected_rise
from hopfield_replay.theory.settings import sphere
from hopfield_replay.utilities.checks import Similarity


@dataclass(frozen=True, eq=False)
class Task:
    """What the network stores after a change.

    Attributes:
        patterns: (N, d) float64.
        masses: (N,) float64 weights.

    Example:
        >>> len(Task(torch.eye(3), torch.ones(3)).patterns)
        3
    """

    patterns: Tensor
    masses: Tensor


class TaskChange(ABC):
    """A rule, possibly random, from old patterns to a new task; subclasses give :meth:`apply` and a name.

    Example:
        >>> class Negation(TaskChange):
        ...     name = "negation"
        ...     def apply(self, patterns, generator):
        ...         return Task(-patterns, torch.ones(len(patterns)))
        >>> x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        >>> energies = Negation().energies_after(x, x, beta=2.0, draws=3, generator=torch.Generator())
        >>> energies.shape
        torch.Size([3, 2])
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What the tables call this change."""

    @abstractmethod
    def apply(self, patterns: Tensor, generator: torch.Generator) -> Task:
        """Draw one new task.

        Args:
            patterns: the old patterns, (N, d) float64.
            generator: the source of all randomness.

        Returns:
            The new patterns and their masses (1 for each new pattern).
        """

    def energies_after(
        self,
        points: Tensor,
        patterns: Tensor,
        beta: float,
        draws: int,
        generator: torch.Generator,
        similarity: Similarity = "dot",
    ) -> Tensor:
        """Energies (masses not normalised) of the points under independently drawn new tasks.

        Args:
            points: queries, (n, d) float64.
            patterns: the old patterns, (N, d) float64.
            beta: inverse temperature, > 0.
            draws: number of new tasks.
            generator: the source of all randomness.
            similarity: form of the energy, ``"dot"`` or ``"distance"``.

        Returns:
            (draws, n) float64.
        """
        rows = []
        for _ in range(draws):
            task = self.apply(patterns, generator)
            rows.append(energy(points, task.patterns, beta, masses=task.masses, similarity=similarity, normalize=False))
        return torch.stack(rows)

    def expected_rise(
        self, points: Tensor, patterns: Tensor, beta: float, similarity: Similarity = "dot"
    ) -> Tensor | None:
        """Expected energy rise at the points where a closed form is known, (n,) float64; None where none is."""
        return None


@dataclass(frozen=True)
class Rotation(TaskChange):
    r"""Rotate every pattern by V = expm(eps Omega) with a random antisymmetric Omega: X_new = X V^T.

    Attributes:
        eps: angle scale, >= 0.
        variance: of each entry of Omega above the diagonal, > 0. The default .5 is that of (W - W^T)/2 with standard
            normal W; only eps^2 * variance matters for the mean rise at small angles.

    Example:
        >>> x = torch.eye(3, dtype=torch.float64)
        >>> turned = Rotation(0.1).apply(x, torch.Generator().manual_seed(0)).patterns
        >>> torch.allclose(turned @ turned.T, x)  # angles and lengths stay
        True
    """

    eps: float
    variance: float = 0.5

    def __post_init__(self) -> None:
        if not self.eps >= 0 or not self.variance > 0:
            raise ValueError(f"need eps >= 0 and variance > 0, got eps {self.eps} and variance {self.variance}.")

    @property
    def name(self) -> str:
        """What the tables call this change."""
        return f"rotation eps={self.eps}"

    def matrices(self, d: int, draws: int, generator: torch.Generator) -> Tensor:
        """Draw rotations V, (draws, d, d) float64."""
        rows, columns = torch.triu_indices(d, d, offset=1)
        upper = torch.zeros(draws, d, d, dtype=torch.float64)
        upper[:, rows, columns] = self.variance**0.5 * torch.randn(
            draws, len(rows), generator=generator, dtype=torch.float64
        )
        rotations: Tensor = torch.linalg.matrix_exp(self.eps * (upper - upper.mT))
        return rotations

    def apply(self, patterns: Tensor, generator: torch.Generator) -> Task:
        """Draw one rotation and turn all patterns by it."""
        rotation = self.matrices(patterns.shape[1], 1, generator)[0]
        return Task(patterns @ rotation.T, patterns.new_ones(len(patterns)))

    def energies_after(
        self,
        points: Tensor,
        patterns: Tensor,
        beta: float,
        draws: int,
        generator: torch.Generator,
        similarity: Similarity = "dot",
    ) -> Tensor:
        """As :meth:`TaskChange.energies_after`, all draws at once: E(x | X V^T) = E(V^T x | X)."""
        n, d = points.shape
        parts = []
        for start in range(0, draws, _CHUNK):  # bounds the memory of the matrix exponentials
            turned = points @ self.matrices(d, min(_CHUNK, draws - start), generator)  # rows x^T V = (V^T x)^T
            parts.append(energy(turned.reshape(-1, d), patterns, beta, similarity=similarity, normalize=False))
        return torch.cat(parts).reshape(draws, n)

    def expected_rise(
        self, points: Tensor, patterns: Tensor, beta: float, similarity: Similarity = "dot"
    ) -> Tensor | None:
        """Leading order eps^2 * variance * A(x); the next is O(eps^4)."""
        # the distance form is the dot form with masses exp(-beta |xi|^2 / 2), which a rotation does not change
        norms = patterns.square().sum(1)
        masses = None if similarity == "dot" else (-0.5 * beta * (norms - norms.min())).exp()
        return self.eps**2 * self.variance * expected_rise(points, patterns, beta, masses=masses)


_CHUNK = 500


@dataclass(frozen=True)
class Replacement(TaskChange):
    """Replace a random share of the patterns by random directions of the same norms.

    Attributes:
        share: of the patterns that are replaced (rounded to a whole number), in [0, 1].

    Example:
        >>> x = torch.eye(4, dtype=torch.float64)
        >>> task = Replacement(0.25).apply(x, torch.Generator().manual_seed(0))
        >>> int((task.patterns == x).all(1).sum())
        3
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}.")

    @property
    def name(self) -> str:
        """What the tables call this change."""
        return f"replacement of {self.share:.0%}"

    def apply(self, patterns: Tensor, generator: torch.Generator) -> Task:
        """Draw which patterns go, and what comes in their place."""
        n, d = patterns.shape
        gone = torch.randperm(n, generator=generator)[: round(self.share * n)]
        fresh = sphere(len(gone), d, generator) * patterns[gone].norm(dim=1, keepdim=True)
        return Task(patterns.index_copy(0, gone, fresh), patterns.new_ones(n))


@dataclass(frozen=True)
class Translation(TaskChange):
    """Move all patterns by one vector of random direction.

    Norms change, so the two forms of the energy disagree: the distance form rises by about length^2 / 2, the dot form
    changes by about -<shift, x>, whose mean over directions is zero.

    Attributes:
        length: of the vector, >= 0.

    Example:
        >>> x = torch.zeros(2, 3, dtype=torch.float64)
        >>> Translation(2.0).apply(x, torch.Generator().manual_seed(0)).patterns.norm(dim=1)
        tensor([2., 2.], dtype=torch.float64)
    """

    length: float

    def __post_init__(self) -> None:
        if not self.length >= 0:
            raise ValueError(f"length must be >= 0, got {self.length}.")

    @property
    def name(self) -> str:
        """What the tables call this change."""
        return f"translation by {self.length}"

    def apply(self, patterns: Tensor, generator: torch.Generator) -> Task:
        """Draw the direction and move all patterns along it."""
        shift = self.length * sphere(1, patterns.shape[1], generator)
        return Task(patterns + shift, patterns.new_ones(len(patterns)))


@dataclass(frozen=True, eq=False)
class NewTask(TaskChange):
    """Forget all old patterns and store the given ones.

    Attributes:
        patterns: of the new task, (M, d) floating.

    Example:
        >>> NewTask(torch.eye(5)).name
        'new task of 5 patterns'
    """

    patterns: Tensor = field(repr=False)

    @property
    def name(self) -> str:
        """What the tables call this change."""
        return f"new task of {len(self.patterns)} patterns"

    def apply(self, patterns: Tensor, generator: torch.Generator) -> Task:
        """Return the given patterns, whatever the old ones were."""
        fresh = self.patterns.to(patterns.dtype)
        return Task(fresh, fresh.new_ones(len(fresh)))


@dataclass(frozen=True)
class WithReplay(TaskChange):
    """Another change, plus old patterns that are replayed with masses.

    Attributes:
        change: how the other patterns change.
        replayed: indices of the old patterns that are replayed.
        masses: their masses, > 0; as many as indices.

    Example:
        >>> change = WithReplay(NewTask(torch.ones(1, 2)), replayed=(0,), masses=(3.0,))
        >>> task = change.apply(torch.eye(2, dtype=torch.float64), torch.Generator())
        >>> task.patterns.tolist(), task.masses.tolist()
        ([[1.0, 1.0], [1.0, 0.0]], [1.0, 3.0])
    """

    change: TaskChange
    replayed: tuple[int, ...]
    masses: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.replayed) != len(self.masses) or not all(m > 0 for m in self.masses):
            raise ValueError(f"need one positive mass for each replayed index, got {self.replayed}, {self.masses}.")

    @property
    def name(self) -> str:
        """What the tables call this change."""
        return f"{self.change.name} + replay of {len(self.replayed)}"

    def apply(self, patterns: Tensor, generator: torch.Generator) -> Task:
        """Draw the new task and add the replayed old patterns to it."""
        task = self.change.apply(patterns, generator)
        replayed = patterns[list(self.replayed)]
        masses = torch.cat([task.masses, task.masses.new_tensor(self.masses)])
        return Task(torch.cat([task.patterns, replayed]), masses)


__all__ = ["NewTask", "Replacement", "Rotation", "Task", "TaskChange", "Translation", "WithReplay"]
