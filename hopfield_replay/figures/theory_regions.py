"""Figure of the theory: where a higher energy means a larger rise."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hopfield_replay.utilities.drawing import COLOURS, GUIDE, SMALL, Estimated, half_widths, new_figure, panels

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
