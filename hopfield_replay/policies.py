"""Which samples to keep: a policy orders candidates, best first, with one method."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Samples among which a policy chooses: those kept so far and new ones.

    Attributes:
        ids: (n,) int64, one for each sample, stable over its life.
        tasks: (n,) int64, the task that each sample came from.
        energies: (n,) float64, leave-one-out energy of each sample under its task's patterns; +inf: nothing is near.
        vectors: (n, d), the space of the energies.
        keys: (n,) float64 in (0, 1), a uniform random number that belongs to the sample's id for good.
        labels: (n,) int64, or None.
    """

    ids: Tensor
    tasks: Tensor
    energies: Tensor
    vectors: Tensor
    keys: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class Policy(Protocol):
    """Anything with this method is a policy."""

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """Positions (k,) of the candidates to keep, int64, distinct, best first; 1 <= k <= len(candidates).

        The choice must be nested (the first j of the k are the choice of size j): a share shrinks by dropping its last
        picks, when the data it was chosen from is gone.
        """
        ...


def _best(score: Tensor, ids: Tensor, k: int) -> Tensor:
    """Positions of the k largest scores; ties go to the smaller id, so that every rank and every order agree."""
    by_id = ids.argsort()
    return by_id[score[by_id].argsort(descending=True, stable=True)[:k]]


class HighEnergy:
    """Keep the most isolated samples: the highest leave-one-out energies.

    Redundant and class-skewed when used alone; quotas (``groups="label"``) help. A baseline to measure others against.

    Example:
        >>> import torch
        >>> c = Candidates(torch.arange(3), torch.zeros(3), torch.tensor([1.0, 3.0, 2.0]), torch.eye(3), torch.rand(3))
        >>> HighEnergy().select(c, 2)
        tensor([1, 2])
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k highest energies."""
        return _best(candidates.energies, candidates.ids, k)


class LowEnergy:
    """Keep the most typical samples: the lowest leave-one-out energies."""

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k lowest energies."""
        return _best(-candidates.energies, candidates.ids, k)


class Random:
    """Keep a uniform sample, without replacement, of everything that was ever offered.

    Each id has one random key for good; the largest keys stay. So the choice is uniform over a stream of any length in
    bounded memory, whatever the order and the batches it arrives in.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006), with equal weights.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest keys."""
        return _best(candidates.keys, candidates.ids, k)


class Reservoir(Random):
    """Reservoir sampling over the stream, known by this name in continual learning (Vitter, 1985).

    Equal in distribution to :class:`Random`, which is already a reservoir; the draw is another one for the same seed.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest of the keys' fractional rotations (uniform again, and a different draw)."""
        return _best((candidates.keys + 0.5) % 1.0, candidates.ids, k)


class Proportional:
    r"""Keep samples at random, without replacement, with chances that grow with the energy (Gumbel top-k).

    Weights are :math:`w_i = E_i - \min_j E_j` plus a hundredth of their mean, so that the lowest energy keeps a chance.

    Source: Kool, van Hoof, Welling, "Stochastic beams and where to find them" (2019), section 2.
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The k largest log w_i + Gumbel(key_i)."""
        energies = candidates.energies
        finite = energies[torch.isfinite(energies)]
        if not len(finite):
            return _best(candidates.keys, candidates.ids, k)
        above = energies.clamp(max=float(finite.max())) - finite.min()
        weights = above + 0.01 * above.mean() + torch.finfo(torch.float64).tiny
        gumbel = -torch.log(-torch.log(candidates.keys))
        return _best(weights.log() + gumbel, candidates.ids, k)


_POLICIES: dict[str, type[Policy]] = {
    "high_energy": HighEnergy,
    "low_energy": LowEnergy,
    "random": Random,
    "reservoir": Reservoir,
    "proportional": Proportional,
}
POLICIES = tuple(_POLICIES)


def as_policy(policy: str | Policy) -> Policy:
    """Return the policy of this name, or the object itself if it has ``select``.

    Raises:
        ValueError: an unknown name.
        TypeError: an object without ``select``.
    """
    if isinstance(policy, str):
        if policy not in _POLICIES:
            raise ValueError(
                f"Unknown policy {policy!r}; choose one of {list(POLICIES)} or pass an object with select()."
            )
        return _POLICIES[policy]()
    if isinstance(policy, type) or not isinstance(policy, Policy):
        raise TypeError(f"policy must be a name or an object with a method select(candidates, k), got {policy!r}.")
    return policy


def sample_keys(ids: Tensor, seed: int) -> Tensor:
    """One uniform number in (0, 1) for each id, float64, a function of the id and the seed alone.

    The mixing function of SplitMix64 (Steele, Lea, Flood, 2014): a draw does not depend on order, batch or rank.

    Example:
        >>> import torch
        >>> sample_keys(torch.tensor([3, 4]), seed=0).equal(sample_keys(torch.tensor([4, 3]), seed=0).flip(0))
        True
    """

    def mix(z: Tensor) -> Tensor:
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
            z = (z ^ ((z >> shift) & ((1 << (64 - shift)) - 1))) * factor
        return z ^ ((z >> 31) & ((1 << 33) - 1))

    golden = -0x61C8864680B583EB
    mixed = mix(mix(ids.to(torch.int64).cpu() + golden) + torch.tensor(seed) * golden)
    return (((mixed >> 11) & ((1 << 53) - 1)).to(torch.float64) + 0.5) / (1 << 53)
