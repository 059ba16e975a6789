"""Latents of captioned images, computed once, and bound to the autoencoder that made them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from helpers.captioned import Captioned, read_images
from helpers.files import read_tensors, write_tensors
from hopfield_replay.encoders import LatentEncoder

_CHUNK = 16  # images decoded and encoded together


def vae_fingerprint(vae: Any) -> str:
    """SHA-256 of an autoencoder's weights and settings."""
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}  # _: path, version
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in sorted(vae.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached_latents(
    tasks: Sequence[Captioned],
    vae: nn.Module,
    size: int,
    folder: Path,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Scaled latents (n, c, h, w) of every task's images: the mean of the posterior, from the cache where it is there.

    Nothing is written before all images of all tasks are encoded.

    Args:
        tasks: the images.
        vae: a diffusers autoencoder, on the device on which to encode.
        size: height and width that images are brought to.
        folder: of the cache, one file for each task.
        encode: images to latents; None: the autoencoder's, scaled.

    Raises:
        ValueError: a cache of another autoencoder, of other images or of another size; an image that does not decode.
    """
    made_by = vae_fingerprint(vae)
    latents, new = [], {}
    for number, task in enumerate(tasks):
        path = folder / f"{number}_{task.name}.pt"
        made_of = {"vae": made_by, "images": task.fingerprint(), "size": size}
        if path.exists():
            latents.append(_read(path, made_of))
            continue
        latents.append(_encode(task, encode or LatentEncoder(vae, chunk_size=_CHUNK).features, size))
        new[path] = {**made_of, "latents": latents[-1]}
    folder.mkdir(parents=True, exist_ok=True)
    for path, tree in new.items():
        write_tensors(path, tree)
    return latents


def _read(path: Path, made_of: dict[str, Any]) -> Tensor:
    try:
        cache = read_tensors(path)
    except ValueError as error:
        raise ValueError(f"{error} Delete it to encode the images anew.") from error
    kinds = {"vae": "by another autoencoder", "images": "of other images", "size": "at another size"}
    for key, kind in kinds.items():
        if not isinstance(cache, dict) or cache.get(key) != made_of[key]:
            given = cache.get(key) if isinstance(cache, dict) else None
            raise ValueError(
                f"{path} holds latents that were made {kind} ({key} {given}, now {made_of[key]}). Delete it to encode "
                "the images anew, or give another output folder."
            )
    latents: Tensor = cache["latents"]
    return latents


def _encode(task: Captioned, encode: Callable[[Tensor], Tensor], size: int) -> Tensor:
    starts = tqdm(range(0, len(task), _CHUNK), desc=f"Encoding {task.name}", leave=False, delay=1.0)
    return torch.cat([encode(read_images(task.files[at : at + _CHUNK], size)) for at in starts])
