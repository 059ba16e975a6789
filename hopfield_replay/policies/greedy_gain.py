"""GreedyGain: keep the samples whose joint replay protects the most energy."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.functional import (
    Selection,
    SparseAffinity,
    StreamedAffinity,
    far_task_energy,
    greedy_replay_gain,
    predicted_rises,
    replay_mass,
    rise_weights,
)
from hopfield_replay.functional.affinity import FINITE, affinity_matrix
from hopfield_replay.functional.rise_weights import check_share_of_mean
from hopfield_replay.functional.rows import half_squares, placed
from hopfield_replay.functional.shared_rows import is_shared
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.policies.shortlist import Shortlist
from hopfield_replay.utilities.checks import check_integer, check_ratio
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.showing import ShownSettings

DEFAULT_REPLAY_RATIO = 0.5  # while nobody has said which share will be replayed
_ERROR, _CERTIFIED_ERROR = 1.0, 0.05  # of log affinities, in nats: enough to choose by, and for a bound


class GreedyGain(ShownSettings):
    r"""Keep the samples whose joint replay protects the most energy of all of them (the replay gain).

    Greedy maximisation of :math:`F(R) = \sum_k u_k \frac1\beta \log(1 + \sum_{r\in R} a_{kr})` (see
    :func:`~hopfield_replay.functional.greedy_replay_gain`): monotone and submodular, so at least 1 - 1/e of the
    optimum; the picks are nested. It runs in two phases. At the end of a task the next one is unknown, and counts as a
    far task: the gain becomes coverage. ``oversample`` times as many samples as there are places are set aside; when
    the next task's data is known, the choice is made anew among them with the energies under that data. What is kept is
    then drawn by what it stands for and by how much of that will be lost, see ``sampling="rise_weight"`` of the buffer
    and :func:`~hopfield_replay.functional.rise_weights`.

    Up to 5792 samples all affinities are computed. Of more, the largest of each sample are found by projections of the
    vectors, as many as ``Candidates.memory`` holds and the choice needs (see
    :class:`~hopfield_replay.functional.SparseAffinity`); of more than 65,536 samples as many random ones compete, and
    of more than 262,144 the protection of as many random ones counts.

    Args:
        replay_ratio: share of the batches that will be replayed, which sets the mass of each kept sample, in (0, 1);
            None: that of the loader which replays, or 0.5 as long as there is none.
        objective: ``"mean"``: all samples count alike; ``"tail"``: only the tenth with the largest energy rise (while
            the next task is unknown: the highest energy); ``"blend"``: half and half; ``"rise"``: in proportion to the
            rise of each, while the next task is unknown all alike.
        oversample: how many candidates for each place stay until the next task is known, >= 1; 1: no second phase.
        temper: exponent of the rises, >= 0, in the objective ``"rise"`` and in the draws from the buffer: below 1 large
            rises count less, and the next task is learned better; 0: none counts.

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
    needs_rises = True
    reads_in_pieces = True

    def __init__(
        self,
        replay_ratio: float | None = None,
        *,
        objective: Literal["mean", "tail", "blend", "rise"] = "mean",
        oversample: int = 4,
        temper: float = 1.0,
    ) -> None:
        known = ("mean", "tail", "blend", "rise")
        if objective not in known:
            raise ValueError(
                f'objective must be "mean", "tail", "blend" or "rise", got {objective!r}.'
                f"{did_you_mean(objective, known)}"
            )
        if replay_ratio is not None:
            check_ratio(replay_ratio, "replay_ratio")
        self.replay_ratio = replay_ratio
        self.tail_weight = {"mean": 0.0, "tail": 1.0, "blend": 0.5, "rise": 0.0}[objective]
        self.by_rise = objective == "rise"
        self.oversample = check_oversample(oversample)
        self.temper = check_share_of_mean(temper, "temper")

    @property
    def needs_energies(self) -> bool:
        """Only for the tail; rises are of what was set aside, whose energies are there, as the draws read them too."""
        return self.tail_weight > 0

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The greedy set of size k, best first."""
        return self._selection(candidates, k, certified=False).indices

    def selection(self, candidates: Candidates, k: int, *, tighten: int = 0) -> Selection:
        """The greedy set with its certificate: value, upper bound on the optimum and guaranteed share.

        Where not all samples compete or count (see the class), of those that do. With ``objective="rise"`` value and
        certificate are of the protection weighted by the rises, whose weights are 1 in the mean, ``mean`` and ``tail``
        of the plain one.
        """
        return self._selection(candidates, k, certified=True, tighten=tighten)

    def _selection(self, candidates: Candidates, k: int, *, certified: bool, tighten: int = 0) -> Selection:
        if len(candidates) < 2:  # nothing to choose, and no distances to choose by
            return _whole(len(candidates))
        by_id = candidates.ids.argsort()  # ties go to the smaller id, so that every arrival gives one choice
        if bool((by_id.diff() != 1).any()):
            candidates = candidates.pick(by_id)  # a copy, of which a million vectors can do without
        short = Shortlist.of(candidates, k, max(1, k // self.oversample))
        own, after = candidates.energies[short.counted], candidates.next_energies
        risk = own if after is None else after[short.counted] - own
        importance = None
        if self.by_rise and after is not None:
            rises = predicted_rises(own, after[short.counted])
            importance = rise_weights(rises, masses=short.weights, temper=self.temper, floor=0.0)
        selection = greedy_replay_gain(
            self._affinities(candidates, short, certified),
            k,
            weights=short.weights,
            importance=importance,
            tail_weight=self.tail_weight,
            risk=risk.nan_to_num(posinf=torch.finfo(torch.float64).max),
            beta=candidates.beta,
            tighten=tighten,
        )
        return replace(selection, indices=by_id[short.competing[selection.indices]])

    def _affinities(
        self, candidates: Candidates, short: Shortlist, certified: bool
    ) -> Tensor | StreamedAffinity | SparseAffinity:
        """Of the samples that count to those that compete: all of them where they are few."""
        targets = short.pick(candidates.rows, short.counted)
        energies: Tensor | float
        if candidates.next_energies is not None:
            energies = candidates.next_energies[short.counted]
        elif candidates.similarity == "distance":
            energies = far_task_energy(candidates.rows)
        else:  # dot form: unit-norm patterns of an unrelated task have <x, xi> about 0
            energies = half_squares(targets)
        ratio = self.replay_ratio if self.replay_ratio is not None else candidates.replay_ratio
        competing = short.pick(candidates.rows, short.competing)
        # not of k: a mass that changes would not be nested
        masses = replay_mass(candidates.places, DEFAULT_REPLAY_RATIO if ratio is None else ratio)

        def on(place: torch.device) -> StreamedAffinity:
            # of shared vectors all processes ask for the same pieces, whatever room each one's device has
            spread = is_shared(candidates.rows)
            vectors = placed(targets, place, spread=spread), placed(competing, place, spread=spread)
            return StreamedAffinity(
                *vectors, energies, candidates.beta, masses=masses, similarity=candidates.similarity
            )

        rows = on(targets.device)
        if short.listed is None:
            near = rows if candidates.device is None else on(candidates.device)
            return affinity_matrix(near, place=rows.device) if float(near.log_totals().max()) < FINITE else rows
        return SparseAffinity(
            rows,
            short.listed,
            own=short.own,
            error=_CERTIFIED_ERROR if certified else _ERROR,
            bounds=certified,
            device=candidates.device,
        )


def check_oversample(oversample: int) -> int:
    """Return how many candidates for each place are set aside; a whole number >= 1."""
    check_integer(oversample, "oversample", 1)
    return oversample


def _whole(count: int) -> Selection:
    zero = torch.zeros(count, dtype=torch.float64)
    return Selection(torch.arange(count), zero, zero, 0.0, 0.0, 0.0, 0.0)
