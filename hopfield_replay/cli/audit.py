"""hopfield-replay audit."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser

from hopfield_replay.cli.audit_data import by_task
from hopfield_replay.cli.audit_versions import comparison
from hopfield_replay.cli.codes import EXCEEDED, FINE
from hopfield_replay.cli.cost import Cost
from hopfield_replay.cli.forecast import SOURCE, add_limits
from hopfield_replay.cli.output import drawn, say, write
from hopfield_replay.utilities.files import write_text
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from hopfield_replay.analysis import AuditReport, DrawingReport, Gate

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
        --fail-above 0.1 --report-format junit --output-dir results/
  what two pipelines draw of the same prompts from the same seeds
    hopfield-replay audit --before pipeline/ --after lora/ \\
        --prompts prompts.txt --seeds 4 --output-dir results/
  which of several checkpoints to release: what was trained on may change
    hopfield-replay audit --before pipeline/ --after step500/ step1000/ \\
        --data old/ general/ --target new/ --fail-above 0.1

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
        help="first version: a checkpoint (with --model), a folder of a diffusers pipeline's save_pretrained, or a "
        ".safetensors file of its weights (with --pipeline-config)",
    )  # fmt: skip
    group.add_argument(
        "--after", type=str, nargs="+", required=True, metavar="PATH",
        help="second version, likewise; or what was trained of the pipeline of --before: LoRA weights (diffusers, "
        "kohya, peft), a folder of its network or of an average of it, a .safetensors file of its weights. Several "
        "(in a config file a list): a series, in the order of training; the first version is measured once",
    )  # fmt: skip
    group.add_argument(
        "--model", type=str | None, default=None, metavar="MODULE:CLASS",
        help="class of the checkpoints' module, or a function that makes one; importable from here. A LightningModule "
        "without a denoiser is seen taking a training step",
    )  # fmt: skip
    group.add_argument(
        "--model-args", type=dict | None, default=None, metavar="JSON",
        help='its constructor arguments, e.g. \'{"size": 8}\'; they override those in the checkpoint',
    )  # fmt: skip
    group.add_argument(
        "--weights", type=str | None, default=None, metavar="NAME",
        help="which of the checkpoints' weights, such as ema, model or state_dict.ema; state_dict, or the only ones "
        "there are, if not given",
    )  # fmt: skip
    group.add_argument(
        "--variant", type=str | None, default=None, metavar="NAME", help="of a pipeline's weights, such as fp16"
    )
    group.add_argument(
        "--pipeline-config", type=str | None, default=None, metavar="DIR",
        help="of .safetensors files of weights (of diffusers, or in the original layout): a folder of a pipeline of "
        "the same architecture, which says how they are made and gives what they lack; that of --before if not given",
    )  # fmt: skip
    group.add_argument(
        "--dtype", type=Literal["float32", "bfloat16", "float16"], default="float32",
        help="precision of pipelines; their autoencoders stay in float32",
    )  # fmt: skip
    group.add_argument("--unsafe-pickle", action="store_true", help=_PICKLE)
    group = parser.add_argument_group("the data")
    group.add_argument(
        "--data", type=str, nargs="+", default=[], metavar="SOURCE",
        help=f"samples to measure: {SOURCE}; several (in a config file a list) are one task each. Bytes are scaled to "
        "[-1, 1], subfolders are classes, captions come from a metadata.jsonl",
    )  # fmt: skip
    group.add_argument(
        "--classes", type=str, nargs="+", default=[], metavar="NAME",
        help="the classes that the model knows as 0, 1, ...: subfolders of --data and --target have these numbers. If "
        "not given they are numbered by their names, all of them together",
    )  # fmt: skip
    group.add_argument(
        "--target", type=str, nargs="+", default=[], metavar="SOURCE",
        help="what the second version was trained on, likewise: shown beside --data, and left out of --fail-above",
    )  # fmt: skip
    group.add_argument(
        "--prompts", type=str | None, default=None, metavar="FILE",
        help="in place of --data: a text file of prompts, one a line, that both pipelines draw from the same seeds; "
        "measured is the distance of their drawings over that of drawings from different seeds",
    )  # fmt: skip
    group.add_argument("--seeds", type=int, default=4, metavar="N", help="drawings of each prompt")
    group.add_argument(
        "--encoder", type=str | None, default=None, metavar="PATH",
        help="what compares drawings, as in select: a folder of DINOv2, CLIP or an autoencoder; pixels if not given",
    )  # fmt: skip
    group.add_argument("--steps", type=int | None, default=None, metavar="N", help="denoising steps of a drawing")
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
        help="side of drawings, and to which the images of folders are scaled and cropped; if not given drawings, and "
        "images of several sizes, have what the pipeline was made for",
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
        "beyond doubt, over all samples of --data, or over those of a task or a class. Of 100 audits in which nothing "
        "rose by more, at most 5 fail, however many classes there are. Of a series the last version counts",
    )  # fmt: skip
    group.add_argument(
        "--report-format", type=Literal["text", "markdown", "junit"], default="text",
        help="what is printed, and written to --output-dir, for CI systems; the last two need --fail-above",
    )  # fmt: skip
    group.add_argument(
        "--output-dir", type=str | None, default=None, metavar="DIR",
        help="write audit.html (one self-contained page), audit.json and the figures as PNG there; of a series "
        "a folder of these for each version, and series.html with the curves; what was measured so far is kept in its "
        "folder measured, and an audit that was interrupted goes on from there",
    )  # fmt: skip


def run(options: Any) -> int:
    """Audit, print, write, and compare with the threshold."""
    if options.report_format != "text" and options.fail_above is None:
        raise ValueError(f"--report-format {options.report_format} reports on a gate: give --fail-above, too.")
    if bool(options.data) == (options.prompts is not None):
        raise ValueError("give either --data (samples to reconstruct) or --prompts (texts to draw).")
    names = _names(options.after)
    reports: dict[str, AuditReport | DrawingReport] = {}
    gates: dict[str, Gate] = {}
    cost, notes = Cost(), dict[str, str]()
    with comparison(options) as compare:
        for name, after in names.items():
            folder = options.output_dir
            if folder is not None and len(names) > 1:
                folder = str(Path(folder, name))
            report, notes = compare(after)
            reports[name] = report
            if options.fail_above is not None:
                gates[name] = _gate(report, options)
                notes["verdict"] = gates[name].verdict()
            notes["cost"] = str(cost)
            wrote = ""
            if folder is not None:
                figures = drawn(report.figures)
                wrote = write(folder, "audit", report, figures, report.html(notes=notes, figures=figures))
            if options.report_format == "text":
                _say_text(report, gates.get(name), notes, options.quiet)
            say(wrote, options.quiet)
    if len(names) > 1:
        _write_series(reports, gates, notes, options)
    if options.report_format != "text":
        _report(options, gates, notes, cost)
    failed = bool(gates) and not list(gates.values())[-1].passed
    if failed and options.quiet:  # an exit code alone says nothing in the log of a CI
        print(f"hopfield-replay: {printable(notes['verdict'], None)}", file=sys.stderr)
    return EXCEEDED if failed else FINE


def _write_series(
    reports: "Mapping[str, AuditReport | DrawingReport]",
    gates: "Mapping[str, Gate]",
    notes: Mapping[str, str],
    options: Any,
) -> None:
    """Say and write the curve over the versions, and which of them to keep."""
    from hopfield_replay.analysis import AuditSeries

    series, wrote = AuditSeries(reports, gates), ""
    if options.output_dir is not None:
        shown = {name: value for name, value in notes.items() if name not in ("after", "verdict")}
        figures = drawn(series.figures)
        wrote = write(options.output_dir, "series", series, figures, series.html(shown, figures))
    if options.report_format == "text":
        say(f"\n{series.table()}", options.quiet)
    say(wrote, options.quiet)


def _gate(report: "AuditReport | DrawingReport", options: Any) -> "Gate":
    from hopfield_replay.analysis import AuditReport

    if isinstance(report, AuditReport):
        return report.gate(options.fail_above, exempt=_targets(options))
    return report.gate(options.fail_above)


def _targets(options: Any) -> list[str]:
    """Names of the tasks of --target."""
    every = [*options.data, *options.target]
    return list(by_task({source: source for source in every}))[len(options.data) :] if options.target else []


def _say_text(
    report: "AuditReport | DrawingReport", gate: "Gate | None", notes: Mapping[str, str], quiet: bool
) -> None:
    said = [f"{name}: {value}" for name, value in notes.items() if name not in ("verdict", "cost")]
    say("\n".join([*said, "", report.table()]), quiet)
    if gate is not None:
        say(f"\n{gate.table()}\n{notes['verdict']}", quiet)
    say(notes["cost"], quiet)


def _report(options: Any, gates: "Mapping[str, Gate]", notes: Mapping[str, str], cost: Cost) -> None:
    from hopfield_replay.analysis import as_junit, as_markdown

    junit = options.report_format == "junit"
    shown = {name: value for name, value in notes.items() if name != "verdict"}
    text = as_junit(gates, cost.seconds) if junit else as_markdown(gates, shown)
    if options.output_dir is not None:
        Path(options.output_dir).mkdir(parents=True, exist_ok=True)
        write_text(Path(options.output_dir, "audit.xml" if junit else "audit.md"), text)
    say(text, options.quiet)


def _names(paths: list[str]) -> dict[str, str]:
    """The versions by the last names of their paths, numbered where these are the same.

    Raises:
        ValueError: one path twice.
    """
    if len(set(paths)) < len(paths):
        raise ValueError(f"--after names one version twice: {' '.join(paths)}.")
    short = [Path(path).name or path for path in paths]
    if len(set(short)) < len(short):
        short = [f"{number}_{name}" for number, name in enumerate(short)]
    return dict(zip(short, paths, strict=True))
