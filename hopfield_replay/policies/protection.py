"""What a buffer would protect of the samples that are followed, by how many of its samples are kept."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from hopfield_replay.functional import (
    StreamedAffinity,
    far_task_energy,
    greedy_replay_gain,
    protected_energy,
    replay_mass,
)
from hopfield_replay.functional.affinity import matrix_or_streamed
from hopfield_replay.memory.readings import spread_indices
from hopfield_replay.utilities.checks import Similarity

_TARGETS = 1024  # samples whose protection is counted, spread evenly over those given
_SIZES = 16  # points on a curve
_GREEDY = 1024  # of more kept samples only their own curve: the comparison would cost more than the boundary


@dataclass(frozen=True)
class ProtectionCurve:
    """Protected energy, mean over the followed samples, against the number of samples kept.

    Attributes:
        sizes: numbers of kept samples, rising to all of them.
        kept: what the first so many of the kept samples protect.
        best: what the greedy choice among the kept and the followed samples would protect; empty for large buffers.
        bound: no set of ``sizes[-1]`` of these samples protects more; None for large buffers.
    """

    sizes: tuple[int, ...]
    kept: tuple[float, ...]
    best: tuple[float, ...]
    bound: float | None


def protection_curve(
    kept: Tensor, followed: Tensor, beta: float, *, similarity: Similarity = "distance", replay_ratio: float = 0.5
) -> ProtectionCurve:
    r"""Protected energy of followed samples, :math:`\frac1\beta\log(1 + \sum_{r\in R} a_{xr})`, for growing sets R.

    The next task is unknown, and counts as a far one (see :func:`~hopfield_replay.functional.far_task_energy`).

    Args:
        kept: vectors (k, d) of the kept samples, best first, k >= 1.
        followed: vectors (n, d) of the samples to protect, n >= 2; of more than 1024 an even share counts.
        beta: inverse temperature, > 0.
        similarity: ``"distance"`` or ``"dot"``.
        replay_ratio: share of each batch that is replayed, in (0, 1), which sets the mass of each kept sample.

    Returns:
        A :class:`ProtectionCurve`.

    Raises:
        ValueError, TypeError: as :func:`~hopfield_replay.functional.affinity`.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
        >>> curve = protection_curve(x[[0, 2]], x, beta=1.0)
        >>> curve.sizes, curve.kept[0] < curve.kept[1] <= curve.bound
        ((1, 2), True)
    """
    targets = followed[spread_indices(len(followed), _TARGETS)]
    pool = torch.cat([kept.to(targets.dtype), targets]) if len(kept) <= _GREEDY else kept.to(targets.dtype)
    energies: Tensor | float = (
        far_task_energy(targets) if similarity == "distance" else 0.5 * targets.to(torch.float64).square().sum(1)
    )
    mass = replay_mass(len(kept), replay_ratio)
    matrix = matrix_or_streamed(StreamedAffinity(targets, pool, energies, beta, masses=mass, similarity=similarity))
    sizes = sorted({round(len(kept) ** (i / (_SIZES - 1))) for i in range(_SIZES)})
    curve = tuple(float(protected_energy(matrix, torch.arange(size), beta=beta).mean()) for size in sizes)
    if len(kept) > _GREEDY:
        return ProtectionCurve(tuple(sizes), curve, (), None)
    selection = greedy_replay_gain(matrix, len(kept), beta=beta)
    values = list(accumulate(selection.gains.tolist()))
    return ProtectionCurve(
        tuple(sizes),
        curve,
        tuple(values[size - 1] / len(targets) for size in sizes),
        selection.upper_bound / len(targets),
    )
