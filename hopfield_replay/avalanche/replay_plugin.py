"""EnergyReplayPlugin: replay in every minibatch of an Avalanche strategy, from a buffer kept by energies."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from avalanche.training.plugins import ReplayPlugin
from torch import Tensor

from hopfield_replay.avalanche.replay_loader import ReplayMinibatchLoader
from hopfield_replay.avalanche.storage_policy import EnergyPrioritizedBuffer
from hopfield_replay.buffer.replay_stream import ReplayRatio, check_replay_ratio
from hopfield_replay.policies import Policy
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.nested import rows


class EnergyReplayPlugin(ReplayPlugin):  # type: ignore[misc]  # avalanche is untyped here
    """Experience replay whose share of every minibatch is what was asked for.

    From the second experience on, each minibatch is the strategy's ``train_mb_size`` new samples followed by replayed
    ones, whose share of the minibatch is ``replay_ratio``. Before an experience the buffer's choice is refined in its
    light; after it the buffer takes its share. During training ``strategy.mb_is_replay`` (a bool tensor, one for each
    row of the minibatch) tells replayed samples from new ones.

    Args:
        mem_size: how many samples are kept, >= 1.
        replay_ratio: share of every minibatch that is replayed, in (0, 1); or a function of the experience's index and
            the number of its minibatches so far, with values in [0, 1).
        policy: which samples are kept, see :class:`EnergyPrioritizedBuffer`, as are ``groups``, ``beta``,
            ``similarity`` and ``encoder``.
        groups: who shares the buffer equally.
        sampling: which of them are replayed: ``"uniform"``, in proportion to the ``"weight"`` of each (how many samples
            it stands for), by ``"rise_weight"`` (that, and the rise of their energy that the experience will cause), or
            with priority for a high ``"energy"`` or a high ``"rise"`` of the energy since the sample was stored; None:
            what fits the policy, see :class:`~hopfield_replay.EnergyReplayBuffer`.
        beta: inverse temperature.
        similarity: of the energies.
        encoder: from minibatches to vectors.
        storage_policy: an EnergyPrioritizedBuffer of size ``mem_size``, made elsewhere, in place of the five above.
        seed: of the random policies and of the draws.

    Attributes:
        share: share of replay among the samples of the last experience's minibatches, 0 before the second.

    Raises:
        ValueError: mem_size below 1, replay_ratio outside (0, 1), a storage_policy of another size; on training: an
            empty experience, or what EnergyPrioritizedBuffer refuses.
        TypeError: a storage_policy that is no EnergyPrioritizedBuffer (the stock ReplayPlugin takes any).

    Example:
        >>> plugin = EnergyReplayPlugin(mem_size=200, replay_ratio=0.25)
        >>> plugin.storage_policy.max_size
        200
    """

    def __init__(
        self,
        mem_size: int = 200,
        *,
        replay_ratio: ReplayRatio = 0.5,
        policy: str | Policy = "greedy_gain",
        groups: Literal["task", "label"] | None = "task",
        sampling: Literal["uniform", "weight", "rise_weight", "energy", "rise"] | None = None,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        encoder: Callable[[Any], Tensor] | None = None,
        storage_policy: EnergyPrioritizedBuffer | None = None,
        seed: int = 0,
    ) -> None:
        if storage_policy is None:
            storage_policy = EnergyPrioritizedBuffer(
                mem_size,
                policy,
                groups=groups,
                sampling=sampling,
                beta=beta,
                similarity=similarity,
                encoder=encoder,
                seed=seed,
            )
        elif not isinstance(storage_policy, EnergyPrioritizedBuffer):
            raise TypeError(
                f"storage_policy must be an EnergyPrioritizedBuffer, got {type(storage_policy).__name__}; for other "
                "policies use avalanche's ReplayPlugin."
            )
        elif storage_policy.max_size != mem_size:
            raise ValueError(
                f"storage_policy keeps {storage_policy.max_size} samples, but mem_size is {mem_size}; pass "
                f"mem_size={storage_policy.max_size}."
            )
        super().__init__(mem_size=mem_size, storage_policy=storage_policy)
        self.replay_ratio = check_replay_ratio(replay_ratio)
        if not callable(self.replay_ratio):
            storage_policy.memory.expect(self.replay_ratio)
        self.seed = seed
        self.share = 0.0
        self._experiences = 0
        self._loader: ReplayMinibatchLoader | None = None

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Refuse an empty experience, for which no loader can be made."""
        if not len(strategy.experience.dataset):
            raise ValueError(
                f"Experience {strategy.clock.train_exp_counter} of this run is empty: there is nothing to train on. "
                "Leave it out of the stream."
            )

    def before_training_exp(
        self, strategy: Any, num_workers: int = 0, shuffle: bool = True, drop_last: bool = False, **kwargs: Any
    ) -> None:
        """Refine the buffer's choice, and have replay join the minibatches if there is anything to replay."""
        self.storage_policy.pre_adapt(strategy, strategy.experience)
        if not len(self.storage_policy):
            return
        pin_memory = kwargs.get("pin_memory")
        self._loader = ReplayMinibatchLoader(
            strategy.adapted_dataset,
            self.storage_policy.memory,
            replay_ratio=self.replay_ratio,
            seed=self.seed + self._experiences,
            batch_size=strategy.train_mb_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=num_workers,
            persistent_workers=kwargs.get("persistent_workers", False),
            pin_memory=strategy.device.type == "cuda" if pin_memory is None else pin_memory,
        )
        strategy.dataloader = self._loader

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Tell replayed rows of the minibatch from new ones."""
        count = rows(strategy.mbatch)
        replayed = 0 if self._loader is None else self._loader.replayed
        strategy.mb_is_replay = torch.arange(count, device=strategy.device) >= count - replayed

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Let the buffer take its share of the experience."""
        self.share = self.storage_policy.memory.drawn.share()
        self._loader = None
        self._experiences += 1
        strategy.mb_is_replay = None
        self.storage_policy.post_adapt(strategy, strategy.experience)
