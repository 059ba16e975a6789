"""Replay against what people would use instead: regularisation, distillation, LoRA, joint training; one protocol.

python examples/benchmark.py                                            # digits, five seeds
python examples/benchmark.py --preset mnist14 --data-dir DIR --jobs 2   # or cifar16; GPU: mnist32, fashion32, cifar32
python examples/benchmark.py --methods none random greedy_gain "EWC, diagonal" --seeds 0 1

Every method has one number that is tuned for it, by the same small grid, on a seed that is not reported. A finished run
is never run again: stop and go on as you like, with more methods and seeds, too. The page and the figure cover what is
there; a run that diverges is counted, never dropped.
"""

import math
from pathlib import Path

from helpers.benchmark_methods import METHODS
from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--preset",
        type=str,
        choices=["digits", "mnist14", "cifar16", "mnist32", "fashion32", "cifar32"],
        default="digits",
        help="data, model and training",
    )
    parser.add_argument("--methods", nargs="+", type=str, default=list(METHODS), help="rows of the table")
    parser.add_argument(
        "--frontier", nargs="*", type=str, default=[], help="methods of which every value is run on every seed, too"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one run of each method for each")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where the images are, or are downloaded to"
    )
    parser.add_argument("--epochs", type=int | None, default=None, help="of each task (default: the preset's)")
    parser.add_argument(
        "--kept", type=int | None, default=None, help="samples that a buffer keeps (default: the preset's)"
    )
    parser.add_argument("--accelerator", type=str, default="cpu", help="of the Trainer: cpu or gpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after so many minutes")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/benchmark"), help="results")
    return parser


answer_help(__name__, make_parser)

import json
import multiprocessing
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from typing import Any

from tqdm.auto import tqdm

from helpers.benchmark_figures import draw_all
from helpers.benchmark_job import Job, run_job
from helpers.benchmark_measures import chosen_results, measured, read_runs, tuned
from helpers.benchmark_presets import PRESETS, Preset, classifier_of, read
from helpers.benchmark_report import report
from helpers.files import write_json, write_text
from helpers.run_folder import claim_folder
from helpers.splits import be_quiet, start_worker

TUNING_SEED = 1000


def tuning_jobs(methods: list[str], preset: Preset) -> list[Job]:
    """Every value of every method's grid, on the tuning seed."""
    return [Job(name, value, preset.kept, TUNING_SEED) for name in methods for value in METHODS[name].grid]


def jobs_of(
    methods: list[str], values: dict[str, float], preset: Preset, seeds: list[int], frontier: list[str]
) -> list[Job]:
    """The runs that are reported, seed by seed, so that a cut leaves pairs; then all other values of some methods."""
    jobs = [Job(name, values[name], preset.kept, seed) for seed in seeds for name in methods]
    others = [
        Job(name, value, preset.kept, seed) for seed in seeds for name in frontier for value in METHODS[name].grid
    ]
    return list(dict.fromkeys([*jobs, *others]))


def run_all(jobs: list[Job], preset: Preset, folder: Path, args: Any, until: float) -> bool:
    """Run what has no result yet; True if all of it is done."""
    left = [job for job in jobs if not (folder / job.file).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=start_worker) as pool:
        waiting = iter(left)
        running: dict[Future[None], Job] = {}
        with tqdm(total=len(left), unit="run") as bar:
            while True:
                while (
                    len(running) < args.jobs and time.monotonic() < until and (job := next(waiting, None)) is not None
                ):
                    running[pool.submit(run_job, job, preset, folder, args.data_dir, args.accelerator)] = job
                if not running:
                    break
                done = next(as_completed(running))
                bar.set_description(running.pop(done).method)
                done.result()
                bar.update(1)
    return all((folder / job.file).exists() for job in jobs)


def check(parser: Parser, args: Any) -> None:
    """Say what is wrong with the options before anything runs."""
    if unknown := [name for name in [*args.methods, *args.frontier] if name not in METHODS]:
        parser.error(f"unknown methods {unknown}; choose from {', '.join(METHODS)}")
    if TUNING_SEED in args.seeds:
        parser.error(f"--seeds must not hold {TUNING_SEED}, which the methods are tuned on")
    if len(set(args.seeds)) < 2:
        parser.error(f"--seeds needs two or more for an interval, got {args.seeds}")
    for name in ("jobs", "epochs", "kept"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    check(parser, args)
    be_quiet()
    preset = PRESETS[args.preset]
    preset = replace(preset, epochs=args.epochs or preset.epochs, kept=args.kept or preset.kept)
    read(preset.data, args.data_dir)  # missing data is told now
    folder = args.output_dir / args.preset
    try:
        claim_folder(folder, json.loads(json.dumps(asdict(preset))))
    except ValueError as error:
        parser.error(str(error))
    until = time.monotonic() + 60 * args.minutes
    done = run_all(tuning_jobs(args.methods, preset), preset, folder, args, until)
    results = read_runs(folder)
    values = {name: tuned(results, name, preset.kept, TUNING_SEED) for name in args.methods}
    if done:
        untuned = [name for name in args.methods if METHODS[name].grid and math.isnan(values[name])]
        if untuned:
            print(f"Every value that was tried diverged for {', '.join(untuned)}.")
        methods = [name for name in args.methods if name not in untuned]
        done = run_all(jobs_of(methods, values, preset, args.seeds, args.frontier), preset, folder, args, until)
    results = read_runs(folder)
    page = report(results, preset, values, TUNING_SEED, classifier_of(preset.data, args.data_dir)[1])
    write_text(folder / "benchmark.md", page)
    runs = measured(chosen_results(results, values, preset.kept, TUNING_SEED))
    write_json(folder / "benchmark.json", {"preset": asdict(preset), "tuned": values, "runs": runs})
    if runs:
        draw_all(results, runs, preset.kept, TUNING_SEED, folder)
    print(page)
    print(
        f"Wrote {folder}/benchmark.md, benchmark.json, price.png, frontier.png and foreseen.png."
        + ("" if done else " Run it again to go on.")
    )


if __name__ == "__main__":
    run_main(main)
