"""DiffusionTraining: an Avalanche strategy that trains a diffusers model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn

from hopfield_replay.avalanche.denoiser import check_scheduler, diffuse
from hopfield_replay.avalanche.evaluator import loss_evaluator
from hopfield_replay.avalanche.labelled_denoiser import labels_of
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.denoisers.conditioning import arguments

_SEED = 0


class DiffusionTraining(SupervisedTemplate):  # type: ignore[misc]  # avalanche is untyped here
    """Trains a diffusers network on the images of each minibatch: noise them, predict, compare.

    A network with a class embedding is given the targets. Evaluation draws the same noise and timesteps for an
    experience every time, so that its losses before and after a task can be compared.

    Args:
        model: a diffusers network, e.g. UNet2DModel.
        scheduler: a diffusers scheduler with alphas_cumprod; its prediction type is what the network learns.
        optimizer: over the model's parameters.
        criterion: compares prediction and what should have been predicted.
        train_mb_size: new samples in a minibatch.
        train_epochs: epochs for each experience.
        eval_mb_size: samples in an evaluation minibatch.
        device: of the model.
        plugins: e.g. an EnergyReplayPlugin.
        evaluator: an EvaluationPlugin, or a function that makes one; the default measures losses.
        eval_every: as in avalanche's SupervisedTemplate.
        peval_mode: as in avalanche's SupervisedTemplate.

    Attributes:
        denoiser: the model with its scheduler, for ReconstructionForgetting.

    Raises:
        ValueError: a scheduler that cannot be trained with; a network with a condition that is no class label.

    Example:
        >>> from diffusers import DDPMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
        ...     down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
        >>> adam = torch.optim.Adam(unet.parameters(), lr=1e-3)
        >>> strategy = DiffusionTraining(model=unet, scheduler=DDPMScheduler(), optimizer=adam, train_mb_size=32)
        >>> strategy.denoiser.num_timesteps  # strategy.train(experience) for each experience of a stream
        1000
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        scheduler: Any,
        optimizer: torch.optim.Optimizer,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: Any = loss_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
    ) -> None:
        check_scheduler(scheduler)
        super().__init__(
            model=model,
            optimizer=optimizer,
            criterion=nn.MSELoss() if criterion is None else criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
        )
        self.scheduler = scheduler
        self.denoiser = DiffusersDenoiser(model, scheduler)
        self._target: Tensor | None = None
        self._eval_generator: torch.Generator | None = None

    def forward(self) -> Tensor:
        """Prediction for the minibatch's images, noised at random timesteps."""
        generator = None if self.is_training else self._eval_generator
        noisy, timesteps, self._target = diffuse(self.scheduler, self.mb_x, generator=generator)
        condition = arguments(self.model, labels_of(self.mbatch))
        prediction: Tensor = self.model(noisy, timestep=timesteps, return_dict=False, **condition)[0]
        return prediction

    def criterion(self) -> Tensor:
        """Loss of the prediction."""
        loss: Tensor = self._criterion(self.mb_output, self._target)
        return loss

    def _before_eval_exp(self, **kwargs: Any) -> None:
        self._eval_generator = torch.Generator().manual_seed(_SEED)
        super()._before_eval_exp(**kwargs)

    def _train_cleanup(self) -> None:
        super()._train_cleanup()
        self._target = None

    def _eval_cleanup(self) -> None:
        super()._eval_cleanup()
        self._target = self._eval_generator = None
