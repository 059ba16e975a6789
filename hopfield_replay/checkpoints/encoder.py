"""Encoders as they lie on disk: autoencoders, vision models, TorchScript files."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hopfield_replay.checkpoints.file import what_went_wrong
from hopfield_replay.checkpoints.safety import read_object
from hopfield_replay.encoders import LatentEncoder, ModuleEncoder
from hopfield_replay.utilities.files import files_below

_LARGEST = 256  # side of images for an autoencoder: its latents hold enough to tell images apart
_USUAL = 224  # side of images for a file that does not say
_CODE = (".py", ".pyc", ".so")


class LoadedEncoder(NamedTuple):
    """An encoder, and the images that it takes.

    Attributes:
        encoder: maps a batch of images in [-1, 1] to vectors.
        size: side of these images.
    """

    encoder: ModuleEncoder
    size: int


def load_encoder(source: str | Path) -> LoadedEncoder:
    """Load an encoder of images from a path. Nothing is downloaded.

    Args:
        source: a folder of a diffusers autoencoder, or of a pipeline that has one: its latents; a folder of a
            transformers vision model with its image processor (DINOv2, CLIP, SigLIP, ViT): its image features, scaled
            to length 1; or a TorchScript file, which gets images in [-1, 1]. TorchScript is a program: only from
            people you trust.

    Raises:
        ImportError: diffusers or transformers is not installed.
        ValueError: nothing there, none of these, weights that do not load.

    Example:
        >>> load_encoder("missing")
        Traceback (most recent call last):
        ValueError: missing does not exist; give a folder of an autoencoder or a vision model, or a TorchScript file.
    """
    path = Path(source)
    if path.is_file():
        return LoadedEncoder(ModuleEncoder(_script(path)), _USUAL)
    if not path.is_dir():
        raise ValueError(
            f"{path} does not exist; give a folder of an autoencoder or a vision model, or a TorchScript file."
        )
    if (path / "model_index.json").is_file():
        if not (path / "vae").is_dir():
            raise ValueError(f"{path} is a pipeline without an autoencoder (vae).")
        path = path / "vae"
    settings = read_object(path / "config.json")
    try:
        if "_class_name" in settings:
            return _autoencoder(path, settings["_class_name"])
        return _vision_model(path, settings)
    except (ImportError, ValueError):
        raise
    except Exception as error:  # damaged folders fail in whatever part of the library meets the damage first
        raise ValueError(f"{path} cannot be loaded as an encoder ({what_went_wrong(error)}).") from error


def _script(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch recommends another way to save new models
            module: nn.Module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path} is not a TorchScript file that can be read ({what_went_wrong(error)}).") from error
    return module.eval()


def _autoencoder(path: Path, kind: Any) -> LoadedEncoder:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError('Autoencoders need diffusers: pip install "hopfield-replay[diffusion]".') from error
    known = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
    if kind not in known:
        raise ValueError(f"{path} holds a {str(kind)[:80]}, which is none of {', '.join(known)}.")
    vae = getattr(diffusers, kind).from_pretrained(path, local_files_only=True)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    wanted = min(_LARGEST, vae.config.sample_size if isinstance(vae.config.get("sample_size"), int) else _LARGEST)
    return LoadedEncoder(LatentEncoder(vae.eval()), max(factor, wanted // factor * factor))


def _vision_model(path: Path, settings: dict[str, Any]) -> LoadedEncoder:
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ImportError('Vision models need transformers: pip install "hopfield-replay[latent]".') from error
    if "model_type" not in settings:
        raise ValueError(f"{path}/config.json names neither a class of diffusers nor a model of transformers.")
    if "auto_map" in settings or any(file.suffix in _CODE for file in files_below(path)):
        raise ValueError(f"{path} brings code of its own, which is never run; use a model that transformers knows.")
    processor = read_object(path / "preprocessor_config.json")
    size = processor.get("crop_size") or processor.get("size")
    side = min(size.values()) if isinstance(size, dict) else size
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not isinstance(side, int) or mean is None or std is None:
        raise ValueError(f"{path}/preprocessor_config.json says no size, image_mean and image_std of the images.")
    model = AutoModel.from_pretrained(path, local_files_only=True, trust_remote_code=False).eval()
    return LoadedEncoder(ModuleEncoder(_ImageFeatures(model, mean, std), chunk_size=32), side)


class _ImageFeatures(nn.Module):
    """Image features of length 1 of images in [-1, 1]: such models compare by angle."""

    def __init__(self, model: nn.Module, mean: Any, std: Any) -> None:
        super().__init__()
        self.model: Any = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        colours = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        pixels = ((colours + 1.0) / 2.0 - self.mean) / self.std
        if hasattr(self.model, "get_image_features"):  # of images and texts: the space that both share
            features = self.model.get_image_features(pixel_values=pixels)
        else:
            features = self.model(pixel_values=pixels)
        if not isinstance(features, Tensor):
            pooled = getattr(features, "pooler_output", None)
            features = features.last_hidden_state[:, 0] if pooled is None else pooled
        return nn.functional.normalize(features.flatten(1), dim=1)
