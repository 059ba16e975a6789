"""LightningModuleTraining: an Avalanche strategy that runs a LightningModule's own training step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.training.templates import SupervisedTemplate
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from hopfield_replay.avalanche.evaluator import loss_evaluator


class LightningModuleTraining(SupervisedTemplate):  # type: ignore[misc]  # avalanche is untyped here
    """Trains an unmodified LightningModule on a stream of experiences, with any Avalanche plugin.

    The module's ``training_step`` computes the loss, also in evaluation (in eval mode, without gradients); its
    ``configure_optimizers`` is called anew for each experience, as each ``fit`` does under Lightning. What it logs is
    found in :attr:`logged`. There is no Trainer: the module's hooks (``on_train_batch_end`` and so on) are not called,
    and ``module.trainer`` does not exist.

    Args:
        model: a LightningModule with automatic optimisation and one optimizer.
        to_batch: makes the module's batch of a minibatch ``[x, y, ...]``; None: ``(x, y)``.
        train_mb_size: new samples in a minibatch.
        train_epochs: epochs for each experience.
        eval_mb_size: samples in an evaluation minibatch.
        device: of the module.
        plugins: e.g. an EnergyReplayPlugin.
        evaluator: an EvaluationPlugin, or a function that makes one; the default measures losses.
        eval_every: as in avalanche's SupervisedTemplate.
        peval_mode: as in avalanche's SupervisedTemplate.

    Attributes:
        logged: what the module logged in its last step, by name.

    Raises:
        TypeError: a model that is no LightningModule.
        MisconfigurationException: manual optimisation, several optimizers, a scheduler that needs a monitored value, or
            a training step without a loss.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> strategy = LightningModuleTraining(model=BoringModel(), to_batch=lambda minibatch: minibatch[0])
        >>> type(strategy.optimizer).__name__  # the module's own; strategy.train(experience) for each experience
        'SGD'
    """

    def __init__(
        self,
        *,
        model: LightningModule,
        to_batch: Callable[[list[Tensor]], Any] | None = None,
        train_mb_size: int = 1,
        train_epochs: int = 1,
        eval_mb_size: int | None = None,
        device: str | torch.device = "cpu",
        plugins: Sequence[Any] | None = None,
        evaluator: Any = loss_evaluator,
        eval_every: int = -1,
        peval_mode: str = "epoch",
    ) -> None:
        if not isinstance(model, LightningModule):
            raise TypeError(f"model must be a LightningModule, got {type(model).__name__}.")
        if not model.automatic_optimization:
            raise MisconfigurationException(
                f"{type(model).__name__} optimises by itself (automatic_optimization=False), which needs a Trainer."
            )
        self.to_batch = to_batch
        self.logged: dict[str, Any] = {}
        self._batch_idx = 0
        optimizer, self._schedulers = one_optimizer(model)
        super().__init__(
            model=model,
            optimizer=optimizer,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=plugins,
            evaluator=evaluator,
            eval_every=eval_every,
            peval_mode=peval_mode,
        )

    def make_optimizer(self, **kwargs: Any) -> None:
        """Ask the module for its optimizer; upstream would add all parameters of the model to it."""
        self.optimizer, self._schedulers = one_optimizer(self.model)
        self.optimized_param_id = dict(self.model.named_parameters())

    def forward(self) -> Any:
        """What the module's training step returns."""
        batch = tuple(self.mbatch[:2]) if self.to_batch is None else self.to_batch(self.mbatch)
        self.logged = {}
        with _recording(self.model, self.logged):
            output = self.model.training_step(batch, self._batch_idx)
        self._batch_idx += 1
        return output

    def criterion(self) -> Tensor:
        """The loss in what the training step returned."""
        loss = self.mb_output.get("loss") if isinstance(self.mb_output, dict) else self.mb_output
        if not isinstance(loss, Tensor):
            raise MisconfigurationException(
                f"{type(self.model).__name__}.training_step must return a loss, or a dict with one, got {loss!r}."
            )
        return loss

    def _before_training_epoch(self, **kwargs: Any) -> None:
        self._batch_idx = 0
        super()._before_training_epoch(**kwargs)

    def _before_eval_exp(self, **kwargs: Any) -> None:
        self._batch_idx = 0
        super()._before_eval_exp(**kwargs)

    def _after_training_iteration(self, **kwargs: Any) -> None:
        self._schedule("step")
        super()._after_training_iteration(**kwargs)

    def _after_training_epoch(self, **kwargs: Any) -> None:
        self._schedule("epoch")
        super()._after_training_epoch(**kwargs)

    def _schedule(self, interval: str) -> None:
        for scheduler in self._schedulers:
            if scheduler["interval"] == interval:
                scheduler["calls"] += 1
                if scheduler["calls"] % scheduler["frequency"] == 0:
                    scheduler["scheduler"].step()


def one_optimizer(module: LightningModule) -> tuple[torch.optim.Optimizer, list[dict[str, Any]]]:
    """The optimizer that a module configures, and its schedulers, in any of the forms that Lightning takes.

    Raises:
        MisconfigurationException: no optimizer, several, or a scheduler that needs a monitored value.
    """
    configured: Any = module.configure_optimizers()
    schedulers: Any = []
    if isinstance(configured, tuple | list) and len(configured) == 2 and isinstance(configured[0], list | tuple):
        configured, schedulers = configured
    if isinstance(configured, tuple | list) and len(configured) == 1:
        configured = configured[0]
    if isinstance(configured, dict):
        schedulers = [configured["lr_scheduler"]] if "lr_scheduler" in configured else []
        configured = configured["optimizer"]
    if not isinstance(configured, torch.optim.Optimizer):
        raise MisconfigurationException(
            f"{type(module).__name__}.configure_optimizers must give one optimizer here, got {configured!r}."
        )
    return configured, [_scheduler(item) for item in schedulers]


def _scheduler(item: Any) -> dict[str, Any]:
    config = dict(item) if isinstance(item, dict) else {"scheduler": item}
    if isinstance(config["scheduler"], torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise MisconfigurationException("ReduceLROnPlateau watches a logged value, which needs a Trainer.")
    return {
        "scheduler": config["scheduler"],
        "interval": config.get("interval", "epoch"),
        "frequency": config.get("frequency", 1),
        "calls": 0,
    }


@contextmanager
def _recording(module: LightningModule, logged: dict[str, Any]) -> Iterator[None]:
    """Have ``module.log`` write to a dict: without a Trainer it only warns."""

    def log(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        logged[name] = value.detach() if isinstance(value, Tensor) else value

    def log_dict(values: Any, *args: Any, **kwargs: Any) -> None:
        for name, value in values.items():
            log(name, value)

    vars(module)["log"], vars(module)["log_dict"] = log, log_dict
    try:
        yield
    finally:
        del vars(module)["log"], vars(module)["log_dict"]
