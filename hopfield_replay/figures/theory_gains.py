"""Figures of the theory: what replayed samples give back, and what policies protect."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from hopfield_replay.utilities.drawing import (
    COLOURS,
    MARKERS,
    SMALL,
    Estimated,
    half_widths,
    legend_below,
    new_figure,
    panels,
    spans_decades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def replay_gains(gains: Mapping[str, Mapping[str, Mapping[str, Estimated]]], title: str) -> "Figure":
    """One panel for each task change: gains of each family (source to target), with 95 % intervals, log scale.

    Args:
        gains: for each change and family, in the order to show them, the mean gain by kind (raw, net, ...).
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hopfield_replay.theory import Estimate
        >>> families = {"high -> high": {"raw": Estimate(mean=2.0, error=0.1, count=20)}}
        >>> (axis,) = replay_gains({"rotation": families}, "beta=8.0").axes
        >>> axis.get_title(), axis.get_xscale()
        ('rotation', 'log')
    """
    rows = max(map(len, gains.values()))
    figure = new_figure(1.5 + 0.42 * rows)
    axes = panels(figure, len(gains), len(gains))
    for axis, (change, families) in zip(axes, gains.items(), strict=True):
        kinds = list(dict.fromkeys(kind for values in families.values() for kind in values))
        for i, kind in enumerate(kinds):
            here = [(at, values[kind]) for at, values in enumerate(families.values()) if kind in values]
            _points(axis, here, 0.22 * (i - (len(kinds) - 1) / 2), MARKERS[i], COLOURS[(0, 1, 6)[i % 3]], kind)
        axis.set_yticks(range(len(families)), [name.replace(" -> ", "\n-> ") for name in families])
        axis.invert_yaxis()
        if all(v.mean > 0 for values in families.values() for v in values.values()):
            axis.set_xscale("log")
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_title(change, fontsize="medium")
        axis.set_xlabel("mean replay gain (energy, squared units)")
    legend_below(figure, axes[0], 3)
    figure.suptitle(title, fontsize="medium")
    return figure


def protected_by_policy(settings: Mapping[str, Mapping[str, Mapping[str, Estimated]]]) -> "Figure":
    """One panel for each setting: what each policy protects, with 95 % intervals; the policies in one order for all.

    Args:
        settings: for each setting (its title) and policy the protected energy by kind of sample (mean, tail, ...).

    Returns:
        The figure; the policies in the order of the first setting.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hopfield_replay.theory import Estimate
        >>> means = {"random": 2.0, "greedy_gain": 3.0}
        >>> protected = {name: {"mean": Estimate(mean, error=0.1, count=20)} for name, mean in means.items()}
        >>> (axis,) = protected_by_policy({"digits": protected}).axes
        >>> [label.get_text() for label in axis.get_yticklabels()]
        ['random', 'greedy_gain']
    """
    policies = list(dict.fromkeys(policy for values in settings.values() for policy in values))
    figure = new_figure(1.6 + 0.34 * len(policies))
    axes = panels(figure, len(settings), len(settings), sharey=True)
    for axis, (title, values) in zip(axes, settings.items(), strict=True):
        kinds = list(dict.fromkeys(kind for by_kind in values.values() for kind in by_kind))
        for i, kind in enumerate(kinds):
            here = [(policies.index(policy), by_kind[kind]) for policy, by_kind in values.items()]
            _points(axis, here, 0.26 * (i - (len(kinds) - 1) / 2), MARKERS[i], COLOURS[i], kind)
        if spans_decades(v.mean for by_kind in values.values() for v in by_kind.values()):
            axis.set_xscale("log")
        for at in range(0, len(policies), 2):
            axis.axhspan(at - 0.5, at + 0.5, color="0.95", zorder=0)
        axis.set_ylim(len(policies) - 0.5, -0.5)
        axis.set_title("\n".join(fill(line, 84 // len(settings)) for line in title.split("\n")), fontsize=SMALL)
        axis.set_xlabel("protected energy\n(squared units)")
    axes[0].set_yticks(range(len(policies)), [policy.replace(", next", ",\nnext") for policy in policies])
    legend_below(figure, axes[0], 3)
    return figure


def recovery_by_rotation(shares: Mapping[str, Mapping[float, Estimated]], title: str) -> "Figure":
    """Share of the old patterns that retrieve themselves over the scale of the rotation, with 95 % intervals.

    Args:
        shares: for each replayed group and angle scale the share in [0, 1].
        title: of the figure.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hopfield_replay.theory import Estimate
        >>> (axis,) = recovery_by_rotation({"nothing": {0.1: Estimate(1.0, 0.0, 5)}}, "beta=8.0").axes
        >>> axis.get_ylabel()
        'recovered identities (share)'
    """
    figure = new_figure(4.0)
    (axis,) = panels(figure, 1, 1)
    for i, (name, by_scale) in enumerate(shares.items()):
        values = list(by_scale.values())
        axis.errorbar(
            list(by_scale),
            [one.mean for one in values],
            yerr=half_widths(values),
            marker=MARKERS[i % len(MARKERS)],
            markersize=5,
            capsize=2,
            color=COLOURS[i % len(COLOURS)],
            label=name,
        )
    axis.set(xlabel="angle scale of the rotation", ylabel="recovered identities (share)")
    legend_below(figure, axis, len(shares))
    figure.suptitle(title, fontsize="medium")
    return figure


def _points(
    axis: "Axes", rows: Sequence[tuple[int, Estimated]], shift: float, marker: str, colour: str, label: str
) -> None:
    """Means along the axis with their intervals, each in its row."""
    axis.errorbar(
        [estimate.mean for _, estimate in rows],
        [row + shift for row, _ in rows],
        xerr=half_widths([estimate for _, estimate in rows]),
        fmt=marker,
        markersize=5,
        capsize=2,
        linestyle="none",
        color=colour,
        label=label,
    )
