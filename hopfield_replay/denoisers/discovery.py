"""Find the denoiser in a module of unknown make, by what its attributes are and not by what they are called."""

import inspect
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel

from hopfield_replay.denoisers.diffusers import DiffusersDenoiser, schedule_of
from hopfield_replay.functional.denoiser import Denoiser


def _is_network(value: object) -> bool:
    """Whether a module predicts from (samples, timestep) as diffusers' denoising networks do."""
    diffusers = sys.modules.get("diffusers")  # nothing of it can be around if nobody has imported it
    if diffusers is None or not isinstance(value, diffusers.ModelMixin):
        return False
    names = set(inspect.signature(value.forward).parameters)
    return "timestep" in names and bool(names & {"sample", "hidden_states"}) and "controlnet_cond" not in names


def _is_scheduler(value: object) -> bool:
    diffusers = sys.modules.get("diffusers")
    return diffusers is not None and isinstance(value, diffusers.SchedulerMixin)


def _walk(module: nn.Module, path: str = "", averaged: bool = False) -> Iterator[tuple[str, object, bool]]:
    """All attributes of a module and of its submodules; networks are not opened."""
    averaged = averaged or isinstance(module, AveragedModel)
    held: list[tuple[str, Any]] = [(key, value) for key, value in vars(module).items() if key != "_modules"]
    for key, value in [*held, *module.named_children()]:
        here = f"{path}.{key}" if path else key
        components = getattr(value, "components", None) if _is_pipeline(value) else None
        for name, part in components.items() if components else [("", value)]:
            where = f"{here}.{name}" if name else here
            yield where, part, averaged
            if isinstance(part, nn.Module) and not _is_network(part):
                yield from _walk(part, where, averaged)


def _is_pipeline(value: object) -> bool:
    diffusers = sys.modules.get("diffusers")
    return diffusers is not None and isinstance(value, diffusers.DiffusionPipeline)


def _unique(candidates: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return list({id(value): (path, value) for path, value in reversed(candidates)}.values())[::-1]


def _describe(candidates: list[tuple[str, Any]]) -> str:
    return ", ".join(f"{path} ({type(value).__name__})" for path, value in candidates)


def find_denoiser(module: nn.Module, *, averaged: bool = False) -> Denoiser | None:
    """Find the one denoiser of a module, e.g. of a LightningModule.

    In this order: the module itself if it is a :class:`Denoiser`; an attribute that is one; a diffusers network
    together with a diffusers scheduler, anywhere in the module or in a pipeline it holds. Of several networks the one
    that is trained counts: frozen ones (teachers, averages) and those inside an AveragedModel stand back. Of several
    schedulers with the same noise levels and prediction type any is right.

    Args:
        module: any torch module.
        averaged: take the moving average of the trained network instead: inside an AveragedModel, a frozen network
            of the same make, or a diffusers EMAModel.

    Returns:
        The denoiser; None if there is no network, or no scheduler to go with it.

    Raises:
        ValueError: several candidates; the message lists them. No average, if one is asked for.

    Example:
        >>> find_denoiser(nn.Linear(2, 2)) is None
        True
    """
    if isinstance(module, Denoiser):
        return module
    attributes = list(_walk(module))
    ready = _unique([(path, value) for path, value, _ in attributes if isinstance(value, Denoiser)])
    if ready:
        denoiser: Denoiser = _one(module, "denoisers", ready)
        return denoiser
    inside = {id(value) for _, value, is_average in attributes if is_average}
    networks = _unique([(path, value) for path, value, _ in attributes if _is_network(value)])
    if _is_network(module):
        networks = [("itself", module)]
    schedulers = _unique([(path, value) for path, value, _ in attributes if _is_scheduler(value)])
    if not networks or not schedulers:
        return None
    network = _one(module, "denoising networks", _trained(networks, inside))
    first_schedule, first_kind = schedule_of(schedulers[0][1])
    for _, scheduler in schedulers[1:]:
        schedule, kind = schedule_of(scheduler)
        if kind != first_kind or not _equal(schedule, first_schedule):
            _one(module, "noise schedulers that differ in their noise levels or prediction type", schedulers)
    scheduler = schedulers[0][1]
    if not averaged or id(network) in inside:
        return DiffusersDenoiser(network, scheduler)
    copies = [(path, value) for path, value in networks if value is not network and _alike(value, network)]
    shadows = _unique([(path, value) for path, value, _ in attributes if hasattr(value, "shadow_params")])
    if not copies and not shadows:
        raise ValueError(f"{type(module).__name__} holds no average of its {type(network).__name__}.")
    average = _one(module, "averages", copies + shadows)
    if copies:
        return DiffusersDenoiser(average, scheduler)
    return DiffusersDenoiser(network, scheduler, average=average)


def _alike(first: nn.Module, second: nn.Module) -> bool:
    shapes = [{name: weight.shape for name, weight in item.named_parameters()} for item in (first, second)]
    return shapes[0] == shapes[1]


def _trained(networks: list[tuple[str, Any]], averaged: set[int]) -> list[tuple[str, Any]]:
    own = [(path, network) for path, network in networks if id(network) not in averaged] or networks
    return [item for item in own if any(weight.requires_grad for weight in item[1].parameters())] or own


def _equal(first: Any, second: Any) -> bool:
    if type(first) is not type(second) or first.num_timesteps != second.num_timesteps:
        return False
    return all(first.amounts(t) == second.amounts(t) for t in range(first.num_timesteps))


def _one(module: nn.Module, what: str, candidates: list[tuple[str, Any]]) -> Any:
    if len(candidates) > 1:
        raise ValueError(
            f"{type(module).__name__} holds several {what}: {_describe(candidates)}. Choose one: pass "
            "denoiser=DiffusersDenoiser(model, scheduler)."
        )
    return candidates[0][1]


def is_guess(module: nn.Module, denoiser: Denoiser | None) -> bool:
    """Whether a found denoiser may be another one than a module trains: a network and a scheduler say not enough.

    A module without a training_step has none to contradict it; an attribute that is a denoiser is what its author says.

    Example:
        >>> is_guess(nn.Linear(2, 2), None)
        False
    """
    return denoiser is not None and hasattr(module, "training_step") and find_denoiser(module) is not denoiser


__all__ = ["find_denoiser", "is_guess"]
