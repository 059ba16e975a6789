"""All experiments at once: JSON for machines, figures, and one Markdown page that says what holds and where."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hopfield_replay.__about__ import __version__
from hopfield_replay.figures import new_figure
from hopfield_replay.theory.boltzmann_replay import reproduce_boltzmann
from hopfield_replay.theory.falsify import reproduce_falsify
from hopfield_replay.theory.recovery import reproduce_recovery
from hopfield_replay.theory.replay_gain import reproduce_replay_gain
from hopfield_replay.theory.result import Result
from hopfield_replay.theory.rise import reproduce_rise
from hopfield_replay.theory.selection import reproduce_selection
from hopfield_replay.theory.settings import digits
from hopfield_replay.utilities.files import write_figure, write_text
from hopfield_replay.utilities.progress import track

_TITLES = {
    "rise": "Energy rise: high energy against low energy",
    "rise_distance": "Energy rise in the distance form, for the changes that are no rotations",
    "replay_gain": "Replay gains: source to target",
    "recovery": "Identity recovery: which old patterns still retrieve themselves",
    "falsify": "Where the statement stops",
    "boltzmann": "A learned network: the modern-Hopfield Boltzmann machine",
    "selection": "Selecting a replay set: mean and tail",
}

_PREAMBLE = """\
The statements of Takeda, Oizumi and Karakida, "Continual Learning in Modern Hopfield Networks with an Application to
Diffusion Models" (arXiv:2605.27975), checked on networks whose energies are exact. Every sentence under "What the
numbers say" is worked out from the numbers of this run; `±` is one standard error, intervals are 95 %. No correction is
made for the number of comparisons: about one in twenty differences that do not exist will look resolved.

## What could not be checked
The paper's full text was not at hand. The statements below are this library's reading of its claims, and the following
are this library's own choices, which may differ from the paper's: the settings and their sizes, the
normalisation of the random rotations (here the variance of the generator's entries, a parameter), the inverse
temperatures, whether rises are meant at the patterns or at the fixed points (both are given), the exact form and
training recipe of its Boltzmann machine (here that of arXiv:2212.04692 with an inverse temperature, trained by exact
maximum likelihood on the bare patterns), and its diffusion experiments, which are no part of this page. No figure or
table of the paper was compared with these.
"""


@dataclass(frozen=True)
class Report:
    """Where a report was written.

    Attributes:
        page: the Markdown page, which shows the figures beside it.
        files: everything that was written, the page included.
        seconds: how long each experiment took.
    """

    page: Path
    files: tuple[Path, ...]
    seconds: Mapping[str, float]


def write_report(results: Mapping[str, Result], output_dir: str | Path, seconds: Mapping[str, float]) -> Report:
    """Write results as ``<name>.json`` and ``<name>.png``, and ``README.md`` that shows them.

    Args:
        results: experiments by name: ``rise``, ``rise_distance``, ``replay_gain``, ``recovery``, ``falsify``,
            ``boltzmann``, ``selection``.
        output_dir: folder to write into; made if it does not exist.
        seconds: how long each experiment took, for the page.

    Returns:
        What was written.

    Raises:
        ImportError: matplotlib is not installed.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    files, parts = [], [f"# The theory, reproduced\n\n{_PREAMBLE}"]
    for name, result in results.items():
        data, image = folder / f"{name}.json", folder / f"{name}.png"
        write_text(data, json.dumps(result.to_dict(), indent=1) + "\n")
        write_figure(image, result.figure())
        files += [data, image]
        sentences = "\n".join(f"- {sentence}" for sentence in result.findings())
        parts.append(
            f"## {_TITLES[name]}\n\n![{_TITLES[name]}]({image.name})\n\n**What the numbers say**\n\n{sentences}\n\n"
            f"{result.table()}\n\n{seconds[name]:.1f} s; all numbers: [{data.name}]({data.name})\n"
        )
    verdicts = "\n".join(f"- *{result.statement}* {result.verdict()}" for result in results.values())
    parts.insert(1, f"## Which statements hold\n\n{verdicts}\n")
    parts.append(f"Written by hopfield-replay {__version__}.\n")
    page = folder / "README.md"
    write_text(page, "\n".join(parts))
    return Report(page, (*files, page), dict(seconds))


def reproduce_all(output_dir: str, draws: int = 2000, seeds: int = 24, seed: int = 0) -> Report:
    """Run every experiment at its default setting and write the report.

    Args:
        output_dir: folder to write into; made if it does not exist.
        draws: number of random rotations in the closed-form experiments, >= 2; 300 at most to retrieve patterns.
        seeds: number of machines in each regime of the Boltzmann machine, and of draws in the selection, >= 2.
        seed: of everything random.

    Returns:
        What was written, and how long each experiment took.

    Raises:
        ImportError: matplotlib or scikit-learn is not installed (``pip install 'hopfield-replay[examples]'``).

    Example:
        >>> report = reproduce_all("runs/theory")  # doctest: +SKIP
        >>> print(report.page)  # doctest: +SKIP
        runs/theory/README.md
    """
    new_figure(1.0), digits(1)  # a missing extra shows before the minutes of work, not after
    results: dict[str, Result] = {}
    seconds: dict[str, float] = {}
    experiments: tuple[tuple[str, Callable[[], Result]], ...] = (
        ("rise", lambda: reproduce_rise(draws=draws, seed=seed)),
        # a translation changes norms, which only the distance form measures
        ("rise_distance", lambda: reproduce_rise(eps=(), similarity="distance", draws=draws, seed=seed)),
        ("replay_gain", lambda: reproduce_replay_gain(draws=draws, seed=seed)),
        ("recovery", lambda: reproduce_recovery(draws=min(draws, 300), seed=seed)),
        ("falsify", lambda: reproduce_falsify(draws=draws, seed=seed)),
        ("boltzmann", lambda: reproduce_boltzmann(seeds=seeds, seed=seed)),
        ("selection", lambda: reproduce_selection(draws=seeds, seed=seed)),
    )
    for name, run in track(experiments, "Experiments"):
        start = time.perf_counter()
        results[name] = run()
        seconds[name] = time.perf_counter() - start
    return write_report(results, output_dir, seconds)


__all__ = ["Report", "reproduce_all", "write_report"]
