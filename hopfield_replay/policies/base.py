"""Policy: a policy orders candidates, best first, with one method."""

from typing import Protocol, runtime_checkable

from torch import Tensor

from hopfield_replay.policies.candidates import Candidates


@runtime_checkable
class Policy(Protocol):
    """Anything with this method is a policy.

    Three more attributes are read where they exist: ``oversample`` (a number; how many candidates for each place are
    set aside until the next task is known), ``needs_losses`` and ``needs_weights`` (bool; fills these of the
    candidates).

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
