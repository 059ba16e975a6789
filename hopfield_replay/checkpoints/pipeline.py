"""Saved diffusers pipelines, and what was trained of them, on top of one."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hopfield_replay.checkpoints.adapter import is_adapter, merge
from hopfield_replay.checkpoints.allocation import Allowance
from hopfield_replay.checkpoints.file import what_went_wrong
from hopfield_replay.checkpoints.network import is_network, network_name, replace_network
from hopfield_replay.checkpoints.pipeline_version import version_of
from hopfield_replay.checkpoints.safety import check_pipeline_folder
from hopfield_replay.checkpoints.single_file import open_single_file, parts_in
from hopfield_replay.checkpoints.version import Version
from hopfield_replay.pipelines import PipelineModel
from hopfield_replay.pipelines.quiet import quiet_libraries
from hopfield_replay.utilities.files import files_below

_WEIGHTS = (".safetensors", ".bin")


def load_pipeline(
    source: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    like: PipelineModel | None = None,
    config: str | Path | None = None,
) -> Version:
    """Load a folder written by ``pipeline.save_pretrained``, or a single file of weights.

    A pipeline that draws from texts gets its data as images and captions, or empty captions; how it encodes both is
    read off its own call (:class:`~hopfield_replay.pipelines.PipelineModel`). Any other one with an autoencoder gets
    images, whose latents are denoised.

    Args:
        source: the folder, with ``model_index.json``; or with ``config`` a .safetensors file of weights, named as in
            diffusers or in the original implementation (``from_single_file``).
        variant: of the weights, such as ``"fp16"``; None: the plain files, or the one variant that is there.
        dtype: of networks and text encoders; autoencoders stay in float32, where some others overflow.
        device: where the pipeline is put before it is looked at; None: it stays on the CPU.
        like: another version, whose parts are taken where they are equal to this one's.
        config: of a single file: the folder of a pipeline of the same architecture, which says how it is made and gives
            the parts that the file lacks.

    Raises:
        ImportError: diffusers, or what this pipeline needs beside it, is not installed.
        ValueError: no such folder; code in it; a pipeline that cannot be loaded, has no network with its scheduler, or
            works in an unknown way; weights that are not finite.

    Example:
        >>> load_pipeline("missing")
        Traceback (most recent call last):
        ValueError: missing holds no model_index.json: give a folder written by a pipeline's save_pretrained.
    """
    pipeline = open_pipeline(source, variant=variant, dtype=dtype, config=config)
    what = f"single file, made like {config}" if Path(source).is_file() else "weights"
    return version_of(_placed(pipeline, device, like), str(source), what)


def load_adapter(
    base: str | Path,
    adapter: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    like: PipelineModel | None = None,
    config: str | Path | None = None,
) -> Version:
    """Load a pipeline, and what was trained of it: LoRA weights are merged, a network takes the place of the first.

    Args:
        base: the pipeline's folder, or a single file with ``config``.
        adapter: a folder or file of ``pipeline.save_lora_weights`` or of kohya's trainers; a folder of peft's
            ``save_pretrained``; a folder of the network's own ``save_pretrained`` (also of its average, as diffusers'
            EMAModel writes it), or a .safetensors file with its weights, of diffusers or in the original layout.
        variant: see :func:`load_pipeline`.
        dtype: likewise.
        device: likewise.
        like: likewise.
        config: likewise.

    Raises:
        ImportError: peft is not installed.
        ValueError: weights that do not fit the pipeline, all of them, and as :func:`load_pipeline`.

    Example:
        >>> load_adapter("missing", "lora")
        Traceback (most recent call last):
        ValueError: missing holds no model_index.json: give a folder written by a pipeline's save_pretrained.
    """
    pipeline = open_pipeline(base, variant=variant, dtype=dtype, config=config)
    path = Path(adapter)
    folder = Path(base if config is None or Path(base).is_dir() else config)
    lora = is_adapter(path)
    if lora and find_spec("peft") is None:
        raise ImportError('LoRA weights need peft: pip install "hopfield-replay[latent]".')
    what = "LoRA weights" if lora else "network weights"
    try:
        with (
            Allowance(_bytes_of_weights(path) + (0 if lora else _bytes_of_weights(folder)), str(path)),
            quiet_libraries(),
        ):
            if lora:
                merge(pipeline, path, network_name(pipeline))
            else:
                replace_network(pipeline, path, folder, dtype)
    except Exception as error:  # peft and diffusers raise a dozen kinds for weights that do not fit
        raise ValueError(f"The {what} {adapter} do not fit {base} ({what_went_wrong(error)}).") from error
    return version_of(_placed(pipeline, device, like), str(adapter), f"{what} on {base}")


def goes_onto(source: str | Path) -> bool:
    """Whether a path is what was trained of a pipeline, and not a whole one."""
    return is_adapter(source) or is_network(source)


def open_pipeline(
    source: str | Path,
    *,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    config: str | Path | None = None,
) -> Any:
    """The diffusers pipeline in a folder or a single file; nothing is downloaded.

    Args:
        source: see :func:`load_pipeline`.
        variant: likewise.
        dtype: likewise.
        config: likewise.

    Raises:
        ImportError: diffusers, or what this pipeline needs beside it, is not installed.
        ValueError: no such folder, or a pipeline that cannot be loaded.

    Example:
        >>> open_pipeline("missing")
        Traceback (most recent call last):
        ValueError: missing holds no model_index.json: give a folder written by a pipeline's save_pretrained.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ImportError('Saved pipelines need diffusers: pip install "hopfield-replay[diffusion]".') from error
    path = Path(source)
    if config is not None and path.suffix == ".safetensors" and path.is_file() and not is_adapter(path):
        return _of_file(path, Path(config), variant, dtype)
    if not (path / "model_index.json").is_file():
        _refuse(path)
    check_pipeline_folder(path)
    chosen = _variant(path) if variant is None else variant
    try:
        with quiet_libraries(), Allowance(_bytes_of_weights(path), str(path)):
            dtypes = {"vae": torch.float32, "default": dtype}
            pipeline = DiffusionPipeline.from_pretrained(path, local_files_only=True, variant=chosen, dtype=dtypes)
    except ImportError as error:
        raise ImportError(f'{path} needs more packages: pip install "hopfield-replay[latent]" ({error}).') from error
    except Exception as error:  # damaged folders fail in whatever part of diffusers meets the damage first
        raise ValueError(f"{path} cannot be loaded as a pipeline ({what_went_wrong(error)}).") from error
    if (vae := getattr(pipeline, "vae", None)) is not None:
        vae.float()
    return pipeline


def _of_file(path: Path, config: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """The pipeline of a single file: of all its parts, or of the network alone in another one's place."""
    if not (config / "model_index.json").is_file():
        raise ValueError(
            f"config (--pipeline-config) must be a folder with a model_index.json, which says how {path} is made, got "
            f"{config}."
        )
    if parts_in(path):
        return open_single_file(path, config, dtype)
    pipeline = open_pipeline(config, variant=variant, dtype=dtype)
    try:
        with Allowance(_bytes_of_weights(path) + _bytes_of_weights(config), str(path)), quiet_libraries():
            replace_network(pipeline, path, config, dtype)
    except Exception as error:  # of a conversion of what is something else
        raise ValueError(f"The weights {path} are not of a pipeline made like {config} ({error}).") from error
    return pipeline


def _refuse(path: Path) -> None:
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is a file: a checkpoint needs the class of its model (model, --model). Of the pickled files of "
            "pipelines (.ckpt in the original layout) only .safetensors are read: save one, with a folder that says "
            "how it is made (config, --pipeline-config)."
        )
    if path.is_file() and not is_adapter(path):
        raise ValueError(
            f"{path} is a single file of weights, which does not say how its model is made: name the folder of a "
            "pipeline of the same architecture (config, --pipeline-config), or give that first (--before) and the file "
            "second (--after); a checkpoint of a module of your own needs its class (model, --model)."
        )
    if is_adapter(path):
        raise ValueError(f"{path} holds LoRA weights: give their base first, and them second.")
    if is_network(path):
        raise ValueError(f"{path} holds a network alone: give the pipeline that it is of first, and it second.")
    raise ValueError(f"{path} holds no model_index.json: give a folder written by a pipeline's save_pretrained.")


def _variant(path: Path) -> str | None:
    """The variant of the weights where one of the components has no plain files.

    Raises:
        ValueError: there are several.
    """
    bare = []
    for folder in (part for part in path.iterdir() if part.is_dir()):
        found = {_variant_of(file.name) for file in folder.iterdir() if file.suffix in _WEIGHTS}
        if found and "" not in found:
            bare.append(found)
    common = set.intersection(*bare) if bare else set()
    if len(common) > 1:
        raise ValueError(f"{path} has its weights in the variants {sorted(common)}; say which (variant, --variant).")
    return common.pop() if common else None


def _variant_of(name: str) -> str:
    """What stands between the dots of a weights file's name, without the number of a shard."""
    middle = name.split(".")[1:-1]
    plain = [part.partition("-0")[0] for part in middle if not part.startswith("index")]
    return ".".join(part for part in plain if part)


def _placed(pipeline: Any, device: str | torch.device | None, like: PipelineModel | None) -> Any:
    """The pipeline on a device, with the parts of another one where these are equal: two text encoders take memory."""
    if like is not None:
        for name, other in like.pipeline.components.items():
            part = pipeline.components.get(name)
            if isinstance(part, nn.Module) and type(part) is type(other) and _equal(part, other):
                setattr(pipeline, name, other)
    return pipeline if device is None else pipeline.to(device)


def _equal(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return set(one) == set(two) and all(
        one[name].shape == two[name].shape and torch.equal(one[name], two[name].to(one[name])) for name in one
    )


def _bytes_of_weights(path: Path) -> int:
    files = [path] if path.is_file() else files_below(path)
    return sum(file.stat().st_size for file in files if file.suffix in _WEIGHTS)


__all__ = ["goes_onto", "is_adapter", "load_adapter", "load_pipeline", "open_pipeline"]
