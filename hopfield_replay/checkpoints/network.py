"""The network of a pipeline alone, as trainers save it: a folder, or a single file of weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.checkpoints.adapter import is_adapter
from hopfield_replay.checkpoints.safety import read_object
from hopfield_replay.checkpoints.single_file import check_none_spare

_FIRST = 3  # names that a message lists


def is_network(source: str | Path) -> bool:
    """Whether a path is a folder of a network's save_pretrained, or a .safetensors file that is no LoRA."""
    path = Path(source)
    if path.is_dir():
        file = path / "config.json"
        return not (path / "model_index.json").is_file() and file.is_file() and "_class_name" in read_object(file)
    return path.is_file() and path.suffix == ".safetensors" and not is_adapter(path)


def network_name(pipeline: Any) -> str:
    """Name of a pipeline's network."""
    return "unet" if getattr(pipeline, "unet", None) is not None else "transformer"


def replace_network(pipeline: Any, path: Path, base: Path, dtype: torch.dtype) -> None:
    """Put a network that was saved alone in the place of a pipeline's.

    Args:
        pipeline: is changed.
        path: a folder of the same class, or a .safetensors file of its weights, named as in diffusers or as in the
            original implementation (single-file checkpoints, which diffusers converts).
        base: the pipeline's folder, whose configuration a single file lacks.
        dtype: of the network.

    Raises:
        ValueError: another class; weights that fit some layers only, or none.
    """
    name = network_name(pipeline)
    network = getattr(pipeline, name)
    if path.is_dir():
        kind = read_object(path / "config.json")["_class_name"]
        if kind != type(network).__name__:
            raise ValueError(f"it is a {kind}, the pipeline's {name} is a {type(network).__name__}")
        found, told = type(network).from_pretrained(path, local_files_only=True, dtype=dtype, output_loading_info=True)
        lost = [*told["missing_keys"], *told["unexpected_keys"], *map(str, told["mismatched_keys"])]
        if lost:
            raise ValueError(f"{len(lost)} weights are missing or unknown, the first is {lost[0]}")
        setattr(pipeline, name, found)
        return
    weights = _weights(path)
    known = {key: value.shape for key, value in network.state_dict().items()}
    if set(weights) == set(known):
        if differing := [key for key, shape in known.items() if weights[key].shape != shape]:
            raise ValueError(f"{len(differing)} weights are of another shape, the first is {differing[0]}")
        network.load_state_dict({key: value.to(dtype) for key, value in weights.items()})
        return
    setattr(pipeline, name, _converted(network, weights, name, base, dtype))


def _weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"it cannot be read as .safetensors ({error})") from error
    return weights


def _converted(network: Any, weights: dict[str, Tensor], name: str, base: Path, dtype: torch.dtype) -> Any:
    """The network from weights in the original implementation's layout.

    Raises:
        ValueError: diffusers cannot convert them, or not all of the network is in them.
    """
    lacking = sorted(set(network.state_dict()) - set(weights))
    if not hasattr(type(network), "from_single_file"):
        raise ValueError(
            f"its weights are not named as those of {type(network).__name__}, which diffusers cannot convert "
            f"({len(lacking)} are missing, such as {lacking[:_FIRST]})"
        )
    try:
        found = type(network).from_single_file(
            dict(weights), config=str(base), subfolder=name, local_files_only=True, dtype=dtype
        )
    except Exception as error:  # of a conversion of what is something else
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"diffusers cannot convert its weights to a {type(network).__name__} ({said}); "
            f"{len(lacking)} of that are not in the file, such as {lacking[:_FIRST]}"
        ) from error
    bare = [key for key, value in found.state_dict().items() if value.is_meta]
    if bare:
        raise ValueError(
            f"{len(bare)} weights of {type(network).__name__} are not in the file, such as {bare[:_FIRST]}"
        )
    check_none_spare(found, (weight.numel() for weight in weights.values()), "it")
    return found


__all__ = ["is_network", "network_name", "replace_network"]
