"""Policy: a policy orders candidates, best first, with one method; and what it needs to do so."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from hopfield_replay.policies.candidates import Candidates


@runtime_checkable
class Policy(Protocol):
    """Anything with this method is a policy.

    More attributes are read where they exist, see :func:`requirements`.

    Example:
        >>> class Newest:
        ...     def select(self, candidates: Candidates, k: int) -> Tensor:
        ...         return candidates.ids.argsort(descending=True)[:k]
        >>> isinstance(Newest(), Policy)
        True
    """

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """Positions (k,) of the candidates to keep, int64, distinct, best first; 1 <= k <= len(candidates).

        The choice must be nested (the first j of the k are the choice of size j): a share shrinks by dropping its last
        picks, when the data it was chosen from is gone.
        """
        ...


@dataclass(frozen=True)
class Requirements:
    """What a policy needs, and what is known of it.

    Attributes:
        oversample: how many candidates for each place are set aside until the next task is known, >= 1; 1: none.
        energies: whether it reads the candidates' own energies.
        losses: whether it needs the model's loss on every candidate.
        weights: whether it chooses for all samples that were seen, so that a kept one stands for its neighbours; what
            is replayed is then drawn by weight, unless ``sampling`` says otherwise.
        rises: whether what it keeps is drawn by the predicted rise of what it stands for, too, once the next task is
            known, unless ``sampling`` says otherwise.
        temper: exponent of the rises in these draws, >= 0.
        random: whether its choice is a draw, the same for the same seed.
        labels: whether it needs the candidates' labels.
        in_pieces: whether it reads no vectors, or takes them from ``Candidates.rows`` a piece at a time; the vectors of
            a task are put into memory for it otherwise.
        replay_ratio: the share of replay that it was made for; None: that of the loader which replays.

    Example:
        >>> Requirements(oversample=4).losses
        False
    """

    oversample: int = 1
    energies: bool = True
    losses: bool = False
    weights: bool = False
    rises: bool = False
    temper: float = 1.0
    random: bool = False
    replay_ratio: float | None = None
    in_pieces: bool = False
    labels: bool = False


def requirements(policy: Policy) -> Requirements:
    """What a policy needs, from the attributes that it has.

    Read are ``oversample``, ``needs_energies``, ``needs_losses``, ``needs_weights``, ``needs_rises``, ``temper``,
    ``is_random``, ``replay_ratio``, ``reads_in_pieces`` and ``needs_labels``; those that are missing are as in
    :class:`Requirements`.

    Args:
        policy: an object with ``select``.

    Example:
        >>> from hopfield_replay.policies import GreedyGain
        >>> requirements(GreedyGain()).weights, requirements(GreedyGain()).oversample
        (True, 4)
    """
    default = Requirements()
    return Requirements(
        oversample=getattr(policy, "oversample", default.oversample),
        energies=getattr(policy, "needs_energies", default.energies),
        losses=getattr(policy, "needs_losses", default.losses),
        weights=getattr(policy, "needs_weights", default.weights),
        rises=getattr(policy, "needs_rises", default.rises),
        temper=getattr(policy, "temper", default.temper),
        random=getattr(policy, "is_random", default.random),
        replay_ratio=getattr(policy, "replay_ratio", default.replay_ratio),
        in_pieces=getattr(policy, "reads_in_pieces", default.in_pieces),
        labels=getattr(policy, "needs_labels", default.labels),
    )
