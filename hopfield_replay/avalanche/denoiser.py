"""Denoiser: a diffusion model as a module that any Avalanche strategy can train."""

from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.denoisers.delegating import DelegatingDenoiser


class Denoiser(DelegatingDenoiser, nn.Module):
    """An unconditional diffusers network whose forward pass noises clean images and predicts what was added.

    With :func:`denoising_loss` as criterion the stock strategies and regularisation plugins train it, such as Naive
    with EWC or MAS. It is a :class:`hopfield_replay.denoisers.Denoiser`, too, so forgetting can be measured.
    (Learning without Forgetting distils class scores, of which a denoiser has none.) Networks that take class labels
    are trained by :class:`DiffusionTraining`: stock strategies give a model nothing but x.

    Args:
        network: a diffusers network.
        scheduler: a diffusers scheduler with alphas_cumprod; its prediction type is what the network learns.

    Raises:
        ValueError: a scheduler that cannot noise clean samples.

    Example:
        >>> from diffusers import DDPMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
        ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        >>> model = Denoiser(unet, DDPMScheduler())
        >>> output = model(torch.zeros(3, 1, 8, 8))
        >>> output.shape, denoising_loss(output, torch.zeros(3)).ndim
        (torch.Size([3, 2, 1, 8, 8]), 0)
    """

    def __init__(self, network: nn.Module, scheduler: Any) -> None:
        super().__init__()
        check_scheduler(scheduler)
        self.network = network
        self.scheduler = scheduler

    def forward(self, x: Tensor) -> Tensor:
        """Prediction and target (n, 2, *shape) for clean images (n, *shape), at random timesteps and noise."""
        noisy, timesteps, target = diffuse(self.scheduler, x)
        (prediction,) = self.network(noisy, timesteps, return_dict=False)[:1]
        return torch.stack([prediction, target], dim=1)

    @property
    def denoiser(self) -> DiffusersDenoiser:  # type: ignore[override]
        """The network with its schedule, made when it is asked for: the parts may be exchanged."""
        return DiffusersDenoiser(self.network, self.scheduler)


def denoising_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error between the two halves of a :class:`Denoiser`'s output; the data set's target plays no part.

    Args:
        output: (n, 2, *shape), prediction and what should have been predicted.
        target: ignored; criteria take two arguments.

    Returns:
        A scalar.

    Example:
        >>> float(denoising_loss(torch.tensor([[[1.0], [3.0]]]), torch.zeros(1)))
        4.0
    """
    return nn.functional.mse_loss(output[:, 0], output[:, 1])


def diffuse(
    scheduler: Any, clean: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Noised images (n, *shape), their timesteps (n,) and what the network should predict of them (n, *shape).

    Args:
        scheduler: a diffusers scheduler.
        clean: (n, *shape).
        generator: of timesteps and noise, on the CPU; None: the global one.
    """
    steps: int = scheduler.config.num_train_timesteps
    timesteps = torch.randint(0, steps, (len(clean),), generator=generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
    noisy = scheduler.add_noise(clean, noise, timesteps)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noisy, timesteps, noise
    return noisy, timesteps, clean if kind == "sample" else scheduler.get_velocity(clean, noise, timesteps)


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler that cannot noise samples to discrete timesteps.

    Raises:
        ValueError: such a scheduler.
    """
    config = getattr(scheduler, "config", None)
    kind = getattr(config, "prediction_type", None)
    known = kind in ("epsilon", "sample") or (kind == "v_prediction" and hasattr(scheduler, "get_velocity"))
    if not known or not hasattr(scheduler, "add_noise") or not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(
            f"{type(scheduler).__name__} (prediction_type={kind!r}) cannot be trained with: it needs add_noise and "
            "alphas_cumprod, and the prediction type epsilon, sample or v_prediction. Use diffusers' DDPMScheduler."
        )
