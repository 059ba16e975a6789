"""Samples from what a person has on disk: a folder of images, an array file, or a datamodule by name."""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.cli.array_files import read_npz
from hopfield_replay.cli.own_code import importable
from hopfield_replay.utilities.checks import check_finite

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others run programs (EPS: Ghostscript)
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples that are held in memory, with what is known of them.

    Attributes:
        samples: (n, *shape) float32; bytes were scaled to [-1, 1].
        labels: (n,) int64, or None.
        classes: names of the labels 0, 1, ...; empty if the labels are numbers of their own.
        names: of the samples (file names); empty if they have none.
        captions: of the samples; empty if they have none.
    """

    samples: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self) -> list[Any]:
        """Batches ``(samples, labels)`` or ``(samples,)``; with captions dicts, which hold them beside these."""
        found: list[Any] = []
        for start in range(0, len(self), _BATCH):
            rows = slice(start, start + _BATCH)
            batch = [self.samples[rows], *([] if self.labels is None else [self.labels[rows]])]
            if self.captions:
                named = dict(zip(("samples", "labels"), batch, strict=False))
                found.append({**named, "captions": list(self.captions[rows])})
            else:
                found.append(tuple(batch))
        return found

    def label_names(self) -> list[int | str] | None:
        """The class of each sample by name, or by number; captions where these repeat; None if nothing is known."""
        if self.labels is None:
            repeated = 1 < len(set(self.captions)) <= len(self.captions) / 2
            return list(self.captions) if repeated else None
        return [self.classes[label] if self.classes else label for label in self.labels.tolist()]

    def as_images(self, *, strict: bool) -> "Samples":
        """The same as images (n, channels, height, width); if not strict, samples that are none stay as they are.

        Raises:
            ValueError: samples that are no images, if strict.
        """
        found = channels_first(self.samples)
        if found.ndim != 4 and strict:
            raise ValueError(
                f"The data holds samples of shape {tuple(found.shape[1:])}, which are no images (channels, height, "
                "width)."
            )
        return replace(self, samples=found)


def load_data(source: str) -> Samples | Iterable[Any]:
    """Read samples from a path, or import a datamodule.

    Args:
        source: a folder of images of one size (its subfolders are the classes; captions come from a ``metadata.jsonl``
            with lines ``{"file_name": ..., "text": ...}``); a ``.npz`` or ``.safetensors`` file, whose first array of
            two or more dimensions holds the samples and whose first one-dimensional array of integers, if any, the
            labels; or ``package.module:DataModule``, whose training loader is taken.

    Returns:
        The samples; or the loader.

    Raises:
        ValueError: nothing there, files that cannot be read, images of several sizes, NaN or infinite samples. Each
            names the file. Nothing in a file is ever run; a datamodule's own code is.

    Example:
        >>> import tempfile, numpy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.savez(folder + "/x.npz", images=numpy.zeros((2, 4, 4), "uint8"), labels=numpy.arange(2))
        ...     found = load_data(folder + "/x.npz")
        >>> found.samples.shape, found.samples.min().item(), found.labels
        (torch.Size([2, 4, 4]), -1.0, tensor([0, 1]))
    """
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix in (".npz", ".safetensors"):
        if not path.is_file():
            raise ValueError(f"{path} does not exist.")
        return _npz(path) if path.suffix == ".npz" else _safetensors(path)
    if ":" in source:
        return _datamodule(source)
    if not path.exists():
        raise ValueError(
            f"{source!r} does not exist; give a folder of images, a .npz or .safetensors file, or module:DataModule."
        )
    raise ValueError(
        f"{source!r} is not a folder, a .npz or .safetensors file, nor module:DataModule; give one of these."
    )


def in_one_numbering(parts: Sequence[Samples]) -> list[Samples]:
    """The same samples, with labels that mean the same class in all of them: folders number their classes by name."""
    if not any(part.classes for part in parts):
        return list(parts)
    classes = tuple(sorted({name for part in parts for name in part.classes}))
    numbered = []
    for part in parts:
        if part.labels is None or not part.classes:
            numbered.append(part)
            continue
        table = torch.tensor([classes.index(name) for name in part.classes])
        numbered.append(replace(part, labels=table[part.labels], classes=classes))
    return numbered


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


def _folder(path: Path) -> Samples:
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
        except Exception as error:  # every format's decoder fails in its own way on a damaged file
            raise ValueError(f"{file} is not an image that can be read ({error}).") from error
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{file} has shape {tuple(images[-1].shape)}, but {files[0]} has {tuple(images[0].shape)}; give images "
                "of one size and one kind."
            )
    parents = [str(file.parent.relative_to(path)) for file in files]
    classes = sorted(set(parents))
    return Samples(
        samples=channels_first(_scaled(torch.stack(images))),
        labels=torch.tensor([classes.index(name) for name in parents]) if len(classes) > 1 else None,
        classes=tuple(classes) if len(classes) > 1 else (),
        names=tuple(str(file.relative_to(path)) for file in files),
        captions=_captions(path, files),
    )


def _captions(path: Path, files: Sequence[Path]) -> tuple[str, ...]:
    metadata = path / "metadata.jsonl"
    if not metadata.is_file():
        return ()
    found: dict[Path, str] = {}
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                found[path / row["file_name"]] = str(row["text"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f'{metadata}, line {number}: expected {{"file_name": ..., "text": ...}} ({error!r}).'
                ) from error
    if missing := [str(file) for file in files if file not in found]:
        raise ValueError(f"{metadata} has no caption for {len(missing)} of {len(files)} images (first: {missing[0]}).")
    return tuple(found[file] for file in files)


def _arrays(found: dict[str, Tensor], path: Path) -> Samples:
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
    return Samples(scaled, labels[0] if labels else None)


def _npz(path: Path) -> Samples:
    try:
        arrays = read_npz(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as .npz ({error}).") from error
    return _arrays({name: torch.from_numpy(array) for name, array in arrays.items()}, path)


def _safetensors(path: Path) -> Samples:
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
    with importable(source):
        try:
            kind = getattr(import_module(module), name)
            if not isinstance(kind, type) or not hasattr(kind, "train_dataloader"):  # call nothing else: "os:abort"
                raise TypeError(f"{name} is not a class with train_dataloader")
            datamodule = kind()
        except (Exception, SystemExit) as error:  # whatever happens while somebody else's module is run
            raise ValueError(f"{source!r} cannot be imported and called without arguments ({error}).") from error
        try:
            datamodule.prepare_data()
            datamodule.setup("fit")
            loader: Iterable[Any] = datamodule.train_dataloader()
        except (Exception, SystemExit) as error:
            raise ValueError(f"{source!r} has no data ({type(error).__name__}: {error}).") from error
    return loader
