"""The first training step of a module, from which it is decided which of its errors are measured."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from hopfield_replay.denoisers import Denoiser, find_denoiser
from hopfield_replay.denoisers.averages import Average, find_averages
from hopfield_replay.denoisers.trust import Contradiction, Means, Trust, decide, take_step
from hopfield_replay.denoisers.witness import Witness
from hopfield_replay.encoders import Columns
from hopfield_replay.lightning.own_step import loss_step, measuring, training_step
from hopfield_replay.utilities.distributed import gather_objects

Weights = Literal["auto", "last", "ema"]


class FirstStep:
    """Watches the first training step of a module, and decides on it before the first step of an optimizer.

    Args:
        denoiser: a Denoiser, or a function from the module to one; None: looked for on the module.
        columns: says where in a prepared batch that is which a given or found denoiser denoises.
        timesteps: of the errors; None: by default.
        weights: which weights are measured, see ForgettingMonitor.
        verify: whether a given denoiser is checked against the training step.
        loss_draws: random draws of a paired loss.
        seed: of these.
    """

    def __init__(
        self,
        denoiser: Denoiser | Callable[[LightningModule], Denoiser] | None,
        *,
        columns: Callable[[], Columns],
        timesteps: Sequence[float] | None,
        weights: Weights,
        verify: bool,
        loss_draws: int,
        seed: int,
    ) -> None:
        self.denoiser = denoiser
        self.columns = columns
        self.timesteps = timesteps
        self.weights = weights
        self.verify = verify
        self.loss_draws = loss_draws
        self.seed = seed
        self._witness: Witness | None = None
        self._decided: tuple[LightningModule, Trust] | None = None

    def watch(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Begin to watch a step, unless it was decided on this module."""
        if self._trusted(module) is None and self._witness is None:
            self._witness = Witness(module, batch)
            self._witness.__enter__()

    def forward_ended(self) -> None:
        """Watch no further calls of networks: those in the backward pass are repetitions."""
        if self._witness is not None:
            self._witness.close()

    def leave(self) -> Witness | None:
        """Watch no longer."""
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.__exit__()
        return witness

    def conclude(self, trainer: Trainer, module: LightningModule) -> None:
        """Decide, if a step was watched, and say in one line what is measured.

        Raises:
            MisconfigurationException: a given denoiser contradicts the training step, or does not work.
        """
        witness = self.leave()
        if witness is not None:
            self._decide(trainer, module, witness)

    def trust(self, trainer: Trainer, module: LightningModule, batch: Callable[[], Any]) -> Trust:
        """What was decided; where no training step was taken (a boundary is made up for), it is taken now, and undone.

        Args:
            trainer: of the module.
            module: the module.
            batch: makes a prepared batch.
        """
        found = self._trusted(module)
        if found is not None:
            return found
        given = batch()
        try:
            witness = take_step(training_step(trainer, module), module, given)
        except Exception as error:  # somebody's step, outside of the loop
            rank_zero_warn(f"The training step cannot be taken again ({type(error).__name__}: {error}).")
            witness = Witness(module, given)
        return self._decide(trainer, module, witness)

    def average(self, module: LightningModule) -> Average | None:
        """The averaged weights that are measured in place of the last ones.

        Raises:
            MisconfigurationException: weights="ema", and there is none, or there are several.
        """
        trust = self._trusted(module)
        found = [] if self.weights == "last" else find_averages(module, _network(trust))
        if self.weights == "ema" and len(found) != 1:
            listed = ", ".join(average.path for average in found) or "none"
            raise MisconfigurationException(
                f'weights="ema" needs one average of the trained weights on {type(module).__name__}, found {listed}. '
                'Use weights="last", or pass denoiser= with the average.'
            )
        given = self.denoiser is not None and self.weights == "auto"
        return found[0] if len(found) == 1 and not given else None

    @contextmanager
    def averaged(self, module: LightningModule) -> Iterator[None]:
        """Let the averaged weights, where they are measured, stand in for the last ones."""
        average = self.average(module)
        with nullcontext() if average is None else average.in_place():
            yield

    def _trusted(self, module: LightningModule) -> Trust | None:
        return self._decided[1] if self._decided is not None and self._decided[0] is module else None

    def _decide(self, trainer: Trainer, module: LightningModule, witness: Witness) -> Trust:
        means = Means(
            given=self._given(module),
            find=lambda: find_denoiser(module),
            split=self._split,
            step=training_step(trainer, module),
            loss=loss_step(trainer, module),
            timesteps=self.timesteps,
            draws=self.loss_draws,
            seed=self.seed,
            verify=self.verify,
        )
        error, trust = "", Trust("energies only")
        try:
            with measuring(trainer, module):
                trust = decide(module, witness, means)
        except Contradiction as contradiction:
            error = str(contradiction)
        told = gather_objects((error, trust.level))
        error = next((text for text, _ in told if text), "")
        if error:
            raise MisconfigurationException(
                f"The denoiser that was given does not do what training_step of {type(module).__name__} does: {error}. "
                "Correct it, leave it out (it is then inferred from training_step where that can be done), or pass "
                "verify=False if you know better."
            )
        if any(level != trust.level for _, level in told):  # ranks that see different batches; all must do the same
            trust = Trust("energies only", reasons=("the processes came to different conclusions",))
        self._decided = (module, trust)
        self._say(module, trust)
        return trust

    def _given(self, module: LightningModule) -> Denoiser | None:
        if self.denoiser is None or (isinstance(self.denoiser, Denoiser) and not isinstance(self.denoiser, type)):
            return self.denoiser
        return self.denoiser(module)  # a class makes one, too

    def _split(self, batch: Any) -> tuple[Tensor, Any]:
        return self.columns().split(batch)

    def _say(self, module: LightningModule, trust: Trust) -> None:
        name, because = type(module).__name__, "; ".join(trust.reasons)
        average = self.average(module)
        weights = "" if average is None else f", with the averaged weights in {average.path}"
        rank_zero_info(f"Reconstruction errors of {name}: {trust}{weights}.")
        if trust.level == "given" and because:
            rank_zero_warn(
                f"The denoiser that was given could not be verified against training_step of {name}: {because}. It is "
                "used as it is; verify=False says that you know better, without this warning."
            )
        elif trust.level in ("inferred", "own step") and because:
            rank_zero_warn(
                f"What was found on {name} is not used ({because}). Errors are measured as its training_step does: "
                f"{trust}."
            )
        elif trust.level == "paired loss":
            rank_zero_warn(
                f"No denoiser was found on {name} ({because}): no reconstruction errors, but the rise of its own loss "
                f"is measured, over {self.loss_draws} equal draws for each sample. {_CURE}"
            )
        elif trust.level == "energies only":
            rank_zero_warn(
                f"No denoiser was found on {name} ({because}): only energies are measured, no reconstruction errors. "
                f"{_CURE}"
            )


_CURE = (
    "Pass ForgettingMonitor(denoiser=...), an object with num_timesteps, noise, predict_clean and snr, e.g. "
    "hopfield_replay.denoisers.DiffusersDenoiser(unet, scheduler)."
)


def _network(trust: Trust | None) -> nn.Module | None:
    """The network that a decision is about."""
    for name in ("network", "model"):
        network = getattr(None if trust is None else trust.denoiser, name, None)
        if isinstance(network, nn.Module):
            return network
    return None


__all__ = ["FirstStep", "Weights"]
