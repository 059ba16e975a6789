"""EnergySelectionStrategy: an energy policy for Avalanche's ParametricBuffer."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from avalanche.training.storage_policy import ExemplarsSelectionStrategy
from torch import Tensor

from hopfield_replay.avalanche.experience_source import read_vectors
from hopfield_replay.functional import energy
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.memory.temperature import calibrate_beta, default_n_eff
from hopfield_replay.policies import Policy, as_policy
from hopfield_replay.policies.candidates import Candidates, sample_keys
from hopfield_replay.utilities.checks import Similarity, check_similarity

_Key = tuple[int, int]  # number of a sample's content, and how many such came before


class EnergySelectionStrategy(ExemplarsSelectionStrategy):  # type: ignore[misc]  # avalanche is untyped here
    """Orders exemplars by an energy policy, best first, for the stock ParametricBuffer.

    A sample's energy is its leave-one-out energy among the samples that are new in the call in which it is first seen,
    and is remembered: ParametricBuffer asks three times per experience, mostly about samples whose companions are gone.
    Samples are told by their vectors; those that a later call shows to be dropped are forgotten.

    Args:
        policy: a name (see ``hopfield_replay.policies.POLICIES``) or an object with ``select(candidates, k)``.
        limit: how many the policy puts in order, e.g. the buffer's max_size; the rest follow as they come. None: all.
        beta: inverse temperature; ``"auto"`` calibrates it on the first call with at least 3 new samples.
        similarity: ``"distance"`` or ``"dot"``.
        encoder: maps a minibatch ``[x, y, ...]``, on the strategy's device, to vectors (n, d); None: its
            samples, flattened, by the rules of :class:`hopfield_replay.encoders.Columns`.
        seed: of the random policies.

    Raises:
        ValueError: an unknown policy or similarity, a limit below 1.
        TypeError: a policy without ``select``; when asked: samples that are not tensors.

    Example:
        >>> from avalanche.benchmarks.utils import make_avalanche_dataset
        >>> from torch.utils.data import TensorDataset
        >>> data = make_avalanche_dataset(TensorDataset(torch.tensor([[0.0], [1.0], [3.0]])))
        >>> EnergySelectionStrategy("high_energy", beta=1.0).make_sorted_indices(None, data)
        [2, 0, 1]
    """

    def __init__(
        self,
        policy: str | Policy = "greedy_gain",
        *,
        limit: int | None = None,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        encoder: Callable[[Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        check_similarity(similarity)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ValueError(f"limit must be a whole number >= 1 or None, got {limit!r}.")
        self.policy = as_policy(policy)
        self.limit = limit
        self.beta: float | None = as_beta(beta)
        self.similarity: Similarity = similarity
        self.encoder = encoder
        self.seed = seed
        self._known: dict[_Key, tuple[int, int, float]] = {}  # of a sample: id, call of its first sight, energy
        self._seen_in: dict[_Key, int] = {}  # key of a sample: last call that held it
        self._calls = 0
        self._ids = 0

    def make_sorted_indices(self, strategy: Any, data: Any) -> list[int]:
        """Positions in the data set, best first.

        Args:
            strategy: where its device is.
            data: an AvalancheDataset.
        """
        if not len(data):
            return []
        vectors, numbers = read_vectors(data, self.encoder, getattr(strategy, "device", None))
        keys = _keys(numbers)
        new = [position for position, key in enumerate(keys) if key not in self._known]
        if new:
            self._learn(vectors[new], [keys[position] for position in new])
        self._forget(keys)
        ids, calls, energies = zip(*(self._known[key] for key in keys), strict=True)
        named = torch.tensor(ids)
        k = min(len(data), self.limit or len(data))
        candidates = Candidates(
            named,
            torch.tensor(calls),
            torch.tensor(energies, dtype=torch.float64),
            vectors,
            sample_keys(named, self.seed),
            _labels(data),
            beta=1.0 if self.beta is None else self.beta,
            similarity=self.similarity,
            places=k,
        )
        first: list[int] = self.policy.select(candidates, k).tolist()
        return first + sorted(set(range(len(data))) - set(first))

    def _learn(self, vectors: Tensor, keys: list[_Key]) -> None:
        if self.beta is None and len(vectors) >= 3:
            self.beta = calibrate_beta(vectors, n_eff=default_n_eff(len(vectors)), similarity=self.similarity)
        beta = 1.0 if self.beta is None else self.beta
        energies = energy(vectors, vectors, beta, similarity=self.similarity, exclude=torch.arange(len(vectors)))
        for key, value in zip(keys, energies.tolist(), strict=True):
            self._known[key] = (self._ids, self._calls, value)
            self._ids += 1

    def _forget(self, keys: list[_Key]) -> None:
        """Samples that were last seen together with some of these, and are not among them, have been dropped."""
        self._calls += 1
        companions = {self._seen_in[key] for key in keys if key in self._seen_in}
        here = set(keys)
        for key in [key for key, call in self._seen_in.items() if call in companions and key not in here]:
            del self._seen_in[key], self._known[key]
        self._seen_in.update(dict.fromkeys(keys, self._calls))


def _keys(numbers: Tensor) -> list[_Key]:
    """One key for each sample; equal ones are numbered."""
    counts: dict[int, int] = {}
    keys = []
    for number in numbers.tolist():
        counts[number] = counts.get(number, -1) + 1
        keys.append((number, counts[number]))
    return keys


def _labels(data: Any) -> Tensor | None:
    targets = list(getattr(data, "targets", []))
    return torch.tensor([int(target) for target in targets]) if len(targets) == len(data) else None
