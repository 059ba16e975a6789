"""Samples as pictures, where they are some, and pictures as bytes that a page can hold."""

import struct
import zlib

import torch
from torch import Tensor


def as_pictures(samples: Tensor) -> Tensor | None:
    """Samples as pictures (n, height, width, 3) in [0, 1], or None where they are none.

    Bytes are divided by 255; floats are taken from [-1, 1] if any lies below zero, else from [0, 1], and what lies
    outside is cut off. Two or more than three channels (latents) are shown beside each other, in grey, between their
    1st and 99th percentile.

    Args:
        samples: (n, height, width), (n, channels, height, width), bytes or floating.

    Example:
        >>> as_pictures(torch.zeros(2, 1, 4, 6)).shape, as_pictures(torch.zeros(2, 4, 8, 8)).shape
        (torch.Size([2, 4, 6, 3]), torch.Size([2, 16, 16, 3]))
        >>> print(as_pictures(torch.zeros(2, 10)))
        None
    """
    if samples.ndim == 3:
        samples = samples[:, None]
    if samples.ndim != 4 or samples.is_complex() or not samples.numel() or min(samples.shape[2:]) < 2:
        return None
    pictures = samples.detach().cpu().float().nan_to_num()
    if samples.shape[1] in (1, 3):
        if samples.dtype == torch.uint8:
            pictures = pictures / 255.0
        elif bool((pictures < 0.0).any()):
            pictures = (pictures + 1.0) / 2.0
    else:
        pictures = _mosaic(_stretched(pictures))
    return pictures.clamp(0.0, 1.0).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()


def _stretched(latents: Tensor) -> Tensor:
    few = latents.flatten()[:: max(1, latents.numel() // 100_000)]
    low, high = few.quantile(0.01), few.quantile(0.99)
    return (latents - low) / (high - low).clamp(min=1e-12)


def _mosaic(latents: Tensor) -> Tensor:
    """Channels (n, c, h, w) laid out as a near-square grid (n, 1, rows h, columns w)."""
    n, c, h, w = latents.shape
    columns = int(-(-(c**0.5) // 1))
    rows = -(-c // columns)
    padded = torch.cat([latents, latents.new_ones(n, rows * columns - c, h, w)], dim=1)
    return padded.view(n, rows, columns, h, w).permute(0, 1, 3, 2, 4).reshape(n, 1, rows * h, columns * w)


def thumbnails(samples: Tensor, side: int = 64) -> Tensor | None:
    """Samples as small pictures (n, height, width, 3) of bytes, ``side`` high and wide at most; None: they are none.

    Example:
        >>> small = thumbnails(torch.rand(2, 3, 128, 96))
        >>> small.shape, small.dtype
        (torch.Size([2, 64, 48, 3]), torch.uint8)
    """
    pictures = as_pictures(samples)
    if pictures is None:
        return None
    largest = max(pictures.shape[1:3])
    if largest > side:
        size = [max(1, round(length * side / largest)) for length in pictures.shape[1:3]]
        planes = torch.nn.functional.interpolate(pictures.permute(0, 3, 1, 2), size, mode="area")
        pictures = planes.permute(0, 2, 3, 1)
    return (pictures * 255.0).round().to(torch.uint8).contiguous()


def png(picture: Tensor) -> bytes:
    r"""A picture (height, width, 3) of bytes as a PNG file.

    Example:
        >>> png(torch.zeros(4, 6, 3, dtype=torch.uint8))[:8]
        b'\x89PNG\r\n\x1a\n'
    """
    height, width, _ = picture.shape
    rows = torch.cat([picture.new_zeros(height, 1), picture.reshape(height, width * 3)], dim=1)  # each row unfiltered
    packed = zlib.compress(rows.cpu().numpy().tobytes(), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


__all__ = ["as_pictures", "png", "thumbnails"]
