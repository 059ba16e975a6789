"""Single files of weights in the layout of the original implementations, loaded as pipelines."""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hopfield_replay.checkpoints.adapter import is_adapter, names_in
from hopfield_replay.checkpoints.allocation import Allowance
from hopfield_replay.checkpoints.file import what_went_wrong
from hopfield_replay.checkpoints.safety import check_pipeline_folder, read_object
from hopfield_replay.pipelines.quiet import quiet_libraries
from hopfield_replay.utilities.files import files_below

_PREFIXES = {  # of the weights of a pipeline's parts beside its network, in the files of Stable Diffusion 1 to 3.5
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}
_NETWORK = "model.diffusion_model."
_SPARE = 1.01  # times the numbers of a network that a file may hold: some keep a layer that nothing uses


def parts_in(source: str | Path) -> set[str]:
    """The parts of a pipeline beside its network that a single file of weights holds; none of a network alone."""
    path = Path(source)
    if not path.is_file() or path.suffix != ".safetensors" or is_adapter(path):
        return set()
    names = names_in(path)
    return {part for part, prefixes in _PREFIXES.items() if any(name.startswith(prefixes) for name in names)}


def open_single_file(path: Path, config: Path, dtype: torch.dtype) -> Any:
    """The diffusers pipeline of a file that holds more than a network; nothing is downloaded.

    Args:
        path: a .safetensors file.
        config: folder of a pipeline of the same architecture: its configurations, tokenizers and scheduler are used,
            and the weights of what the file lacks.
        dtype: of networks and text encoders; the autoencoder is in float32.

    Raises:
        ValueError: code in the folder; parts that are in neither; a file of another architecture, or one that diffusers
            cannot convert.
    """
    import diffusers

    check_pipeline_folder(config)
    index = read_object(config / "model_index.json")
    kind: Any = getattr(diffusers, index["_class_name"], None)
    if not hasattr(kind, "from_single_file"):
        raise ValueError(f"diffusers reads no single files for {index['_class_name']}: give folders of pipelines.")
    given = parts_in(path)
    with quiet_libraries(), Allowance(path.stat().st_size + _bytes_in(config), str(path)):
        lacking = {
            name: _from_folder(part, path, config, name, torch.float32 if name == "vae" else dtype)
            for name, part in _modules(index).items()
            if name not in {*given, "unet", "transformer", "safety_checker"}
        }
        try:
            pipeline = kind.from_single_file(
                str(path), config=str(config), local_files_only=True, dtype=dtype, **lacking
            )
        except Exception as error:  # of a conversion of what is something else
            raise ValueError(
                f"{path} cannot be loaded as a {index['_class_name']} made like {config} ({what_went_wrong(error)})."
            ) from error
        if "vae" in given and dtype != torch.float32:
            vae = type(pipeline.vae)
            pipeline.vae = vae.from_single_file(str(path), config=str(config), subfolder="vae", local_files_only=True)
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    bare = [f"{name}.{key}" for name, part in parts.items() for key, held in part.state_dict().items() if held.is_meta]
    if bare:
        raise ValueError(f"{path} lacks {len(bare)} weights of a pipeline made like {config}, such as {bare[:3]}.")
    network = parts.get("unet", parts.get("transformer"))
    check_none_spare(network, _sizes(path, _NETWORK), str(path))
    return pipeline


def check_none_spare(network: Any, sizes: Iterable[int], source: str) -> None:
    """Refuse weights of a larger network, of which a conversion would leave out whole layers.

    Args:
        network: as it is configured.
        sizes: numbers in each of the file's weights for it.
        source: of them.

    Raises:
        ValueError: more of them than the network takes.
    """
    given, taken = sum(sizes), sum(weight.numel() for weight in network.state_dict().values())
    if given > _SPARE * taken:
        raise ValueError(
            f"{source} holds a network of {given} numbers, of which a {type(network).__name__} as it is configured "
            f"takes {taken}: it is of another architecture"
        )


def _modules(index: dict[str, Any]) -> dict[str, Any]:
    """The classes of a pipeline's networks, by the names of its parts."""
    found = {}
    for name, entry in index.items():
        if isinstance(entry, list) and entry[0] in ("diffusers", "transformers"):
            kind = getattr(import_module(entry[0]), entry[1], None)
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                found[name] = kind
    return found


def _from_folder(kind: Any, path: Path, config: Path, name: str, dtype: torch.dtype) -> Any:
    try:
        return kind.from_pretrained(config / name, local_files_only=True, dtype=dtype)
    except Exception as error:  # OSError for weights that are not there, others for damaged ones
        raise ValueError(
            f"{path} holds no {name}, and it cannot be loaded from {config / name} ({what_went_wrong(error)}). Put it "
            "there, or name a folder that has it."
        ) from error


def _sizes(path: Path, prefix: str) -> list[int]:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
    return [torch.Size(shape).numel() for shape in shapes]


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in files_below(folder) if file.suffix == ".safetensors")


__all__ = ["check_none_spare", "open_single_file", "parts_in"]
