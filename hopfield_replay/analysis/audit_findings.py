"""What an audit found, as numbers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.analysis.drift import Drift, Label
from hopfield_replay.analysis.gate import Gate
from hopfield_replay.functional import Correlation
from hopfield_replay.utilities.showing import jsonable

_MOST = 10  # samples that are listed


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """The most and the least forgotten samples, and how both versions reconstruct them from the same noise.

    Attributes:
        worst: positions of the most forgotten samples, the worst first.
        best: positions of the least forgotten ones, the best first.
        timestep: from which they are reconstructed.
        clean: the samples, worst and then best, (k, *shape).
        before: reconstructed by the first version, (k, *shape).
        after: by the second one, (k, *shape).

    Example:
        >>> import torch
        >>> from hopfield_replay.analysis import audit
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> schedule = torch.linspace(0.99, 0.01, 10)
        >>> before = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
        >>> after = CallableDenoiser(lambda x, t: torch.ones_like(x), schedule, prediction_type="sample")
        >>> samples = torch.tensor([0.0, 1.0, 0.4]).view(3, 1, 1, 1).expand(3, 1, 2, 2)  # the first one is forgotten
        >>> examples = audit(before, after, samples).examples
        >>> examples.worst, examples.best, examples.before.shape
        ((0,), (1,), torch.Size([2, 1, 2, 2]))
    """

    worst: tuple[int, ...]
    best: tuple[int, ...]
    timestep: float
    clean: Tensor
    before: Tensor
    after: Tensor

    def __repr__(self) -> str:
        return f"Examples(worst={self.worst}, best={self.best}, timestep={self.timestep:g})"


@dataclass(frozen=True, eq=False, repr=False)
class AuditFindings:
    """The numbers of an :class:`~hopfield_replay.analysis.AuditReport`, where they are documented."""

    errors_old: Tensor
    errors_new: Tensor
    rises: Tensor
    worst: Tensor
    overall: Drift
    classes: dict[Label, dict[str, float]]
    tasks: dict[Label, dict[str, float]]
    timesteps: tuple[float, ...]
    model_energy_old: Tensor | None
    model_energy_new: Tensor | None
    energies: Tensor | None
    energy_rises: Tensor | None
    correlations: dict[str, Correlation]
    beta: float | None
    examples: Examples | None
    names: tuple[str, ...]
    labels: tuple[Label, ...]
    task_of: tuple[Label, ...]
    warnings: tuple[str, ...]
    noise: Tensor | None = None

    @property
    def mean(self) -> float:
        """Mean of ``rises``."""
        return self.overall.mean_rise

    @property
    def low(self) -> float:
        """Lower end of the interval of the mean."""
        return self.overall.low

    @property
    def high(self) -> float:
        """Upper end."""
        return self.overall.high

    @property
    def worse(self) -> float:
        """Share of the samples whose error rose."""
        return self.overall.worse

    def exceeding(self, threshold: float) -> dict[str, float]:
        """Where the relative rise is above a threshold beyond doubt: over all samples, or over those of a task.

        A task that was learned meanwhile hides in the mean over all samples what another one lost.

        Args:
            threshold: relative rise of the error, 0.1 for ten per cent.

        Returns:
            The lower end of the relative rise's interval, by "all samples" or the task's name, where it is above.

        Raises:
            ValueError: one sample has no interval; a threshold that is no number.

        Example:
            >>> import torch
            >>> from hopfield_replay.analysis import audit
            >>> from hopfield_replay.denoisers import CallableDenoiser
            >>> schedule = torch.linspace(0.99, 0.01, 10)
            >>> one = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
            >>> audit(one, one, torch.ones(5, 1, 2, 2)).exceeding(0.0)
            {}
        """
        if math.isnan(threshold):
            raise ValueError("the threshold must be a number, got nan.")
        lows = {"all samples": self.overall.relative_low}
        lows |= {f"task {name}": change["relative_low"] for name, change in self.tasks.items()}
        for name, low in lows.items():
            if math.isnan(low):
                raise ValueError(f"A threshold needs an interval, and one sample ({name}) has none; give more samples.")
        return {name: low for name, low in lows.items() if low > threshold}

    def gate(self, threshold: float, *, level: float = 0.05, exempt: Sequence[str] = ()) -> Gate:
        """Test all samples, every task and every class against a threshold, with one false-alarm rate for all of them.

        Args:
            threshold: allowed relative rise of the error, 0.1 for ten per cent.
            level: chance that any group fails although none rose by more (see :class:`Gate`).
            exempt: tasks that may get worse, or are meant to change: their samples are not tested.

        Raises:
            ValueError: a task that is not there; nothing left to test, or one sample only.

        Example:
            >>> import torch
            >>> from hopfield_replay.analysis import audit
            >>> from hopfield_replay.denoisers import CallableDenoiser
            >>> schedule = torch.linspace(0.99, 0.01, 10)
            >>> one = CallableDenoiser(lambda x, t: torch.zeros_like(x), schedule, prediction_type="sample")
            >>> audit(one, one, torch.ones(5, 1, 2, 2)).gate(0.0).passed
            True
        """
        if unknown := [task for task in exempt if task not in self.tasks]:
            raise ValueError(f"there are no tasks {unknown}; there are {list(self.tasks)}.")
        counted = [at for at in range(len(self.rises)) if not self.task_of or self.task_of[at] not in exempt]
        groups: dict[str, list[int]] = {"all samples": counted}
        for kind, names in (("task", self.task_of), ("class", self.labels)):
            for at in counted if names else ():
                groups.setdefault(f"{kind} {names[at]}", []).append(at)
        return Gate.of(self.errors_old.mean(1), self.errors_new.mean(1), groups, threshold, level)

    @property
    def standardized(self) -> Tensor | None:
        """(n,) each sample's rise over its own noise, the standard error of the rise over draws; None for one draw."""
        if self.noise is None:
            return None
        return torch.where(self.rises == 0, torch.zeros_like(self.rises), self.rises / self.noise)

    def name(self, position: int) -> str:
        """What the sample at this position is called."""
        return self.names[position] if self.names else str(position)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain Python, ready for JSON: no pictures, and None for what is undefined."""
        fields: dict[str, Any] = {
            "samples": self.overall.samples,
            **{name: getattr(self, name) for name in ("mean", "low", "high", "worse")},
            **{name: getattr(self.overall, name) for name in ("relative", "relative_low", "relative_high")},
            **{name: getattr(self, name) for name in ("classes", "tasks", "timesteps", "beta", "warnings")},
            "correlations": {name: asdict(rank) for name, rank in self.correlations.items()},
            "most_forgotten": [self.name(position) for position in self.worst[:_MOST].tolist()],
            "least_forgotten": [self.name(position) for position in self.worst.flip(0)[:_MOST].tolist()],
            **{name: getattr(self, name) for name in ("names", "labels", "task_of")},
            **{
                name: getattr(self, name)
                for name in ("worst", "rises", "errors_old", "errors_new", "model_energy_old", "model_energy_new",
                             "energies", "energy_rises", "noise", "standardized")
            },
        }  # fmt: skip
        result: dict[str, Any] = jsonable(fields)
        return result
