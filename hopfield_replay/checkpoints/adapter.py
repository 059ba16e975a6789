"""LoRA weights merged into a pipeline, whole or not at all."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hopfield_replay.checkpoints.safety import check_adapter

LORA = "pytorch_lora_weights.safetensors"
_OTHERS = {"hada_": "LoHa", "lokr_": "LoKr", "oft_": "OFT", "dora_scale": "DoRA", "lora_magnitude_vector": "DoRA"}
_MARKS = (".lora", "_lora", ".alpha")
_UP = re.compile(r"lora_(up|B)\b|lora(_linear_layer)?\.up\b")
_CURE = "save them in diffusers' format (pipeline.save_lora_weights) or with peft"


def is_adapter(source: str | Path) -> bool:
    """Whether a path is LoRA weights: a folder of them, or a .safetensors file with their names in it."""
    path = Path(source)
    if any((path / name).is_file() for name in (LORA, "adapter_config.json")):
        return True
    return path.is_file() and path.suffix == ".safetensors" and any(_is_lora(name) for name in names_in(path))


def names_in(path: Path) -> list[str]:
    """Names of the weights in a .safetensors file.

    Raises:
        ValueError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as .safetensors ({error}).") from error


def _is_lora(name: str) -> bool:
    return any(mark in name for mark in (*_MARKS, *_OTHERS))


def merge(pipeline: Any, path: Path, network: str) -> None:
    """Merge LoRA weights into a pipeline: of diffusers, kohya (as diffusers converts it) or peft.

    Args:
        pipeline: is changed.
        path: a file, or a folder that holds one, or what peft's save_pretrained wrote of the network.
        network: name of the pipeline's network.

    Raises:
        ValueError: another kind of adapter; weights for layers that are not there, or layers without theirs.
    """
    check_adapter(path if path.is_dir() and (path / "adapter_config.json").is_file() else _file(path))
    if (path / "adapter_config.json").is_file():
        _merge_peft(pipeline, path, network)
        return
    file = _file(path)
    raw = names_in(file)
    for name in raw:
        for mark, kind in _OTHERS.items():
            if mark in name:
                raise ValueError(f"they are {kind} ({name}), which diffusers leaves out or merges otherwise; only LoRA")
    if not hasattr(pipeline, "load_lora_weights"):
        raise ValueError(
            f"{type(pipeline).__name__} of the installed diffusers takes no LoRA weights: merge them yourself, or save "
            "them with peft's save_pretrained"
        )
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    loaded = pipeline.lora_state_dict(str(file.parent), weight_name=file.name)
    converted = loaded[0] if isinstance(loaded, tuple) else loaded
    parts = _check_all_arrived(pipeline, converted, raw)
    _check_none_left_out(pipeline, file)
    pipeline.fuse_lora(components=parts)
    pipeline.unload_lora_weights()


def _check_none_left_out(pipeline: Any, file: Path) -> None:
    """Refuse a file of which diffusers' conversion took some layers only.

    It changes names and values, splits and joins matrices; the number of their outputs stays the same.

    Raises:
        ValueError: fewer outputs than in the file.
    """
    from safetensors import safe_open

    with safe_open(str(file), framework="pt") as held:
        ups = [name for name in held.keys() if _UP.search(name)]  # noqa: SIM118  # no mapping
        given = sum(held.get_slice(name).get_shape()[0] for name in ups)
    taken = sum(
        len(weight)
        for module in pipeline.components.values()
        if isinstance(module, nn.Module)
        for layer in module.modules()
        for matrix in getattr(layer, "lora_B", {}).values()
        for weight in [matrix.weight]
    )
    if taken < given:
        raise ValueError(
            f"the conversion of the installed diffusers leaves out {given - taken} of their {given} outputs: it does "
            f"not know all of their layers; {_CURE}"
        )


def _check_all_arrived(pipeline: Any, weights: Mapping[str, Tensor], raw: list[str]) -> list[str]:
    """The components that the weights went into; by their values, as names change on the way.

    Raises:
        ValueError: some weights are in no layer, or some layers have none of them.
    """
    given = {name: weight for name, weight in weights.items() if not name.endswith("alpha")}
    layers = {
        f"{component}.{name}.{part}": weight
        for component, module in pipeline.components.items()
        if isinstance(module, nn.Module)
        for name, layer in module.named_modules()
        for part in ("lora_A", "lora_B")
        for _, matrix in getattr(layer, part, nn.ModuleDict()).items()
        for weight in matrix.parameters()
    }
    if not layers:
        kohya = next((name for name in raw if name.startswith("lora_")), None)
        if kohya is None:
            raise ValueError("none of them is for a layer that the pipeline has")
        raise ValueError(
            f"none of them is for a layer that the pipeline has: they are named in kohya's way ({kohya}), which the "
            f"installed diffusers does not convert for these layers of a {type(pipeline).__name__}; {_CURE}"
        )
    dtypes = {weight.dtype for weight in layers.values()}
    arrived = {name: _fingerprint(weight) for name, weight in layers.items()}
    known = {name: {_fingerprint(weight.to(dtype)) for dtype in dtypes} for name, weight in given.items()}
    everywhere, anything = set(arrived.values()), set[Any]().union(*known.values())
    lost = sorted(name for name, prints in known.items() if not prints & everywhere)
    if lost:
        raise ValueError(f"{len(lost)} of {len(given)} weights are for no layer of the pipeline, such as {lost[:2]}")
    bare = sorted(name for name, one in arrived.items() if one not in anything)
    if bare:
        raise ValueError(f"{len(bare)} of {len(layers)} matrices got no weights, such as {bare[:2]}")
    return sorted({name.partition(".")[0] for name in layers})


def _fingerprint(weight: Tensor) -> tuple[tuple[int, ...], bytes]:
    if weight.is_meta:  # what peft made and nothing was loaded into
        return tuple(weight.shape), b""
    values = weight.detach().float().cpu().contiguous().numpy().tobytes()
    return tuple(weight.shape), hashlib.sha256(values).digest()


def _file(path: Path) -> Path:
    return path / LORA if path.is_dir() else path


def _merge_peft(pipeline: Any, path: Path, network: str) -> None:
    import peft
    from peft.utils import load_peft_weights

    weights: Mapping[str, Tensor] = load_peft_weights(str(path), device="cpu")
    prefix = "base_model.model."
    given = {_layer(name.removeprefix(prefix)) for name in weights if ".lora_" in name}
    rest = {name.removeprefix(prefix).rpartition(".")[0] for name in weights if ".lora_" not in name}
    model = getattr(pipeline, network)
    known = {name for name, _ in model.named_modules()}
    if lost := sorted((given | rest) - known):
        kind = "only some of them fit" if len(lost) < len(given | rest) else "none of them is for a layer that is there"
        raise ValueError(
            f"{kind}: {len(lost)} of {len(given | rest)} layers are not in {type(model).__name__}, such as {lost[:2]}"
        )
    wrapped = peft.PeftModel.from_pretrained(model, path)
    layers = {name.removeprefix(prefix) for name, module in wrapped.named_modules() if getattr(module, "lora_A", None)}
    if bare := sorted(layers - given):
        raise ValueError(
            f"adapter_config.json asks for {len(layers)} layers, of which {len(bare)} have no weights in the file "
            f"(first: {bare[0]})"
        )
    setattr(pipeline, network, wrapped.merge_and_unload())


def _layer(name: str) -> str:
    """The layer that a weight is for."""
    for mark in (".lora_A", ".lora_B", ".lora.down", ".lora.up", ".lora_down", ".lora_up", ".lora_embedding"):
        name = name.partition(mark)[0]
    return name


__all__ = ["LORA", "is_adapter", "merge", "names_in"]
