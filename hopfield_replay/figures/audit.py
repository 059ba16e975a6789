"""Figures of an audit: what one checkpoint lost against another."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hopfield_replay.utilities.drawing import (
    COLOURS,
    GUIDE,
    SMALL,
    histogram,
    legend_above,
    new_figure,
    panels,
    spans_decades,
)
from hopfield_replay.utilities.text import group_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUPS = 20  # of more groups, the ten most and the ten least forgotten are drawn


def error_change(old: Tensor, new: Tensor) -> "Figure":
    """Left: distribution of the errors' rises; right: each sample's error under the second checkpoint and the first.

    Args:
        old: (n,) reconstruction error of each sample under the first checkpoint.
        new: (n,) under the second.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> left, right = error_change(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.2, 0.5])).axes
        >>> left.get_legend_handles_labels()[1], left.get_ylabel()
        (['mean +0.1'], 'samples (of 3)')
    """
    rises = new - old
    figure = new_figure(3.9)
    left, right = panels(figure, 2, 2)
    histogram(left, rises, "samples")
    left.axvline(0.0, color=GUIDE, linewidth=0.8)
    left.set_xlabel("reconstruction forgetting\n(rise of the mean squared error, per element)")
    right.scatter(old.numpy(), new.numpy(), s=10, alpha=0.5, linewidths=0, color=COLOURS[0], label="a sample")
    if spans_decades(torch.cat([old, new])):
        right.set(xscale="log", yscale="log")
    ends = [float(torch.cat([old, new]).min()), float(torch.cat([old, new]).max())]
    right.plot(ends, ends, color=GUIDE, linewidth=0.8, zorder=0, label="no change")
    right.set_xlabel("reconstruction error, first checkpoint\n(mean squared, per element)")
    right.set_ylabel("reconstruction error, second checkpoint\n(mean squared, per element)")
    legend_above(right, columns=2)
    return figure


def rises_by_group(rises: Tensor, groups: Tensor | Sequence[int | str], name: str = "class") -> "Figure":
    """Quartiles (box), 5th to 95th percentile (whiskers) and mean (diamond) of the rises of each class or task.

    Args:
        rises: (n,) rise of each sample's reconstruction error.
        groups: the group of each sample, (n,) integers or names.
        name: what a group is.

    Returns:
        The figure, the most forgotten group on top; of more than twenty groups the ten most and the ten least.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> (axis,) = rises_by_group(torch.tensor([0.1, 0.2, 0.5, 0.6]), ["cat", "cat", "dog", "dog"]).axes
        >>> [label.get_text() for label in axis.get_yticklabels()]  # from below
        ['class cat (n = 2)', 'class dog (n = 2)']
    """
    members: dict[int | str, list[int]] = {}
    for position, group in enumerate(groups.tolist() if isinstance(groups, Tensor) else groups):
        members.setdefault(group, []).append(position)
    shown = [(group, rises[rows]) for group, rows in members.items()]
    shown.sort(key=lambda item: float(item[1].mean()))
    if len(shown) > _GROUPS:
        shown = [*shown[: _GROUPS // 2], *shown[-_GROUPS // 2 :]]
    figure = new_figure(1.2 + 0.26 * len(shown))
    (axis,) = panels(figure, 1, 1)
    axis.boxplot(
        [values.numpy() for _, values in shown],
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        showmeans=True,
        patch_artist=True,
        boxprops={"facecolor": COLOURS[5], "alpha": 0.5},
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markersize": 4, "markerfacecolor": COLOURS[3], "markeredgecolor": COLOURS[3]},
    )
    names = [f"{group_label(name, group)} (n = {len(values)})" for group, values in shown]
    axis.set_yticks(range(1, len(shown) + 1), names)
    axis.tick_params(axis="y", labelsize=SMALL)
    axis.axvline(0.0, color=GUIDE, linewidth=0.8, zorder=0)
    axis.set_xlabel("reconstruction forgetting (rise of the mean squared error, per element)")
    return figure
