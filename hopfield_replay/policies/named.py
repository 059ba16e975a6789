"""The policies by their names."""

from collections.abc import Callable

from hopfield_replay.functional import facility_location, herding, k_center
from hopfield_replay.policies.base import Policy
from hopfield_replay.policies.baselines import (
    ByVectors,
    HighEnergy,
    HighLoss,
    HighRise,
    LowEnergy,
    NearestNeighbour,
    Proportional,
    Random,
    Reservoir,
)
from hopfield_replay.policies.greedy_gain import GreedyGain
from hopfield_replay.policies.k_means import KMeans
from hopfield_replay.utilities.choices import did_you_mean

_POLICIES: dict[str, Callable[[], "Policy"]] = {
    "greedy_gain": GreedyGain,
    "high_energy": HighEnergy,
    "low_energy": LowEnergy,
    "high_rise": HighRise,
    "random": Random,
    "reservoir": Reservoir,
    "proportional": Proportional,
    "nearest_neighbour": NearestNeighbour,
    "k_means": KMeans,
    "k_center": lambda: ByVectors(k_center, in_pieces=True),
    "facility_location": lambda: ByVectors(facility_location, in_pieces=True),
    "herding": lambda: ByVectors(herding, in_pieces=True),
    "high_loss": HighLoss,
}
POLICIES = tuple(_POLICIES)


def as_policy(policy: str | Policy) -> Policy:
    """Return the policy of this name, or the object itself if it has ``select``.

    Args:
        policy: one of ``POLICIES``, or an object with ``select``.

    Raises:
        ValueError: an unknown name.
        TypeError: an object without ``select``.

    Example:
        >>> type(as_policy("high_rise")).__name__
        'HighRise'
    """
    if isinstance(policy, str):
        if policy not in _POLICIES:
            raise ValueError(
                f"Unknown policy {policy!r}; choose one of {list(POLICIES)} or pass an object with select()."
                f"{did_you_mean(policy, POLICIES)}"
            )
        return _POLICIES[policy]()
    if isinstance(policy, type) or not isinstance(policy, Policy):
        kind = "None" if policy is None else type(policy).__name__
        if isinstance(policy, type):
            kind = f"the class {policy.__name__}; give an object of it: {policy.__name__}(...)"
        raise TypeError(f"policy must be a name or an object with a method select(candidates, k), got {kind}.")
    return policy
