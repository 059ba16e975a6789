"""Figures of forgetting; needs matplotlib (pip install "hopfield-replay[tensorboard]")."""

from typing import TYPE_CHECKING, Any

from hopfield_replay.functional.correlation import spearman
from hopfield_replay.plotting import new_figure
from hopfield_replay.table import error_rise

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def energy_against_forgetting(record: dict[str, Any]) -> "Figure | None":
    """Per-sample scatter after one task: what the energies say against what the model lost.

    Left: reconstruction forgetting against the energy before the task change; right: against the energy rise. Each dot
    is a probe of an earlier task; Spearman's rank correlation is in the titles. None if there is nothing to show.

    Args:
        record: one entry of a ForgettingTracker's history, of a task after the first, measured with a denoiser.
    """
    earlier = [(p, r) for p in record["probes"] if p["task"] < record["task"] and (r := error_rise(p)) is not None]
    if not earlier:
        return None
    figure = new_figure(9.0, 4.0)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, label in (
        (axes[0], "energy_start", "energy after its own task"),
        (axes[1], "rise", "energy rise since its own task"),
    ):
        for probe, rise in earlier:
            x = probe["energy"] - probe["energy_start"] if name == "rise" else probe["energy_start"]
            rho = spearman(x, rise) if len(x) > 2 else float("nan")
            axis.scatter(x, rise, s=8, alpha=0.5, linewidths=0, label=f"task {probe['task']}: Spearman {rho:+.2f}")
        axis.set_xlabel(label)
        axis.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
        axis.legend(fontsize="small", frameon=False)
    axes[0].set_ylabel("reconstruction forgetting")
    figure.suptitle(f"After task {record['task']}")
    return figure
