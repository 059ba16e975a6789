"""Item: one image, wherever it lies, and what is known of it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hopfield_replay.utilities.images import BEYOND, MAX_PIXELS, image_header, open_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a collection; it is opened when it is needed.

    Attributes:
        name: how its source calls it, such as its path below the folder; any text that UTF-8 can hold.
        content: its file; or a function that returns the bytes of one; or pixels (channels, height, width), bytes or
            floating (in [-1, 1] if any lies below zero, else in [0, 1]).
        caption: its caption; None if it has none.
        label: its class; None if that is not known.
        folder: the folder it lay in, below that of its source.
        max_pixels: a larger image is refused before it is decoded.

    Example:
        >>> import torch
        >>> Item("noise", torch.rand(3, 4, 6)).open().size  # width, height
        (6, 4)
    """

    name: str
    content: Path | Tensor | Callable[[], bytes]
    caption: str | None = None
    label: str | None = None
    folder: str = ""
    max_pixels: int = MAX_PIXELS

    def encoded(self) -> bytes | None:
        """The bytes of its file; None where there is none, but pixels.

        Raises:
            OSError: the file is gone.
        """
        if isinstance(self.content, Tensor):
            return None
        return self.content.read_bytes() if isinstance(self.content, Path) else self.content()

    def header(self) -> tuple[str, tuple[int, int], bool]:
        """Format (``"PNG"``), upright size (width, height), and whether it is grey, without decoding it.

        Raises:
            ValueError: it is no image that can be read.
        """
        if isinstance(self.content, Tensor):
            channels, height, width = self.content.shape
            return "", (width, height), channels == 1
        return image_header(self._file(), max_pixels=self.max_pixels, name=self.name)

    def open(self) -> "Image":
        """The image as it is to be seen: upright, RGB or grey, with white where it is transparent.

        Raises:
            ValueError: it does not decode, or the range of its numbers is not known.
            ImportError: Pillow is not installed.
        """
        if isinstance(self.content, Tensor):
            return _from_pixels(self.content)
        return _of_eight_bits(open_image(self._file(), max_pixels=self.max_pixels, name=self.name))

    def _file(self) -> Path | BytesIO:
        """Its file, or the bytes of one.

        Raises:
            ValueError: its source cannot be read.
        """
        if isinstance(self.content, Path):
            return self.content
        try:
            return BytesIO(self.content())  # type: ignore[operator]  # pixels have no file
        except Exception as error:  # of an archive that is damaged
            raise ValueError(f"{self.name} is not an image that can be read ({error}).") from error


def utf8_name(name: str) -> str:
    r"""A file's name as UTF-8 can hold it: what is none in it becomes a backslash and a number.

    Example:
        >>> utf8_name("a" + chr(0xDCFF))
        'a\\xff'
    """
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


def _of_eight_bits(image: "Image") -> "Image":
    """Grey of more bits rounded to eight, which is what is compared and shown; files are handed on as they are."""
    if image.mode != "F":
        return image
    import numpy
    from PIL import Image

    return Image.fromarray(numpy.rint(numpy.asarray(image)).astype(numpy.uint8))


def as_bytes(values: Tensor) -> Tensor:
    """Pixels as bytes: floating ones lie in [-1, 1] if any lies below zero, else in [0, 1]; whole ones are bytes.

    Raises:
        ValueError: floating ones far outside of both.

    Example:
        >>> import torch
        >>> as_bytes(torch.tensor([0.0, 1.0])).tolist(), as_bytes(torch.tensor([-1.0, 1.0])).tolist()
        ([0, 255], [0, 255])
    """
    import torch

    if not values.is_floating_point():
        return values
    low, high = float(values.min()), float(values.max())
    if not max(-low, high) <= BEYOND:  # NaN neither
        raise ValueError(
            f"images as floats from {low:.3g} to {high:.3g}: their range is not known. Give bytes, floats in [-1, 1] "
            "or in [0, 1]; or, to compare them as they are, flattened as (n, d)."
        )
    values = values.float()
    return ((values + 1.0) * 127.5 if low < 0 else values * 255.0).round().clamp(0, 255).to(torch.uint8)


def _from_pixels(pixels: Tensor) -> "Image":
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('Images need Pillow: pip install "hopfield-replay[tensorboard]".') from error

    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"samples of shape {tuple(pixels.shape)} are no images (1 or 3, height, width).")
    values = as_bytes(pixels.detach().cpu())
    array = values.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
