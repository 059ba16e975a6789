"""IntrinsicForgetting and ReconstructionForgetting: what evaluation experiences lost since they were learned."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from avalanche.evaluation import PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name
from avalanche.training.plugins import ReplayPlugin
from torch import Tensor

from hopfield_replay.avalanche.experience_source import encode, read_vectors
from hopfield_replay.avalanche.labelled_denoiser import LabelledDenoiser, default_timesteps, strategy_denoiser
from hopfield_replay.avalanche.replay_plugin import EnergyReplayPlugin
from hopfield_replay.denoisers import Denoiser
from hopfield_replay.functional import energy
from hopfield_replay.functional.diffusion import reconstruction_error
from hopfield_replay.memory.memory import HopfieldMemory
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.tracker.contents import positions_of, sample_contents
from hopfield_replay.utilities.checks import Similarity, check_similarity


class _Rise(PluginMetric[float]):  # type: ignore[misc]  # avalanche is untyped here
    """Rise of a mean over an experience's evaluation samples since the evaluation after that experience was learned.

    Experiences are told by their number in the stream, as in avalanche's forgetting metrics: the n-th experience of an
    evaluation stream belongs to the n-th of the training stream; where that is an online stream, to the n-th of those
    that it was split from.
    """

    def __init__(self) -> None:
        super().__init__()
        self._learned: set[int] = set()
        self._newest: int | None = None
        self._start: dict[tuple[str, int], float] = {}  # by stream and experience
        self._rises: dict[int, float] = {}  # of the evaluation at hand, by experience

    def result(self) -> dict[int, float]:
        """Rise of every learned experience in the last evaluation, by its number."""
        return dict(self._rises)

    def reset(self) -> None:
        """Forget the last evaluation's values."""
        self._rises = {}

    def after_training_exp(self, strategy: Any) -> None:
        """An experience has been learned."""
        self._newest = _origin(strategy.experience).current_experience
        self._learned.add(self._newest)

    def before_eval(self, strategy: Any) -> None:
        """Begin an evaluation."""
        self.reset()

    def before_eval_exp(self, strategy: Any) -> None:
        """Begin an experience."""
        self._begin(strategy)

    def after_eval_iteration(self, strategy: Any) -> None:
        """Measure one minibatch of an experience that has been learned."""
        if strategy.experience.current_experience in self._learned:
            self._measure(strategy)

    def after_eval_exp(self, strategy: Any) -> list[Any] | None:
        """Emit the rise of an experience that has been learned."""
        number = strategy.experience.current_experience
        value = self._value(strategy) if number in self._learned else None
        key = _key(strategy)
        if value is None:
            return None
        if number == self._newest:
            self._start[key] = value
        if key not in self._start:
            return None  # it was not evaluated after it was learned
        self._rises[number] = value - self._start[key]
        # CSVLogger writes what begins with ExperienceForgetting, and nothing else
        name = get_metric_name(f"ExperienceForgetting/{self}", strategy, add_experience=True)
        return [MetricValue(self, name, self._rises[number], strategy.clock.train_iterations)]

    def after_eval(self, strategy: Any) -> list[Any] | None:
        """Emit the mean rise over the experiences learned before the newest."""
        earlier = [rise for number, rise in self._rises.items() if number != self._newest]
        if not earlier:
            return None
        name = get_metric_name(f"StreamForgetting/{self}", strategy, add_task=False)
        return [MetricValue(self, name, sum(earlier) / len(earlier), strategy.clock.train_iterations)]

    def __str__(self) -> str:
        return type(self).__name__

    @abstractmethod
    def _begin(self, strategy: Any) -> None: ...

    @abstractmethod
    def _measure(self, strategy: Any) -> None: ...

    @abstractmethod
    def _value(self, strategy: Any) -> float | None:
        """Mean over the samples measured since :meth:`_begin`; None if nothing can be said."""


class IntrinsicForgetting(_Rise):
    r"""Rise of the mean Hopfield energy of each experience's evaluation samples since it was learned.

    .. math:: \frac1n \sum_x E(x \mid X_t) - E(x \mid X_k)

    X_t are the patterns of the newest experience t: its training samples, sharing the mass that replay leaves, and the
    samples replayed beside them, as often as they are drawn. The model plays no part. Works beside any storage policy
    of avalanche's ReplayPlugin. Patterns are not part of a checkpoint; after a resume the energies of the last
    evaluation are repeated until an experience has been learned.

    Emits ``ExperienceForgetting/IntrinsicForgetting/eval_phase/<stream>/.../Exp<k>`` for every learned experience (0
    right after it was learned) and ``StreamForgetting/IntrinsicForgetting/eval_phase/<stream>``, the mean over those
    learned before the newest. Like avalanche's forgetting it needs an evaluation after each experience. CSVLogger has
    one column for forgetting, which shows the last such metric of an evaluator.

    Args:
        beta: inverse temperature; ``"auto"`` calibrates it on the first experience.
        similarity: ``"distance"`` or ``"dot"``.
        encoder: maps a minibatch ``[x, y, ...]``, on the strategy's device, to vectors (n, d); None: its
            samples, flattened, by the rules of :class:`hopfield_replay.encoders.Columns`.

    Raises:
        ValueError: a beta or similarity out of range.

    Example:
        >>> from avalanche.logging import InteractiveLogger
        >>> from avalanche.training.plugins import EvaluationPlugin
        >>> evaluator = EvaluationPlugin(IntrinsicForgetting(beta=8.0), loggers=[InteractiveLogger()])

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975.
    """

    def __init__(
        self,
        *,
        beta: float | Literal["auto"] = "auto",
        similarity: Similarity = "distance",
        encoder: Callable[[Any], Tensor] | None = None,
    ) -> None:
        super().__init__()
        check_similarity(similarity)
        self.beta: float | None = as_beta(beta)
        self.similarity: Similarity = similarity
        self.encoder = encoder
        # vectors, numbers of contents, shares, and the plugin that replays them
        self._replayed: tuple[Tensor, Tensor, Tensor, Any] | None = None
        self._patterns: tuple[Tensor, Tensor, Tensor | None] | None = None  # vectors, numbers and masses
        self._new = self._seen = self._left = 0  # samples of the minibatches: new ones, all; new ones of the epoch
        self._trained_stream = ""
        self._known: dict[tuple[str, int], float] = {}  # mean energies under the patterns at hand
        self._vectors: list[Tensor] = []
        self._numbers: list[Tensor] = []

    def before_training_exp(self, strategy: Any) -> None:
        """Read what is going to be replayed; plugins have refined it by now."""
        self._replayed, self._new, self._seen = None, 0, 0
        for plugin in strategy.plugins:
            if isinstance(plugin, ReplayPlugin) and len(plugin.storage_policy.buffer):
                vectors, numbers = read_vectors(plugin.storage_policy.buffer, self.encoder, strategy.device)
                shares = torch.full((len(vectors),), 1.0 / len(vectors), dtype=torch.float64)
                if isinstance(plugin, EnergyReplayPlugin):
                    shares = plugin.storage_policy.memory.draw_shares
                self._replayed = vectors, numbers, shares, plugin

    def before_training_epoch(self, strategy: Any) -> None:
        """Count from the first minibatch."""
        self._left = len(strategy.adapted_dataset)

    def after_training_iteration(self, strategy: Any) -> None:
        """Count the samples of a minibatch; those that a stock ReplayPlugin replays are what comes beside the new."""
        if self._replayed is not None:
            size = self._replayed[3].batch_size or strategy.train_mb_size
            new = min(size, self._left)
            self._left, self._new, self._seen = self._left - new, self._new + new, self._seen + len(strategy.mb_x)

    def after_training_exp(self, strategy: Any) -> None:
        """Take over the patterns of the experience."""
        super().after_training_exp(strategy)
        vectors, numbers = read_vectors(strategy.experience.dataset, self.encoder, strategy.device)
        if self.beta is None:
            self.beta = HopfieldMemory(vectors, "auto", similarity=self.similarity).beta
        masses = None
        if self._replayed is not None:
            replayed, others, shares, plugin = self._replayed
            share = plugin.share if isinstance(plugin, EnergyReplayPlugin) else 1.0 - self._new / max(1, self._seen)
            masses = torch.cat(
                [
                    torch.full((len(vectors),), (1.0 - share) / len(vectors), dtype=torch.float64),
                    share * shares,
                ]
            )
            vectors, numbers = torch.cat([vectors, replayed]), torch.cat([numbers, others])
        self._patterns, self._replayed = (vectors, numbers, masses), None
        self._trained_stream = _origin(strategy.experience).origin_stream.name
        self._known = {}

    def _begin(self, strategy: Any) -> None:
        self._vectors, self._numbers = [], []

    def _measure(self, strategy: Any) -> None:
        if self._patterns is not None and (key := _key(strategy)) not in self._known:
            self._vectors.append(encode(strategy.mbatch, self.encoder, strategy.device))
            if key[0] == self._trained_stream:
                self._numbers.append(sample_contents(strategy.mbatch, self._vectors[-1]))

    def _value(self, strategy: Any) -> float | None:
        key = _key(strategy)
        if key not in self._known:
            if self._patterns is None or not self._vectors:
                return None
            assert self.beta is not None  # known since the patterns are
            patterns, numbers, masses = self._patterns
            vectors = torch.cat(self._vectors)
            own = positions_of(torch.cat(self._numbers), numbers) if key[0] == self._trained_stream else None
            energies = energy(vectors, patterns, self.beta, masses=masses, similarity=self.similarity, exclude=own)
            self._known[key] = float(energies.mean())
            self._vectors, self._numbers = [], []
        return self._known[key]

    def __getstate__(self) -> dict[str, Any]:
        return {
            **self.__dict__,
            "_patterns": None,
            "_vectors": [],
            "_numbers": [],
        }  # a checkpoint must not grow with the data


class ReconstructionForgetting(_Rise):
    r"""Rise of the model's mean reconstruction error on each experience's evaluation samples since it was learned.

    The error is :math:`|x_0 - \hat x_0(x_t)|^2 / d`, averaged over timesteps, with noise that belongs to a sample's
    position in its experience: two evaluations differ by the model alone, as long as they read it in the same order.

    Emits ``ExperienceForgetting/ReconstructionForgetting/eval_phase/<stream>/.../Exp<k>`` for every learned experience
    (0 right after it was learned) and ``StreamForgetting/ReconstructionForgetting/eval_phase/<stream>``, the mean over
    those learned before the newest. Like avalanche's forgetting it needs an evaluation after each experience.

    Args:
        denoiser: a Denoiser; None: the strategy's, or the one that is found on its model.
        timesteps: None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        seed: of the noise.

    Raises:
        ValueError: no timesteps; on evaluation: no denoiser is found.

    Example:
        >>> from avalanche.logging import InteractiveLogger
        >>> from avalanche.training.plugins import EvaluationPlugin
        >>> metric = ReconstructionForgetting(timesteps=[100, 300, 500])
        >>> evaluator = EvaluationPlugin(metric, loggers=[InteractiveLogger()])
    """

    def __init__(
        self, denoiser: Denoiser | None = None, *, timesteps: Sequence[int] | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if timesteps is not None and not len(timesteps):
            raise ValueError("timesteps is empty; give at least one, or None for the default.")
        self.denoiser = denoiser
        self.timesteps = None if timesteps is None else list(timesteps)
        self.seed = seed
        self._found: LabelledDenoiser | None = None
        self._total = 0.0
        self._count = 0

    def _begin(self, strategy: Any) -> None:
        self._found, self._total, self._count = None, 0.0, 0

    def _measure(self, strategy: Any) -> None:
        if self._found is None:
            self._found = strategy_denoiser(strategy) if self.denoiser is None else LabelledDenoiser(self.denoiser)
        if self._found is None:
            raise ValueError(
                f"No denoiser was found on {type(strategy.model).__name__}; pass ReconstructionForgetting(denoiser), "
                "an object with num_timesteps, noise, predict_clean and snr."
            )
        batch = list(strategy.mbatch)
        n = len(batch[0])
        errors = reconstruction_error(
            self._found,
            batch[0],
            self.timesteps or default_timesteps(self._found),
            self.seed,
            ids=torch.arange(self._count, self._count + n),
            condition=batch,
        )
        self._total += float(errors.mean(1).sum())
        self._count += n

    def _value(self, strategy: Any) -> float | None:
        return self._total / self._count if self._count else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": None}  # it refers to the model


def _key(strategy: Any) -> tuple[str, int]:
    """Stream and number of the experience at hand."""
    return strategy.experience.origin_stream.name, strategy.experience.current_experience


def _origin(experience: Any) -> Any:
    """The experience that one of an online stream was split from, which evaluation streams count; else itself."""
    known = experience.logging() if hasattr(experience, "logging") else experience
    origin = getattr(known, "origin_experience", None)
    return known if origin is None else origin
