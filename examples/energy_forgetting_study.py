"""Does the energy tell what a diffusion model forgets, and which replay policy prevents it? Many runs, with intervals.

python examples/energy_forgetting_study.py --jobs 2      # digits: every policy, 20, 100 and 500 kept, five seeds
python examples/energy_forgetting_study.py --data digits mnist --jobs 16
python examples/energy_forgetting_study.py --data mnist28 --jobs 6 --accelerator gpu   # a UNet

Each run is one job of examples/ddpm_mnist_splits.py. A finished job is never run again: stop and go on as you like,
with more seeds or policies too; the tables cover every finished job in the output folder.
"""

import math
from pathlib import Path

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--data", nargs="+", type=str, choices=["digits", "mnist", "mnist28"], default=["digits"], help="which digits"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is, or is downloaded to")
    parser.add_argument(
        "--tasks", type=int, default=None, help="tasks the ten digits are split into (default: by data)"
    )
    parser.add_argument(
        "--policies", nargs="+", type=str, default=None, help="arms; policy@50: at this capacity only (default: all)"
    )
    parser.add_argument("--capacities", nargs="+", type=int, default=[20, 100, 500], help="samples kept")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one run of each arm for each")
    parser.add_argument(
        "--network", type=str, choices=["mlp", "unet"], default=None, help="what is trained (default: by data)"
    )
    parser.add_argument("--epochs", type=int, default=None, help="epochs for each task (default: by data and network)")
    parser.add_argument("--ema-decay", type=float, default=0.99, help="of the averaged weights, in [0, 1); 0: none")
    parser.add_argument("--gradient-clip", type=float, default=1.0, help="largest norm of the gradient; 0: any")
    parser.add_argument("--seen", type=int, default=100, help="training images of each task that are followed")
    parser.add_argument("--replay-ratio", type=float, default=0.5, help="share of each batch that is replayed")
    parser.add_argument("--generated", type=int, default=None, help="images sampled from each model (default: by data)")
    parser.add_argument("--jobs", type=int, default=1, help="worker processes, of one thread each on the CPU")
    parser.add_argument("--accelerator", type=str, choices=["cpu", "gpu"], default="cpu", help="where the jobs run")
    parser.add_argument("--gpu-jobs", type=int, default=None, help="how many of the jobs use the GPU (default: all)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no job after this time")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/energy_forgetting_study"), help="results")
    return parser


answer_help(__name__, make_parser)

import json
import multiprocessing
import os
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from typing import Any

import torch
from tqdm.auto import tqdm

from helpers.files import write_text
from helpers.run_folder import claim_folder
from helpers.splits import start_worker, unknown_policies
from helpers.study_job import Job, Settings, run_job, settings_for
from helpers.study_report import draw_correlations, draw_policies, markdown, summarize
from hopfield_replay.policies import POLICIES

ARMS = ["none", *POLICIES, "random_by_label", "greedy_gain+weight", "greedy_gain+uniform"]
TASKS = {"digits": 5, "mnist": 2, "mnist28": 2}


def parse_arms(policies: list[str], capacities: list[int]) -> list[tuple[str, int]]:
    """(policy, capacity) of each arm; "policy@50" is that policy at that capacity only, "none" has capacity 0.

    Example:
        >>> parse_arms(["none", "random", "herding@50"], [20, 100])
        [('none', 0), ('random', 20), ('random', 100), ('herding', 50)]

    Raises:
        ValueError: an unknown policy, a capacity that is no whole number >= 1.
    """
    arms = []
    for entry in policies:
        name, _, only = entry.partition("@")
        if wrong := unknown_policies([name]):
            raise ValueError(wrong)
        if only and not only.isdecimal():
            raise ValueError(f"{entry!r}: write the capacity as a whole number, e.g. {name}@50.")
        sizes = [0] if name == "none" else [int(only)] if only else capacities
        if name != "none" and min(sizes) < 1:
            raise ValueError(f"capacities must be at least 1, got {sizes} for {name}.")
        arms += [(name, size) for size in sizes]
    return list(dict.fromkeys(arms))


def list_jobs(settings: Settings, arms: list[tuple[str, int]], seeds: list[int]) -> list[Job]:
    """Seed by seed, so that a study that is cut off has whole seeds; pairs of tasks are trained without replay only."""
    jobs = []
    for seed in seeds:
        jobs += [Job("split", policy, capacity, seed) for policy, capacity in arms]
        if ("none", 0) in arms:
            jobs += [Job(name, "none", 0, seed) for name in settings.sequences if name != "split"]
    return jobs


Task = tuple[Job, Settings, Path]


def run_all(queues: list[deque[Task]], args: Any, deadline: float) -> list[str]:
    """Run the jobs in worker processes; GPU workers begin with the last queue, CPU workers with the first.

    Returns:
        What went wrong, one line for each job that failed.
    """
    gpu_jobs = 0 if args.accelerator == "cpu" else args.jobs if args.gpu_jobs is None else args.gpu_jobs
    failures = []
    context = multiprocessing.get_context("spawn")
    # beside a GPU the CPU's share of a job is matrix products at task boundaries, which gain from threads
    threads = {"cpu": 1, "gpu": max(1, ((os.cpu_count() or 1) - args.jobs + gpu_jobs) // max(1, gpu_jobs))}
    pools = {
        device: ProcessPoolExecutor(count, mp_context=context, initializer=start_worker, initargs=(threads[device],))
        for device, count in (("cpu", args.jobs - gpu_jobs), ("gpu", gpu_jobs))
        if count
    }
    free = {"cpu": args.jobs - gpu_jobs, "gpu": gpu_jobs}
    running: dict[Future[float], tuple[str, Task]] = {}
    with tqdm(total=sum(map(len, queues)), unit="job", mininterval=5.0) as bar:
        while True:
            for device, pool in pools.items():
                order = queues if device == "cpu" else queues[::-1]
                while free[device] and time.monotonic() < deadline:
                    queue = next((queue for queue in order if queue), None)
                    if queue is None:
                        break
                    task = queue.popleft()
                    running[pool.submit(run_job, *task, args.data_dir, device)] = device, task
                    free[device] -= 1
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                device, (job, settings, _) = running.pop(future)
                free[device] += 1
                if (error := future.exception()) is not None:
                    failures.append(f"{settings.name}/{job.file}: {type(error).__name__}: {error}")
                bar.update(1)
    for pool in pools.values():
        pool.shutdown()
    return failures


def finite(tree: Any) -> Any:
    """The same nesting with null for numbers that JSON does not know: no interval, a capacity beyond all measured."""
    if isinstance(tree, dict):
        return {str(key): finite(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [finite(item) for item in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def report(settings: list[Settings], args: Any) -> None:
    """Write study.json, study.md and the figures from all finished jobs."""
    summaries = []
    for one in settings:
        summary = summarize(args.output_dir / one.name, one, args.data_dir)
        if summary is None:
            continue
        summaries.append({"settings": asdict(one)} | summary)
        draw_policies(summary, args.output_dir / f"policies_{one.name}.png")
        draw_correlations(summary, args.output_dir / f"correlations_{one.name}.png")
    text = "\n".join(markdown(summary) for summary in summaries)
    write_text(args.output_dir / "study.md", text)
    write_text(args.output_dir / "study.json", json.dumps(finite(summaries), indent=1, allow_nan=False))
    print(text)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    if args.jobs < 1 or not 0 <= (args.jobs if args.gpu_jobs is None else args.gpu_jobs) <= args.jobs:
        parser.error(f"--jobs must be at least 1 and --gpu-jobs 0 to --jobs, got {args.jobs} and {args.gpu_jobs}")
    if not 0.0 <= args.ema_decay < 1.0:
        parser.error(f"--ema-decay must lie in [0, 1), got {args.ema_decay}")
    if args.seen < 0:
        parser.error(f"--seen must be 0 or more, got {args.seen}")
    if not 0.0 <= args.gradient_clip < math.inf:
        parser.error(f"--gradient-clip must be 0 or more, and finite, got {args.gradient_clip}")
    if args.tasks is not None and not 2 <= args.tasks <= 10:
        parser.error(f"--tasks must be 2 to 10, got {args.tasks}")
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        parser.error("--accelerator gpu, but torch finds no GPU; use --accelerator cpu")
    if args.generated is not None and args.generated <= 32:
        parser.error(f"--generated must exceed the extractor's 32 features, got {args.generated}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers
    torch.set_num_threads(1)
    known, queues = [], []
    try:
        for data in dict.fromkeys(args.data):
            settings = settings_for(
                data,
                args.data_dir,
                network=args.network,
                tasks=TASKS[data] if args.tasks is None else args.tasks,
                epochs=args.epochs,
                ema_decay=args.ema_decay or None,
                gradient_clip=args.gradient_clip or None,
                seen=args.seen,
                replay_ratio=args.replay_ratio,
                generated=args.generated,
            )
            arms = parse_arms(args.policies or ARMS, args.capacities)
            folder = args.output_dir / settings.name
            claim_folder(folder, asdict(settings))
            todo = [job for job in list_jobs(settings, arms, args.seeds) if not (folder / job.file).exists()]
            known.append(settings)
            queues.append(deque((job, settings, folder) for job in todo))
    except ValueError as error:
        parser.error(str(error))
    failures = run_all(queues, args, deadline)
    report(known, args)
    left = sum(map(len, queues))
    print(f"Wrote {args.output_dir}/study.json, study.md and figures." + (f" {left} jobs are left." if left else ""))
    if failures:
        raise SystemExit("Failed:\n" + "\n".join(failures))


if __name__ == "__main__":
    run_main(main)
