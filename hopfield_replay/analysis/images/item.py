"""Item: one image, wherever it lies, and what is known of it."""

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others run programs (EPS: Ghostscript)


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
        with _Opened(self) as image:
            across = image.getexif().get(0x0112, 1) >= 5  # EXIF's orientation: turned by 90 degrees
            size = image.size[::-1] if across else image.size
            return image.format or "", size, image.mode in ("1", "L")

    def open(self) -> "Image":
        """The image as it is to be seen: upright, RGB or grey, with white where it is transparent.

        Raises:
            ValueError: it does not decode, or has more than 8 bits a channel.
            ImportError: Pillow is not installed.
        """
        if isinstance(self.content, Tensor):
            return _from_pixels(self.content)
        with _Opened(self) as image:
            return _upright(image, self.name)


def utf8_name(name: str) -> str:
    r"""A file's name as UTF-8 can hold it: what is none in it becomes a backslash and a number.

    Example:
        >>> utf8_name("a" + chr(0xDCFF))
        'a\\xff'
    """
    return os.fsencode(name).decode("utf-8", errors="backslashreplace")


class _Opened:
    """An image file that is open, and whose errors say whose they are."""

    def __init__(self, item: Item) -> None:
        self._item = item

    def __enter__(self) -> Any:
        pillow = _pillow()
        content = self._item.content
        try:
            file = content if isinstance(content, Path) else io.BytesIO(content())  # type: ignore[operator]  # no pixels
            with warnings.catch_warnings():
                warnings.simplefilter("error", pillow.DecompressionBombWarning)
                self._image = pillow.open(file, formats=_FORMATS)
        except Exception as error:  # every format's reader fails in its own way on a damaged file
            raise ValueError(f"{self._item.name} is not an image that can be read ({error}).") from error
        return self._image

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._image.close()
        if isinstance(error, Exception) and not isinstance(error, ValueError):
            raise ValueError(f"{self._item.name} does not decode as an image ({error}).") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('Images need Pillow: pip install "hopfield-replay[tensorboard]".') from error
    return Image


def _upright(image: "Image", name: str) -> "Image":
    from PIL import ImageOps

    if image.mode[0] in "IF":  # Pillow would cut every value above 255 to white
        raise ValueError(f"{name} has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits.")
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:  # any colour may lie under it, often black
        layer = image.convert("RGBA")
        image = _pillow().alpha_composite(_pillow().new("RGBA", layer.size, "white"), layer)
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _from_pixels(pixels: Tensor) -> "Image":
    import torch

    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"samples of shape {tuple(pixels.shape)} are no images (1 or 3, height, width).")
    found = pixels.detach().cpu()
    if found.is_floating_point():
        found = found.float()
        found = (found + 1.0) * 127.5 if bool((found < 0).any()) else found * 255.0
    found = found.round().clamp(0, 255).to(torch.uint8) if found.is_floating_point() else found
    array = found.permute(1, 2, 0).contiguous().numpy()
    picture: Image = _pillow().fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    return picture
