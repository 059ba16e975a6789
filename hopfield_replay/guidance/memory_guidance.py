"""Sampling from a model that has forgotten, steered by stored samples of what it has forgotten."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.delegating import DelegatingDenoiser
from hopfield_replay.denoisers.schedule import FlowSchedule, Schedule, VarianceSchedule, prediction_from
from hopfield_replay.denoisers.scheduled import ScheduledDenoiser
from hopfield_replay.functional import Denoiser
from hopfield_replay.functional._diffusion_arguments import amounts, check_denoiser
from hopfield_replay.guidance.arguments import Samples, check_labels, check_strength, of_label, tiles_of
from hopfield_replay.guidance.mixture import SampleMixture, Share
from hopfield_replay.guidance.network import call_of, prediction_of, replaced
from hopfield_replay.guidance.report import GuidanceReport, nearest
from hopfield_replay.utilities.checks import check_finite, check_integer
from hopfield_replay.utilities.device import where_float64_is


class MemoryGuidance(DelegatingDenoiser):
    r"""Steers sampling with stored samples: the exact score of s p_memory + (1 - s) p_model, without training.

    At every noise level a noisy sample comes from the memory with responsibility r (:class:`SampleMixture`), and its
    clean estimate is :math:`(1 - r)\, \hat x_0^\mathrm{model} + r\, \hat x_0^\mathrm{memory}`: the same as mixing the
    scores, and in whichever parametrisation the network predicts. r soon turns to 0 or 1: a share s of the samples
    becomes stored samples, the others stay the model's, and none comes to lie in between.

    The memory reproduces what it stores and nothing else. What is generated has the distribution of "take a stored
    sample with probability s, else ask the model"; look at :meth:`report` beside every result. The share comes out as s
    where the model's noisy samples are its clean ones with noise, as those of a trained model are; of a model that has
    learned nothing yet it does not.

    Three ways to sample:

    - ``with guidance.steer(): ...`` around any sampling loop or pipeline of diffusers, whose network then returns
      guided predictions;
    - the guidance in the place of the denoiser, e.g. ``ddim_denoise(guidance, noise, timesteps)``;
    - ``guidance.given(labels)`` in the place of ``guidance`` for conditional sampling.

    Args:
        denoiser: the model.
        memory: stored samples in the space the model denoises in (pixels, or scaled latents): (N, *shape), or patterns
            of any number in batches (:class:`~hopfield_replay.functional.PatternTiles`), or a HopfieldMemory with
            ``similarity="distance"``, whose beta does not matter.
        current: samples that stand for what the model generates by itself, two at least: its own unguided samples, or
            the data of its last task. The model gives no density; theirs takes its place.
        strength: s, the share of samples to come from the memory, in [0, 1]; or a function of the timestep. With a
            function no single mixture is sampled: what counts is its value at the noise levels where memory and current
            samples come apart.
        labels: (N,) condition of each stored sample, for :meth:`given`; needs ``memory`` as a tensor.
        current_labels: the same for ``current``. A condition of which there are no current samples is compared with
            all of them.
        probes: noised samples for the correction of the responsibilities, >= 0; see :class:`SampleMixture`.

    Raises:
        TypeError: ``denoiser`` is none; samples of a wrong type.
        ValueError: an empty memory, fewer than two current samples, spaces that differ, strength outside [0, 1].

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> from hopfield_replay.functional import ddim_denoise
        >>> model = CallableDenoiser(lambda x, t: 0 * x + 3, torch.linspace(0.9, 0.01, 20), prediction_type="sample")
        >>> current = torch.tensor([[3.0, 3.0], [3.0, 3.1]])  # what this model can generate
        >>> guidance = MemoryGuidance(model, torch.tensor([[-2.0, 0.0]]), current, strength=0.5)
        >>> noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> samples = ddim_denoise(guidance, noise, range(19, -1, -1))
        >>> print(guidance.report(samples))
        51.0 % of 200 samples are memory-driven, at a median distance of 0 from a stored sample; the others at 5.83

    Source: the score of a mixture of densities by Bayes' rule; adding the memory's gradient to the model's, or mixing
    the two at a constant ratio, leaves the data (tests/guidance/test_two_dimensions.py) and is not offered.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        memory: Samples,
        current: Samples,
        *,
        strength: float | Callable[[float], float],
        labels: Tensor | None = None,
        current_labels: Tensor | None = None,
        probes: int = 512,
    ) -> None:
        check_denoiser(denoiser)
        check_integer(probes, "probes", 0)
        stored, compared = tiles_of(memory, "memory", 1), tiles_of(current, "current", 2)
        if stored.dimension != compared.dimension:
            raise ValueError(
                f"memory holds samples of {stored.dimension} elements and current of {compared.dimension}: both must "
                "be in the space the model denoises in."
            )
        self.denoiser = denoiser
        self.strength = strength if callable(strength) else check_strength(strength)
        self._probes = probes
        self._stored, self._compared = stored, compared
        self._labels = check_labels(labels, stored, "labels")
        self._current_labels = check_labels(current_labels, compared, "current_labels")
        self._whole = SampleMixture(stored, compared, probes)
        self._parts: dict[int, SampleMixture | None] = {}  # shared by all that were made by given()
        self._asked: Tensor | None = None
        self._steering = False

    def given(self, labels: Tensor) -> Self:
        """The guidance for samples of these conditions (n,): each is steered by stored samples of its own label only.

        A label that the memory does not hold is left to the model. A network that is called with a multiple of n
        samples, as under classifier-free guidance, has the labels repeated.

        Raises:
            ValueError: the guidance was made without ``labels``.
            TypeError: labels that are not whole numbers.
        """
        if self._labels is None:
            raise ValueError("the memory has no labels: pass labels=... to MemoryGuidance.")
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
            raise TypeError("labels must be a tensor of whole numbers (n,), one for each sample.")
        made = copy(self)
        made._asked = labels.cpu()
        return made

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Guided estimate of the clean samples (n, *shape)."""
        predicted = self.denoiser.predict_clean(noisy, timestep, condition)
        if self._steering:
            return predicted  # the network has been guided already
        noisy = noisy.to(predicted.device, predicted.dtype)
        share = self.share(noisy, timestep, *amounts(self.denoiser, timestep, noisy))
        return _mix(predicted, share.clean.view_as(noisy), share.responsibility)

    def share(self, noisy: Tensor, timestep: float, signal: float, noise: float) -> Share:
        """The memory's responsibility for noisy samples (n, *shape), and its estimate of the clean ones.

        Args:
            noisy: in float32 or better.
            timestep: that the strength is looked up at.
            signal: a_t.
            noise: s_t > 0.

        Raises:
            ValueError: NaN; samples in another space than the memory's; no noise at this timestep; a strength outside
                [0, 1]; not one label for each sample.
        """
        check_finite(noisy, "the noisy samples")
        if math.prod(noisy.shape[1:]) != self._stored.dimension:
            raise ValueError(
                f"the model denoises samples of shape {tuple(noisy.shape[1:])}, {math.prod(noisy.shape[1:])} elements, "
                f"and the memory's have {self._stored.dimension}: store what the model denoises, e.g. scaled latents."
            )
        if not noise > 0:
            raise ValueError(f"timestep {timestep} has no noise left to be guided; end with a larger one.")
        strength = check_strength(self.strength(timestep)) if callable(self.strength) else self.strength
        if self._asked is None:
            return self._whole.share(noisy, signal, noise, strength)
        if not len(self._asked) or len(noisy) % len(self._asked):
            raise ValueError(
                f"given() got {len(self._asked)} labels, and the model is called with {len(noisy)} samples."
            )
        labels = self._asked.repeat(len(noisy) // len(self._asked))
        clean = where_float64_is(noisy.flatten(1)).to(torch.float64, copy=True)  # where r = 0 it does not matter
        responsibility = clean.new_zeros(len(clean))
        for label in labels.unique().tolist():
            mixture = self._part(label)
            if mixture is not None:
                rows = (labels == label).nonzero().flatten().to(clean.device)
                part = mixture.share(noisy[rows.to(noisy.device)], signal, noise, strength)
                responsibility[rows], clean[rows] = part
        return Share(responsibility, clean)

    def _part(self, label: int) -> SampleMixture | None:
        """The mixture of one condition; None if nothing is stored of it."""
        if label not in self._parts:
            stored = of_label(self._stored, self._labels, label)
            compared = of_label(self._compared, self._current_labels, label)
            enough = compared is not None and len(compared) > 1
            other = compared if enough and compared is not None else self._compared
            self._parts[label] = None if stored is None else SampleMixture(stored, other, self._probes)
        return self._parts[label]

    @contextmanager
    def steer(self) -> Iterator[Self]:
        """Within this context the denoiser's network itself returns guided predictions, whoever calls it.

        For sampling loops and pipelines: epsilon, v, sample and flow predictions, with every scheduler that shows the
        network the timestep of the noise level it is at. (Those of the Euler family may show timesteps in between the
        schedule's; with ``interpolation_type="log_linear"`` they show others than they are at.) Under classifier-free
        guidance both halves are guided alike, which leaves the memory's share of the prediction as it is.

        Raises:
            TypeError: a denoiser without a torch module; pass the guidance itself to a sampler of denoisers.
            ValueError: inside, as :meth:`share`; a timestep that the schedule does not have; samples at different
                timesteps.
        """
        denoiser = self.denoiser
        network = getattr(denoiser, "model", None)
        if not isinstance(denoiser, ScheduledDenoiser) or not isinstance(network, nn.Module):
            raise TypeError(
                f"steer() needs a DiffusersDenoiser or CallableDenoiser of a torch module, got "
                f"{type(denoiser).__name__} of {type(network).__name__}. Use the guidance in the place of the denoiser."
            )

        def guide(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given, timestep = call_of(module, args, kwargs)
            signal, noise = _amounts_of_call(denoiser.schedule, timestep)
            noisy = given.to(torch.promote_types(given.dtype, torch.float32))
            share = self.share(noisy, timestep, signal, noise)
            whole = prediction_of(output)
            predicted, rest = whole[:, : noisy.shape[1]], whole[:, noisy.shape[1] :]  # the rest is a variance
            clean = share.clean.view_as(noisy)
            target = prediction_from(clean, noisy.to(clean.device), signal, noise, denoiser.prediction_type)
            mixed = _mix(predicted.to(noisy.dtype), target, share.responsibility).to(whole.dtype)
            return replaced(output, torch.cat([mixed, rest], 1) if rest.shape[1] else mixed)

        handle = network.register_forward_hook(guide, with_kwargs=True)
        self._steering = True
        try:
            yield self
        finally:
            self._steering = False
            handle.remove()

    def report(self, samples: Tensor) -> GuidanceReport:
        """How much of the generated samples (n, *shape) is the memory's, and how close they are to stored ones.

        Raises:
            TypeError, ValueError: samples that are not finite, or in another space than the memory's.
        """
        return GuidanceReport(nearest(samples, self._stored), nearest(samples, self._compared))


def _amounts_of_call(schedule: Schedule, timestep: float) -> tuple[float, float]:
    """Amounts of signal and noise where a sampler calls the network."""
    if isinstance(schedule, FlowSchedule) and timestep == schedule.num_timesteps:
        return 0.0, 1.0  # flows begin at pure noise
    return schedule.interpolated(timestep) if isinstance(schedule, VarianceSchedule) else schedule.amounts(timestep)


def _mix(model: Tensor, memory: Tensor, share: Tensor) -> Tensor:
    weight = share.to(model).view(-1, *[1] * (model.ndim - 1))
    return torch.lerp(model, memory.to(model), weight)


__all__ = ["MemoryGuidance"]
