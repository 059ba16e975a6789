"""Figures of samples: rows of pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hopfield_replay.utilities.drawing import NARROW, SMALL, WIDTH, new_figure
from hopfield_replay.utilities.text import figure_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def picture_rows(
    rows: Sequence[tuple[str, Tensor]],
    *,
    beside: int = 1,
    captions: Sequence[str] | None = None,
    title: str = "",
    narrow: bool = False,
) -> "Figure | None":
    """Rows of pictures, such as samples, and what two checkpoints make of them.

    Args:
        rows: title and samples of each row, see :func:`as_pictures`.
        beside: how many consecutive rows stand beside each other on one line.
        captions: one for each sample of a row, below the last line; about ten characters a line where ten samples
            stand in a row.
        title: of the figure.
        narrow: 400 pixels wide, for a card of a dashboard.

    Returns:
        The figure; None if the samples are no pictures.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> figure = picture_rows([("stored", torch.rand(5, 1, 8, 8)), ("generated", torch.rand(5, 1, 8, 8))])
        >>> [axis.get_title("left") for axis in figure.axes]
        ['stored', 'generated']
    """
    strips = [(name, as_pictures(samples)) for name, samples in rows if len(samples)]
    shown = [(name, images) for name, images in strips if images is not None]
    if not shown or len(shown) < len(strips):
        return None
    columns = max(len(images) for _, images in shown)
    lines = -(-len(shown) // beside)
    ratio = max(images.shape[1] / images.shape[2] for _, images in shown)
    cell = min(0.9, ((NARROW if narrow else WIDTH) - 0.3) / (beside * columns))
    below = 0.0 if captions is None else 0.17 * max(caption.count("\n") + 1 for caption in captions)
    figure = new_figure((cell * ratio + 0.3) * lines + below + (0.35 if title else 0.05), narrow=narrow)
    grid = figure.subplots(lines, beside, squeeze=False).flatten()
    for axis in grid:
        axis.tick_params(length=0, labelsize=SMALL)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, (name, images) in zip(grid, shown, strict=False):
        gap = max(1, images.shape[2] // 12)
        axis.imshow(_strip(images, columns, gap).numpy(), interpolation="nearest")
        axis.set_title(name, fontsize=SMALL, loc="left")
    if captions is not None:
        pitch = images.shape[2] + gap
        for axis in grid[-beside:]:
            centres = [i * pitch + (pitch - gap - 1) / 2 for i in range(len(captions))]
            axis.set_xticks(centres, ["\n".join(map(figure_label, caption.split("\n"))) for caption in captions])
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _strip(pictures: Tensor, columns: int, gap: int) -> Tensor:
    """Pictures (n, h, w, 3) beside each other on white, as wide as ``columns`` of them."""
    n, h, w, _ = pictures.shape
    strip = pictures.new_ones(h, columns, w + gap, 3)
    strip[:, :n, :w] = pictures.transpose(0, 1)
    return strip.view(h, columns * (w + gap), 3)[:, :-gap]
