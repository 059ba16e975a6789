"""GreedyGain: keep the samples whose joint replay protects the most energy."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.functional import (
    Selection,
    StreamedAffinity,
    affinity,
    far_task_energy,
    greedy_replay_gain,
    replay_mass,
)
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.utilities.checks import check_integer

DEFAULT_REPLAY_RATIO = 0.5  # while nobody has said which share will be replayed
_MATRIX = 1 << 25  # affinities held at a time: 256 MB in float64
_TARGETS = 8192  # samples whose protection is counted; of larger tasks an even share, which changes the choice little


class GreedyGain:
    r"""Keep the samples whose joint replay protects the most energy of all of them (the replay gain).

    Greedy maximisation of :math:`F(R) = \sum_k u_k \frac1\beta \log(1 + \sum_{r\in R} a_{kr})` (see
    :func:`~hopfield_replay.functional.greedy_replay_gain`): monotone and submodular, so at least 1 - 1/e of the
    optimum; the picks are nested. It runs in two phases. At the end of a task the next one is unknown, and counts as a
    far task: the gain becomes coverage. ``oversample`` times as many samples as there are places are set aside; when
    the next task's data is known, the choice is made anew among them with the energies under that data.

    Args:
        replay_ratio: share of the batches that will be replayed, which sets the mass of each kept sample, in (0, 1);
            None: that of the loader which replays, or 0.5 as long as there is none.
        objective: ``"mean"``: all samples count alike; ``"tail"``: only the tenth with the largest energy rise (while
            the next task is unknown: the highest energy); ``"blend"``: half and half.
        oversample: how many candidates for each place stay until the next task is known, >= 1; 1: no second phase.

    Raises:
        ValueError: values out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1]])
        >>> n = torch.zeros(5, dtype=torch.int64)
        >>> c = Candidates(torch.arange(5), n, torch.zeros(5), x, torch.rand(5), beta=2.0, places=2)
        >>> GreedyGain().select(c, 2)  # one of each cluster, the larger one first
        tensor([1, 3])

    Source: Nemhauser, Wolsey, Fisher (1978); the identity of :func:`~hopfield_replay.functional.replay_gain`.
    """

    needs_weights = True

    def __init__(
        self,
        replay_ratio: float | None = None,
        *,
        objective: Literal["mean", "tail", "blend"] = "mean",
        oversample: int = 4,
    ) -> None:
        if objective not in ("mean", "tail", "blend"):
            raise ValueError(f'objective must be "mean", "tail" or "blend", got {objective!r}.')
        if replay_ratio is not None:
            replay_mass(1, replay_ratio)  # checks the range
        self.replay_ratio = replay_ratio
        self.tail_weight = {"mean": 0.0, "tail": 1.0, "blend": 0.5}[objective]
        self.oversample = check_oversample(oversample)

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The greedy set of size k, best first."""
        return self.selection(candidates, k).indices

    def selection(self, candidates: Candidates, k: int, *, tighten: int = 0) -> Selection:
        """The greedy set with its certificate: value, upper bound on the optimum and guaranteed share."""
        if len(candidates) < 2:  # nothing to choose, and no distances to choose by
            return _whole(len(candidates))
        by_id = candidates.ids.argsort()  # ties go to the smaller id, so that every arrival gives one choice
        if bool((by_id.diff() != 1).any()):
            candidates = candidates.pick(by_id)  # a copy, of which a million vectors can do without
        vectors = candidates.vectors
        targets = torch.arange(0, len(vectors), -(-len(vectors) // _TARGETS))
        if candidates.next_energies is not None:
            energies: Tensor | float = candidates.next_energies[targets]
            risk = candidates.next_energies[targets] - candidates.energies[targets]
        elif candidates.similarity == "distance":
            energies, risk = far_task_energy(vectors), candidates.energies[targets]
        else:  # dot form: unit-norm patterns of an unrelated task have <x, xi> about 0
            energies, risk = 0.5 * vectors[targets].to(torch.float64).square().sum(1), candidates.energies[targets]
        ratio = self.replay_ratio if self.replay_ratio is not None else candidates.replay_ratio
        # not of k: a mass that changes would not be nested
        mass = replay_mass(candidates.places, DEFAULT_REPLAY_RATIO if ratio is None else ratio)
        rows = StreamedAffinity(
            vectors[targets],
            vectors,
            energies,
            candidates.beta,
            masses=mass,
            similarity=candidates.similarity,
        )
        matrix: Tensor | StreamedAffinity = rows
        largest = float(rows.log_totals().max()) if len(targets) else 0.0
        if len(targets) * len(vectors) <= _MATRIX and largest < 600.0:  # exp stays finite in float64
            matrix = affinity(
                vectors[targets],
                vectors,
                energies,
                candidates.beta,
                masses=mass,
                similarity=candidates.similarity,
            )
        found = greedy_replay_gain(
            matrix,
            k,
            weights=None if candidates.weights is None else candidates.weights[targets],
            tail_weight=self.tail_weight,
            risk=risk.nan_to_num(posinf=torch.finfo(torch.float64).max),
            beta=candidates.beta,
            tighten=tighten,
        )
        return replace(found, indices=by_id[found.indices])


def check_oversample(oversample: int) -> int:
    """Return how many candidates for each place are set aside; a whole number >= 1."""
    check_integer(oversample, "oversample", 1)
    return oversample


def _whole(count: int) -> Selection:
    zero = torch.zeros(count, dtype=torch.float64)
    return Selection(torch.arange(count), zero, zero, 0.0, 0.0, 0.0, 0.0)
