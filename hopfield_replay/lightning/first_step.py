"""The first training step of a module, from which it is decided which of its errors are measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor

from hopfield_replay.denoisers import Denoiser, find_denoiser
from hopfield_replay.denoisers.averages import Average, find_averages
from hopfield_replay.denoisers.own_step import Step
from hopfield_replay.denoisers.paired_loss import PairedLoss
from hopfield_replay.denoisers.trust import Contradiction, Level, Means, Trust, decide, take_step, without_errors
from hopfield_replay.denoisers.witness import Witness
from hopfield_replay.encoders import Columns
from hopfield_replay.lightning.given_denoiser import CannotBeMade, given_denoiser
from hopfield_replay.lightning.own_step import counted, loss_step, measuring, training_step
from hopfield_replay.utilities.distributed import gather_objects
from hopfield_replay.utilities.states import DAMAGE, check_mapping, check_whole

Weights = Literal["auto", "last", "ema"]
_PATIENCE = 32  # steps in which no network learns that are watched, and passed over


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
        self._made: tuple[LightningModule, Denoiser] | None = None  # what a given function made of a module
        self.columns = columns
        self.timesteps = timesteps
        self.weights = weights
        self.verify = verify
        self.loss_draws = loss_draws
        self.seed = seed
        self._witness: Witness | None = None
        self._decided: tuple[LightningModule, Trust] | None = None
        self._backward = False  # whether there was a backward pass in the step that is watched
        self._seen = 0  # steps that were watched in vain
        self._counts: tuple[int, int] | None = None  # of steps and epochs, at which the module's own loss is measured
        self._kept: Trust | None = None  # what was decided before a resume

    def make(self, module: LightningModule) -> None:
        """Make the denoiser that a given function makes, before the first step: what is none is said there.

        A function that fails is asked again after the first forward pass, which may make what it reads.

        Raises:
            TypeError: it returns something else.
        """
        if self.decided(module) is None:
            with suppress(CannotBeMade):
                self._given(module)

    def watch(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        """Begin to watch a step, unless it was decided on this module."""
        if self.decided(module) is None and self._witness is None:
            self._backward = False
            self._witness = Witness(module, batch)
            self._witness.__enter__()

    def goes_backward(self, module: LightningModule) -> None:
        """A backward pass begins; in automatic optimization all networks were called then."""
        self._backward = True
        if self._witness is not None and module.automatic_optimization:
            self._witness.close()

    def leave(self) -> Witness | None:
        """Watch no longer."""
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.__exit__()
        return witness

    def conclude(self, trainer: Trainer, module: LightningModule, *, ended: bool = False) -> Trust | None:
        """Decide, if a step was watched, and say in one line what is measured.

        Args:
            trainer: of the module.
            module: the module.
            ended: the step is over; else an optimizer is about to take one, which in manual optimization may be that of
                another network.

        Returns:
            What was decided; None if it was decided before, or a step has to be seen in which a network learns.

        Raises:
            MisconfigurationException: a given denoiser contradicts the training step, or does not work.
        """
        witness, sure = self._witness, self._backward and module.automatic_optimization
        if witness is None or not (witness.taught or ended or sure):
            return None
        self.leave()
        if not witness.taught and not self._backward and self._seen < _PATIENCE:  # the step skipped its batch
            self._seen += 1
            return None
        return self._decide(trainer, module, witness)

    def trust(self, trainer: Trainer, module: LightningModule, batch: Callable[[], Any]) -> Trust:
        """What was decided, in this process or before it.

        Where no training step was taken (a boundary is made up for) and one is needed to know what a network is shown,
        it is taken now: in eval mode, with the Trainer validating, unheard by loggers and optimizers, and undone.

        Args:
            trainer: of the module.
            module: the module.
            batch: makes a prepared batch.
        """
        trust = self.decided(module) or self._again(trainer, module)
        if trust is None:
            given = batch()
            try:
                with measuring(trainer, module):
                    witness = take_step(training_step(trainer, module), module, given)
            except Exception as error:  # somebody's step, outside of the loop
                rank_zero_warn(f"The training step cannot be taken again ({type(error).__name__}: {error}).")
                witness = Witness(module, given)
            return self._decide(trainer, module, witness)
        if trust.loss is not None and self._counts is None:
            self._counts = (trainer.global_step, trainer.current_epoch)
        return trust

    def fall(self, trainer: Trainer, module: LightningModule, error: Exception, batch: Callable[[], Any]) -> Trust:
        """What is measured from now on, after what was decided could not be measured at a boundary.

        Args:
            trainer: of the module.
            module: the module.
            error: what happened.
            batch: makes a prepared batch.
        """
        failed = self.decided(module)
        reasons = (str(error),)
        trust = Trust("energies only", reasons=reasons)
        if failed is not None and failed.denoiser is not None:
            given = batch()
            with measuring(trainer, module):
                trust = without_errors(module, given, self._means(trainer, module), reasons)
        trust = _agreed(trust)
        self._decided = (module, trust)
        level = "nothing" if failed is None else failed.level
        rank_zero_warn(
            f"{type(module).__name__} could not be measured at the boundary as it was at the start ({level}): {error}. "
            f"From now on: {trust}. What was measured before stays as it is."
        )
        return trust

    def state_dict(self) -> dict[str, Any] | None:
        """What was decided, for the boundaries that are made up for after a kill; None if nothing was."""
        trust = self._kept if self._decided is None else self._decided[1]
        if trust is None:
            return None
        return {"level": trust.level, "words": trust.words, "counts": None if self._counts is None else [*self._counts]}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take over what was decided.

        Raises:
            ValueError: a damaged state.
        """
        self._kept = self._counts = None
        if state is None:
            return
        try:
            held = check_mapping(state, "what is measured")
            level, words, counts = held["level"], held["words"], held["counts"]
            if level not in get_args(Level) or not isinstance(words, str):
                raise ValueError(f"level is {level!r}, words are {words!r}")
            if counts is not None:
                step, epoch = counts
                self._counts = (check_whole(step, "step"), check_whole(epoch, "epoch"))
        except DAMAGE as error:
            raise ValueError(f"The state of what is measured is damaged: {error!r}.") from error
        self._kept = Trust(level, words=words)

    def average(self, module: LightningModule) -> Average | None:
        """The averaged weights that are measured in place of the last ones.

        Raises:
            MisconfigurationException: weights="ema", and there is none, or there are several.
        """
        trust = self.decided(module)
        averages = self._averages(module, trust)
        if self.weights == "ema" and len(averages) != 1:
            listed = ", ".join(average.path for average in averages) or "none"
            raise MisconfigurationException(
                f'weights="ema" needs one average of the trained weights on {type(module).__name__}, found {listed}. '
                'Use weights="last", or pass denoiser= with the average.'
            )
        given = self.denoiser is not None and self.weights == "auto"
        return averages[0] if len(averages) == 1 and not given else None

    def _averages(self, module: LightningModule, trust: Trust | None) -> list[Average]:
        if self.weights == "last":
            return []
        try:
            return find_averages(module, None if trust is None else trust.network)
        except Exception:  # of attributes of somebody's own kind
            return []

    @contextmanager
    def averaged(self, module: LightningModule) -> Iterator[None]:
        """Let the averaged weights, where they are measured, stand in for the last ones."""
        average = self.average(module)
        with nullcontext() if average is None else average.in_place():
            yield

    def decided(self, module: LightningModule) -> Trust | None:
        """What was decided on a module in this process."""
        return self._decided[1] if self._decided is not None and self._decided[0] is module else None

    def _means(self, trainer: Trainer, module: LightningModule, given: Denoiser | None = None) -> Means:
        own = loss_step(trainer, module)

        def loss(batch: Any) -> Any:
            with counted(trainer, self._counts):
                return own(batch)

        return Means(
            given=given,
            find=lambda: find_denoiser(module),
            split=self._split,
            step=training_step(trainer, module),
            loss=loss,
            timesteps=self.timesteps,
            draws=self.loss_draws,
            seed=self.seed,
            verify=self.verify,
        )

    def _again(self, trainer: Trainer, module: LightningModule) -> Trust | None:
        """What was decided before a resume, where no training step is needed to know it again."""
        kept, given = self._kept, self._given(module)
        if kept is None:
            return None
        if kept.level in ("given", "given, verified"):
            trust = None if given is None else replace(kept, denoiser=given)
        elif kept.level == "found, verified":
            denoiser = None if given is not None else find_denoiser(module)
            trust = None if denoiser is None else replace(kept, denoiser=denoiser)
        elif kept.level == "paired loss":
            trust = replace(
                kept, loss=PairedLoss(_needed(self._means(trainer, module).loss), module, self.loss_draws, self.seed)
            )
        else:
            trust = kept if kept.level == "energies only" else None
        if trust is not None:
            self._decided = (module, trust)
        return trust

    def _decide(self, trainer: Trainer, module: LightningModule, witness: Witness) -> Trust:
        means = self._means(trainer, module, self._given(module))
        error, trust = "", Trust("energies only")
        with measuring(trainer, module):
            try:
                trust = decide(module, witness, means)
            except Contradiction as contradiction:  # of this process's batch
                error = str(contradiction)
        error = next((text for text in gather_objects(error) if text), "")
        if error:
            raise MisconfigurationException(
                f"The denoiser that was given does not do what training_step of {type(module).__name__} does: {error}. "
                "Correct it, leave it out (it is then inferred from training_step where that can be done), or pass "
                "verify=False if you know better."
            )
        trust = _agreed(trust)
        self._decided = (module, trust)
        self._say(module, trust)
        return trust

    def _given(self, module: LightningModule) -> Denoiser | None:
        if self._made is not None and self._made[0] is module:
            return self._made[1]
        denoiser = given_denoiser(self.denoiser, module)
        if denoiser is not None:
            self._made = (module, denoiser)
        return denoiser

    def _split(self, batch: Any) -> tuple[Tensor, Any]:
        return self.columns().split(batch)

    def _say(self, module: LightningModule, trust: Trust) -> None:
        name, because = type(module).__name__, "; ".join(trust.reasons)
        average, others = self.average(module), [one.path for one in self._averages(module, trust)]
        weights = "" if average is None else f", with the averaged weights in {average.path}"
        if average is None and others and self.denoiser is not None:
            weights = f", with the denoiser that was given: not the averaged weights in {', '.join(others)}"
        elif average is None and others:
            rank_zero_warn(
                f"{name} keeps several averages of its trained weights ({', '.join(others)}): the last weights are "
                'measured. Pass denoiser= with the average that you mean, or weights="last" without this warning.'
            )
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


def _agreed(trust: Trust) -> Trust:
    """The decision of all processes, which may see different batches."""
    if any(level != trust.level for level in gather_objects(trust.level)):
        return Trust("energies only", reasons=("the processes came to different conclusions",))
    return trust


def _needed(step: Step | None) -> Step:
    assert step is not None
    return step


__all__ = ["FirstStep", "Weights"]
