"""hopfield-replay audit."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import EXCEEDED, FINE
from hopfield_replay.cli.forecast import SOURCE, add_limits
from hopfield_replay.cli.output import drawn, say, write
from hopfield_replay.cli.own_code import importable
from hopfield_replay.utilities.text import printable

HELP = "measure what one version of a model lost against another, sample by sample"
DESCRIPTION = """\
Measure what one version of a diffusion model lost against another: both
reconstruct the same samples from the same noise. Nothing is trained.
"""
EPILOG = """\
examples:
  two checkpoints of a LightningModule
    hopfield-replay audit --model my_models:DDPM --before task0.ckpt \\
        --after task1.ckpt --data images/
  two diffusers pipelines on the data of two tasks, with a page of results
    hopfield-replay audit --before pipeline/ --after fine-tuned/ \\
        --data cats.npz dogs.npz --output-dir results/
  LoRA weights against their base, in CI
    hopfield-replay audit --before pipeline/ --after lora/ --data captioned/ \\
        --fail-above 0.1

exit codes: 0 fine, 1 forgot more than --fail-above allows, 2 wrong usage, bad
input, no disk or memory left, 3 unexpected error, 130 interrupted
"""
_PICKLE = (
    "open checkpoints whose pickle needs more than tensors and plain Python. RISK: such a file can run any code on "
    "this machine while it is read; only for files from people you trust"
)


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    group = parser.add_argument_group("the two versions")
    group.add_argument(
        "--before", type=str, required=True, metavar="PATH",
        help="first version: a checkpoint (with --model), or a folder of a diffusers pipeline's save_pretrained",
    )  # fmt: skip
    group.add_argument(
        "--after", type=str, required=True, metavar="PATH",
        help="second version, likewise; or LoRA weights for the pipeline of --before",
    )  # fmt: skip
    group.add_argument(
        "--model", type=str | None, default=None, metavar="MODULE:CLASS",
        help="class of the checkpoints' module, or a function that makes one; importable from here",
    )  # fmt: skip
    group.add_argument(
        "--model-args", type=dict | None, default=None, metavar="JSON",
        help='its constructor arguments, e.g. \'{"size": 8}\'; they override those in the checkpoint',
    )  # fmt: skip
    group.add_argument("--unsafe-pickle", action="store_true", help=_PICKLE)
    group = parser.add_argument_group("the data")
    group.add_argument(
        "--data", type=str, nargs="+", required=True, metavar="SOURCE",
        help=f"samples to measure: {SOURCE}; several (in a config file a list) are one task each. Bytes are scaled to "
        "[-1, 1], subfolders are classes, captions come from a metadata.jsonl",
    )  # fmt: skip
    group.add_argument(
        "--old-data", type=str | None, default=None, metavar="SOURCE",
        help="what the first version was trained on: adds Hopfield energies",
    )  # fmt: skip
    group.add_argument(
        "--new-data", type=str | None, default=None, metavar="SOURCE",
        help="what the second one was trained on since: adds the rise of the energies and its rank correlation with "
        "what was forgotten",
    )  # fmt: skip
    group.add_argument(
        "--size", type=int | None, default=None, metavar="N",
        help="side to which the images of folders are scaled and cropped; if not given those of several sizes are "
        "brought to what the pipeline was made for",
    )  # fmt: skip
    add_limits(parser)
    group = parser.add_argument_group("the measurement")
    group.add_argument(
        "--timesteps", type=int, nargs="+", default=None, metavar="T",
        help="where errors are measured; 10 to 50 % of the range if not given",
    )  # fmt: skip
    group.add_argument("--draws", type=int, default=1, metavar="N", help="noise draws at each timestep")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise and of the intervals")
    group.add_argument(
        "--device",
        type=str | None,
        default=None,
        metavar="DEVICE",
        help="of the models, and where energies are computed: cpu, cuda, ...; the GPU if there is one",
    )
    group = parser.add_argument_group("the outcome")
    group.add_argument(
        "--fail-above", type=float | None, default=None, metavar="SHARE",
        help="exit with code 1 if the relative rise of the error (mean rise / mean error before) is above this share "
        "beyond doubt: if the lower end of its 95 % interval is, over all samples or over those of a task",
    )  # fmt: skip
    group.add_argument(
        "--output-dir", type=str | None, default=None, metavar="DIR",
        help="write audit.html (one self-contained page), audit.json and the figures as PNG there",
    )  # fmt: skip


def run(options: Any) -> int:
    """Audit, print, write, and compare with the threshold."""
    from hopfield_replay.analysis import audit
    from hopfield_replay.checkpoints import load_versions

    with importable(options.model):
        before, after = load_versions(
            options.before,
            options.after,
            options.model,
            model_args=options.model_args,
            unsafe_pickle=options.unsafe_pickle,
            device=options.device,
        )
    limits = {
        "max_pixels": options.max_pixels,
        "max_bytes": options.max_bytes,
        "size": options.size,
        "several": before.size,
    }
    data = _read(options.data, before.expects_images, limits)
    result = audit(
        before.denoiser,
        after.denoiser,
        _by_task({source: part.batches for source, part in data.items()}),
        labels=_together([part.labels for part in data.values()]),
        names=_together([part.names for part in data.values()]) or (),
        old_data=_read_one(options.old_data, before.expects_images, limits),
        new_data=_read_one(options.new_data, before.expects_images, limits),
        prepare=before.prepare,
        decode=before.decode,
        timesteps=options.timesteps,
        draws=options.draws,
        seed=options.seed,
    )
    notes = {version: f"{model.source} ({model.weights})" for version, model in (("before", before), ("after", after))}
    notes["data"] = ", ".join(options.data)
    notes = {name: printable(value, None) for name, value in notes.items()}
    say("\n".join([*(f"{name}: {value}" for name, value in notes.items()), "", result.table()]), options.quiet)
    failed = False
    if options.fail_above is not None:
        exceeding = result.exceeding(options.fail_above)
        failed = bool(exceeding)
        listed = ", ".join(f"{printable(name)} ({low:+.1%})" for name, low in exceeding.items()) or "nothing"
        rule = f"the lower end of the relative rise is above {options.fail_above:.1%} for {listed}"
        notes["verdict"] = f"{'FAILED' if failed else 'passed'}: {rule}"
        say(notes["verdict"], options.quiet)
        if failed and options.quiet:  # an exit code alone says nothing in the log of a CI
            print(f"hopfield-replay: {notes['verdict']}", file=sys.stderr)
    if options.output_dir is not None:
        figures = drawn(result.figures)
        page = result.html(notes=notes, figures=figures)
        write(options.output_dir, "audit", result, figures, page, options.quiet)
    return EXCEEDED if failed else FINE


class _Part:
    """One source of data: its batches, and what its samples are called."""

    def __init__(self, batches: Iterable[Any], labels: Sequence[Any] | None, names: Sequence[str] | None) -> None:
        self.batches = batches
        self.labels = labels
        self.names = names


def _read(sources: Sequence[str], expects_images: bool, limits: Mapping[str, Any]) -> dict[str, _Part]:
    from hopfield_replay.cli.datasets import Samples, in_one_numbering, load_data

    if len(set(sources)) < len(sources):
        raise ValueError(f"--data names one source twice: {' '.join(sources)}.")
    loaded = {source: load_data(source, **limits) for source in sources}
    held = {source: data for source, data in loaded.items() if isinstance(data, Samples)}
    held = dict(zip(held, in_one_numbering(list(held.values())), strict=True))
    parts = {}
    for source, data in loaded.items():
        if isinstance(data, Samples):
            images = held[source].as_images(strict=expects_images)
            names = [f"{source}/{name}" if len(sources) > 1 else name for name in images.names]
            names = names or [f"{Path(source).name}[{row}]" for row in range(len(images))]
            parts[source] = _Part(images.batches(), images.label_names(), names)
        else:
            parts[source] = _Part(data, None, None)
    return parts


def _by_task(data: dict[str, Iterable[Any]]) -> Any:
    """One source as it is; several as tasks, called by their last names where these differ."""
    if len(data) == 1:
        return next(iter(data.values()))
    short = [Path(source).name for source in data]
    return dict(zip(short if len(set(short)) == len(short) else data, data.values(), strict=True))


def _read_one(source: str | None, expects_images: bool, limits: Mapping[str, Any]) -> Iterable[Any] | None:
    return None if source is None else _read([source], expects_images, limits)[source].batches


def _together(parts: Sequence[Sequence[Any] | None]) -> list[Any] | None:
    """All of them in one list; None if any is unknown."""
    known = [part for part in parts if part is not None]
    return [item for part in known for item in part] if len(known) == len(parts) else None
