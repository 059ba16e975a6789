"""hopfield-replay forecast."""

from dataclasses import replace
from typing import Any

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.output import drawn, say, write
from hopfield_replay.utilities.memory import MAX_BYTES, MAX_PIXELS

HELP = "predict from two data sets what a model will forget, and what replay would save"
DESCRIPTION = """\
Predict from two data sets what training on the second will make a model of the
first forget.
"""
SOURCE = "a folder of images, a .npz or .safetensors file, or package.module:DataModule"


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("old", type=str, metavar="OLD", help=f"what the model knows: {SOURCE}")
    parser.add_argument("new", type=str, metavar="NEW", help="what it will be trained on, likewise")
    group = parser.add_argument_group("what to work out")
    group.add_argument(
        "--capacities",
        type=int,
        nargs="+",
        default=None,
        metavar="N",
        help="buffer sizes to compare; 20, 50, 100, 200 and 500 if not given, as far as OLD holds so many",
    )
    group.add_argument(
        "--beta", type=float | None, default=None, metavar="BETA", help="inverse temperature; calibrated if not given"
    )
    group.add_argument(
        "--replay-ratio", type=float, default=0.5, metavar="SHARE", help="share of each batch that would be replayed"
    )
    group.add_argument(
        "--size", type=int | None, default=None, metavar="N",
        help="side to which the images of folders are scaled and cropped; as they are if not given",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the random policies")
    group.add_argument(
        "--output-dir", type=str | None, default=None, metavar="DIR", help="write forecast.json and forecast.png there"
    )
    group.add_argument(
        "--device", type=str, default="cpu", metavar="DEVICE", help="where samples are compared: cpu, cuda, ..."
    )
    add_limits(parser)


def add_limits(parser: ArgumentParser) -> None:
    """Add what files of unknown origin may take."""
    group = parser.add_argument_group("what the data may take")
    group.add_argument(
        "--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help="refuse larger images before they are decoded"
    )
    group.add_argument(
        "--max-bytes", type=int, default=MAX_BYTES, metavar="N",
        help="refuse data that would take more memory, before it is read",
    )  # fmt: skip


def run(options: Any) -> int:
    """Forecast, print and write."""
    from hopfield_replay.analysis.forecasting import forecast
    from hopfield_replay.cli.datasets import Samples, check_scales, load_data

    limits = {"max_pixels": options.max_pixels, "max_bytes": options.max_bytes, "size": options.size}
    known, coming = (
        data.as_images(strict=False) if isinstance(data, Samples) else data
        for data in (load_data(source, **limits) for source in (options.old, options.new))
    )
    check_scales(
        {name: data for name, data in ((options.old, known), (options.new, coming)) if isinstance(data, Samples)}
    )
    result = forecast(
        known.samples if isinstance(known, Samples) else known,
        coming.samples if isinstance(coming, Samples) else coming,
        labels=known.labels if isinstance(known, Samples) else None,
        beta="auto" if options.beta is None else options.beta,
        capacities=options.capacities,
        replay_ratio=options.replay_ratio,
        seed=options.seed,
        device=options.device,
    )
    if isinstance(known, Samples):
        classes = {known.classes[at] if known.classes else at: row for at, row in result.classes.items()}
        result = replace(result, names=known.names, classes=classes)
    figures = {"forecast": drawn(result.figure)} if options.output_dir else {}
    wrote = write(options.output_dir, "forecast", result, figures)
    say(result.table(), options.quiet)
    say(wrote, options.quiet)
    return FINE
