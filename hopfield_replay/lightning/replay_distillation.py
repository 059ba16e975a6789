"""ReplayDistillation: a callback that holds a network's answers for replayed samples where they were."""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from hopfield_replay.denoisers import find_averages, find_denoiser
from hopfield_replay.denoisers.held_network import HeldNetwork, check_strength
from hopfield_replay.denoisers.row_order import in_order
from hopfield_replay.lightning.monitor import ForgettingMonitor
from hopfield_replay.lightning.namespaces import EitherCallback, is_a
from hopfield_replay.lightning.own_step import measuring, training_step
from hopfield_replay.lightning.raw_batches import RawBatches
from hopfield_replay.lightning.replay_loader import stream_in
from hopfield_replay.utilities.nested import rows


class ReplayDistillation(EitherCallback):
    r"""On replayed samples the network is to answer as it did before the task, and not only to denoise them.

    To the gradient of the loss it adds that of :math:`\lambda` times the mean squared difference between the network's
    answers for the replayed samples of the batch and those of the network that the task began with, for the noise, the
    times and the conditions that the training step draws (:class:`~hopfield_replay.denoisers.HeldNetwork`). Few kept
    samples are learned by heart otherwise, most of all at low noise. The module and the loss that it logs stay as they
    are. It works beside any policy of the buffer, in automatic and manual optimization, with mixed precision and
    accumulated batches, and under DDP. In a fit without replayed samples, such as the first, nothing is held. With
    averaged weights, in a WeightAveraging callback or in the module itself, the average is the network of before.

    It takes one forward pass more in each step, and a copy of the weights that learn, which checkpoints hold, too.

    Args:
        strength: :math:`\lambda` >= 0, beside a loss that is a mean: larger keeps more and learns less.
        network: which module of the LightningModule: its name (``"unet"``), or a function from the LightningModule to
            it. It must be called with one row for each sample, in their order. None: that of the denoiser that is
            found, the only child that learns, or the one that a ForgettingMonitor measures or saw being trained.

    Raises:
        TypeError: a strength that is no number; a network that is neither a name nor a function.
        ValueError: a negative strength; a network that answers with other rows than those of the batch.
        MisconfigurationException: a network that cannot be told, or that the training step does not call; a training
            step that shows it the samples in another order than that of the batch; a strategy
            that spreads the model over processes (FSDP, DeepSpeed, tensor parallel).

    Example:
        >>> ReplayDistillation(strength=3.0, network="unet")
        ReplayDistillation(strength=3.0, network='unet')

    Source: the idea, on generated samples, Masip et al., arXiv:2311.14028.
    """

    def __init__(
        self, strength: float = 1.0, *, network: str | Callable[[LightningModule], nn.Module] | None = None
    ) -> None:
        if not (network is None or isinstance(network, str) or callable(network)) or isinstance(network, nn.Module):
            raise TypeError(
                "network must be the name of a module, or a function from the LightningModule to it, got "
                f"{type(network).__name__}."
            )
        self.strength = check_strength(strength)
        self.network = network
        self._held: HeldNetwork | None = None
        self._holding = ExitStack()
        self._raw = RawBatches()
        self._state: dict[str, Any] = {}
        self._name: str | None = None  # of the network, once it is known
        self._fits = 0
        self._looked = self._waiting = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}(strength={self.strength!r}, network={self.network!r})"

    @property
    def nbytes(self) -> int:
        """Bytes of the old weights while a task lasts."""
        return 0 if self._held is None else self._held.nbytes

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse strategies that spread the network, or the scale of its loss, where it cannot be seen."""
        for spread in (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy):
            if stage == "fit" and is_a(trainer.strategy, spread):
                raise MisconfigurationException(
                    f"ReplayDistillation asks the network that a task began with and adds to gradients, and under "
                    f"{type(trainer.strategy).__name__} weights are spread over processes, or losses scaled, where a "
                    "callback cannot see it; use a strategy that keeps whole models, such as ddp."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the network as it is for the one to hold to, if samples are replayed."""
        self._fits += 1
        self._looked = self._waiting = False
        stream = stream_in(trainer.train_dataloader)
        if stream is None:
            if self._fits > 1:
                rank_zero_warn(
                    "ReplayDistillation holds nothing in this fit: its training data replays nothing. Wrap it in "
                    "ReplayDataModule(datamodule, buffer)."
                )
            return
        found = self._find(trainer, pl_module)
        if found is None:
            # where nothing is held in this task, wait for what a monitor sees in its first step
            self._waiting = bool(_monitors(trainer)) and not (self._state or len(stream.buffer))
            if not self._waiting:
                raise _untold(pl_module)
            return
        self._held = HeldNetwork(found, self.strength)
        if self._state:  # resumed inside of a task
            self._held.load_state_dict(self._state)
            self._state = {}
        elif len(stream.buffer):
            averages = find_averages(pl_module, self._held.network)
            with averages[0].in_place() if len(averages) == 1 else nullcontext():
                self._held.remember()
        self._raw.attach(trainer, lambda batch: (rows(batch), rows(stream.own(batch))))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to hold."""
        self._holding.close()  # of a batch that the module has skipped
        if self._held is None or (self._looked and not self._held.remembers):
            return
        if self._raw.latest is None:
            raise MisconfigurationException(
                "The training_step takes its batches from dataloader_iter, so that nobody can see which samples are "
                "replayed; let it take batch."
            )
        total, own = self._raw.latest
        if not self._looked:
            self._check_order(trainer, pl_module, self._held.network, batch)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        if pl_module.automatic_optimization:
            scale /= trainer.accumulate_grad_batches
        replayed = total - own if self._held.remembers else 0
        self._holding.enter_context(self._held.holding(batch=total, replayed=replayed, scale=scale))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Hold no longer; in a fit's first step, see that there was something to hold."""
        self._holding.close()
        if self._waiting and self._find(trainer, pl_module) is not None:
            self._waiting = False
        elif self._waiting and all(monitor.trust(pl_module) is not None for monitor in _monitors(trainer)):
            raise _untold(pl_module)
        if self._held is not None and not self._looked:
            self._looked = True
            if not self._held.calls:
                raise MisconfigurationException(
                    f"The training step does not call {type(self._held.network).__name__}, whose answers "
                    f"ReplayDistillation is to hold, or without gradients. Pass network=, the name of the one that it "
                    f"calls: {_children(pl_module)}."
                )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the old network."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the network alone."""
        self._holding.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network alone; the next fit begins with another."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """The network's name, and the weights that the task at hand began with; these not between tasks."""
        state: dict[str, Any] = {} if self._name is None else {"network": self._name}
        if self._held is not None and self._held.remembers:
            state["old"] = self._held.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold to the same in what is left of the task."""
        self._state = dict(state_dict.get("old", {}))
        self._name = state_dict.get("network", self._name)

    def _check_order(self, trainer: Trainer, module: LightningModule, network: nn.Module, batch: Any) -> None:
        """See, in a fit's first step, that the last rows that the network is shown are the replayed samples."""
        with measuring(trainer, module):
            try:
                ordered = in_order(training_step(trainer, module), module, network, batch)
            except Exception:  # somebody's step, outside of the loop
                ordered = None
            if ordered is False:
                raise MisconfigurationException(
                    f"The training step shows {type(network).__name__} the samples of a batch in another order than "
                    "that of the batch, so that ReplayDistillation cannot tell which of them are replayed. Let it keep "
                    "their order (noise may be moved to samples, not samples to noise)."
                )

    def _leave(self) -> None:
        self._holding.close()
        self._raw.detach()
        self._held, self._state = None, {}

    def _find(self, trainer: Trainer, module: LightningModule) -> nn.Module | None:
        """The network to hold; None if it cannot be told."""
        if isinstance(self.network, str):
            try:
                return module.get_submodule(self.network)
            except AttributeError as error:
                raise MisconfigurationException(
                    f"{type(module).__name__} has no module {self.network!r}; it has: {_children(module)}."
                ) from error
        if self.network is not None:
            found = self.network(module)
            if not isinstance(found, nn.Module):
                raise MisconfigurationException(
                    f"network(module) must return a torch module, got {type(found).__name__}."
                )
            return found
        named = dict(module.named_modules())
        network = _only(module) if self._name is None else named.get(self._name)
        if network is None:
            told = [trust for monitor in _monitors(trainer) if (trust := monitor.trust(module)) is not None]
            network = (told[0].network or told[0].called) if told else None
        self._name = next((name for name, value in named.items() if value is network), None)
        return network


def _only(module: LightningModule) -> nn.Module | None:
    """The network of the denoiser that is found on a module, or its only child that learns, beside averages."""
    try:
        network = getattr(find_denoiser(module), "model", None)
    except Exception:  # several, or attributes of somebody's own kind that cannot be had
        network = None
    if isinstance(network, nn.Module):
        return network
    averages = {average.path.partition(".")[0] for average in find_averages(module)}
    learning = [
        child
        for name, child in module.named_children()
        if name not in averages and any(weight.requires_grad for weight in child.parameters())
    ]
    return learning[0] if len(learning) == 1 else None


def _monitors(trainer: Trainer) -> list[ForgettingMonitor]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]  # not annotated upstream
    return [callback for callback in callbacks if isinstance(callback, ForgettingMonitor)]


def _untold(module: LightningModule) -> MisconfigurationException:
    return MisconfigurationException(
        f"Which network of {type(module).__name__} ReplayDistillation is to hold cannot be told; pass network=, "
        f"the name of the one that the training step calls: {_children(module)}."
    )


def _children(module: nn.Module) -> str:
    names = [f"{name!r} ({type(child).__name__})" for name, child in module.named_children()]
    return ", ".join(names) or "none"


__all__ = ["ReplayDistillation"]
