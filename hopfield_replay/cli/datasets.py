"""Samples from what a person has on disk: a folder of images, an array file, or a datamodule by name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.cli.array_files import Header, read_npz, read_safetensors
from hopfield_replay.cli.own_code import importable
from hopfield_replay.utilities.checks import check_finite, check_integer
from hopfield_replay.utilities.images import BEYOND, MAX_PIXELS, read_images
from hopfield_replay.utilities.memory import MAX_BYTES, memory_for

_LABELS = {"label", "labels", "y", "target", "targets", "class", "classes", "class_labels"}  # of these names first
_IDS = {"id", "ids", "index", "indices", "idx"}  # never labels
_BATCH = 256
_APART = 20  # times: images of one scale differ less in their largest number


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples that are held in memory, with what is known of them.

    Attributes:
        samples: (n, *shape) float32; bytes were scaled to [-1, 1].
        labels: (n,) int64, or None.
        classes: names of the labels 0, 1, ...; empty if the labels are numbers of their own. One name without labels is
            that of the only subfolder, which says little.
        names: of the samples (file names); empty if they have none.
        captions: of the samples; empty if they have none.
        scaled: whether their numbers were bytes, which is where their scale is known from.
    """

    samples: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    scaled: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self) -> list[Any]:
        """Batches ``(samples, labels)`` or ``(samples,)``; with captions dicts, which hold them beside these."""
        batches: list[Any] = []
        for start in range(0, len(self), _BATCH):
            rows = slice(start, start + _BATCH)
            batch = [self.samples[rows], *([] if self.labels is None else [self.labels[rows]])]
            if self.captions:
                named = dict(zip(("samples", "labels"), batch, strict=False))
                batches.append({**named, "captions": list(self.captions[rows])})
            else:
                batches.append(tuple(batch))
        return batches

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
        images = channels_first(self.samples)
        if images.ndim != 4 and strict:
            raise ValueError(
                f"The data holds samples of shape {tuple(images.shape[1:])}, which are no images (channels, height, "
                "width)."
            )
        return replace(self, samples=images)


def load_data(
    source: str,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    size: int | None = None,
    several: int | None = None,
) -> Samples | Iterable[Any]:
    """Read samples from a path, or import a datamodule.

    Args:
        source: a folder of images of one size (its subfolders are the classes; captions come from a ``metadata.jsonl``
            with lines ``{"file_name": ..., "text": ...}``, or from text files of the same names); a ``.npz`` or
            ``.safetensors`` file, whose first array of two or more dimensions holds the samples, and whose array of one
            integer a sample, if any, the labels (of several that of a usual name, such as ``labels``; never ``ids``);
            or ``package.module:DataModule``, whose training loader is taken.
        max_pixels: of one image, which is checked before it is decoded.
        max_bytes: that the samples may take, in the file's numbers and as float32 together; checked by headers before
            anything is read. Memory may reach twice that while they are.
        size: side to which a folder's images are scaled and cropped; None: as they are, and of one size.
        several: the same, for images of several sizes alone.

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
        check_integer(max_pixels, "max_pixels", 1)
        check_integer(max_bytes, "max_bytes", 1)
        return _folder(path, {"max_pixels": max_pixels, "max_bytes": max_bytes, "size": size, "several": several})
    if path.suffix in (".npz", ".safetensors"):
        if not path.is_file():
            raise ValueError(f"{path} does not exist.")
        return _arrays(path, check_integer(max_bytes, "max_bytes", 1))
    if ":" in source:
        return _datamodule(source)
    if not path.exists():
        raise ValueError(
            f"{source!r} does not exist; give a folder of images, a .npz or .safetensors file, or module:DataModule."
        )
    raise ValueError(
        f"{source!r} is not a folder, a .npz or .safetensors file, nor module:DataModule; give one of these."
    )


def in_one_numbering(parts: Sequence[Samples], given: Sequence[str] = ()) -> list[Samples]:
    """The same samples, with labels that mean the same class in all of them.

    Folders number their classes by name, all of them together; or as they stand in ``given``, which also names the
    labels of files.

    Raises:
        ValueError: a folder of none of the given classes, or a label beyond them.
    """
    named = sorted({name for part in parts if part.labels is not None for name in part.classes})
    return [_numbered(part, tuple(given or named), bool(given)) for part in parts]


def _numbered(part: Samples, classes: tuple[str, ...], given: bool) -> Samples:
    if part.classes and (given or part.labels is not None):
        if unknown := [name for name in part.classes if name not in classes]:
            where = "the folder itself" if unknown[0] == "." else f"the subfolder {unknown[0]!r}"
            raise ValueError(f"{where} holds samples and is none of the classes {list(classes)} (--classes).")
        table = torch.tensor([classes.index(name) for name in part.classes])
        labels = torch.zeros(len(part), dtype=torch.int64) if part.labels is None else part.labels
        return replace(part, labels=table[labels], classes=classes)
    if given and part.labels is not None and len(part):
        least, most = part.labels.min().item(), part.labels.max().item()
        if least < 0 or most >= len(classes):
            raise ValueError(f"labels from {least} to {most} are more than the {len(classes)} classes of --classes.")
        return replace(part, classes=classes)
    return part


def check_scales(parts: Mapping[str, Samples], model: str | None = None) -> None:
    """Refuse images whose numbers are on different scales: their distances, and errors, would mean nothing.

    Bytes are scaled to [-1, 1]; no file says what the range of floats is. That of images is told from their numbers.

    Args:
        parts: what will be compared, by name.
        model: what will be given these images, and takes them in [-1, 1]; None: nothing is known to.

    Raises:
        ValueError: which ones, and the range of their numbers.

    Example:
        >>> grey = torch.linspace(0, 1, 50).view(2, 1, 5, 5)
        >>> check_scales({"a.npz": Samples(grey), "b.npz": Samples(grey / 2)})
        >>> check_scales({"a.npz": Samples(grey), "b/": Samples(grey * 2 - 1, scaled=True)})
        Traceback (most recent call last):
        ValueError: a.npz holds images as floats from 0 to 1, b/ from -1 to 1: give all of them on one scale...
    """
    images = {name: part for name, part in parts.items() if part.as_images(strict=False).samples.ndim == 4}
    ends = {name: (float(part.samples.min()), float(part.samples.max())) for name, part in images.items()}
    others = {name: f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in ends.items()}
    if model is not None:
        others[model] = f"and {model} takes them from -1 to 1"
    floats = {name: ends[name] for name, part in images.items() if not part.scaled}
    wrong = [name for name, (low, high) in floats.items() if low >= 0 or max(-low, high) > BEYOND]
    if len(floats) == len(others):  # no scale is known: 0 ... 1 beside -1 ... 1, or beside 0 ... 255
        sizes = {name: size for name, (low, high) in floats.items() if (size := max(-low, high)) > 0}
        differ = len({floats[name][0] < 0 for name in sizes}) > 1 or any(
            size > _APART * min(sizes.values()) for size in sizes.values()
        )
        wrong = sorted(sizes, key=lambda name: -sizes[name]) if differ else []
    if wrong:
        first = wrong[0]
        beside = next(text for name, text in others.items() if name != first)
        raise ValueError(
            f"{first} holds images as floats {others[first].removeprefix(first + ' ')}, {beside}: give all of them on "
            "one scale, as uint8 or as floats in [-1, 1]."
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


def _kind(samples: Tensor) -> str:
    return str(samples.dtype).removeprefix("torch.")


_BYTES = {"bool": 0.5, "uint8": 127.5, "uint16": 32767.5}  # half of the largest number
_ROWS = 4096  # scaled together: memory does not grow with the number of samples


def _scaled(samples: Tensor) -> Tensor:
    """As float32; whole numbers of 8 and 16 bits, and truth values, from what they can hold to [-1, 1]."""
    kind = _kind(samples)
    if kind not in _BYTES:
        return samples.float()
    scaled = torch.empty(samples.shape, dtype=torch.float32)
    for start in range(0, len(samples), _ROWS):
        part = samples[start : start + _ROWS].to(torch.float32)
        scaled[start : start + _ROWS] = part.div_(_BYTES[kind]).sub_(1.0)
    return scaled


def _folder(path: Path, reading: Mapping[str, Any]) -> Samples:
    from hopfield_replay.analysis.images.folder import read_folder
    from hopfield_replay.analysis.images.reading import check_captions

    items = read_folder(path)
    check_captions(items, path)
    places = [item.folder or "." for item in items]
    classes = sorted(set(places))
    number = {name: at for at, name in enumerate(classes)}
    captions = [item.caption for item in items if item.caption is not None]
    return Samples(
        samples=read_images([item.content for item in items if isinstance(item.content, Path)], **reading),
        labels=torch.tensor([number[name] for name in places]) if len(classes) > 1 else None,
        classes=() if classes == ["."] else tuple(classes),
        names=tuple(item.name for item in items),
        captions=tuple(captions),
        scaled=True,
    )


def _arrays(path: Path, max_bytes: int) -> Samples:
    """The first array of samples, and that of the labels; nothing else is read."""
    chosen: list[str] = []

    def choose(headers: Mapping[str, Header]) -> list[str]:
        samples = next((name for name, header in headers.items() if len(header.shape) >= 2), None)
        if samples is None:
            raise _UnfitError(f"{path} holds no array of samples (n, ...); it holds {list(headers)}.")
        header = headers[samples]
        if 0 in header.shape:
            raise _UnfitError(f"{path}: {samples!r} of shape {header.shape} holds no numbers.")
        if not header.dtype.startswith(("float", "bfloat")) and header.dtype not in _BYTES:
            raise _UnfitError(
                f"{path}: {samples!r} holds {header.dtype}, whose range no file says; save the samples as uint8, as "
                "uint16, or as floats in [-1, 1]."
            )
        needed = header.nbytes + (0 if header.dtype == "float32" else 4 * header.nbytes // header.itemsize)
        if needed > max_bytes:
            raise _UnfitError(
                f"{path}: {samples!r} of shape {header.shape} takes {needed} bytes as float32, more than "
                f"max_bytes={max_bytes}. Allow more (--max-bytes), or give fewer samples."
            )
        chosen.append(samples)
        wanted = (header.shape[0],)
        whole = [n for n, h in headers.items() if h.shape == wanted and not h.dtype.startswith(("float", "bfloat"))]
        named = [name for name in whole if name.lower() in _LABELS]
        chosen.extend((named or [name for name in whole if name.lower() not in _IDS])[:1])
        return chosen

    try:
        with memory_for(f"the samples in {path}", "give fewer samples"):
            if path.suffix == ".npz":
                arrays = {name: torch.from_numpy(array) for name, array in read_npz(path, choose).items()}
            else:
                arrays = read_safetensors(path, choose)
            scaled = _scaled(arrays[chosen[0]])
    except _UnfitError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix} ({error}).") from error
    check_finite(scaled, str(path))
    labels = arrays[chosen[1]].to(torch.int64) if len(chosen) > 1 else None
    return Samples(scaled, labels, scaled=_kind(arrays[chosen[0]]) in _BYTES)


class _UnfitError(ValueError):
    """A file that can be read, and holds something else; the message is whole."""


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
