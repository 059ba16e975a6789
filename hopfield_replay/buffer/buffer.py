"""EnergyReplayBuffer: a bounded, resumable memory of samples, chosen by a policy."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.choice import choose, weigh
from hopfield_replay.buffer.drawing import SAMPLINGS, WEIGHTED, Sampling, default_sampling, positions, shares
from hopfield_replay.buffer.drawn import Drawn
from hopfield_replay.buffer.merging import check_merge, released, renumbered, shared_groups
from hopfield_replay.buffer.provenance import Provenance
from hopfield_replay.buffer.reading import read_all
from hopfield_replay.buffer.removal import as_ids, without
from hopfield_replay.buffer.reread import Reread
from hopfield_replay.buffer.state import FORMAT, read_state
from hopfield_replay.buffer.storage import SampleStore, load_tree, plain, save_tree
from hopfield_replay.buffer.views import COLUMNS, KeptSamples, by_task, rows_of
from hopfield_replay.functional import predicted_rises
from hopfield_replay.functional.patterns import Patterns
from hopfield_replay.functional.rows import Matrix, Rows, picked, pieces
from hopfield_replay.memory.settings import EnergySettings
from hopfield_replay.memory.vector_store import MEMORY
from hopfield_replay.policies import Policy, as_policy, requirements
from hopfield_replay.policies.candidates import Candidates, as_plain, no_candidates, offered
from hopfield_replay.utilities.checks import Similarity, as_matrix, check_beta, check_integer, check_masses, check_seed
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.drawing import draw_bars
from hopfield_replay.utilities.interrupts import to_the_end
from hopfield_replay.utilities.nested import Source, gather_from, rows, take
from hopfield_replay.utilities.showing import Shown, jsonable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class EnergyReplayBuffer(Shown):
    """Keeps at most ``capacity`` samples of all tasks, each with its id, task, energy and vector.

    A sample is any nesting of dicts, tuples and lists of tensors (and lists of strings). What is kept is copied, in its
    own dtype, into memory allocated once.

    Under the same seed the same samples are kept and drawn, bit for bit: in another process, whatever order an update's
    samples come in, in memory or memory-mapped. Behind a DataLoader neither its batch size nor its number of
    workers matters, unless the vectors come from a network: these differ in their last bits with the batch size (and
    all energies with the number of threads), so that samples of nearly equal energy may change places. Split into
    several updates, the same samples stay under policies that judge each sample alone (random, reservoir, high_loss;
    high_energy and low_energy if energies are given); the others see fewer candidates at a time.

    Args:
        capacity: how many samples are kept, >= 1.
        policy: a name (see ``hopfield_replay.policies.POLICIES``) or an object with ``select(candidates, k)``. The
            default keeps the samples whose joint replay protects the most energy, see
            :class:`hopfield_replay.GreedyGain`.
        storage: folder for memory-mapped files that hold the samples, for buffers larger than memory; None: in memory.
        groups: ``"task"`` or ``"label"``: equal shares for each task or label, unused places going to the others; a
            share shrinks by dropping its last picks. None: all samples compete, and a policy that does not count how
            many samples each stands for may drop old tasks altogether.
        sampling: how samples are drawn: ``"uniform"``; ``"weight"``: in proportion to how many of the samples offered
            so far each stands for, those to which it is the nearest kept one of its group, so that what is replayed has
            the density of what was seen; ``"rise_weight"``: the same, times 1 + dE / mean dE, where dE is the rise of
            the energy of what a sample stands for, predicted from the next task's data when that is known (see
            :meth:`refine` and :func:`~hopfield_replay.functional.rise_weights`), and the mean that of its task, so that
            every task keeps its share; or by priority: sample i with chances proportional to 1/rank. Rank 1 has the
            highest energy (``"energy"``), the highest rise at the last boundary (``"rise"``), or the first pick of each
            group (``"gain"``: greedy_gain picks in the order of falling gain). Equal values share their mean rank.
            None: ``"rise_weight"`` for a policy with ``needs_rises``, such as greedy_gain, ``"weight"`` for another
            with ``needs_weights``, such as k_means, else ``"uniform"``: to compare two policies alone, give both the
            same.
        beta: inverse temperature of energies that are computed here; ``"auto"`` calibrates it at the first update.
        similarity: ``"distance"`` or ``"dot"``, of energies that are computed here.
        seed: of the random policies and of :meth:`sample`.

    Attributes:
        settings: beta and similarity, which a ForgettingTracker with this buffer shares.
        drawn: how much of the task at hand was replayed so far.
        replay_ratio: share of each batch that will be replayed, as the loader that draws says; None while none does.
        provenance: names of the tasks and of the samples that are held, where they are known.
        memory: bytes that a choice may take; a ForgettingTracker sets its own.
        device: where vectors are compared in a choice; a ForgettingTracker sets its own.

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
        policy: str | Policy = "greedy_gain",
        *,
        groups: Literal["task", "label"] | None = "task",
        storage: str | os.PathLike[str] | None = None,
        sampling: Sampling | None = None,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        seed: int = 0,
    ) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            raise TypeError(f"capacity must be a whole number, got {capacity!r}.")
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}. For no replay, use no buffer.")
        if groups not in (None, "task", "label"):
            raise ValueError(
                f'groups must be None, "task" or "label", got {groups!r}.{did_you_mean(groups, ("task", "label"))}'
            )
        if sampling not in (None, *SAMPLINGS):
            known = ", ".join(f'"{name}"' for name in SAMPLINGS)
            raise ValueError(f"sampling must be {known} or None, got {sampling!r}.{did_you_mean(sampling, SAMPLINGS)}")
        self.settings = EnergySettings(beta, similarity)
        self._given_beta = self.settings.beta
        self.capacity = capacity
        self.policy = as_policy(policy)
        self.groups = groups
        self._needs = requirements(self.policy)
        if sampling is None:
            sampling = default_sampling(self.policy)
        self.sampling = sampling
        self.seed = check_seed(seed)
        self.drawn = Drawn()
        self.replay_ratio: float | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._store = SampleStore(capacity, storage)
        self._kept = no_candidates()
        self._slots = torch.empty(0, dtype=torch.int64)  # row in the store of each kept sample, in the order of _kept
        self._observed = torch.empty(0, 0, dtype=torch.float64)  # (len, boundaries) energies after each, nan before
        self._reserve: tuple[Candidates, Any] | None = None  # over-provisioned candidates of the newest task
        self._edges: Tensor | None = None  # of the draws, until what is kept changes
        self._newest = -1
        self.provenance = Provenance()
        self.memory = MEMORY
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._slots)

    def _line(self) -> str:
        name = type(self.policy).__name__
        return (
            f"EnergyReplayBuffer({len(self)} of {self.capacity}, policy={name}, groups={self.groups!r}, "
            f"sampling={self.sampling!r})"
        )

    @property
    def beta(self) -> float | None:
        """Inverse temperature of the energies; None until it is calibrated."""
        return self.settings.beta

    @property
    def similarity(self) -> Similarity:
        """Similarity of the energies."""
        return self.settings.similarity

    @property
    def ids(self) -> Tensor:
        """(len,) int64 ids of the kept samples, each group's best first."""
        return self._kept.ids

    @property
    def tasks(self) -> Tensor:
        """(len,) int64 task of each kept sample."""
        return self._kept.tasks

    @property
    def newest_task(self) -> int:
        """The task of the last update, whether or not any of its samples stayed; -1 before the first."""
        return self._newest

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
    def weights(self) -> Tensor | None:
        """(len,) float64, how many of the samples offered so far each stands for; None where that is not counted."""
        if self._kept.weights is None:
            return None
        return released(self._kept, self._reserve, self.groups).weights

    @property
    def nbytes(self) -> int:
        """Bytes of the store and of the vectors."""
        return self._store.nbytes + self._kept.vectors.nbytes

    @property
    def predicted_rises(self) -> Tensor | None:
        """(len,) float64, mean predicted rise of what each stands for, under the task at hand; None while unknown.

        Known from :meth:`refine` to the next :meth:`update`, with ``sampling="rise_weight"``.
        """
        return self._kept.rises

    def update(
        self,
        batch: Any,
        vectors: Tensor,
        *,
        ids: Tensor,
        task: int,
        labels: Tensor | None = None,
        energies: Tensor | None = None,
        losses: Tensor | None = None,
        observed: Tensor | None = None,
        beta: float | None = None,
        weights: Tensor | None = None,
        names: Sequence[str] | None = None,
        task_name: str | None = None,
    ) -> None:
        """Offer samples of one task; the policy decides which of them, and of those kept so far, stay.

        Nothing changes if it fails, and whatever interrupts it finds all of it done, or nothing.

        Args:
            batch: the n samples, any nesting of tensors (n, ...) and lists of n strings; or a function that, given
                positions (m,) in [0, n), returns those samples, so that only the chosen ones are ever read. It may
                return a :class:`~hopfield_replay.buffer.reread.Reread`, where they are not what was offered.
            vectors: (n, d) or (n, *shape), floating and finite: the space of the energies.
            ids: (n,) integers, distinct, none of them kept already.
            task: index of the task, >= 0.
            labels: (n,) integers; needed for ``groups="label"``.
            energies: (n,) energies of the samples. If None they are the leave-one-out energies under this call's
                vectors and those kept of the same task (whose energies are then renewed, too).
            losses: (n,) the model's loss on each sample; needed for the policy ``"high_loss"``.
            observed: (len,) energies of the samples kept so far after this task, in the order of :attr:`ids`, for their
                history; None: none is recorded.
            beta: inverse temperature of the given energies, which becomes the buffer's if it has none yet.
            weights: (n,) float64, >= 0: how often each was trained on; None: once.
            names: of the samples, such as their files, for their :attr:`provenance`.
            task_name: of the task, likewise.

        Raises:
            ValueError: shapes that do not fit, duplicate ids, NaN energies, more groups than places, a beta that is not
                the buffer's.
            TypeError: leaves that are not tensors or strings, vectors that are not floating.
        """
        to_the_end(
            self.prepare_update(
                batch,
                vectors,
                ids=ids,
                task=task,
                labels=labels,
                energies=energies,
                losses=losses,
                observed=observed,
                beta=beta,
                weights=weights,
                names=names,
                task_name=task_name,
            )
        )

    def prepare_update(
        self,
        batch: Any,
        vectors: Matrix,
        *,
        ids: Tensor,
        task: int,
        labels: Tensor | None,
        energies: Tensor | None,
        losses: Tensor | None,
        observed: Tensor | None,
        beta: float | None,
        weights: Tensor | None = None,
        names: Sequence[str] | None = None,
        task_name: str | None = None,
    ) -> Callable[[], None]:
        """All of :meth:`update` but the change itself, which is returned: short, and to be called once.

        Vectors may also come as :class:`~hopfield_replay.functional.Rows`, which were checked before.
        """
        new = offered(vectors, ids, task, labels, energies, losses, self.seed)
        if weights is not None:
            new = replace(new, weights=check_masses(weights.detach().cpu(), new.vectors, "weights"))
        provenance = self.provenance.with_names(task, task_name, ids, names)
        if beta is not None and self.beta is not None and check_beta(beta) != self.beta:
            raise ValueError(f"beta={beta!r} was given, but the buffer's energies are at beta={self.beta!r}.")
        if labels is None and self.groups == "label":
            raise ValueError('groups="label" needs labels, got None.')
        if len(self) and (labels is None) != (self.labels is None):
            raise ValueError("labels must be given at every update or at none.")
        if not callable(batch) and rows(batch) != len(new):
            raise ValueError(f"The batch has {rows(batch)} rows, but ids has {len(new)}.")
        if observed is not None and observed.shape != (len(self),):
            raise ValueError(f"observed must have shape ({len(self)},), got {tuple(observed.shape)}.")
        order = new.ids.argsort()
        read: Callable[[Tensor], Any] = batch if callable(batch) else partial(take, batch)
        if bool((order.diff() != 1).any()):  # sums and ties must not depend on the order in which samples come
            new = new.pick(order)
        reserve, held = self._reserve, self._kept
        if reserve is not None:
            held = held.join(reserve[0])
            if task != self._newest:  # the next task came without a second phase
                reserve, stay = None, torch.arange(len(self))
                held = weigh(held, stay, self.groups).pick(stay)
        if len(held) and held.vectors.shape[1:] != new.rows.shape[1:]:
            raise ValueError(
                f"vectors have dimension {new.rows.shape[1]}, but the buffer holds vectors of dimension "
                f"{held.vectors.shape[1]}; use one encoder for all tasks."
            )
        if torch.isin(new.ids, held.ids).any():
            known = new.ids[torch.isin(new.ids, held.ids)]
            raise ValueError(f"ids {known[:5].tolist()} are already in the buffer; give each sample its own id.")
        pool = held.join(new) if len(held) else new
        own = (pool.tasks == task).nonzero().flatten()
        calibrated = check_beta(beta) if self.beta is None and beta is not None else self._calibrated(pool, own)
        value = 1.0 if calibrated is None else calibrated
        later = energies is None and not self._needs.energies  # those of the samples that stay are enough
        if energies is None and not later:
            pool = replace(pool, energies=self._pool_energies(pool, own, own, value))
        pool = self._described(pool, value)
        fresh = torch.arange(len(pool)) >= len(self._kept)
        chosen, spare = choose(pool, fresh, self.policy, self.groups, self.capacity)
        arrives = torch.cat([chosen, spare])
        arrives = arrives[arrives >= len(held)]
        again = read(order[arrives - len(held)]) if len(arrives) else None
        if isinstance(again, Reread):
            pool, again = again.correct(pool, arrives), again.samples
        elif later:
            stay = torch.cat([chosen, spare])
            asked = stay[pool.tasks[stay] == task]
            pool = replace(pool, energies=self._pool_energies(pool, own, asked, value))
        if len(arrives) and rows(again) != len(arrives):
            raise ValueError(f"{rows(again)} samples came back for {len(arrives)} positions.")
        if self._weighs:
            pool = weigh(pool, torch.cat([chosen, spare]), self.groups)
        if observed is not None:
            seen = torch.cat([self._observed, observed.detach().cpu().to(torch.float64)[:, None]], dim=1)
        else:
            seen = self._observed
        sources: list[Source] = [] if reserve is None else [(len(reserve[0]), partial(take, reserve[1]))]
        places = torch.full((len(new),), -1).index_copy(0, arrives - len(held), torch.arange(len(arrives)))
        arrivals: Source = (len(new), lambda index: take(again, places[index]))
        commit = self._prepared(pool, chosen, spare, [*sources, arrivals], seen)

        def change() -> None:
            commit()
            self.settings.beta, self._newest = calibrated, task
            self.provenance = provenance.only(self._held_ids())

        return change

    def renew(self, encode: Callable[[Any], Tensor]) -> None:
        """Take the vectors of all samples anew, with an encoder that is no longer what it was.

        Args:
            encode: maps samples, as they are kept, to vectors (m, d); their energies stay as they were measured.

        Raises:
            ValueError: vectors of another dimension, NaN or infinite values; nothing has changed then.
        """
        to_the_end(self.prepare_renew(encode))

    def prepare_renew(self, encode: Callable[[Any], Tensor]) -> Callable[[], None]:
        """All of :meth:`renew` but the change itself, which is returned: short, and to be called once."""
        renewed = []
        parts = [] if not len(self) else [(self._kept, self._store.get(self._slots))]
        for candidates, samples in [*parts, *([] if self._reserve is None else [self._reserve])]:
            vectors = as_matrix(encode(samples), "vectors").detach().cpu().to(candidates.vectors.dtype)
            if vectors.shape != candidates.vectors.shape:
                raise ValueError(
                    f"The buffer's vectors were {tuple(candidates.vectors.shape)}, the encoder's are now "
                    f"{tuple(vectors.shape)}; one encoder of one dimension must serve all tasks."
                )
            renewed.append(vectors)

        def change() -> None:
            if parts:
                self._kept = replace(self._kept, vectors=renewed[0])
            if self._reserve is not None:
                self._reserve = (replace(self._reserve[0], vectors=renewed[-1]), self._reserve[1])

        return change

    def refine(self, patterns: Matrix, *, masses: Tensor | None = None) -> None:
        """Choose anew, now that the next task is known, among the over-provisioned candidates; then release them.

        With ``sampling="rise_weight"`` the rises that this task will cause are predicted anew for all samples, and
        draws follow them: for the newest task as the mean over all that was set aside, for earlier ones (and for all,
        when called again) at the kept samples alone. Otherwise it does nothing for policies without a second phase, and
        when there is nothing in reserve.

        Args:
            patterns: vectors (N, d) or (N, *shape) of the next task, N >= 1.
            masses: (N,), >= 0; ones if None.

        Raises:
            ValueError, TypeError: as :func:`hopfield_replay.functional.energy`; no patterns.
        """
        to_the_end(self.prepare_refine(patterns, masses=masses))

    def prepare_refine(self, patterns: Matrix, *, masses: Tensor | None = None) -> Callable[[], None]:
        """All of :meth:`refine` but the change itself, which is returned: short, and to be called once."""
        risen = self.sampling == "rise_weight" and len(self) > 0
        if self._reserve is None and not risen:
            return lambda: None
        if not len(patterns):
            raise ValueError("The next task has no patterns to refine the choice with (an empty data set?).")
        spares, samples = (self._kept.pick(torch.arange(0)), None) if self._reserve is None else self._reserve
        pool = self._kept.join(spares)
        beta = 1.0 if self.beta is None else self.beta
        known = None if masses is None else masses.detach().cpu()
        if isinstance(patterns, Rows):
            coming: Matrix = patterns
        else:
            coming = as_matrix(patterns.detach(), "patterns").cpu().to(pool.vectors.dtype)
        weights = check_masses(known, coming)
        next_energies = Patterns(coming, weights, self.device).energies(pool.vectors, beta, similarity=self.similarity)
        pool = self._described(replace(pool, next_energies=next_energies), beta)
        if risen:
            pool = replace(pool, rises=predicted_rises(pool.energies, next_energies))
        if self._reserve is None:
            kept = replace(self._kept, rises=pool.rises)
            return lambda: self._take_kept(kept)
        fresh = torch.arange(len(pool)) >= len(self._kept)
        chosen, _ = choose(pool, fresh, self.policy, self.groups, self.capacity)
        pool = weigh(pool, chosen, self.groups)
        return self._prepared(pool, chosen, chosen[:0], [(len(spares), partial(take, samples))], self._observed)

    def _take_kept(self, kept: Candidates) -> None:
        self._kept, self._edges = kept, None

    @property
    def _weighs(self) -> bool:
        """Whether it counts how many samples each stands for."""
        return self.sampling in WEIGHTED or self._needs.weights

    @property
    def observed(self) -> Tensor:
        """(len, boundaries) float64 energies of the kept samples after each boundary; nan before they were kept."""
        return self._observed

    @property
    def rises(self) -> Tensor:
        """(len,) float64 rise of each energy from its own task to the last boundary; 0 while there was none."""
        if not self._observed.shape[1]:
            return torch.zeros(len(self), dtype=torch.float64)
        rises = self._observed[:, -1] - self.energies
        return rises.masked_fill(rises.isnan(), 0.0)

    def _prepared(
        self, pool: Candidates, chosen: Tensor, spare: Tensor, sources: Sequence[Source], seen: Tensor
    ) -> Callable[[], None]:
        """What makes ``chosen`` of the pool (kept samples, then the sources') the buffer, and ``spare`` the reserve."""
        kept = len(self._kept)
        stays = chosen < kept
        every = [(kept, lambda index: self._store.get(self._slots[index])), *sources]
        arrivals = gather_from(every, chosen[~stays]) if bool((~stays).any()) else None
        reserve = (pool.pick(spare).held(), gather_from(every, spare)) if len(spare) else None
        slots = torch.full((len(chosen),), -1, dtype=torch.int64)
        slots[stays] = self._slots[chosen[stays]]
        occupied = torch.zeros(self.capacity, dtype=torch.bool)
        occupied[slots[stays]] = True
        slots[~stays] = (~occupied).nonzero().flatten()[: int((~stays).sum())]
        write = None if arrivals is None else self._store.prepare_put(arrivals, slots[~stays])
        history = torch.full((len(chosen), seen.shape[1]), torch.nan, dtype=torch.float64)
        history[stays] = seen[chosen[stays]]
        now_kept = replace(pool.pick(chosen).held(), next_energies=None)

        def commit() -> None:
            if write is not None:
                write()
            self._observed, self._slots, self._kept = history, slots, now_kept
            self._reserve, self._edges = reserve, None

        return commit

    def _described(self, pool: Candidates, beta: float) -> Candidates:
        """The pool with what a policy may want to know of the run."""
        return replace(
            pool,
            beta=beta,
            similarity=self.similarity,
            places=self.capacity,
            replay_ratio=self.replay_ratio,
            memory=self.memory,
            device=self.device,
        )

    def check_place(self, task: int) -> None:
        """Refuse a task for which there is no place, before it is trained.

        Args:
            task: index of the next task.

        Raises:
            ValueError: as many tasks as places, which share them equally.
        """
        if self.groups != "task":
            return
        tasks = len({*self.tasks.tolist(), task})
        if tasks > self.capacity:
            raise ValueError(
                f"{tasks} groups (task) cannot share a capacity of {self.capacity}; raise the capacity to at least "
                f'{tasks}, or let all samples compete with groups=None and a policy such as "reservoir".'
            )

    def expect(self, replay_ratio: float) -> None:
        """Learn which share of each batch will be replayed, from the loader that draws.

        Args:
            replay_ratio: in (0, 1).

        Raises:
            ValueError: the policy was made for another share.
        """
        made_for = self._needs.replay_ratio
        if made_for is not None and made_for != replay_ratio:
            raise ValueError(
                f"{type(self.policy).__name__} was made with replay_ratio={made_for!r}, but the loader replays "
                f"{replay_ratio!r}; leave it out of the policy, which hears of the loader's."
            )
        self.replay_ratio = replay_ratio

    def _calibrated(self, pool: Candidates, own: Tensor) -> float | None:
        """The buffer's beta; before one is known, calibrated on candidates of the pool; None where that cannot be."""
        if self.beta is not None or len(own) < 4:
            return self.beta
        try:
            return self.settings.calibrated(picked(pool.rows, own))
        except ValueError:  # identical samples: every beta gives them one energy
            return None

    def _pool_energies(self, pool: Candidates, own: Tensor, asked: Tensor, beta: float) -> Tensor:
        """Energies of the pool, those of ``asked`` renewed: leave-one-out under the vectors of ``own``, ascending."""
        vectors = picked(pool.rows, own)
        patterns, at = Patterns(vectors, device=self.device), torch.searchsorted(own, asked)
        queries = vectors if len(asked) == len(vectors) else picked(vectors, at)
        energies = pool.energies.clone()
        energies[asked] = patterns.energies(queries, beta, similarity=self.similarity, exclude=at)
        if bool(energies.isnan().any()):  # inf - inf
            largest = max(float(piece.abs().max()) for _, piece in pieces(vectors))
            raise ValueError(f"Values up to {largest:.3g} are too large for energies; scale vectors.")
        return energies

    def draw(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        beside: int | None = None,
        ratio: float | None = None,
    ) -> Tensor:
        """Positions (n,) in [0, len) of samples drawn with replacement, by :attr:`sampling`.

        Args:
            n: how many, >= 1.
            generator: of the draw; None: the buffer's own.
            beside: how many new samples they are trained on with, so that the share of replay is known at the end of
                the task; None: unknown.
            ratio: the share by which all of the task's samples are drawn, where there is one.

        Raises:
            ValueError: n below 1, or an empty buffer.
        """
        check_integer(n, "n", 1)
        if not len(self):
            raise ValueError("The buffer is empty: nothing can be drawn before the first update.")
        if beside is None:
            self.drawn.alone += n
        else:
            self.drawn.add(new=beside, replayed=n, ratio=ratio)
        if self._edges is None and self.sampling != "uniform":
            self._edges = self.draw_shares.cumsum(0)
        return positions(n, len(self), self._edges, self._generator if generator is None else generator)

    @property
    def draw_shares(self) -> Tensor:
        """(len,) float64, the chance of each sample in a draw; they sum to 1."""
        # what stands in reserve is never drawn: the kept ones stand for it
        weighted = self.sampling in WEIGHTED
        kept = released(self._kept, self._reserve, self.groups).weighted() if weighted else self._kept
        return shares(kept, self.sampling, self.groups, self.rises, self._needs.temper)

    def gather(self, positions: Tensor) -> Any:
        """The samples at these positions, as copies, in the nesting they came in."""
        return self._store.get(self._slots[positions])

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        beside: int | None = None,
        ratio: float | None = None,
    ) -> Any:
        """Draw ``n`` samples with replacement; see :meth:`draw` and :meth:`gather`."""
        return self.gather(self.draw(n, generator=generator, beside=beside, ratio=ratio))

    def state_dict(self) -> dict[str, Any]:
        """Everything that is needed to go on: tensors and plain Python only, loadable with ``weights_only=True``."""
        return {
            "format": FORMAT,
            "beta": self.beta,
            "similarity": self.similarity,
            "newest_task": self._newest,
            "generator": self._generator.get_state(),
            "kept": as_plain(self._kept) if len(self) else None,
            "samples": plain(self._store.get(self._slots)) if len(self) else None,
            "observed": self._observed,
            "drawn": self.drawn.state(),
            "reserve": None if self._reserve is None else as_plain(self._reserve[0]),
            "reserve_samples": None if self._reserve is None else plain(self._reserve[1]),
            "names": self.provenance.only(self._held_ids()).state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; nothing changes if it does not fit.

        Raises:
            ValueError: another format, parts that are missing or do not fit together, more samples than this buffer's
                capacity; energies of another beta or similarity than this buffer was made with.
        """
        to_the_end(self.prepare_load(state))

    def prepare_load(self, state: Mapping[str, Any], *, of_any_kind: bool = False) -> Callable[[], None]:
        """All of :meth:`load_state_dict` but the change itself, which is returned: short, and to be called once.

        With ``of_any_kind`` the energies may be of another beta or similarity: whoever asks has looked at that.
        """
        loaded = read_state(state)
        for name, mine in (("beta", self._given_beta), ("similarity", self.similarity)):
            theirs = getattr(loaded, name)
            if len(loaded.kept) and not of_any_kind and None not in (mine, theirs) and mine != theirs:
                raise ValueError(
                    f"The state's energies are of {name}={theirs!r}, and this buffer was made with {name}={mine!r}; "
                    f"energies must be of one kind. Make the buffer with {name}={theirs!r}."
                )
        if len(loaded.kept) > self.capacity:
            raise ValueError(
                f"The state holds {len(loaded.kept)} samples, more than this buffer's capacity of {self.capacity}."
            )
        if self.groups == "label" and len(loaded.kept) and loaded.kept.labels is None:
            raise ValueError('The state holds samples without labels, but this buffer has groups="label".')
        exchange = self._store.prepare_refill(loaded.samples)

        def change() -> None:
            exchange()
            self._generator.set_state(loaded.generator)
            self._slots = torch.arange(len(loaded.kept))
            self._observed = loaded.observed
            self._reserve, self._edges = loaded.reserve, None
            self.settings.beta, self._newest = loaded.beta, loaded.newest
            self._kept, self.provenance = loaded.kept, loaded.provenance
            self.drawn.restore(*loaded.drawn)

        return change

    @classmethod
    def from_dataset(
        cls,
        loader: Iterable[Any],
        capacity: int,
        policy: str | Policy = "greedy_gain",
        *,
        encoder: Callable[[Any], Tensor] | nn.Module | None = None,
        names: Sequence[str] | None = None,
        task_name: str | None = None,
        **settings: Any,
    ) -> "EnergyReplayBuffer":
        """A buffer of one data set, chosen without training.

        Args:
            loader: batches of samples, read once, as they are to be replayed; integers (n,) among them are labels. All
                samples are held until the choice is made.
            capacity: how many are kept, >= 1.
            policy: as of the class.
            encoder: maps a batch to vectors; None: its samples, flattened, by the rules of :class:`Columns`.
            names: of all samples, in the loader's order.
            task_name: of the data set.
            settings: as of the class.

        Raises:
            ValueError, TypeError: as the class and :meth:`update`; a loader without samples.

        Example:
            >>> import torch
            >>> buffer = EnergyReplayBuffer.from_dataset([torch.eye(4), torch.eye(4) + 9.0], 2)
            >>> len(buffer), buffer.weights.tolist()  # one of each half, and how many it stands for
            (2, [4.0, 4.0])
        """
        buffer = cls(capacity, policy, **settings)
        read = read_all(loader, encoder)
        ids = torch.arange(len(read.vectors))
        buffer.update(read.fetch, read.vectors, ids=ids, task=0, labels=read.labels, names=names, task_name=task_name)
        return buffer

    def to_dataset(self) -> KeptSamples:
        """The kept samples as a data set for a DataLoader, best first of each group; copies, as they are now."""
        return KeptSamples(self.gather(torch.arange(len(self))) if len(self) else None, len(self))

    def rows(self) -> list[dict[str, Any]]:
        """For each kept sample id, task, position, names, label, energy, rise and weight, in plain Python.

        ``position`` is that in its task's data, as a tracker or :meth:`from_dataset` numbered it; ``share`` its chance
        in a draw.
        """
        if not len(self):
            return []
        return rows_of(replace(self._kept, weights=self.weights), self.provenance, self.draw_shares, self.rises)

    def to_dict(self) -> dict[str, Any]:
        """Settings and :meth:`rows` in plain Python, ready for JSON; not the samples themselves."""
        named = ("capacity", "groups", "sampling", "beta", "similarity", "nbytes")
        settings = {name: getattr(self, name) for name in named} | {"policy": type(self.policy).__name__}
        result: dict[str, Any] = jsonable(settings | {"samples": self.rows()})
        return result

    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        return [(COLUMNS, by_task(self.rows()))] if len(self) else []

    def _draw(self, axis: "Axes") -> None:
        counts = self.tasks.bincount().tolist() if len(self) else []
        draw_bars(axis, {f"task {task}": count for task, count in enumerate(counts) if count})
        axis.set_xlabel(f"samples kept, of {self.capacity}")

    def _held_ids(self) -> Tensor:
        """Ids of the kept samples and of those in reserve."""
        return self.ids if self._reserve is None else torch.cat([self.ids, self._reserve[0].ids])

    def remove(self, ids: Tensor | Sequence[int]) -> int:
        """Delete samples: their rows are overwritten, memory-mapped ones on disk, and nothing of them is kept.

        Rows of samples that left earlier are overwritten, too. What a removed sample stood for goes to the nearest kept
        one of its task; its place stays free until the next update. Files that were written before still hold it: write
        them anew, or use ``hopfield-replay buffer FILE --remove``. What a model has learned of it stays in the model.

        Args:
            ids: (m,) of the samples; those that the buffer does not hold change nothing.

        Returns:
            How many were held, kept or in reserve.

        Raises:
            TypeError: ids that are no whole numbers.
            OSError: the disk fails; the samples are gone from the buffer then, and another call overwrites their rows.

        Example:
            >>> import torch
            >>> buffer = EnergyReplayBuffer(3, policy="high_energy")
            >>> buffer.update(torch.eye(3), torch.eye(3), ids=torch.arange(3), task=0)
            >>> buffer.remove([1, 7]), sorted(buffer.ids.tolist())
            (1, [0, 2])
        """
        gone = as_ids(ids)
        held = torch.isin(self._held_ids(), gone)
        to_the_end(self.prepare_remove(gone))
        return int(held.sum())

    def prepare_remove(self, ids: Tensor) -> Callable[[], None]:
        """All of :meth:`remove` but the change itself, which is returned: short, and to be called once."""
        left = without(self._kept, no_candidates() if self._reserve is None else self._reserve[0], ids)
        reserve = None
        if self._reserve is not None and len(left.waits):
            reserve = (left.reserve, take(self._reserve[1], left.waits))
        slots, observed = self._slots[left.stays], self._observed[left.stays]
        free = torch.ones(self.capacity, dtype=torch.bool)
        free[slots] = False

        def change() -> None:
            self._kept, self._slots, self._observed = left.kept, slots, observed
            self._reserve, self._edges = reserve, None
            self.provenance = self.provenance.only(self._held_ids())
            self._store.erase(free.nonzero().flatten())

        return change

    def clear(self) -> None:
        """Delete all samples, as :meth:`remove` does."""
        to_the_end(self.prepare_clear())

    def prepare_clear(self) -> Callable[[], None]:
        """All of :meth:`clear` but the change itself, which is returned."""
        return self.prepare_remove(self._held_ids())

    def merge(self, other: "EnergyReplayBuffer", *, renumber: bool = False) -> None:
        """Take over another buffer's samples; the capacity stays, and is shared as ever.

        Tasks that are in one buffer only give up their last picks; among the samples of a group that both have the
        policy chooses anew. What either has in reserve is released.

        Args:
            other: of the same settings; it is left as it is.
            renumber: count the other's tasks after this one's, where two runs numbered theirs alike.

        Raises:
            TypeError: something else than a buffer.
            ValueError: ids that are in both, another beta or similarity, vectors or samples of another form, more
                groups than places; nothing has changed then.

        Example:
            >>> import torch
            >>> first, second = EnergyReplayBuffer(2, beta=1.0), EnergyReplayBuffer(2, beta=1.0)
            >>> for buffer in (first, second):
            ...     buffer.update(torch.eye(4), torch.eye(4), ids=torch.arange(4), task=0)
            >>> first.merge(second, renumber=True)
            >>> first.tasks.tolist()
            [0, 1]
        """
        if not isinstance(other, EnergyReplayBuffer):
            raise TypeError(f"Only an EnergyReplayBuffer can be merged, got {type(other).__name__}.")
        if not len(other):
            return
        own = released(self._kept, self._reserve, self.groups)
        theirs = released(other._kept, other._reserve, other.groups)
        provenance = other.provenance
        if renumber:
            theirs, provenance = renumbered(theirs, provenance, self._newest + 1)
        check_merge(own, theirs, self.settings, other.settings)
        beta = other.beta if self.beta is None else self.beta
        pool = self._described(own.join(theirs) if len(own) else theirs, 1.0 if beta is None else beta)
        chosen, _ = choose(pool, shared_groups(pool, len(own), self.groups), self.policy, self.groups, self.capacity)
        if self._weighs:
            pool = weigh(pool, chosen, self.groups)
        commit = self._prepared(pool, chosen, chosen[:0], [(len(theirs), other.gather)], self._observed)

        def change() -> None:
            commit()
            self.settings.beta = beta
            self._newest = max(self._newest, int(theirs.tasks.max()))
            self.provenance = self.provenance.joined(provenance).only(self._held_ids())

        to_the_end(change)

    def resized(self, capacity: int) -> "EnergyReplayBuffer":
        """A buffer of another capacity with the same samples, in memory; every group gives up its last picks.

        Args:
            capacity: >= 1, and at least the number of groups.

        Raises:
            ValueError: more groups than places.

        Example:
            >>> import torch
            >>> buffer = EnergyReplayBuffer(3, policy="high_energy")
            >>> buffer.update(torch.eye(3), torch.eye(3), ids=torch.arange(3), task=0)
            >>> len(buffer.resized(2))
            2
        """
        other = EnergyReplayBuffer(capacity, self.policy, groups=self.groups, sampling=self.sampling, seed=self.seed)
        other.settings, other.replay_ratio = self.settings, self.replay_ratio
        state = self.state_dict()
        if len(self):
            kept = self._kept
            stays, _ = choose(kept, torch.zeros(len(kept), dtype=torch.bool), self.policy, self.groups, capacity)
            kept = kept if kept.weights is None else weigh(kept, stays, self.groups)
            state["kept"] = as_plain(kept.pick(stays))
            state["samples"], state["observed"] = take(state["samples"], stays), state["observed"][stays]
        other.load_state_dict(state)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a safetensors file (no pickle); an existing file is replaced only when all is written."""
        save_tree(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over the state in a file written by :meth:`save`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not such a file, or more samples than this buffer's capacity; the buffer is as it was.
        """
        state = load_tree(path)
        try:
            self.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{path} was not loaded. {error}") from error
