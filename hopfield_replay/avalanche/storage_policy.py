"""EnergyPrioritizedBuffer: the replay buffer as an Avalanche storage policy."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from avalanche.training.storage_policy import BalancedExemplarsBuffer, ExemplarsBuffer
from torch import Tensor

from hopfield_replay.avalanche.experience_source import ExperienceSource, minibatch, on_device
from hopfield_replay.avalanche.kept_dataset import Form, empty_dataset, kept_dataset, positions_of
from hopfield_replay.avalanche.labelled_denoiser import strategy_denoiser
from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.policies import Policy, requirements
from hopfield_replay.tracker.tracker import ForgettingTracker
from hopfield_replay.utilities.checks import Similarity

_FEW_BETA = 1.0  # for an experience on which none can be calibrated, alone


class EnergyPrioritizedBuffer(BalancedExemplarsBuffer):  # type: ignore[misc]  # avalanche is untyped here
    """A storage policy that keeps the samples which an energy policy chooses.

    Every experience is one task of a :class:`~hopfield_replay.ForgettingTracker`, as under the Lightning callback, and
    the same samples stay under the same seed. Kept samples are copies, taken under the ``eval`` transformations of
    their data set; the data set itself is let go. Sample ids are
    ``hopfield_replay.tracker.task_reader.sample_ids(task, position)``.

    The stock ReplayPlugin calls :meth:`update` after each experience; :class:`EnergyReplayPlugin` also calls
    :meth:`pre_adapt`, so that the choice is refined once the next experience is known.

    Args:
        max_size: how many samples are kept, >= 1.
        policy: a name (see ``hopfield_replay.policies.POLICIES``) or an object with ``select(candidates, k)``.
        groups: equal shares for each ``"task"`` (experience) or ``"label"`` (target), or None: all samples compete. In
            online streams, with more experiences than places, ``"task"`` is an error.
        sampling: how :class:`EnergyReplayPlugin` draws from the buffer: ``"uniform"``, ``"weight"``,
            ``"rise_weight"``, ``"energy"`` or ``"rise"``; None: what fits the policy, see
            :class:`~hopfield_replay.EnergyReplayBuffer`. The stock plugin draws uniformly.
        beta: inverse temperature; ``"auto"`` calibrates it on the first experience of at least 3 samples.
        similarity: ``"distance"`` or ``"dot"``.
        encoder: maps a minibatch ``[x, y, ...]``, on the strategy's device, to vectors (n, d), the space of the
            energies; None: its samples, flattened, by the rules of :class:`hopfield_replay.encoders.Columns`.
        seed: of the random policies and of the draws.

    Attributes:
        memory: the EnergyReplayBuffer: ids, tasks, labels, energies and vectors of what is kept.

    Raises:
        ValueError: a max_size below 1, or on update: more groups than places, targets that are missing under
            ``groups="label"``, NaN samples.
        TypeError: a max_size that is not a whole number; on update: samples that are not tensors.

    Example:
        >>> from avalanche.benchmarks.utils import make_avalanche_dataset
        >>> from torch.utils.data import TensorDataset
        >>> policy = EnergyPrioritizedBuffer(2, policy="high_energy", beta=1.0)
        >>> policy.update_from_dataset(make_avalanche_dataset(TensorDataset(torch.tensor([[0.0], [1.0], [3.0]]))))
        >>> len(policy.buffer), policy.memory.ids.tolist()
        (2, [2, 0])
    """

    def __init__(
        self,
        max_size: int,
        policy: str | Policy = "greedy_gain",
        *,
        groups: Literal["task", "label"] | None = "task",
        sampling: Literal["uniform", "weight", "rise_weight", "energy", "rise"] | None = None,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        encoder: Callable[[Any], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self.memory = EnergyReplayBuffer(
            max_size, policy, groups=groups, sampling=sampling, beta=beta, similarity=similarity, seed=seed
        )
        self.encoder = encoder
        self._tracker = ForgettingTracker(
            self.memory,
            encoder=encoder,
            labels=_targets,
            probe_size=1,
            followed_tasks=1,  # nobody reads this history, and an online stream has thousands of experiences
            history_size=1,
            seed=seed,
        )
        self._form: Form | None = None
        self._groups: dict[int, ExemplarsBuffer] | None = None  # built when it is read
        super().__init__(max_size)

    def __len__(self) -> int:
        return len(self.memory)

    def pre_adapt(self, agent: Any, exp: Any) -> None:
        """Read the new experience before it is trained on, and refine the choice in its light."""
        if len(exp.dataset) and not self._too_few(exp.dataset):
            self._checked(exp.dataset)
            self._tracker.begin_task(ExperienceSource(exp.dataset, self._prepare(agent)))
            self._groups = None

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Choose what to keep of the experience that was trained on.

        Args:
            agent: the strategy.
            exp: the experience.
        """
        self.update_from_dataset(exp.dataset, agent)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Choose what to keep of ``strategy.experience``; what the stock ReplayPlugin calls."""
        self.post_adapt(strategy, strategy.experience)

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Choose what to keep of a data set, which counts as one experience; an empty one changes nothing.

        Args:
            new_data: an AvalancheDataset.
            strategy: where its device is; needed for an encoder that does not work on the CPU.
        """
        if not len(new_data):
            return
        form = self._checked(new_data)
        measures = requirements(self.memory.policy).losses and strategy is not None
        self._tracker.end_task(
            ExperienceSource(new_data, self._prepare(strategy)),
            denoiser=strategy_denoiser(strategy) if measures else None,
            beta=_FEW_BETA if self._too_few(new_data) else None,
        )
        self._form = form
        self._groups = None

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change how many samples are kept; every group gives up its last picks.

        Args:
            strategy: not needed.
            new_size: >= 1, and at least the number of groups.
        """
        self.memory = self._tracker.buffer = self.memory.resized(new_size)
        self.max_size = new_size
        self._groups = None

    @property
    def buffer(self) -> Any:
        """The kept samples as a data set, in the order of ``memory.ids``."""
        groups = self.buffer_datasets
        result = groups[0] if groups else empty_dataset()
        for group in groups[1:]:
            result = result.concat(group)
        return result

    @property
    def buffer_groups(self) -> dict[int, ExemplarsBuffer]:
        """The kept samples of each group: its task (experience), its label, or 0."""
        if self._groups is None:
            self._groups = {}
            if self._form is not None and len(self.memory):
                memory = self.memory
                everything = kept_dataset(memory.gather(torch.arange(len(memory))), len(memory), self._form)
                names = {"task": memory.tasks, "label": memory.labels, None: torch.zeros_like(memory.ids)}
                for name, positions in positions_of(names[memory.groups]).items():  # type: ignore[arg-type]
                    self._groups[name] = _Group(everything.subset(positions))
        return self._groups

    @buffer_groups.setter
    def buffer_groups(self, groups: dict[int, ExemplarsBuffer]) -> None:
        self._groups = None  # upstream's constructor assigns an empty dict

    def _too_few(self, dataset: Any) -> bool:
        """Whether beta is still to be calibrated, and cannot be on so few samples."""
        return self._tracker.beta is None and len(dataset) < 3

    def _checked(self, dataset: Any) -> Form:
        form = Form(dataset)
        if self.memory.groups == "label" and not hasattr(dataset, "targets"):
            raise ValueError(
                'groups="label" needs a data set with targets, and this one has none; use groups="task" or None.'
            )
        if self._form is not None and form.in_item != self._form.in_item:
            raise ValueError(
                f"Items of this experience end in the data attributes {form.in_item}, those of earlier ones in "
                f"{self._form.in_item}; use one kind of benchmark for all experiences."
            )
        return form

    def _prepare(self, strategy: Any) -> Callable[[Any], Any]:
        device = getattr(strategy, "device", None)
        return lambda batch: on_device(minibatch(batch), device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": None}  # a second copy of what memory holds


def _targets(batch: Any) -> Tensor | None:
    """The targets of a minibatch (x, y, ...), where they are classes."""
    targets = [*minibatch(batch)[1:2], None][0]
    classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
    return targets if classes else None


class _Group(ExemplarsBuffer):  # type: ignore[misc]  # avalanche is untyped here
    """One group of the kept samples."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(len(dataset))
        self._buffer = dataset

    def resize(self, strategy: Any, new_size: int) -> None:
        raise TypeError("A group of an EnergyPrioritizedBuffer has no size of its own; resize the buffer.")
