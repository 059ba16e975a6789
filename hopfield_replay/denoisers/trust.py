"""Which errors of a module can be trusted, decided from one training step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.batch_reader import BatchReader, batch_reader
from hopfield_replay.denoisers.dry_run import Read, dry_run, scaled_by_the_batch, try_loss
from hopfield_replay.denoisers.guarded import GuardedDenoiser, guarded_loss, guarded_read
from hopfield_replay.denoisers.inferred import InferredDenoiser
from hopfield_replay.denoisers.inside import look_inside
from hopfield_replay.denoisers.own_step import Step, StepReader, copied, traceless
from hopfield_replay.denoisers.paired_loss import PairedLoss, scalar_in
from hopfield_replay.denoisers.verification import Finding, verify
from hopfield_replay.denoisers.witness import Refusal, Statement, Witness
from hopfield_replay.functional._diffusion_arguments import check_timesteps
from hopfield_replay.functional.denoiser import Denoiser

Level = Literal["given, verified", "given", "found, verified", "inferred", "own step", "paired loss", "energies only"]


class Contradiction(ValueError):
    """A denoiser that was given contradicts the training step."""


@dataclass(frozen=True, eq=False)
class Trust:
    """What is measured at the boundaries of a module, and why nothing better.

    Attributes:
        level: in falling order of trust: a denoiser that was given, and is verified against the training step (or
            cannot be verified, or was not to be); one found on the module, verified; one inferred from the step; the
            step itself, read for what its network is shown; the step's loss; only energies.
        denoiser: measures reconstruction errors; None on the last two levels.
        read: a batch to the denoiser's samples and condition; None: as batches are split by default.
        loss: measures paired losses; None on all levels but that.
        reasons: why each better level was passed over.
        words: what is measured, in words.
        called: the one network that the step was seen to train; None: none, or several.

    Example:
        >>> print(Trust("paired loss", reasons=("the step calls its network 2 times",)))
        paired loss
    """

    level: Level
    denoiser: Denoiser | None = None
    read: Read | None = None
    loss: Callable[[Any], Tensor] | None = None
    reasons: tuple[str, ...] = ()
    words: str = ""
    called: nn.Module | None = None

    def __str__(self) -> str:
        return f"{self.level}: {self.words}" if self.words else self.level

    @property
    def network(self) -> nn.Module | None:
        """The network whose errors are measured; None if there is none, or it is not told."""
        for held in (getattr(self.denoiser, "network", None), getattr(self.denoiser, "model", None)):
            if isinstance(held, nn.Module):
                return held
        return None

    @property
    def safe(self) -> "Trust":
        """The same; what measures raises nothing but :class:`~hopfield_replay.denoisers.guarded.NotMeasured`."""
        return replace(
            self,
            denoiser=None if self.denoiser is None else GuardedDenoiser(self.denoiser),
            read=None if self.read is None else guarded_read(self.read),
            loss=None if self.loss is None else guarded_loss(self.loss),
        )


@dataclass(frozen=True, eq=False)
class Means:
    """What a decision can draw on.

    Attributes:
        given: a denoiser that the user passed.
        find: looks for one on the module; may raise ValueError.
        split: a batch to samples and condition, for both of these.
        step: the module's own step, without a trace; None where it cannot be called.
        loss: as step, a batch to a loss.
        timesteps: of the errors; None: by default.
        draws: of the paired loss.
        seed: of the paired loss.
        verify: whether a given denoiser is compared with the step.
    """

    given: Denoiser | None
    find: Callable[[], Denoiser | None]
    split: Read
    step: Step | None
    loss: Step | None
    timesteps: Sequence[float] | None = None
    draws: int = 64
    seed: int = 0
    verify: bool = True


def decide(module: nn.Module, witness: Witness, means: Means) -> Trust:
    """The highest level of trust that a module's first training step allows; each was tried on its first samples.

    Args:
        module: the module.
        witness: of its first training step.
        means: what can be measured with.

    Raises:
        Contradiction: a given denoiser does something else than the training step, or fails on its first batch.
    """
    return replace(_decide(module, witness, means), called=witness.network)


def _decide(module: nn.Module, witness: Witness, means: Means) -> Trust:
    batch = witness.batch
    told = _attempt(witness.testimony, Refusal("the training step could not be looked into", blind=True))
    if isinstance(told, Refusal) and told.calls and means.step is not None:
        told = _attempt(lambda: look_inside(means.step, module, batch, told), told)  # type: ignore[arg-type]
    reader = _reader(told, module, batch, means.step)
    reasons: list[str] = []
    if means.given is not None:
        finding = _verified(means.given, told, reader, module, batch, means)
        if finding.contradicts:
            raise Contradiction(finding.reason)
        if not means.verify:
            return Trust("given", means.given)
        if finding.verified:
            return Trust("given, verified", means.given)
        if isinstance(told, Refusal) and told.blind:
            return Trust("given", means.given, words=f"not verified, {told.reason}")
        return Trust("given", means.given, reasons=(finding.reason,))
    try:
        denoiser = means.find()
    except ValueError as error:
        denoiser = None
        reasons.append(str(error))
    except Exception as error:  # of attributes of somebody's own kind
        denoiser = None
        reasons.append(f"its attributes cannot be looked through ({type(error).__name__}: {error})")
    if denoiser is not None:
        finding = _verified(denoiser, told, reader, module, batch, means)
        if finding.verified:
            return Trust("found, verified", denoiser)
        reasons.append(f"{type(denoiser).__name__}: {finding.reason}")
    if isinstance(told, Refusal):
        reasons.append(told.reason)
    elif not told.complete:
        reasons.append(told.missing)
    else:
        inferred, problem = _inferred(told, reader, module, batch, means)
        if inferred is not None:
            level: Level = "own step" if isinstance(reader, StepReader) else "inferred"
            return Trust(level, inferred, reader, None, tuple(reasons), str(told))
        reasons.append(problem)
    return without_errors(module, batch, means, reasons)


def without_errors(module: nn.Module, batch: Any, means: Means, reasons: Sequence[str]) -> Trust:
    """What is measured where there are no reconstruction errors: the module's own loss, or energies only.

    Args:
        module: the module.
        batch: a prepared batch, for a dry run.
        means: what can be measured with.
        reasons: why there are no errors.
    """
    if means.loss is None:
        return Trust("energies only", reasons=tuple(reasons))
    loss = PairedLoss(means.loss, module, means.draws, means.seed)
    problem = try_loss(loss, batch)
    if problem:
        return Trust("energies only", reasons=(*reasons, problem))
    return Trust("paired loss", loss=loss, reasons=tuple(reasons))


def _inferred(
    told: Statement, reader: Read | None, module: nn.Module, batch: Any, means: Means
) -> tuple[InferredDenoiser | None, str]:
    """The denoiser that follows from a complete testimony, or what keeps it from being measured."""
    if reader is None:
        return None, "what its network is shown is made in training_step, which cannot be called"
    assert told.time is not None
    assert told.target is not None
    assert told.reading.timetable is not None
    denoiser = InferredDenoiser(told.call, told.time, told.reading.timetable, told.target)
    if means.timesteps is not None:
        check_timesteps(denoiser, means.timesteps)
    problem = dry_run(denoiser, reader, module, batch, means.timesteps)
    if not problem and isinstance(reader, BatchReader) and means.step is not None:
        asked = StepReader(means.step, module, told.call.network, told.time, told.reading.timetable)
        problem = scaled_by_the_batch(reader, asked, batch)
    return (None, problem) if problem else (denoiser, "")


def _reader(told: Statement | Refusal, module: nn.Module, batch: Any, step: Step | None) -> Read | None:
    if isinstance(told, Refusal):
        return None
    try:
        direct = batch_reader(told, batch)
    except Exception:  # a batch of somebody's own kind
        direct = None
    if direct is not None or step is None or told.time is None or told.reading.timetable is None:
        return direct
    return StepReader(step, module, told.call.network, told.time, told.reading.timetable)


def _verified(
    denoiser: Denoiser, told: Statement | Refusal, reader: Read | None, module: nn.Module, batch: Any, means: Means
) -> Finding:
    """Whether a denoiser does what the step does, after it was seen to work at all."""
    problem = dry_run(denoiser, means.split, module, batch, means.timesteps)
    if problem:
        return Finding(problem, True)
    if not means.verify and denoiser is means.given:
        return Finding()
    if isinstance(told, Refusal):
        return Finding(told.reason)
    try:
        samples, condition = means.split(batch)
        clean = told.clean if reader is None else reader(batch)[0]
        return verify(denoiser, samples, condition, told, module, clean)
    except Exception as error:  # somebody's code, at noise levels that the dry run did not try
        return Finding(f"it cannot be compared with training_step ({type(error).__name__}: {error})")


def _attempt(do: Callable[[], Statement | Refusal], otherwise: Refusal) -> Statement | Refusal:
    try:
        return do()
    except Exception as error:  # somebody's step, called once more than it expects
        reason = f"{otherwise.reason}; asked again, the step raised {type(error).__name__}: {error}"
        return Refusal(reason, blind=otherwise.blind)


def watch_step(
    step: Step,
    module: nn.Module,
    batch: Any,
    *,
    timesteps: Sequence[float] | None = None,
    draws: int = 64,
    seed: int = 0,
) -> Trust:
    """What can be measured of a model whose training is a function, found by taking one step and undoing it.

    For training loops of one's own; with Lightning a ForgettingMonitor does this by itself. Parameters, gradients,
    buffers, attributes and random states are as before.

    Args:
        step: maps a batch to a loss, as the loop does it.
        module: holds the networks that it trains, and schedules, if they are anywhere.
        batch: as the step takes it.
        timesteps: of the errors; None: by default.
        draws: random draws of each sample, where all that can be measured is the loss.
        seed: of these.

    Returns:
        What to pass on: ``tracker.end_task(source, denoiser=trust.denoiser, read=trust.read, loss=trust.loss)``.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = nn.Linear(16, 16)
        ...     def forward(self, x, t): return self.layer(x) * t[:, None]
        >>> net = Net()
        >>> def step(x):
        ...     t, noise = torch.rand(len(x)), torch.randn_like(x)
        ...     return (net(x + t[:, None] * (noise - x), t) - (noise - x)).square().mean()
        >>> print(watch_step(step, net, torch.randn(8, 16)))
        inferred: the module itself predicts flow_prediction, straight path, shown as time t
    """
    means = Means(None, lambda: None, lambda batch: (batch, None), step, step, timesteps, draws, seed)
    return decide(module, take_step(step, module, batch), means)


def take_step(step: Step, module: nn.Module, batch: Any) -> Witness:
    """The witness of a step that is taken, and undone.

    Raises:
        Exception: whatever the step raises.
    """
    witness = Witness(module, batch)
    with traceless(module), torch.enable_grad(), witness:
        loss = scalar_in(step(copied(batch)))
        if loss is not None and loss.requires_grad:
            witness.close()
            loss.backward()
    return witness


__all__ = ["Contradiction", "Means", "Read", "Trust", "decide", "take_step", "watch_step", "without_errors"]
