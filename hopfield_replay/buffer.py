"""EnergyReplayBuffer: a bounded, resumable memory of samples, chosen by a policy."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.functional import energy
from hopfield_replay.functional._validate import Similarity, as_matrix, check_beta, check_similarity
from hopfield_replay.nested import rows, take
from hopfield_replay.policies import Candidates, Policy, as_policy, sample_keys
from hopfield_replay.storage import SampleStore, load_tree, plain, save_tree
from hopfield_replay.temperature import calibrate_beta

_FORMAT = "hopfield-replay buffer 1"


class EnergyReplayBuffer:
    """Keeps at most ``capacity`` samples of all tasks, each with its id, task, energy and vector.

    A sample is any nesting of dicts, tuples and lists of tensors (and lists of strings). What is kept is copied, in its
    own dtype, into memory allocated once. Under the same seed the choice depends on ids and vectors only.

    Args:
        capacity: how many samples are kept, >= 1.
        policy: a name (see ``hopfield_replay.policies.POLICIES``) or an object with ``select(candidates, k)``.
        groups: None: all samples compete; ``"task"`` or ``"label"``: equal shares for each task or label, unused places
            going to the others. A share shrinks by dropping its last picks.
        beta: inverse temperature of energies that are computed here; ``"auto"`` calibrates it at the first update.
        similarity: ``"distance"`` or ``"dot"``, of energies that are computed here.
        seed: of the random policies and of :meth:`sample`.

    Raises:
        ValueError: a capacity below 1, an unknown policy, groups or similarity.
        TypeError: a capacity that is not a whole number, a policy without ``select``.

    Example:
        >>> import torch
        >>> buffer = EnergyReplayBuffer(capacity=2, policy="high_energy")
        >>> images = torch.tensor([[0.0], [0.1], [0.2], [5.0]])
        >>> buffer.update({"image": images}, images, ids=torch.arange(4), task=0)
        >>> len(buffer), 3 in buffer.ids.tolist()  # the isolated sample is kept
        (2, True)
        >>> buffer.sample(3)["image"].shape
        torch.Size([3, 1])
    """

    def __init__(
        self,
        capacity: int,
        policy: str | Policy = "high_energy",
        *,
        groups: Literal["task", "label"] | None = None,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        seed: int = 0,
    ) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            raise TypeError(f"capacity must be a whole number, got {capacity!r}.")
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}. For no replay, use no buffer.")
        if groups not in (None, "task", "label"):
            raise ValueError(f'groups must be None, "task" or "label", got {groups!r}.')
        check_similarity(similarity)
        self.capacity = capacity
        self.policy = as_policy(policy)
        self.groups = groups
        self.similarity: Similarity = similarity
        self.seed = seed
        self.beta: float | None = None if beta == "auto" else check_beta(beta)
        self._generator = torch.Generator().manual_seed(seed)
        self._store = SampleStore(capacity)
        self._kept = _no_candidates()
        self._slots = torch.empty(0, dtype=torch.int64)  # row in the store of each kept sample, in the order of _kept

    def __len__(self) -> int:
        return len(self._slots)

    def __repr__(self) -> str:
        name = type(self.policy).__name__
        return f"EnergyReplayBuffer({len(self)} of {self.capacity}, policy={name}, groups={self.groups!r})"

    @property
    def ids(self) -> Tensor:
        """(len,) int64 ids of the kept samples, each group's best first."""
        return self._kept.ids

    @property
    def tasks(self) -> Tensor:
        """(len,) int64 task of each kept sample."""
        return self._kept.tasks

    @property
    def labels(self) -> Tensor | None:
        """(len,) int64 label of each kept sample, or None if none were given."""
        return self._kept.labels

    @property
    def energies(self) -> Tensor:
        """(len,) float64 leave-one-out energy of each kept sample under its task's patterns."""
        return self._kept.energies

    @property
    def vectors(self) -> Tensor:
        """(len, d) vector of each kept sample."""
        return self._kept.vectors

    @property
    def nbytes(self) -> int:
        """Bytes of the store and of the vectors."""
        return self._store.nbytes + self._kept.vectors.nbytes

    def update(
        self,
        batch: Any,
        vectors: Tensor,
        *,
        ids: Tensor,
        task: int,
        labels: Tensor | None = None,
        energies: Tensor | None = None,
    ) -> None:
        """Offer samples of one task; the policy decides which of them, and of those kept so far, stay.

        Args:
            batch: the n samples, any nesting of tensors (n, ...) and lists of n strings; or a function that, given
                positions (m,) in [0, n), returns those samples, so that only the chosen ones are ever read.
            vectors: (n, d) or (n, *shape), floating and finite: the space of the energies.
            ids: (n,) integers, distinct, none of them kept already.
            task: index of the task, >= 0.
            labels: (n,) integers; needed for ``groups="label"``.
            energies: (n,) energies of the samples. If None they are the leave-one-out energies under this call's
                vectors and those kept of the same task (whose energies are then renewed, too).

        Raises:
            ValueError: shapes that do not fit, duplicate ids, NaN energies, more groups than places.
            TypeError: leaves that are not tensors or strings, vectors that are not floating.
        """
        new = self._candidates(vectors, ids, task, labels, energies)
        kept = self._kept
        if len(kept) and kept.vectors.shape[1:] != new.vectors.shape[1:]:
            raise ValueError(
                f"vectors have dimension {new.vectors.shape[1]}, but the buffer holds vectors of dimension "
                f"{kept.vectors.shape[1]}; use one encoder for all tasks."
            )
        if not callable(batch) and rows(batch) != len(new):
            raise ValueError(f"The batch has {rows(batch)} rows, but ids has {len(new)}.")
        pool = _join(kept, new) if len(kept) else new
        beta = self.beta
        if energies is None:
            found, beta = self._pool_energies(pool, task)
            pool = _with_energies(pool, found)
        chosen = self._choose(pool, fresh=torch.arange(len(pool)) >= len(kept))
        stays = chosen < len(kept)
        arrivals = chosen[~stays] - len(kept)
        slots = torch.full((len(chosen),), -1, dtype=torch.int64)
        slots[stays] = self._slots[chosen[stays]]
        occupied = torch.zeros(self.capacity, dtype=torch.bool)
        occupied[slots[stays]] = True
        slots[~stays] = (~occupied).nonzero().flatten()[: len(arrivals)]
        if len(arrivals):
            self._store.put(batch(arrivals) if callable(batch) else take(batch, arrivals), slots[~stays])
        self._slots = slots
        self._kept = _pick(pool, chosen)
        self.beta = beta

    def _candidates(
        self, vectors: Tensor, ids: Tensor, task: int, labels: Tensor | None, energies: Tensor | None
    ) -> Candidates:
        matrix = as_matrix(vectors, "vectors").detach().cpu()
        matrix = matrix if matrix.dtype == torch.float64 else matrix.to(torch.float32)
        n = len(matrix)
        ids = _integers(ids, n, "ids")
        if n == 0:
            raise ValueError("Nothing was offered: vectors has no rows (an empty data set?).")
        if len(ids.unique()) != n:
            values, counts = ids.unique(return_counts=True)
            raise ValueError(f"ids must be distinct, but {values[counts > 1][:5].tolist()} are repeated.")
        known = ids[torch.isin(ids, self.ids)]
        if len(known):
            raise ValueError(f"ids {known[:5].tolist()} are already in the buffer; give each sample its own id.")
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"task must be a whole number, got {task!r}.")
        if task < 0:
            raise ValueError(f"task must not be negative, got {task}.")
        if labels is not None:
            labels = _integers(labels, n, "labels")
        elif self.groups == "label":
            raise ValueError('groups="label" needs labels, got None.')
        if len(self) and (labels is None) != (self.labels is None):
            raise ValueError("labels must be given at every update or at none.")
        if energies is None:
            energies = torch.zeros(n, dtype=torch.float64)
        else:
            if not isinstance(energies, Tensor) or energies.shape != (n,):
                raise ValueError(
                    f"energies must be a tensor of shape ({n},), got {getattr(energies, 'shape', energies)}."
                )
            energies = energies.detach().cpu().to(torch.float64)
            if bool(energies.isnan().any()):
                raise ValueError(f"energies hold NaN for ids {ids[energies.isnan()][:5].tolist()}.")
        tasks = torch.full((n,), task, dtype=torch.int64)
        return Candidates(ids, tasks, energies, matrix, sample_keys(ids, self.seed), labels)

    def _pool_energies(self, pool: Candidates, task: int) -> tuple[Tensor, float | None]:
        """Energies of the pool, those of one task renewed: leave-one-out under its vectors of the pool; and beta."""
        own = (pool.tasks == task).nonzero().flatten()
        vectors = pool.vectors[own]
        beta = self.beta
        if beta is None and len(own) >= 4:
            try:
                beta = calibrate_beta(vectors, n_eff=min(5.0, (len(own) - 1) / 2), similarity=self.similarity)
            except ValueError:  # identical samples: every beta gives them one energy
                beta = None
        found = pool.energies.clone()
        found[own] = energy(
            vectors, vectors, 1.0 if beta is None else beta, similarity=self.similarity, exclude=torch.arange(len(own))
        )
        return found, beta

    def _choose(self, pool: Candidates, fresh: Tensor) -> Tensor:
        """Positions in the pool to keep: group after group, best first."""
        if self.groups is None:
            group = torch.zeros_like(pool.ids)
        else:
            group = pool.tasks if self.groups == "task" else pool.labels  # type: ignore[assignment]
        names, counts = group.unique(return_counts=True)
        if len(names) > self.capacity:
            raise ValueError(
                f"{len(names)} groups ({self.groups}) cannot share a capacity of {self.capacity}; raise the "
                f"capacity to at least {len(names)}."
            )
        chosen = []
        for name, quota in zip(names, equal_shares(counts.tolist(), self.capacity), strict=True):
            members = (group == name).nonzero().flatten()
            if bool(fresh[members].any()):
                picks = self.policy.select(_pick(pool, members), quota)
                if len(picks) != quota or len(picks.unique()) != quota:
                    raise ValueError(f"{self.policy!r} must select {quota} distinct candidates, got {picks.tolist()}.")
                chosen.append(members[picks])
            else:
                chosen.append(members[:quota])  # its data is gone: the first picks of its own order stay
        return torch.cat(chosen)

    def draw(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Positions (n,) in [0, len) of samples drawn uniformly with replacement.

        Raises:
            ValueError: n below 1, or an empty buffer.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ValueError(f"n must be a whole number >= 1, got {n!r}.")
        if not len(self):
            raise ValueError("The buffer is empty: nothing can be drawn before the first update.")
        # priorities are uniform; the same two lines serve any others
        edges = torch.ones(len(self), dtype=torch.float64).cumsum(0)
        generator = self._generator if generator is None else generator
        points = torch.rand(n, dtype=torch.float64, generator=generator) * edges[-1]
        return torch.searchsorted(edges, points, right=True).clamp_(max=len(self) - 1)

    def gather(self, positions: Tensor) -> Any:
        """The samples at these positions, as copies, in the nesting they came in."""
        return self._store.get(self._slots[positions])

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Any:
        """Draw ``n`` samples with replacement; see :meth:`draw` and :meth:`gather`."""
        return self.gather(self.draw(n, generator=generator))

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on: tensors and plain Python only, loadable with ``weights_only=True``."""
        kept = self._kept
        return {
            "format": _FORMAT,
            "capacity": self.capacity,
            "beta": self.beta,
            "generator": self._generator.get_state(),
            "samples": plain(self._store.get(self._slots)) if len(self) else None,
            "ids": kept.ids,
            "tasks": kept.tasks,
            "labels": kept.labels,
            "energies": kept.energies,
            "vectors": kept.vectors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; nothing changes if it does not fit.

        Raises:
            ValueError: another format, or more samples than this buffer's capacity.
        """
        if state.get("format") != _FORMAT:
            raise ValueError(f"Not a state of an EnergyReplayBuffer of this version: format {state.get('format')!r}.")
        count = len(state["ids"])
        if count > self.capacity:
            raise ValueError(f"The state holds {count} samples, more than this buffer's capacity of {self.capacity}.")
        store = SampleStore(self.capacity)
        if count:
            store.put(state["samples"], torch.arange(count))
        self._generator.set_state(state["generator"].cpu())
        self._store = store
        self._slots = torch.arange(count)
        self.beta = state["beta"]
        kept = {name: state[name] for name in ("ids", "tasks", "energies", "vectors", "labels")}
        kept = {name: None if value is None else value.cpu() for name, value in kept.items()}
        self._kept = Candidates(keys=sample_keys(kept["ids"], self.seed), **kept)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file (no pickle); an existing file is replaced only when all is written."""
        save_tree(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over the state in a file written by :meth:`save`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, or more samples than this buffer's capacity.
        """
        self.load_state_dict(load_tree(path))


def equal_shares(counts: list[int], capacity: int) -> list[int]:
    """Places for groups of these sizes: equal shares; what a small group leaves goes to the others, earlier ones first.

    Example:
        >>> equal_shares([100, 3, 100], 20)
        [9, 3, 8]
    """
    shares = [0] * len(counts)
    left = min(capacity, sum(counts))
    while left:
        hungry = [i for i, count in enumerate(counts) if shares[i] < count]
        each = left // len(hungry)
        for i in hungry if each else hungry[:left]:
            portion = min(counts[i] - shares[i], max(each, 1))
            shares[i] += portion
            left -= portion
    return shares


def _no_candidates() -> Candidates:
    integers, reals = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    return Candidates(integers, integers, reals, torch.empty(0, 0), reals)


def _integers(values: Tensor, n: int, name: str) -> Tensor:
    if not isinstance(values, Tensor) or values.is_floating_point() or values.is_complex():
        raise TypeError(f"{name} must be a tensor of integers, got {getattr(values, 'dtype', type(values).__name__)}.")
    if values.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), one for each row of vectors, got {tuple(values.shape)}.")
    return values.detach().cpu().to(torch.int64)


def _fields(candidates: Candidates) -> dict[str, Tensor | None]:
    return {name: getattr(candidates, name) for name in candidates.__dataclass_fields__}


def _pick(candidates: Candidates, index: Tensor) -> Candidates:
    return Candidates(**{k: None if v is None else v[index] for k, v in _fields(candidates).items()})  # type: ignore[arg-type]


def _join(first: Candidates, second: Candidates) -> Candidates:
    other = _fields(second)
    return Candidates(
        **{k: None if v is None else torch.cat([v, other[k].to(v.dtype)]) for k, v in _fields(first).items()}  # type: ignore
    )


def _with_energies(candidates: Candidates, energies: Tensor) -> Candidates:
    return Candidates(**{**_fields(candidates), "energies": energies})  # type: ignore[arg-type]
