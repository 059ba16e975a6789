"""Figures of the theory's experiments: rises, gains, where the rule holds, and what policies protect."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from hopfield_replay.figures._style import (
    COLOURS,
    GUIDE,
    HATCHES,
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

_VERDICTS = {  # colour and hatch, told apart in grey, too
    "holds": (COLOURS[2], ""),
    "equal": ("#e8e8e8", ""),
    "merged": (COLOURS[5], "///"),
    "reversed": (COLOURS[3], "xxx"),
}
_BIGGER = {"holds": "higher energy rises more", "equal": "rises differ by at most 1 %"}


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
        here = [(categories.index(category), v) for (found, category), v in values.items() if found == name]
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
            axis.errorbar(
                [v.mean for _, v in here],
                [at + 0.22 * (i - (len(kinds) - 1) / 2) for at, _ in here],
                xerr=half_widths([v for _, v in here]),
                fmt=MARKERS[i],
                markersize=5,
                capsize=2,
                color=COLOURS[(0, 1, 6)[i % 3]],
                label=kind,
            )
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


def where_the_rule_holds(
    cells: Sequence[tuple[str, int, float, float, str]], mixed: Mapping[str, Mapping[float, Estimated]]
) -> "Figure":
    """Regions of the (beta, correlation) plane for each cluster size and place, and rank correlations at mixed density.

    Args:
        cells: (place, cluster size n, correlation c, beta, verdict); verdicts: holds, equal, merged, reversed.
        mixed: for each place Spearman's correlation of energy and expected rise at each beta.

    Returns:
        The figure, one row for each place.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from hopfield_replay.theory import Estimate
        >>> cells = [("pattern", 4, 0.5, beta, verdict) for beta, verdict in ((1.0, "reversed"), (8.0, "holds"))]
        >>> mixed = {"pattern": {8.0: Estimate(mean=0.5, error=0.1, count=20)}}
        >>> [axis.get_title() for axis in where_the_rule_holds(cells, mixed).axes]
        ['n = 4, at each pattern', 'mixed density, at each pattern']
    """
    places = list(dict.fromkeys(place for place, *_ in cells))
    sizes = list(dict.fromkeys(n for _, n, *_ in cells))
    figure = new_figure(1.0 + 2.3 * len(places) + 2.2)
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.3 * len(places) + 0.6, 2.2))
    upper, lower = parts
    regions = panels(upper, len(places) * len(sizes), len(sizes), sharey=True)
    combinations = [(place, n) for place in places for n in sizes]
    for i, (axis, (place, n)) in enumerate(zip(regions, combinations, strict=True)):
        _regions(axis, [(c, beta, verdict) for p, size, c, beta, verdict in cells if (p, size) == (place, n)])
        axis.set_title(f"n = {n}, at each {place}", fontsize=SMALL)
        if i % len(sizes) == 0:
            axis.set_ylabel("correlation c\nin the cluster")
        if i >= len(combinations) - len(sizes):
            axis.set_xlabel("inverse temp. beta")
    handles = [regions[0].fill_between([], [], facecolor=c, hatch=h, edgecolor="white") for c, h in _VERDICTS.values()]
    labels = [_BIGGER.get(verdict, verdict) for verdict in _VERDICTS]
    upper.legend(handles, labels, loc="outside lower center", ncols=len(_VERDICTS), frameon=False, fontsize=SMALL)
    curves = panels(lower, len(places), len(places), sharey=True)
    for axis, place in zip(curves, places, strict=True):
        values = mixed.get(place, {})
        axis.errorbar(
            list(values),
            [v.mean for v in values.values()],
            yerr=half_widths(list(values.values())),
            marker="o",
            capsize=3,
            color=COLOURS[0],
        )
        axis.axhline(0, color=GUIDE, linewidth=0.8)
        axis.set(xscale="log", ylim=(-1.1, 1.1), xlabel="inverse temperature beta")
        axis.set_xticks(list(values), [f"{beta:g}" for beta in values])
        axis.minorticks_off()
        axis.set_title(f"mixed density, at each {place}", fontsize=SMALL)
    curves[0].set_ylabel("Spearman(energy,\nexpected rise)")
    return figure


def _regions(axis: "Axes", cells: Sequence[tuple[float, float, str]]) -> None:
    correlations, betas = (sorted({cell[part] for cell in cells}) for part in (0, 1))
    for c, beta, verdict in cells:
        colour, hatch = _VERDICTS[verdict]
        axis.fill_between(
            [betas.index(beta) - 0.5, betas.index(beta) + 0.5],
            correlations.index(c) - 0.5,
            correlations.index(c) + 0.5,
            facecolor=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
        )
    step = max(1, -(-len(betas) // 4))
    axis.set_xticks(range(0, len(betas), step), [f"{b:g}" for b in betas[::step]])
    step = max(1, -(-len(correlations) // 8))
    axis.set_yticks(range(0, len(correlations), step), [f"{c:g}" for c in correlations[::step]])
    axis.margins(0)


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
        kinds = list(dict.fromkeys(kind for found in values.values() for kind in found))
        for i, kind in enumerate(kinds):
            here = [(policies.index(policy), found[kind]) for policy, found in values.items()]
            axis.errorbar(
                [v.mean for _, v in here],
                [at + 0.26 * (i - (len(kinds) - 1) / 2) for at, _ in here],
                xerr=half_widths([v for _, v in here]),
                fmt=MARKERS[i],
                markersize=5,
                capsize=2,
                linestyle="none",
                color=COLOURS[i],
                label=kind,
            )
        if spans_decades(v.mean for found in values.values() for v in found.values()):
            axis.set_xscale("log")
        for at in range(0, len(policies), 2):
            axis.axhspan(at - 0.5, at + 0.5, color="0.95", zorder=0)
        axis.set_ylim(len(policies) - 0.5, -0.5)
        axis.set_title("\n".join(fill(line, 84 // len(settings)) for line in title.split("\n")), fontsize=SMALL)
        axis.set_xlabel("protected energy\n(squared units)")
    axes[0].set_yticks(range(len(policies)), [policy.replace(", next", ",\nnext") for policy in policies])
    legend_below(figure, axes[0], 3)
    return figure
