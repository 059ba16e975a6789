"""Image files as pixels, the way they say: upright, on white, with all their bits; the one reader of all commands."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.memory import MAX_BYTES, MAX_PIXELS, memory_for

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
BEYOND = 1.5  # no image in [-1, 1] has such a number, whatever resampling it went through
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others run programs (EPS: Ghostscript)
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_BITS, _MEANING, _WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF


def open_image(file: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str = "") -> "Image":
    """An image in mode "L" (grey), "RGB", or "F" (grey of more than 8 bits, scaled to 0 ... 255).

    It is turned as its EXIF orientation says; what is transparent shows white; palettes, CMYK and YCbCr become RGB.
    Grey of 16 and of 12 bits (in TIFF) is scaled by what it can hold, so that white is 255.

    Args:
        file: PNG, JPEG, BMP, GIF, WebP, TIFF or PPM; or its bytes as a file that is open.
        max_pixels: larger images are refused before they are decoded.
        name: of the image, for errors; "": the file's.

    Raises:
        ValueError: no such image; larger than max_pixels; several images in one file; numbers whose range no file says
            (floats, 32-bit integers), and colours that need a profile (LAB). Each names the file.
        ImportError: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("I;16", (2, 1), 65535).save(f"{folder}/white.png")
        ...     image = open_image(Path(folder, "white.png"))
        >>> image.mode, image.getpixel((0, 0))
        ('F', 255.0)
    """
    try:
        from PIL import ImageOps
    except ImportError as error:
        raise ImportError('Images need Pillow: pip install "hopfield-replay[tensorboard]".') from error
    name = name or str(file)
    with memory_for(name, "leave it out, or make it smaller"):
        try:
            with _opened(file) as image:
                _check_size(image, max_pixels)
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":  # cameras put a preview beside a JPEG
                    raise ValueError(f"it holds {image.n_frames} images; save each in a file of its own")
                deep = _deep(image)
                return _eight_bits(ImageOps.exif_transpose(image)) if deep is None else ImageOps.exif_transpose(deep)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # every format's decoder fails in its own way on a damaged file
            raise ValueError(f"{name} is not an image that can be read ({error}).") from error


def pixels(image: "Image") -> Tensor:
    """Numbers of an image of :func:`open_image`, float32 (1 or 3, height, width) in [-1, 1].

    Args:
        image: in mode "L", "RGB" or "F".

    Example:
        >>> from PIL import Image
        >>> pixels(Image.new("RGB", (3, 2), (255, 0, 51)))[:, 0, 0]
        tensor([ 1.0000, -1.0000, -0.6000])
    """
    import numpy

    values = torch.from_numpy(numpy.array(image, dtype=numpy.float32))
    values = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    return values / 127.5 - 1.0


def read_images(
    files: Sequence[Path],
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    size: int | None = None,
    several: int | None = None,
) -> Tensor:
    """Images of one size and kind as float32 (n, 1 or 3, height, width) in [-1, 1].

    Args:
        files: at least one.
        size: side to which they are scaled and cropped around their centres; None: as they are.
        several: the same, for images of several sizes alone; None: these are refused.
        max_pixels: of one image.
        max_bytes: of all of them, which is checked before one is decoded.

    Raises:
        ValueError: as :func:`open_image`; images of several sizes, grey and coloured ones; more than max_bytes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (3, 2), (255, 0, 51)).save(f"{folder}/a.png")
        ...     read_images([Path(folder, "a.png")])[0, :, 0, 0]
        tensor([ 1.0000, -1.0000, -0.6000])
    """
    _, (width, height), grey = image_header(files[0], max_pixels=max_pixels)
    if size is None and several is not None:
        sizes = (image_header(file, max_pixels=max_pixels)[1] for file in files)
        size = None if all(other == (width, height) for other in sizes) else several
    side = None if size is None else check_integer(size, "size", 1)
    shape = (1 if grey else 3, *((height, width) if side is None else (side, side)))
    needed = 4 * len(files) * shape[0] * shape[1] * shape[2]
    if needed > max_bytes:
        raise ValueError(
            f"{files[0].parent}: {len(files)} images of {tuple(shape[1:])} pixels take {needed} bytes, more than "
            f"max_bytes={max_bytes}. Allow more (--max-bytes), or give fewer or smaller images."
        )
    with memory_for(f"{len(files)} images ({needed} bytes)", "give fewer or smaller ones"):
        images = torch.empty(len(files), *shape)
    for row, file in enumerate(files):
        image = pixels(_fitted(open_image(file, max_pixels=max_pixels), side))
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"{file} has shape {_seen(image.shape)}, but {files[0]} has {_seen(images.shape[1:])}; give images of "
                "one size and one kind, or the size to bring them to (--size)."
            )
        images[row] = image
    return images


def _fitted(image: "Image", side: int | None) -> "Image":
    if side is None or image.size == (side, side):
        return image
    from PIL import ImageOps

    return ImageOps.fit(image, (side, side))


def _seen(shape: Sequence[int]) -> tuple[int, ...]:
    """Height, width and, of images in colour, channels."""
    return (*shape[1:], shape[0])[: 2 + (shape[0] > 1)]


def image_header(
    file: Path | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str = ""
) -> tuple[str, tuple[int, int], bool]:
    """Format, upright width and height, and whether it is grey: what :func:`open_image` will give, but not decoded.

    Args:
        file: as there.
        max_pixels: as there.
        name: as there.

    Raises:
        ValueError: no such image, or larger than max_pixels.
    """
    try:
        with _opened(file) as image:
            _check_size(image, max_pixels)
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) >= 5
            size = (height, width) if turned else (width, height)
            return image.format or "", size, image.mode in _GREY
    except ImportError as error:
        raise ImportError('Images need Pillow: pip install "hopfield-replay[tensorboard]".') from error
    except Exception as error:
        raise ValueError(f"{name or file} is not an image that can be read ({error}).") from error


def _opened(file: Path | BinaryIO) -> Any:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and of oddities of formats
        return Image.open(file, formats=_FORMATS)


def _check_size(image: "Image", max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels, more than max_pixels={max_pixels} (--max-pixels)")


def _deep(image: "Image") -> "Image | None":
    """Grey of more than 8 bits in mode "F"; None for images of 8 bits."""
    import numpy
    from PIL import Image as Images

    if image.mode[0] not in "IF":
        return None
    bits = 16
    if image.format == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]  # of this format's class
        bits = int(tags.get(_BITS, (16,))[0])
    if image.mode == "F" or bits > 16 or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise ValueError(
            f"the range of its numbers (mode {image.mode}, {image.format}) is not known; save it with 8 or 16 bits, or "
            "as an array of floats in [-1, 1] (.npz)"
        )
    values = numpy.asarray(image).astype(numpy.float32) * numpy.float32(255.0 / ((1 << bits) - 1))
    if image.format == "TIFF" and tags.get(_MEANING) == _WHITE_IS_ZERO:
        values = 255.0 - values
    deep = Images.fromarray(values)
    deep.info = image.info
    deep.getexif().update(image.getexif())
    return deep


def _eight_bits(image: "Image") -> "Image":
    from PIL import Image as Images

    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        image.load()
        return image.copy()
    grey = image.mode in _GREY
    if image.has_transparency_data:  # any colour may lie underneath, often black
        layer = image.convert("RGBA")
        white = Images.new("RGBA", layer.size, "white")
        image = Images.alpha_composite(white, layer)
    return image.convert("L" if grey else "RGB")


__all__ = ["BEYOND", "MAX_PIXELS", "SUFFIXES", "image_header", "open_image", "pixels", "read_images"]
