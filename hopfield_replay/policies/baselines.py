"""The policies that others are measured against: by energy, by chance, by distance, by loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional import knn_distance, proportional
from hopfield_replay.functional.patterns import Patterns
from hopfield_replay.functional.rows import picked
from hopfield_replay.functional.shared_rows import is_shared
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.policies.greedy_gain import check_oversample
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.showing import ShownSettings

_TINY = float(torch.finfo(torch.float64).tiny)  # a weight that is drawn last of all, but can be drawn


def _best(score: Tensor, ids: Tensor, k: int) -> Tensor:
    """Positions of the k largest scores; ties go to the smaller id, so that every rank and every order agree."""
    by_id = ids.argsort()
    return by_id[score[by_id].argsort(descending=True, stable=True)[:k]]


class HighEnergy(ShownSettings):
    """Keep the most isolated samples: the highest leave-one-out energies.

    Redundant and class-skewed when used alone; quotas (``groups="label"``) help. A baseline to measure others against.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.tensor([1.0, 3.0, 2.0]), torch.eye(3), torch.rand(3))
        >>> HighEnergy().select(c, 2)
        tensor([1, 2])
    """

    reads_in_pieces = True

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k highest energies."""
        return _best(candidates.energies, candidates.ids, k)


class LowEnergy(ShownSettings):
    """Keep the most typical samples: the lowest leave-one-out energies.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.tensor([1.0, 3.0, 2.0]), torch.eye(3), torch.rand(3))
        >>> LowEnergy().select(c, 2)
        tensor([0, 2])
    """

    reads_in_pieces = True

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k lowest energies."""
        return _best(-candidates.energies, candidates.ids, k)


class HighRise(ShownSettings):
    r"""Keep the samples whose energy the next task raises most: :math:`E_{new}(x) - E_{old}(x)`.

    The rise is what a model's forgetting follows, but the samples that rise most are often near each other, and one
    replayed sample protects its neighbours too. A baseline for :class:`GreedyGain`, which counts that. While the next
    task is unknown, all samples count as equally far from it, so that the lowest energies rise most; ``oversample``
    times as many as there are places are set aside until it is known.

    Args:
        oversample: how many candidates for each place stay until the next task is known, >= 1; 1: no second phase.

    Raises:
        ValueError: ``oversample`` out of range.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.tensor([1.0, 3.0, 2.0]), torch.eye(3), torch.rand(3),
        ...     next_energies=torch.tensor([4.0, 4.0, 8.0]))
        >>> HighRise().select(c, 2)  # they rise by 3, 1 and 6
        tensor([2, 0])
    """

    reads_in_pieces = True

    def __init__(self, oversample: int = 4) -> None:
        self.oversample = check_oversample(oversample)

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest rises; one that is not finite comes first."""
        if candidates.next_energies is None:
            return _best(-candidates.energies, candidates.ids, k)
        return _best((candidates.next_energies - candidates.energies).nan_to_num(nan=0.0), candidates.ids, k)


class Random(ShownSettings):
    """Keep a uniform sample, without replacement, of everything that was ever offered.

    Each id has one random key for good; the largest keys stay. So the choice is uniform over a stream of any length in
    bounded memory, whatever the order and the batches it arrives in.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.zeros(3), torch.eye(3), torch.tensor([0.2, 0.9, 0.6]))
        >>> Random().select(c, 2)
        tensor([1, 2])

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006), with equal weights.
    """

    is_random = True
    needs_energies = False
    reads_in_pieces = True

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest keys."""
        return _best(candidates.keys, candidates.ids, k)


class Reservoir(Random):
    """Reservoir sampling over the stream, known by this name in continual learning (Vitter, 1985).

    Equal in distribution to :class:`Random`, which is already a reservoir; another draw for the same seed, but not an
    independent one.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.zeros(3), torch.eye(3), torch.tensor([0.2, 0.9, 0.6]))
        >>> Reservoir().select(c, 2)
        tensor([0, 1])
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest of the keys' fractional rotations (uniform again, and a different draw)."""
        return _best((candidates.keys + 0.5) % 1.0, candidates.ids, k)


class Proportional(ShownSettings):
    r"""Keep samples at random, without replacement, with chances that grow with the energy (Gumbel top-k).

    Weights are :math:`w_i = E_i - \min_j E_j` plus a hundredth of their mean, so that the lowest energy keeps a chance.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.tensor([0.0, 9.0, 9.0]), torch.eye(3), torch.rand(3))
        >>> len(Proportional().select(c, 2))
        2

    Source: Kool, van Hoof, Welling, arXiv:1903.06059.
    """

    is_random = True
    reads_in_pieces = True

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """A draw of k that is the same for the same ids and seed."""
        energies = candidates.energies
        finite = energies[torch.isfinite(energies)]
        if not len(finite):
            return _best(candidates.keys, candidates.ids, k)
        above = energies.clamp(float(finite.min()), float(finite.max())) - finite.min()
        return proportional(above + 0.01 * above.mean() + _TINY, k, candidates.keys)


class HighLoss(ShownSettings):
    """Keep samples at random, without replacement, with chances proportional to the model's loss on them.

    The loss-aware reservoir: over a stream each sample's random key stays, so the choice does not depend on batches.
    Losses of 0 or below are drawn last.

    Example:
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.zeros(3), torch.eye(3), torch.rand(3),
        ...     losses=torch.tensor([0.0, 0.7, 0.4]))
        >>> HighLoss().select(c, 2).sort().values
        tensor([1, 2])

    Source: Buzzega et al., arXiv:2010.05595 (loss-aware reservoir sampling), drawn by Gumbel top-k.
    """

    is_random = True
    needs_energies = False
    needs_losses = True
    reads_in_pieces = True

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """A draw of k that is the same for the same ids, losses and seed."""
        if candidates.losses is None:
            raise ValueError('The policy "high_loss" needs losses: update(..., losses=) or a monitor with a denoiser.')
        return proportional(candidates.losses.clamp(min=0.0) + _TINY, k, candidates.keys)


class NearestNeighbour(ShownSettings):
    """Keep the samples that are farthest from their k-th nearest neighbour: isolation without a temperature.

    Args:
        neighbours: k, >= 1.

    Example:
        >>> vectors = torch.tensor([[0.0], [0.1], [5.0]])
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.zeros(3), vectors, torch.rand(3))
        >>> NearestNeighbour(1).select(c, 1)
        tensor([2])
    """

    needs_energies = False
    reads_in_pieces = True

    def __init__(self, neighbours: int = 10) -> None:
        check_integer(neighbours, "neighbours", 1)
        self.neighbours = neighbours

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest distances to the k-th nearest other candidate."""
        if len(candidates) < 2:
            return torch.arange(k)
        vectors, near = candidates.rows, min(self.neighbours, len(candidates) - 1)
        own = torch.arange(len(vectors), device=vectors.device)
        if is_shared(vectors):  # each process compares all with its share
            distances = Patterns(vectors).distances(vectors, near, exclude=own)
        else:
            distances = knn_distance(vectors, vectors, near, exclude=own)
        return _best(distances, candidates.ids, k)


class ByVectors(ShownSettings):
    """Keep what an order of the vectors puts first, such as k_center, facility_location or herding.

    Args:
        order: maps vectors (n, d) and k to positions (k,), best first.
        in_pieces: whether it also takes vectors as Rows, and reads them a piece at a time.

    Example:
        >>> from hopfield_replay.functional import k_center
        >>> vectors = torch.tensor([[0.0], [0.1], [5.0]])
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.zeros(3), vectors, torch.rand(3))
        >>> ByVectors(k_center).select(c, 2).sort().values
        tensor([1, 2])
    """

    needs_energies = False

    def __init__(self, order: Callable[[Any, int], Tensor], *, in_pieces: bool = False) -> None:
        self.order = order
        self.reads_in_pieces = in_pieces

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The first k of the order; candidates are sorted by id first, so that every arrival gives one choice."""
        by_id = candidates.ids.argsort()
        sorted_already = bool((by_id.diff() == 1).all())
        rows = candidates.rows
        return by_id[self.order(rows if sorted_already else picked(rows, by_id), k)]
