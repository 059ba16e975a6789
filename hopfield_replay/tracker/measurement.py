"""Measurement: what the end of a task measures, before anything is changed."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.functional.patterns import Patterns
from hopfield_replay.functional.rows import Matrix, joined
from hopfield_replay.memory.readings import median_error
from hopfield_replay.tracker.meter import ErrorMeter, LossMeter
from hopfield_replay.tracker.record import ProbeSet
from hopfield_replay.tracker.task_reader import Followed, TaskData
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.device import CPU
from hopfield_replay.utilities.distributed import gather_objects

_ASKED, _LEAST = 512, 128  # samples whose number of effective patterns is worked out
_PRODUCTS = 10**10  # multiplications that this may cost, for more of them than the least
_SAME = 1e-6  # relative distance of what an encoder made of one sample twice
_NEIGHBOUR = 10  # the density is the distance to this neighbour


@dataclass(frozen=True, eq=False)
class Mixture:
    """What the model trained on: the task's samples, then the replayed ones.

    Attributes:
        patterns: (N, d) vectors, wherever they are.
        masses: (N,) float64, the share of each in a batch; None: equal shares.
        ids: (N,) int64.
        own: how many are the task's.
        replay_ratio: the share of the replayed ones.
        device: where they are compared.
    """

    patterns: Matrix
    masses: Tensor | None
    ids: Tensor
    own: int
    replay_ratio: float
    device: torch.device = CPU

    @cached_property
    def compared(self) -> Patterns:
        """The patterns and their masses as samples are compared with them."""
        return Patterns(self.patterns, self.masses, self.device)

    @classmethod
    def of(cls, data: TaskData, buffer: EnergyReplayBuffer | None, replay_ratio: float | None) -> "Mixture":
        """That of a task and what was replayed beside it; ``replay_ratio`` None: as it was drawn."""
        own = len(data.ids)
        if buffer is None or not len(buffer):
            return cls(data.vectors, data.masses, data.ids, own, 0.0, data.device)
        if replay_ratio is None:
            replay_ratio = buffer.drawn.share(gather_objects)
        if not replay_ratio:
            return cls(data.vectors, data.masses, data.ids, own, 0.0, data.device)
        shares = torch.ones(own, dtype=torch.float64) if data.masses is None else data.masses
        new = (1.0 - replay_ratio) * shares / shares.sum()
        return cls(
            joined(data.vectors, buffer.vectors),
            torch.cat([new, replay_ratio * buffer.draw_shares]),
            torch.cat([data.ids, buffer.ids]),
            own,
            replay_ratio,
            data.device,
        )

    @property
    def replayed(self) -> Tensor:
        """Ids of the samples that were replayed."""
        return self.ids[self.own :]


class Measurement:
    """Measures samples under what the model trained on and, where a meter is given, under the model.

    Args:
        data: of the task that ends.
        mixture: what the model trained on.
        similarity: of the energies.
        beta: inverse temperature.
        meter: of the model's errors; None: energies only.
        model_energy: whether the energy under the model is worked out of the errors.
        loss_meter: of the model's paired losses; None: none.
    """

    def __init__(
        self,
        data: TaskData,
        mixture: Mixture,
        similarity: Similarity,
        beta: float,
        meter: ErrorMeter | None,
        model_energy: bool,
        loss_meter: LossMeter | None = None,
    ) -> None:
        self.data = data
        self.mixture = mixture
        self.beta = beta
        self.similarity = similarity
        self.meter = meter
        self.model_energy = model_energy
        self.loss_meter = loss_meter

    def energies(self, vectors: Tensor, ids: Tensor) -> Tensor:
        """Energies (n,) of samples under what the model trained on, each of them left out of it."""
        queries, exclude = vectors.to(self.mixture.patterns.dtype), _positions(ids, self.mixture.ids)
        return self.mixture.compared.energies(queries, self.beta, similarity=self.similarity, exclude=exclude)

    def known(self, followed: Followed) -> int:
        """How many probes that were to be held out are training samples: at no distance of one, and under no id."""
        nearest = self.data.patterns.distances(followed.vectors, 1)
        return int((nearest <= _SAME * torch.linalg.vector_norm(followed.vectors, dim=1, dtype=torch.float64)).sum())

    def own_energies(self) -> Tensor:
        """Leave-one-out energies (n,) of the task's samples under one another."""
        every = torch.arange(len(self.data.ids))
        return self.data.patterns.energies(self.data.vectors, self.beta, similarity=self.similarity, exclude=every)

    def n_eff(self) -> tuple[float, float]:
        """Median leave-one-out number of effective patterns, and its standard error; 0 where all samples are asked."""
        vectors = self.data.vectors
        asked = min(_ASKED, max(_LEAST, _PRODUCTS // (len(vectors) * vectors.shape[1])))
        few = torch.arange(len(vectors))[:: max(1, len(vectors) // asked)]
        shared = self.data.patterns.effective(vectors[few], self.beta, similarity=self.similarity, exclude=few)
        return float(shared.median()), median_error(shared) if len(few) < len(vectors) else 0.0

    def again(self, probe: ProbeSet) -> ProbeSet:
        """An earlier task's probe set as it is now."""
        error, model_energy = self._errors(probe.batch, probe.ids)
        return replace(
            probe,
            stored=torch.isin(probe.ids, self.mixture.replayed),
            energy=self.energies(probe.vectors, probe.ids),
            error=error,
            model_energy=model_energy,
            loss=self._losses(probe.batch),
        )

    def first(self, task: int, followed: Followed, *, keeps: bool) -> ProbeSet:
        """The probe set of the task that ends; ``keeps``: the samples themselves, also where no errors are measured."""
        error, model_energy = self._errors(followed.batch, followed.ids)
        energies, losses = self.energies(followed.vectors, followed.ids), self._losses(followed.batch)
        return ProbeSet(
            task=task,
            ids=followed.ids,
            vectors=followed.vectors,
            batch=followed.batch if keeps or self.meter is not None or self.loss_meter is not None else None,
            density=self._density(followed),
            stored=torch.isin(followed.ids, self.mixture.replayed),
            energy=energies,
            energy_start=energies,
            error=error,
            error_start=error,
            model_energy=model_energy,
            model_energy_start=model_energy,
            loss=losses,
            loss_start=losses,
        )

    def _errors(self, batch: Any, ids: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of the model as it is now, and the energies under the model that they make."""
        if self.meter is None or batch is None:
            return None, None
        error, elements = self.meter.of_probes(batch, ids)
        return error, self.meter.model_energy(error, elements) if self.model_energy else None

    def _losses(self, batch: Any) -> Tensor | None:
        return None if self.loss_meter is None or batch is None else self.loss_meter.of_probes(batch)

    def _density(self, followed: Followed) -> Tensor:
        """Distance of each probe to its 10th nearest other training sample of its task, (n,)."""
        exclude = _positions(followed.ids, self.data.ids)
        inside = bool((exclude >= 0).any())
        others = len(self.data.vectors) - inside
        if others < 1:
            return torch.full((len(followed.ids),), torch.inf, dtype=torch.float64)
        nearest = min(_NEIGHBOUR, others)
        return self.data.patterns.distances(followed.vectors, nearest, exclude=exclude if inside else None)


def _positions(ids: Tensor, among: Tensor) -> Tensor:
    """Where each id stands in ``among``, (n,); -1 where it does not."""
    order = among.argsort()
    at = torch.searchsorted(among[order], ids).clamp_(max=len(among) - 1)
    return torch.where(among[order][at] == ids, order[at], -1)
