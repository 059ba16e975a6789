"""Saved diffusers pipelines, and LoRA weights on top of one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hopfield_replay.checkpoints.allocation import Allowance
from hopfield_replay.checkpoints.file import what_went_wrong
from hopfield_replay.checkpoints.safety import check_adapter, check_pipeline_folder
from hopfield_replay.checkpoints.version import Version, check_weights
from hopfield_replay.denoisers import find_denoiser
from hopfield_replay.encoders import LatentEncoder, split_batch
from hopfield_replay.utilities.nested import identity

_KNOWN = {"feature_extractor", "image_encoder", "safety_checker", "scheduler", "text_encoder", "tokenizer",
          "transformer", "unet", "vae"}  # fmt: skip
_WEIGHTS = (".safetensors", ".bin")
_LORA = "pytorch_lora_weights.safetensors"


def load_pipeline(source: str | Path) -> Version:
    """Load a folder written by ``pipeline.save_pretrained``.

    A pipeline with an autoencoder gets its data as images, whose latents are denoised; one with a text encoder the
    batch's captions, or empty ones.

    Args:
        source: the folder, with ``model_index.json``.

    Raises:
        ImportError: diffusers, or what this pipeline needs beside it, is not installed.
        ValueError: no such folder; code in it; a pipeline that cannot be loaded, has no network with its scheduler, or
            has parts beyond one text encoder and one autoencoder; weights that are not finite.

    Example:
        >>> load_pipeline("missing")
        Traceback (most recent call last):
        ValueError: missing holds no model_index.json: give a folder written by a pipeline's save_pretrained.
    """
    return _version(open_pipeline(source), str(source), "weights")


def load_adapter(base: str | Path, adapter: str | Path) -> Version:
    """Load a pipeline and merge LoRA weights into its network.

    Args:
        base: the pipeline's folder.
        adapter: a folder or file of ``pipeline.save_lora_weights``, or a folder of peft's ``save_pretrained``.

    Raises:
        ImportError: peft is not installed.
        ValueError: weights that do not fit the pipeline, and as :func:`load_pipeline`.

    Example:
        >>> load_adapter("missing", "lora")
        Traceback (most recent call last):
        ValueError: missing holds no model_index.json: give a folder written by a pipeline's save_pretrained.
    """
    pipeline = open_pipeline(base)
    try:
        import peft  # noqa: F401  # only to say how to get it
    except ImportError as error:
        raise ImportError('LoRA weights need peft: pip install "hopfield-replay[latent]".') from error
    path = Path(adapter)
    try:
        with Allowance(_bytes_of_weights(path), str(path)):
            _merge(pipeline, path)
    except Exception as error:  # peft and diffusers raise a dozen kinds for weights that do not fit
        raise ValueError(f"The LoRA weights {adapter} do not fit {base} ({what_went_wrong(error)}).") from error
    return _version(pipeline, str(adapter), f"LoRA weights on {base}")


def _merge(pipeline: Any, path: Path) -> None:
    import peft

    if (path / "adapter_config.json").is_file():
        check_adapter(path)
        name = _network_name(pipeline)
        merged = peft.PeftModel.from_pretrained(getattr(pipeline, name), path).merge_and_unload()
        setattr(pipeline, name, merged)
        return
    file = path / _LORA if path.is_dir() else path
    check_adapter(file)
    with _quietly():
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    if not pipeline.get_active_adapters():
        raise ValueError("none of them is for a layer that the pipeline has")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()


def is_adapter(source: str | Path) -> bool:
    """Whether a path is LoRA weights and not a whole pipeline."""
    path = Path(source)
    return any((path / name).is_file() for name in (_LORA, "adapter_config.json")) or (
        path.is_file() and path.suffix == ".safetensors"
    )


def open_pipeline(source: str | Path) -> Any:
    """The diffusers pipeline in a folder; nothing is downloaded.

    Args:
        source: the folder, with ``model_index.json``.

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
    if path.is_file():
        raise ValueError(f"{path} is a file: a checkpoint needs the class of its model (model, --model).")
    if not (path / "model_index.json").is_file():
        if is_adapter(path):
            raise ValueError(f"{path} holds LoRA weights: give their base first, and them second.")
        raise ValueError(f"{path} holds no model_index.json: give a folder written by a pipeline's save_pretrained.")
    check_pipeline_folder(path)
    try:
        with _quietly(), Allowance(_bytes_of_weights(path), str(path)):
            return DiffusionPipeline.from_pretrained(path, local_files_only=True)
    except ImportError as error:
        raise ImportError(f'{path} needs more packages: pip install "hopfield-replay[latent]" ({error}).') from error
    except Exception as error:  # damaged folders fail in whatever part of diffusers meets the damage first
        raise ValueError(f"{path} cannot be loaded as a pipeline ({what_went_wrong(error)}).") from error


def _bytes_of_weights(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.suffix in _WEIGHTS and file.is_file())


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars and no advice while loading: what does not fit is an error here."""
    logs = [import_module(f"{name}.utils.logging") for name in ("diffusers", "transformers") if find_spec(name)]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity(50)  # critical
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, shown) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if shown:
                log.enable_progress_bar()


def _version(pipeline: Any, source: str, weights: str) -> Version:
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    if beyond := sorted(set(parts) - _KNOWN):
        raise ValueError(
            f"{source} is a {type(pipeline).__name__} with {beyond}, whose inputs are unknown here. Encode the data "
            "yourself and call audit() with DiffusersDenoiser(network, scheduler)."
        )
    holder = nn.Module()
    for name, part in parts.items():
        setattr(holder, name, part)
    denoiser = find_denoiser(holder)
    if denoiser is None:
        raise ValueError(f"The pipeline in {source} holds no denoising network with a scheduler.")
    check_weights(holder, source)
    return Version(
        source=source,
        module=holder,
        denoiser=denoiser,
        weights=weights,
        prepare=_prepare(holder),
        decode=_decode(holder),
        expects_images=True,
    )


def _prepare(parts: Any) -> Callable[[Any], Any]:
    vae, text_encoder = getattr(parts, "vae", None), getattr(parts, "text_encoder", None)
    if vae is None and text_encoder is None:
        return identity

    def prepare(batch: Any) -> dict[str, Any]:
        samples, rest = split_batch(batch)
        if vae is not None:
            wanted = vae.config.in_channels
            samples = samples.expand(-1, wanted, -1, -1) if samples.shape[1] == 1 else samples
            samples = LatentEncoder(vae).features(samples)
        columns: dict[str, Any] = {"samples": samples, **(rest if isinstance(rest, Mapping) else {"rest": rest})}
        if text_encoder is not None:
            captions = columns.pop("captions", [""] * len(samples))
            columns["encoder_hidden_states"] = _text(parts.tokenizer, text_encoder, captions)
        return {key: value for key, value in columns.items() if value is not None}

    return prepare


def _text(tokenizer: Any, text_encoder: Any, captions: Any) -> Tensor:
    length = tokenizer.model_max_length
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    states: Tensor = text_encoder(tokens.input_ids.to(text_encoder.device))[0]
    return states


def _decode(parts: Any) -> Callable[[Tensor], Tensor]:
    vae = getattr(parts, "vae", None)
    return identity if vae is None else LatentEncoder(vae).decode


def _network_name(pipeline: Any) -> str:
    return "unet" if getattr(pipeline, "unet", None) is not None else "transformer"


__all__ = ["is_adapter", "load_adapter", "load_pipeline"]
