"""Figures of the theory: energy rises by task change, and what a learned model says of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hopfield_replay.utilities.drawing import (
    COLOURS,
    HATCHES,
    SMALL,
    Estimated,
    half_widths,
    legend_below,
    new_figure,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def energy_rises(
    rises: Mapping[tuple[str, str, str], Estimated], expected: Mapping[tuple[str, str, str], float], title: str
) -> "Figure":
    """One panel of bars for each task change, with 95 % intervals and the expectation as a dashed line.

    Args:
        rises: mean energy rise by (change, group, place).
        expected: closed forms under the same keys, where known.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hopfield_replay.theory import Estimate
        >>> rises = {("rotation", "outlier", "pattern"): Estimate(mean=2.0, error=0.1, count=20)}
        >>> rises[("rotation", "cluster", "pattern")] = Estimate(mean=1.0, error=0.1, count=20)
        >>> (axis,) = [axis for axis in energy_rises(rises, {}, "beta=8.0").axes if axis.axison]
        >>> axis.get_title(), [float(bar.get_height()) for bar in axis.patches]
        ('rotation', [2.0, 1.0])
    """
    changes = list(dict.fromkeys(change for change, _, _ in rises))
    columns = 2 if len(changes) == 4 else 3
    figure = new_figure(1.2 + 2.7 * -(-len(changes) // columns))
    axes = panels(figure, len(changes), columns)
    for axis, change in zip(axes, changes, strict=True):
        here = {(group, f"at each\n{place}"): v for (name, group, place), v in rises.items() if name == change}
        lines = {(group, f"at each\n{place}"): v for (name, group, place), v in expected.items() if name == change}
        _bars(axis, here, lines)
        axis.set_title(change, fontsize="medium")
    for axis in axes[::columns]:
        axis.set_ylabel("mean energy rise\n(squared units)")
    if expected:
        axes[0].plot([], [], color="black", linestyle="--", label="expected")
    legend_below(figure, axes[0], 4)
    figure.suptitle(title, fontsize="medium")
    return figure


def learned_rises_and_gains(
    rises: Mapping[str, Mapping[tuple[str, str], Estimated]],
    gains: Mapping[str, Mapping[tuple[str, str], Estimated]],
    title: str,
) -> "Figure":
    """Upper row: rises without replay; lower row: gains of replay; one column for each regime, with 95 % intervals.

    Args:
        rises: for each regime the mean rise by (group, place).
        gains: for each regime the mean gain by (who gains, which sample was replayed).
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hopfield_replay.theory import Estimate
        >>> rises = {"8 hidden": {("outlier", "pattern"): Estimate(mean=2.0, error=0.1, count=20)}}
        >>> gains = {"8 hidden": {("outlier gains", "high"): Estimate(mean=0.5, error=0.1, count=20)}}
        >>> len(learned_rises_and_gains(rises, gains, "beta=12").axes)
        2
    """
    figure = new_figure(6.2)
    parts: Any = figure.subfigures(2, 1)
    upper_part, lower_part = parts
    upper, lower = (panels(part, len(rises), len(rises), sharey=True) for part in (upper_part, lower_part))
    for axis, (regime, values) in zip(upper, rises.items(), strict=True):
        _bars(axis, {(group, f"at each\n{place}"): value for (group, place), value in values.items()})
        axis.set_title(regime, fontsize=SMALL)
    for axis, values in zip(lower, gains.values(), strict=True):
        _bars(axis, values, first_colour=2)
        axis.tick_params(axis="x", labelrotation=35)
    upper[0].set_ylabel("rise of -log p / beta,\nno replay")
    lower[0].set_ylabel("gain of replay\n(fall of -log p / beta)")
    legend_below(upper_part, upper[0], 2)
    legend_below(lower_part, lower[0], 2)
    lower[len(lower) // 2].set_xlabel("replayed: the sample of this energy")
    figure.suptitle(title, fontsize="medium")
    return figure


def _bars(
    axis: "Axes",
    values: Mapping[tuple[str, str], Estimated],
    expected: Mapping[tuple[str, str], float] | None = None,
    first_colour: int = 0,
) -> None:
    """Bars of (series, category), the categories beside each other along the axis."""
    series = list(dict.fromkeys(name for name, _ in values))
    categories = list(dict.fromkeys(name for _, name in values))
    width = 0.8 / len(series)
    for i, name in enumerate(series):
        here = [(categories.index(category), v) for (owner, category), v in values.items() if owner == name]
        places = [at + (i - (len(series) - 1) / 2) * width for at, _ in here]
        axis.bar(
            places,
            [v.mean for _, v in here],
            width,
            yerr=half_widths([v for _, v in here]),
            capsize=3,
            color=COLOURS[i + first_colour],
            hatch=HATCHES[i],
            edgecolor="white",
            linewidth=0,
            label=name,
        )
    for (name, category), value in (expected or {}).items():
        at = categories.index(category) + (series.index(name) - (len(series) - 1) / 2) * width
        axis.hlines(value, at - width / 2, at + width / 2, "black", "dashed")
    axis.set_xticks(range(len(categories)), categories)
    axis.axhline(0, color="black", linewidth=0.5)
