"""Candidates: the samples among which a policy chooses, and what is known of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, Rows, joined
from hopfield_replay.utilities.checks import Similarity, as_matrix, check_finite, check_integer
from hopfield_replay.utilities.states import check_mapping


@dataclass(frozen=True, eq=False)
class Candidates:
    """Samples that are kept so far, and new ones.

    Attributes:
        ids: (n,) int64, one for each sample, stable over its life.
        tasks: (n,) int64, the task that each sample came from.
        energies: (n,) float64, leave-one-out energy of each sample under its task's patterns; +inf: nothing is near.
        vectors: (n, d), the space of the energies. A policy that says ``reads_in_pieces`` takes them from ``rows``.
        keys: (n,) float64 in (0, 1), a uniform random number that belongs to the sample's id for good.
        labels: (n,) int64, or None.
        losses: (n,) float64, the model's loss on each sample, or None.
        weights: (n,) float64, how many of the samples offered so far each stands for; ones if None.
        rises: (n,) float64, >= 0, predicted energy rise under the task at hand, the mean over what each stands for, or
            None while that is unknown.
        next_energies: (n,) float64, energy of each sample under the next task's patterns, or None while it is unknown.
        beta: inverse temperature of the energies.
        similarity: of the energies.
        places: how many samples share the replay, >= 1.
        replay_ratio: share of each batch that will be replayed, as the loader says; None while that is unknown.
        memory: bytes that a choice may take.
        device: where products are computed; None: where the vectors are.

    Example:
        >>> c = Candidates(ids=torch.tensor([7, 9]), tasks=torch.tensor([0, 1]), energies=torch.tensor([1.0, 2.0]),
        ...     vectors=torch.eye(2), keys=torch.rand(2))
        >>> len(c), c.pick(torch.tensor([1])).ids
        (2, tensor([9]))
    """

    ids: Tensor
    tasks: Tensor
    energies: Tensor
    vectors: Tensor
    keys: Tensor
    labels: Tensor | None = None
    losses: Tensor | None = None
    weights: Tensor | None = None
    rises: Tensor | None = None
    next_energies: Tensor | None = None
    beta: float = 1.0
    similarity: Similarity = "distance"
    places: int = 1
    replay_ratio: float | None = None
    memory: int = 1 << 30
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def map(self, function: Callable[[str, Tensor], Tensor]) -> Self:
        """Apply ``function(name, tensor)`` to every tensor that is there."""
        changed = {
            field.name: function(field.name, value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)  # type: ignore[arg-type]

    def pick(self, index: Tensor) -> Self:
        """The candidates at these positions; vectors in parts stay where they are."""
        picked = self.map(lambda _, value: value[index])
        rows = self.rows
        return picked if isinstance(rows, Tensor) else replace(picked, vectors=rows.pick(index))  # type: ignore[arg-type]

    def join(self, other: "Candidates") -> Self:
        """These candidates, then the others. What only one side knows is dropped, but for weights, which are 1 then."""
        mine, theirs = self, other
        if (mine.weights is None) != (theirs.weights is None):
            mine, theirs = mine.weighted(), theirs.weighted()
        both = {
            field.name: torch.cat([value, getattr(theirs, field.name).to(value.dtype)])
            if isinstance(value := getattr(mine, field.name), Tensor)
            and isinstance(getattr(theirs, field.name), Tensor)
            else None
            for field in fields(self)
            if field.name in _PER_SAMPLE and field.name != "vectors"
        }
        return replace(mine, **{**both, "vectors": joined(mine.rows, theirs.rows)})  # type: ignore[arg-type]

    @property
    def rows(self) -> Matrix:
        """The vectors (n, d) where they are: a tensor, or, of a task that is not held in memory, Rows."""
        return self.vectors

    def held(self) -> Self:
        """The same with all vectors in memory."""
        return replace(self, vectors=self.rows[:])

    def weighted(self) -> Self:
        """The same with weights that are not None."""
        return self if self.weights is not None else replace(self, weights=torch.ones(len(self), dtype=torch.float64))


def no_candidates() -> Candidates:
    """None at all."""
    integers, reals = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    return Candidates(integers, integers, reals, torch.empty(0, 0), reals)


def offered(
    vectors: Matrix,
    ids: Tensor,
    task: int,
    labels: Tensor | None,
    energies: Tensor | None,
    losses: Tensor | None,
    seed: int,
) -> Candidates:
    """New candidates of one task, checked and copied to the CPU; energies are 0 where none are given.

    Raises:
        ValueError: shapes that do not fit, no samples, duplicate ids, NaN values, infinite losses.
        TypeError: vectors that are not floating, ids or labels that are not integers.
    """
    matrix: Matrix = vectors  # rows in parts were checked as they were read
    if not isinstance(vectors, Rows):
        tensor = as_matrix(vectors, "vectors").detach().cpu()
        matrix = tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
    n = len(matrix)
    ids = _integers(ids, n, "ids")
    if n == 0:
        raise ValueError("Nothing was offered: vectors has no rows (an empty data set?).")
    if len(ids.unique()) != n:
        values, counts = ids.unique(return_counts=True)
        raise ValueError(f"ids must be distinct, but {values[counts > 1][:5].tolist()} are repeated.")
    if isinstance(task, int) and task < 0:
        raise ValueError(f"task must not be negative, got {task}.")
    check_integer(task, "task", 0, wrong_type=TypeError)
    if labels is not None:
        labels = _integers(labels, n, "labels")
    return Candidates(
        ids,
        torch.full((n,), task, dtype=torch.int64),
        torch.zeros(n, dtype=torch.float64) if energies is None else _reals(energies, ids, "energies"),
        matrix,  # type: ignore[arg-type]  # see Candidates.rows
        sample_keys(ids, seed),
        labels,
        None if losses is None else _finite(_reals(losses, ids, "losses"), ids),
    )


def _integers(values: Tensor, n: int, name: str) -> Tensor:
    if (
        not isinstance(values, Tensor)
        or values.is_floating_point()
        or values.is_complex()
        or values.dtype == torch.bool
    ):
        raise TypeError(f"{name} must be a tensor of integers, got {getattr(values, 'dtype', type(values).__name__)}.")
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one for each row of vectors, got {tuple(values.shape)}.")
    return values.detach().cpu().to(torch.int64)


def _reals(values: Tensor, ids: Tensor, name: str) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != ids.shape:
        given = getattr(values, "shape", values)
        raise ValueError(f"{name} must be a tensor of shape ({len(ids)},), got {given}.")
    numbers = values.detach().cpu().to(torch.float64)
    if bool(numbers.isnan().any()):
        raise ValueError(f"{name} hold NaN for ids {ids[numbers.isnan()][:5].tolist()}.")
    return numbers


def _finite(losses: Tensor, ids: Tensor) -> Tensor:
    if bool(losses.isinf().any()):
        raise ValueError(f"losses are infinite for ids {ids[losses.isinf()][:5].tolist()}: has the training diverged?")
    return losses


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


_MOST = 2.0**53  # samples that all weights together can stand for
_OPTIONAL = ("labels", "losses", "weights", "rises", "next_energies")
_LATER = ("rises",)  # no state of an earlier format has them
_DTYPES = {"ids": torch.int64, "tasks": torch.int64, "labels": torch.int64, "vectors": None}


def as_plain(candidates: Candidates) -> dict[str, Tensor | None]:
    """The per-sample tensors as a dict, which ``weights_only=True`` loads; all vectors are in memory."""
    return {name: getattr(candidates, name) for name in _PER_SAMPLE}


def from_plain(state: Mapping[str, Any]) -> Candidates:
    """Candidates from :func:`as_plain`.

    Raises:
        ValueError: tensors of other dtypes or lengths, duplicate ids, values out of range.
        KeyError: a missing entry.
    """
    check_mapping(state, "the samples' state")
    parts: dict[str, Any] = {name: state.get(name) if name in _LATER else state[name] for name in _PER_SAMPLE}
    tensors: dict[str, Any] = {name: None if part is None else part.cpu() for name, part in parts.items()}
    n = len(tensors["ids"])
    for name, tensor in tensors.items():
        if tensor is None and name in _OPTIONAL:
            continue
        expected = _DTYPES.get(name, torch.float64)
        if len(tensor) != n or tensor.ndim != (2 if name == "vectors" else 1):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)} for {n} samples")
        if tensor.dtype != expected if expected else not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype}")
    if len(tensors["ids"].unique()) != n:
        raise ValueError("ids are repeated")
    check_finite(tensors["vectors"], "vectors")
    if bool(tensors["energies"].isnan().any()) or not bool(((tensors["keys"] > 0) & (tensors["keys"] < 1)).all()):
        raise ValueError("energies are NaN or keys lie outside (0, 1)")
    for name in ("losses", "weights", "rises"):
        if tensors[name] is not None and not bool(tensors[name].isfinite().all()):
            raise ValueError(f"{name} are not finite")
    weights = tensors["weights"]
    if weights is not None and n and not (float(weights.min()) >= 0 and 0 < float(weights.sum()) < _MOST):
        raise ValueError("weights are no numbers of samples")
    if tensors["rises"] is not None and bool((tensors["rises"] < 0).any()):
        raise ValueError("rises are negative")
    if tensors["next_energies"] is not None:
        raise ValueError("next_energies are never kept")
    return Candidates(**tensors)


def check_join(kept: Candidates, others: Candidates) -> None:
    """Refuse candidates that cannot be of one pool.

    Raises:
        ValueError: an id in both, vectors of two dimensions or dtypes, labels in one of them only.
    """
    if (
        kept.vectors.shape[1:] != others.vectors.shape[1:]
        or kept.vectors.dtype != others.vectors.dtype
        or (kept.labels is None) != (others.labels is None)
        or bool(torch.isin(kept.ids, others.ids).any())
    ):
        raise ValueError("the samples in reserve do not fit those that are kept")


_PER_SAMPLE = tuple(
    f.name
    for f in fields(Candidates)
    if f.name not in ("beta", "similarity", "places", "replay_ratio", "memory", "device")
)
