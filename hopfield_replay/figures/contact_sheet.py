"""Contact sheets: many pictures at a glance."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hopfield_replay.utilities.drawing import SMALL, WIDTH, new_figure
from hopfield_replay.utilities.pictures import as_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def contact_sheet(parts: Sequence[tuple[str, Tensor]], *, per_row: int = 20) -> "Figure":
    """Pictures in rows, part after part.

    Args:
        parts: title and pictures of each part, see :func:`as_pictures`; parts without pictures are left out.
        per_row: pictures beside each other, >= 1.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: samples that are no pictures, or none at all.

    Example:
        >>> import torch
        >>> figure = contact_sheet([("chosen", torch.rand(30, 1, 8, 8)), ("missed", torch.rand(5, 1, 8, 8))])
        >>> [axis.get_title("left") for axis in figure.axes]
        ['chosen', 'missed']
    """
    shown = [(title, as_pictures(samples)) for title, samples in parts if len(samples)]
    if not shown or any(pictures is None for _, pictures in shown):
        raise ValueError("The samples are no pictures, which a contact sheet needs.")
    sheets = [(title, _sheet(pictures, per_row)) for title, pictures in shown if pictures is not None]
    heights = [sheet.shape[0] / sheet.shape[1] * (WIDTH - 0.2) + 0.3 for _, sheet in sheets]
    figure = new_figure(sum(heights))
    grid = figure.subplots(len(sheets), 1, squeeze=False, height_ratios=heights).flatten()
    for axis, (title, sheet) in zip(grid, sheets, strict=True):
        axis.imshow(sheet.numpy(), interpolation="nearest")
        axis.set(xticks=[], yticks=[], anchor="W")
        axis.spines[:].set_visible(False)
        axis.set_title(title, fontsize=SMALL, loc="left", parse_math=False)
    return figure


def _sheet(pictures: Tensor, per_row: int) -> Tensor:
    """Pictures (n, h, w, 3) as one picture, row after row on white, as wide as ``per_row`` of them."""
    n, h, w, _ = pictures.shape
    gap, rows = max(1, w // 16), -(-n // per_row)
    tiles = pictures.new_ones(rows * per_row, h + gap, w + gap, 3)
    tiles[:n, :h, :w] = pictures
    sheet = tiles.view(rows, per_row, h + gap, w + gap, 3).transpose(1, 2)
    return sheet.reshape(rows * (h + gap), per_row * (w + gap), 3)[:-gap, :-gap]
