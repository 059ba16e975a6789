"""A torch module and the weights of one checkpoint."""

import inspect
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hopfield_replay.checkpoints.allocation import Allowance
from hopfield_replay.checkpoints.averaged import fingerprints, take_average
from hopfield_replay.checkpoints.file import is_dense, read_checkpoint, what_went_wrong
from hopfield_replay.checkpoints.unsaved import unsaved
from hopfield_replay.checkpoints.version import Version, check_weights
from hopfield_replay.checkpoints.weights import choose, fitting, renamed
from hopfield_replay.denoisers import find_denoiser
from hopfield_replay.utilities.memory import is_out_of_memory
from hopfield_replay.utilities.nested import identity


def load_module(
    source: str | Path,
    model: str | Callable[..., nn.Module],
    *,
    model_args: Mapping[str, Any] | None = None,
    unsafe_pickle: bool = False,
    weights: str | None = None,
    stepwise: bool = False,
) -> Version:
    """Make a module and load a checkpoint's weights into it.

    The constructor's arguments are those that ``save_hyperparameters`` wrote into the checkpoint, and ``model_args``
    over them. Of a checkpoint written under Lightning's WeightAveraging callbacks the averaged weights are taken, which
    is what such a checkpoint's ``state_dict`` holds, and what sampling from the model uses; and so are averages that
    the module keeps beside those it trains, if the checkpoint holds them and no ``weights`` are asked for.

    Args:
        source: the checkpoint file.
        model: the class, or any function that returns the module; or ``"package.module:name"`` of it.
        model_args: arguments of the class or function.
        unsafe_pickle: see :func:`~hopfield_replay.checkpoints.file.read_checkpoint`.
        weights: which of a checkpoint's weights, such as ``"ema"``, ``"current_model_state"`` or ``"state_dict.ema"``:
            keys of dicts, then what names begin with, with dots between them; None: ``state_dict``, or all of the file,
            or the only weights in it.
        stepwise: a module with a training_step may be without a denoiser.

    Raises:
        ValueError: a class that cannot be imported or made; a checkpoint that cannot be read or does not fit, or holds
            several weights; weights that are not finite; no denoiser in the module.

    Example:
        >>> import tempfile
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> class Model(nn.Module):
        ...     def __init__(self, width):
        ...         super().__init__()
        ...         self.network = nn.Linear(width, width)
        ...         self.denoiser = CallableDenoiser(lambda x, t: self.network(x), torch.tensor([0.9, 0.5]))
        >>> import torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": Model(2).state_dict(), "hyper_parameters": {"width": 2}}, folder + "/a.ckpt")
        ...     load_module(folder + "/a.ckpt", Model).weights
        'weights'
    """
    make = import_model(model) if isinstance(model, str) else model
    content = read_checkpoint(source, unsafe_pickle=unsafe_pickle)
    place, state = choose(content, weights, source)
    checkpoint = {**content, "state_dict": state} if place else {"state_dict": state}
    module = _make(make, checkpoint, dict(model_args or {}), source)
    averages = fingerprints(module) if weights is None else {}
    for hook, arguments in (("configure_model", ()), ("on_load_checkpoint", (checkpoint,))):  # as Lightning does
        try:
            getattr(module, hook, _nothing)(*arguments)
        except (Exception, SystemExit) as error:
            raise ValueError(
                f"{type(module).__name__}.{hook} failed on {source} ({what_went_wrong(error)})."
            ) from error
    place, state = _load(module, checkpoint["state_dict"], place, source)
    check_weights(module, str(source))
    average = take_average(module, averages) if weights is None else None
    has_step = stepwise and hasattr(module, "training_step")
    try:
        denoiser = find_denoiser(module)
    except ValueError:  # several
        if not has_step:
            raise
        denoiser = None
    if denoiser is None and not has_step:
        raise ValueError(
            f"No denoiser was found on {type(module).__name__}. Give it an attribute that is one "
            "(hopfield_replay.denoisers.DiffusersDenoiser or CallableDenoiser), or name a function that returns it so."
        )
    return Version(
        source=str(source),
        module=module,
        denoiser=denoiser,
        weights=average or _which(content, place, checkpoint["state_dict"]),
        prepare=_transfer_hooks(module),
        unsaved=unsaved(module, state),
    )


def _which(content: Mapping[str, Any], place: str, state: Mapping[str, Any]) -> str:
    """Which weights of a checkpoint were taken, and where others of the same shapes were left aside."""
    if place == "state_dict" and "current_model_state" in content:
        return "averaged weights"
    shapes = sorted(_shapes(state))
    others = [path for path, held in _mappings(content, state) if shapes and sorted(_shapes(held)) == shapes]
    told = "weights" if place in ("", "state_dict") else f"weights of {place}"
    return f"{told}; not those of the same shapes in {', '.join(others)}" if others else told


def _shapes(held: Mapping[Any, Any]) -> list[tuple[int, ...]]:
    return [tuple(value.shape) for value in held.values() if isinstance(value, Tensor) and value.is_floating_point()]


def _mappings(
    tree: Mapping[Any, Any], chosen: Mapping[Any, Any], path: str = "", depth: int = 4
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    for name, item in tree.items() if depth else ():
        if isinstance(item, Mapping) and item is not chosen and name not in ("hyper_parameters", "optimizer_states"):
            yield f"{path}{name}", item
            yield from _mappings(item, chosen, f"{path}{name}.", depth - 1)


def import_model(name: str) -> Callable[..., nn.Module]:
    """Import ``"package.module:name"``; the name may have dots.

    Raises:
        ValueError: there is no such thing, or it cannot be called.

    Example:
        >>> import_model("torch.nn:Linear") is nn.Linear
        True
    """
    module, _, path = name.partition(":")
    try:
        imported: Any = import_module(module)
        for part in path.split("."):
            imported = getattr(imported, part)
    except (Exception, SystemExit) as error:  # whatever happens while somebody else's module is run
        said = error if isinstance(error, ImportError | AttributeError | ValueError) else what_went_wrong(error)
        raise ValueError(
            f"The model {name!r} cannot be imported ({said}). Give package.module:Class, importable from here."
        ) from error
    if not callable(imported):
        raise ValueError(f"The model {name!r} is {type(imported).__name__}, not a class or a function that makes one.")
    model: Callable[..., nn.Module] = imported
    return model


def _make(make: Callable[..., nn.Module], checkpoint: dict[str, Any], given: dict[str, Any], source: Any) -> nn.Module:
    name = getattr(make, "__name__", str(make))
    parameters = inspect.signature(make).parameters
    held = _hyper_parameters(checkpoint.get("hyper_parameters"), source)
    whole = checkpoint.get("hparams_name")
    if (
        isinstance(whole, str) and whole in parameters and whole != "kwargs"
    ):  # save_hyperparameters(hparams): they are one argument together
        held = {whole: held}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        held = {key: value for key, value in held.items() if key in parameters}
        if unknown := sorted(set(given) - set(parameters)):
            raise ValueError(f"{name} has no constructor arguments {unknown}; it takes {list(parameters)}.")
    arguments = {key: value for key, value in {**held, **given}.items() if not key.startswith("_")}
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and key not in arguments
    ]
    if missing:
        raise ValueError(
            f"{name} needs the constructor arguments {missing}, which {source} does not hold. Pass model_args "
            "(--model-args), or call self.save_hyperparameters() in its __init__ before you train."
        )
    state = checkpoint["state_dict"]
    weights = sum(value.nbytes for value in state.values() if is_dense(value)) if isinstance(state, Mapping) else 0
    of_file = sorted(set(arguments) - set(given))
    cure = f"if that is meant, pass its arguments {of_file} yourself with model_args (--model-args)"
    try:
        with Allowance(weights, str(source), cure) if of_file else nullcontext():
            module = make(**arguments)
    except (Exception, SystemExit) as error:  # whatever the constructor of somebody else raises
        if is_out_of_memory(error):
            raise MemoryError(f"There is not enough memory for {name} of {source} ({error}).") from error
        raise ValueError(
            f"{name} cannot be made with the arguments {sorted(arguments)} ({what_went_wrong(error)})."
        ) from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name} returned {type(module).__name__}, not a torch module.")
    return module


def _hyper_parameters(held: Any, source: Any) -> dict[str, Any]:
    if held is None:
        return {}
    if isinstance(held, Namespace):  # if a pickle brought one
        held = vars(held)
    if not isinstance(held, Mapping) or not all(isinstance(key, str) for key in held):
        raise ValueError(
            f"The hyper_parameters of {source} are {type(held).__name__}, not a dict of arguments by name."
        )
    return dict(held)


def _load(module: nn.Module, state: Any, place: str, source: Any) -> tuple[str, Mapping[str, Any]]:
    """Load weights; returns where they were and what all their names began with, and them under their new names."""
    if not isinstance(state, Mapping):
        raise ValueError(f"The state_dict of {source} is {type(state).__name__}, not a dict of tensors.")
    own = module.state_dict()
    prefix, state = renamed(state, own)
    for key, weight in own.items():
        if key in state and isinstance(weight, Tensor) and not is_dense(state[key]):
            raise ValueError(f"{source} holds {_described(state[key])} as {key}, where a tensor of weights belongs.")
    strict = getattr(module, "strict_loading", True)  # a LightningModule may keep only a part of its weights
    strict_names = strict or own.keys().isdisjoint(state)  # else nothing at all would be loaded
    problems = {
        "missing": sorted(own.keys() - state.keys()) if strict_names else [],
        "unknown": sorted(state.keys() - own.keys()) if strict_names else [],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own.keys() & state.keys()
            if isinstance(own[key], Tensor) and state[key].shape != own[key].shape
        ],
    }
    misfits = "; ".join(f"{len(keys)} {kind} (first: {keys[0]})" for kind, keys in problems.items() if keys)
    if misfits:
        inner = [f"{place}.{name}".lstrip(".") for name in fitting(state, own)]
        hint = f" Its names fit in {' and '.join(inner)}: say so with weights (--weights {inner[0]})." if inner else ""
        raise ValueError(
            f"{source} does not fit {type(module).__name__}, it is of another architecture: {misfits}.{hint}"
        )
    try:
        module.load_state_dict(state, strict=strict)
    except Exception as error:  # extra states are somebody else's to read
        name = type(module).__name__
        raise ValueError(f"{source} cannot be loaded into {name} ({what_went_wrong(error)}).") from error
    return f"{place}.{prefix}".strip("."), state


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor without all its numbers ({value.layout}, {value.device})"
    return type(value).__name__


def _nothing(*_: Any) -> None:
    return None


def _transfer_hooks(module: nn.Module) -> Callable[[Any], Any]:
    """What a LightningModule does with a batch on its way to the device."""
    hooked: Any = module
    if not hasattr(module, "on_after_batch_transfer"):
        return identity

    def prepare(batch: Any) -> Any:
        batch = hooked.on_before_batch_transfer(batch, 0)
        return hooked.on_after_batch_transfer(hooked.transfer_batch_to_device(batch, hooked.device, 0), 0)

    return prepare


__all__ = ["import_model", "load_module"]
