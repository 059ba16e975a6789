"""Figures of samples: rows of pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hopfield_replay.utilities.drawing import NARROW, SMALL, WIDTH, new_figure
from hopfield_replay.utilities.pictures import as_pictures
from hopfield_replay.utilities.text import figure_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
        >>> import torch
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
