"""Samples from what a person has on disk: a folder of images, an array file, or a datamodule by name."""

import warnings
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.array_files import read_npz
from hopfield_replay.functional._validate import check_finite

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others run programs (EPS: Ghostscript)


def load_data(source: str) -> Tensor | tuple[Tensor, Tensor] | Iterable[Any]:
    """Read samples from a path, or import a datamodule.

    Args:
        source: a folder of images of one size (its subfolders are the classes); a ``.npz`` or ``.safetensors`` file,
            whose first array of two or more dimensions holds the samples and whose first one-dimensional array of
            integers, if any, the labels; or ``package.module:DataModule``, whose training loader is taken.

    Returns:
        Samples (n, *shape) in float32 (bytes scaled to [-1, 1]); a pair with labels (n,); or the loader.

    Raises:
        ValueError: nothing there, files that cannot be read, images of several sizes, NaN or infinite samples. Each
            names the file. Nothing in a file is ever run; a datamodule's own code is.

    Example:
        >>> import tempfile, numpy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.savez(folder + "/x.npz", images=numpy.zeros((2, 4, 4), "uint8"), labels=numpy.arange(2))
        ...     images, labels = load_data(folder + "/x.npz")
        >>> images.shape, images.min().item(), labels
        (torch.Size([2, 4, 4]), -1.0, tensor([0, 1]))
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if ":" in source:
        return _datamodule(source)
    raise ValueError(
        f"{source!r} is not a folder, a .npz or .safetensors file, nor module:DataModule; give one of these."
    )


def channels_first(images: Tensor) -> Tensor:
    """Images (n, h, w) or (n, h, w, 1 or 3) as (n, channels, h, w); others as they are.

    Example:
        >>> channels_first(torch.zeros(2, 8, 8, 3)).shape, channels_first(torch.zeros(2, 8, 8)).shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 1, 8, 8]))
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[-1] in (1, 3) and images.shape[1] not in (1, 3):
        return images.permute(0, 3, 1, 2)
    return images


def _scaled(samples: Tensor) -> Tensor:
    return samples.float() / 127.5 - 1.0 if samples.dtype == torch.uint8 else samples.float()


def _folder(path: Path) -> tuple[Tensor, Tensor] | Tensor:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('Folders of images need Pillow: pip install "hopfield-replay[examples]".') from error
    import numpy

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _IMAGES and file.is_file())
    if not files:
        raise ValueError(f"{path} holds no images ({', '.join(_IMAGES)}).")
    images: list[Tensor] = []
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(file, formats=_FORMATS) as image:
                    images.append(torch.from_numpy(numpy.array(image.convert("L" if image.mode == "L" else "RGB"))))
        except Exception as error:  # a decoder may raise anything on a broken file
            raise ValueError(f"{file} is not an image that can be read ({error}).") from error
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{file} has shape {tuple(images[-1].shape)}, but {files[0]} has {tuple(images[0].shape)}; give images "
                "of one size and one kind."
            )
    samples = _scaled(torch.stack(images))
    parents = [str(file.parent) for file in files]
    names = sorted(set(parents))
    return (samples, torch.tensor([names.index(name) for name in parents])) if len(names) > 1 else samples


def _arrays(found: dict[str, Tensor], path: Path) -> tuple[Tensor, Tensor] | Tensor:
    samples = [array for array in found.values() if array.ndim >= 2]
    if not samples:
        raise ValueError(f"{path} holds no array of samples (n, ...); it holds {list(found)}.")
    labels = [
        array.to(torch.int64)
        for array in found.values()
        if array.shape == (len(samples[0]),) and not array.is_floating_point()
    ]
    scaled = _scaled(samples[0])
    check_finite(scaled, str(path))
    return (scaled, labels[0]) if labels else scaled


def _npz(path: Path) -> tuple[Tensor, Tensor] | Tensor:
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error}).") from error
    return _arrays({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def _safetensors(path: Path) -> tuple[Tensor, Tensor] | Tensor:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        # copies: what safetensors returns is the file itself, mapped, and who cuts it later kills the process
        found = {name: array.clone() for name, array in load_file(path).items() if not array.is_complex()}
        return _arrays(found, path)
    except (OSError, SafetensorError, RuntimeError) as error:  # RuntimeError: of a type that torch cannot convert
        raise ValueError(f"{path} cannot be read as .safetensors ({error}).") from error


def _datamodule(source: str) -> Iterable[Any]:
    module, _, name = source.partition(":")
    try:
        kind = getattr(import_module(module), name)
        if not isinstance(kind, type) or not hasattr(kind, "train_dataloader"):  # call nothing else: "os:abort"
            raise TypeError(f"{name} is not a class with train_dataloader")
        datamodule = kind()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be imported and called without arguments ({error}).") from error
    datamodule.prepare_data()
    datamodule.setup("fit")
    loader: Iterable[Any] = datamodule.train_dataloader()
    return loader
