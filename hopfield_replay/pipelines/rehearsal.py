"""One step of a pipeline's own call, with spies where its network, its scheduler and its autoencoder are called."""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hopfield_replay.pipelines.quiet import quiet_libraries

OWN_PARTS = (
    "Encode the data yourself and call audit() with DiffusersDenoiser(network, scheduler), or with CallableDenoiser "
    "and a function that calls the network."
)


class CannotBeReadError(ValueError):
    """A pipeline does something else than what is understood here; the message says what.

    Example:
        >>> issubclass(CannotBeReadError, ValueError)
        True
    """


class _Enough(BaseException):
    """All that was wanted is known; no ``except Exception`` of a pipeline is to stop it."""


class _Stepped(NamedTuple):
    """What a scheduler returns, however a pipeline takes it."""

    prev_sample: Tensor
    pred_original_sample: Tensor


@dataclass
class Rehearsal:
    """What was seen of one step.

    Attributes:
        network: the module that was called between the choice of the timesteps and the scheduler's step.
        name: of that component.
        arguments: what it was given, by the names of its forward's parameters.
        output: what it returned.
        predicted: what the pipeline made of that for the scheduler, None if it was not reached.
        samples: what the scheduler was given to step from.
        decoded: what the autoencoder was given; None if it was not reached.
    """

    network: Any = None
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    predicted: Tensor | None = None
    samples: Tensor | None = None
    decoded: Tensor | None = None


def rehearse(
    pipeline: Any,
    prompts: Sequence[str],
    size: tuple[int, int],
    timestep: float,
    *,
    guidance: float = 1.0,
    answer: Callable[[dict[str, Any]], Any] | None = None,
    at_door: bool = False,
    stepped: Callable[[Tensor], Tensor] | None = None,
) -> Rehearsal:
    """Let a text-to-image pipeline take one step, and look at what it does.

    The pipeline, its random state and torch's are as before.

    Args:
        pipeline: of diffusers, with ``prompt`` among the arguments of its call.
        prompts: one for each sample.
        size: height and width of the images.
        timestep: of the step, as its scheduler counts.
        guidance: the pipeline's ``guidance_scale``; 1 is none, which is what training uses.
        answer: what the network returns, from its arguments; None: it is asked.
        at_door: stop before the network.
        stepped: what the scheduler returns, from the samples that it got, to be decoded; None: stop at the scheduler.

    Raises:
        CannotBeReadError: the pipeline's call fails, calls no network or several, or never gets where it is to stop.

    Source: the denoising loops of the text-to-image pipelines of diffusers 0.42.
    """
    seen = Rehearsal()
    wanted = {
        "prompt": list(prompts), "height": size[0], "width": size[1], "num_inference_steps": 1, "output_type": "pt",
        "guidance_scale": guidance, "use_resolution_binning": False, "generator": torch.Generator().manual_seed(0),
    }  # fmt: skip
    known = inspect.signature(pipeline.__call__).parameters
    given = {name: value for name, value in wanted.items() if name in known}
    try:
        with _spied(pipeline, seen, timestep, answer, at_door, stepped), torch.no_grad(), quiet_libraries():
            pipeline(**given)
    except _Enough:
        return seen
    except (CannotBeReadError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of whatever the pipeline misses
        said = " ".join(str(error).split()) or type(error).__name__
        raise CannotBeReadError(
            f"{type(pipeline).__name__} cannot be called with prompts alone at {size[0]} x {size[1]} pixels ({said}). "
            f"{OWN_PARTS}"
        ) from error
    raise CannotBeReadError(f"{type(pipeline).__name__} calls no network between its scheduler's steps. {OWN_PARTS}")


@contextmanager
def _spied(
    pipeline: Any,
    seen: Rehearsal,
    timestep: float,
    answer: Callable[[dict[str, Any]], Any] | None,
    at_door: bool,
    stepped: Callable[[Tensor], Tensor] | None,
) -> Iterator[None]:
    """Spies in all parts of the pipeline inside the block."""
    scheduler, shown = pipeline.scheduler, dict(getattr(pipeline, "_progress_bar_config", {}))
    spy, started = copy.deepcopy(scheduler), False

    @functools.wraps(scheduler.set_timesteps)  # pipelines look at its signature
    def set_timesteps(*_: Any, device: Any = None, **__: Any) -> None:
        nonlocal started
        started = True
        place = device if isinstance(device, torch.device | str) else pipeline._execution_device
        dtype = torch.int64 if isinstance(timestep, int) else torch.float32
        spy.timesteps = torch.tensor([timestep], dtype=dtype, device=place)
        spy.num_inference_steps = 1

    @functools.wraps(scheduler.step)
    def step(model_output: Tensor, _: Any, sample: Tensor, *__: Any, **___: Any) -> _Stepped:
        seen.predicted, seen.samples = model_output, sample
        if stepped is None:
            raise _Enough
        made = stepped(sample)
        return _Stepped(made, made)

    def spy_on(name: str, module: Any) -> Callable[..., Any]:
        forward, signature = module.forward, inspect.signature(module.forward)

        @functools.wraps(forward)
        def call(*args: Any, **kwargs: Any) -> Any:
            if not started:  # a text encoder
                return forward(*args, **kwargs)
            if seen.network is not None:
                raise CannotBeReadError(
                    f"{type(pipeline).__name__} calls {seen.name} and then {name} for one step, also at "
                    f"guidance_scale=1. {OWN_PARTS}"
                )
            seen.network, seen.name = module, name
            seen.arguments = dict(signature.bind(*args, **kwargs).arguments)
            if at_door:
                raise _Enough
            seen.output = forward(*args, **kwargs) if answer is None else answer(seen.arguments)
            return seen.output

        return call

    def decode(z: Tensor, *_: Any, **__: Any) -> Any:
        seen.decoded = z
        raise _Enough

    vae = getattr(pipeline, "vae", None)
    dtype = getattr(vae, "dtype", None)
    with ExitStack() as stack:
        stack.callback(setattr, pipeline, "_progress_bar_config", shown)
        pipeline.set_progress_bar_config(disable=True)
        stack.callback(setattr, pipeline, "scheduler", scheduler)
        spy.set_timesteps, spy.step, spy.scale_model_input = set_timesteps, step, lambda sample, *_, **__: sample
        pipeline.scheduler = spy
        for name, module in pipeline.components.items():
            if isinstance(module, nn.Module) and module is not vae:
                stack.enter_context(_replaced(module, "forward", spy_on(name, module)))
        if vae is not None:
            stack.callback(_as_it_was, vae, dtype)
            stack.enter_context(_replaced(vae, "decode", decode))
        yield


def _as_it_was(vae: Any, dtype: Any) -> None:
    """The precision of an autoencoder, which some pipelines raise before they decode."""
    if vae.dtype != dtype:
        vae.to(dtype)


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of the instance in front of that of its class inside the block."""
    held = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if held is None:
            delattr(owner, name)
        else:
            setattr(owner, name, held)


__all__ = ["OWN_PARTS", "CannotBeReadError", "Rehearsal", "rehearse"]
