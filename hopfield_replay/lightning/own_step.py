"""A LightningModule's own step outside of the loop: called as the loop does, unheard by loggers and optimizers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hopfield_replay.denoisers.doors import Doors
from hopfield_replay.denoisers.own_step import Step
from hopfield_replay.denoisers.paired_loss import is_loss
from hopfield_replay.functional.denoiser import undisturbed
from hopfield_replay.lightning.gathered import gathered
from hopfield_replay.lightning.namespaces import kinds
from hopfield_replay.utilities.distributed import raise_on_all_ranks


@contextmanager
def measuring(trainer: Trainer, module: LightningModule, *, together: bool = False) -> Iterator[None]:
    """While something is measured: all of the module in eval mode, the Trainer validating, and afterwards as they were.

    Buffers and random states come back, whatever is called meanwhile. Weights that are spread over processes are whole,
    and where one process fails all do.

    Args:
        trainer: of the module.
        module: the module.
        together: the processes call the module equally often, so that weights can stay spread.
    """
    state = trainer.state
    stage = state.stage
    if stage is not None:
        state.stage = type(stage)["VALIDATING"]
    try:
        if together:
            with undisturbed(module):
                yield
            return
        with gathered(module), undisturbed(module), raise_on_all_ranks("measuring"):
            yield
    finally:
        state.stage = stage


@contextmanager
def counted(trainer: Trainer, counts: tuple[int, int] | None) -> Iterator[None]:
    """Hold the Trainer's numbers of steps and epochs, on which a loss may depend (by weights that rise), while in it.

    Args:
        trainer: of the module.
        counts: global_step and current_epoch; None: as they are.
    """
    if counts is None:
        yield
        return
    loop = trainer.fit_loop.epoch_loop
    steps: tuple[Any, Any] = (
        loop.automatic_optimization.optim_progress.optimizer.step.total,
        loop.manual_optimization.optim_step_progress.total,
    )
    epochs: Any = trainer.fit_loop.epoch_progress.current  # annotated upstream as what it derives from
    before, epoch = [step.completed for step in steps], epochs.processed
    for step in steps:
        step.completed = counts[0]
    epochs.processed = counts[1]
    try:
        yield
    finally:
        for step, completed in zip(steps, before, strict=True):
            step.completed = completed
        epochs.processed = epoch


@contextmanager
def silent(trainer: Trainer, module: LightningModule, heard: dict[str, float] | None = None) -> Iterator[None]:
    """Let nothing that a step logs reach a logger, and no optimizer or scheduler of it take a step.

    Args:
        trainer: of the module.
        module: whose step is going to be called.
        heard: takes what is logged, by name.
    """

    def log(name: str, value: Any, *_: Any, **__: Any) -> None:
        if heard is not None and isinstance(value, Tensor | float | int):
            heard[name] = float(value.detach() if isinstance(value, Tensor) else value)

    def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
        for name, value in values.items():
            log(name, value)

    optimizers, schedulers = module.optimizers, module.lr_schedulers
    instead = {
        "log": log,
        "log_dict": log_dict,
        "optimizers": lambda *args, **kwargs: _inert(optimizers(*args, **kwargs)),
        "lr_schedulers": lambda: _inert(schedulers()),
        "manual_backward": lambda loss, *_, **__: None,
    }
    before = {name: vars(module)[name] for name in instead if name in vars(module)}
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    vars(module).update(instead)
    try:
        yield
    finally:
        for name in instead:
            vars(module).pop(name, None)
        vars(module).update(before)
        trainer.loggers = loggers


class _Ended(BaseException):
    """Ends a step of manual optimization, whatever handlers of exceptions it has."""


class _NoBackward(TorchFunctionMode):
    """Notes what a step would go backward from; the step ends there once a diffusion network was called.

    What it does before (training a critic first, say) is passed over without gradients.
    """

    def __init__(self, doors: Doors) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self._doors = doors

    def note(self, loss: Tensor, *_: Any, **__: Any) -> None:
        """Go no further than this, or go on without."""
        self.losses.append(loss)
        if any(call.answer is not None for call in self._doors.calls):
            raise _Ended

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.note(*args) if func is Tensor.backward else func(*args, **(kwargs or {}))


class _Inert:
    """An optimizer or scheduler that can be asked everything and does nothing."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def step(self, closure: Any = None, *_: Any, **__: Any) -> Any:
        """Take no step; a closure is heard."""
        return closure() if callable(closure) else None

    def zero_grad(self, *_: Any, **__: Any) -> None:
        """Leave the gradients."""


def _inert(given: Any) -> Any:
    if given is None:
        return None
    return [_Inert(item) for item in given] if isinstance(given, list | tuple) else _Inert(given)


def training_step(trainer: Trainer, module: LightningModule) -> Step:
    """The module's training_step as a function of a batch; one of manual optimization goes nowhere backward.

    Returns:
        A function that returns what the step does, or the loss that it would have gone backward from: the first after a
        diffusion network was called, or else the first.
    """

    def automatic(batch: Any) -> Any:
        with silent(trainer, module), trainer.precision_plugin.forward_context():
            return call(module.training_step, _converted(trainer, batch))

    def manual(batch: Any) -> Any:
        output = None
        with Doors(module) as doors, _NoBackward(doors) as backward, silent(trainer, module):
            vars(module)["manual_backward"] = backward.note
            try:
                with trainer.precision_plugin.forward_context():
                    output = call(module.training_step, _converted(trainer, batch))
            except _Ended:
                return backward.losses[-1]
            except Exception:  # without gradients not all goes on
                if not backward.losses:
                    raise
        return backward.losses[0] if backward.losses else output

    return automatic if module.automatic_optimization else manual


def loss_step(trainer: Trainer, module: LightningModule) -> Step:
    """The module's own loss as a function of a batch.

    That of training_step; where training is manual, that of validation_step (what it returns, or what it logs under a
    name with "loss" in it), or else what training_step goes backward from.
    """
    own = training_step(trainer, module)
    if module.automatic_optimization or not is_overridden("validation_step", module, parent=_parent(module)):
        return own

    def step(batch: Any) -> Any:
        heard: dict[str, float] = {}
        with silent(trainer, module, heard), trainer.precision_plugin.forward_context():
            output = call(module.validation_step, _converted(trainer, batch))
        if is_loss(output):
            return output
        losses = [value for name, value in heard.items() if "loss" in name.lower()]
        return torch.tensor(losses[0]) if losses else own(batch)

    return step


def _parent(module: LightningModule) -> type:
    return next(kind for kind in kinds(LightningModule) if isinstance(module, kind))


def _converted(trainer: Trainer, batch: Any) -> Any:
    """A batch in the precision of the training."""
    return trainer.precision_plugin.convert_input(batch)


def call(method: Callable[..., Any], batch: Any) -> Any:
    """Call a step with what it takes, as the loop does: the batch, and its number where there is a second parameter."""
    if is_param_in_hook_signature(method, "dataloader_iter", explicit=True):
        raise TypeError("training_step takes its batches from an iterator (dataloader_iter).")
    return method(batch, *([0] if is_param_in_hook_signature(method, "batch_idx", min_args=2) else []))
