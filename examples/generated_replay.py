"""Replay where no old data may be kept: images that the model generates itself, beside stored real ones.

python examples/generated_replay.py                                   # digits, five seeds
python examples/generated_replay.py --data mnist --data-dir DIR       # MNIST 14x14 by torchvision
python examples/generated_replay.py --jobs 2                          # two at a time

The arms: no replay; stored real images, chosen at random or by greedy_gain; as many of the images that the model drew
before each task, chosen in the same two ways; and all that it drew. A finished run is never run again: stop and go on
as you like, with more seeds too. The table covers every finished run in the output folder.
"""

from pathlib import Path

from helpers.command import Parser, answer_help, run_main

CAPACITY, CANDIDATES = 100, 1000


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=str, choices=["digits", "mnist"], default="digits", help="which digits")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is, or is downloaded to")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one run of each arm for each")
    parser.add_argument("--kept", type=int, default=CAPACITY, help="images that are replayed in a task")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="images that the model draws before a task")
    parser.add_argument("--epochs", type=int, default=None, help="epochs for each task (default: by data)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/generated_replay"), help="results")
    return parser


answer_help(__name__, make_parser)

import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

import torch
from tqdm.auto import tqdm

from helpers.ddpm import DDPM
from helpers.digit_classifier import GenerativeDistance
from helpers.files import write_text
from helpers.splits import Split, be_quiet, start_worker, train_tasks
from helpers.study_job import Settings, generate, images_of, settings_for
from helpers.study_statistics import interval, paired_difference, worst_tenth
from hopfield_replay import run_report
from hopfield_replay.theory import markdown_table

TASKS = {"digits": 5, "mnist": 2}
EMA = {"digits": 0.95, "mnist": 0.99}
MEASURES = {
    "forgetting": "forgetting",
    "worst_tenth": "worst 10 %",
    "new_task_error": "error, new task",
    "distance": "Frechet distance",
    "seconds": "seconds",
}


@dataclass(frozen=True)
class Arm:
    """What is replayed.

    Attributes:
        name: in the table.
        policy: that chooses; "none": no replay.
        kept: how many images are replayed in a task.
        generated: how many candidates the model draws before each task; 0: real images are stored.
    """

    name: str
    policy: str
    kept: int
    generated: int = 0


def arms_of(kept: int, candidates: int) -> list[Arm]:
    """All arms of the comparison."""
    return [
        Arm("no replay", "none", 0),
        Arm("real, random", "random", kept),
        Arm("real, greedy_gain", "greedy_gain", kept),
        Arm("generated, random", "random", kept, candidates),
        Arm("generated, greedy_gain", "greedy_gain", kept, candidates),
        Arm("generated, all", "random", candidates, candidates),
    ]


def run(arm: Arm, seed: int, settings: Settings, data_dir: Path, path: Path) -> None:
    """Train, measure and write one run, all or nothing."""
    images, labels = images_of(settings.data, data_dir)
    tasks = [
        Split(images, labels, classes, settings.train, settings.batch_size, seed)
        for classes in settings.sequences["split"]
    ]
    started = time.process_time()  # of this process alone, whatever else the machine does
    model, monitor = train_tasks(
        arm.policy,
        tasks,
        partial(DDPM, images.shape[-1], width=settings.width, network=settings.network),
        capacity=arm.kept,
        replay_ratio=settings.replay_ratio,
        epochs=settings.epochs,
        seed=seed,
        accelerator="cpu",
        ema_decay=settings.ema_decay,
        generated=arm.generated,
    )
    seconds = time.process_time() - started
    last = monitor.history[-1].probes
    rises = torch.cat([rise for probe in last[:-1] if (rise := probe.reconstruction) is not None])
    error = last[-1].error
    assert error is not None  # the monitor knows the DDPM's denoiser
    found = {
        "arm": asdict(arm),
        "seed": seed,
        "forgetting": float(rises.mean()),
        "worst_tenth": worst_tenth(rises),
        "new_task_error": float(error.mean()),
        "distance": GenerativeDistance(images, labels, settings.generated)(generate(model, settings.generated)),
        "seconds": seconds,
        "replayed": [record.replayed for record in monitor.history],
    }
    write_text(path.with_suffix(".html"), run_report(monitor, title=f"{arm.name}, seed {seed}").html())
    write_text(path, json.dumps(found, indent=1))


def file_name(arm: Arm, seed: int) -> str:
    """Where a run is written.

    Example:
        >>> file_name(Arm("generated, all", "random", 1000, 1000), 3)
        'random-1000-of-1000-3.json'
    """
    source = f"of-{arm.generated}" if arm.generated else "real"
    return f"{arm.policy}-{arm.kept}-{source}-{seed}.json"


def number(estimate: dict[str, float], name: str, sign: bool = False) -> str:
    """Mean with its interval over the seeds, in as many digits as tell something."""
    form = f"{'+' if sign else ''}.{1 if name in ('distance', 'seconds') else 4}f"
    mean, low, high = (format(estimate[part], form) for part in ("mean", "low", "high"))
    return mean if math.isnan(estimate["low"]) else f"{mean} [{low}, {high}]"


def table(folder: Path, arms: list[Arm]) -> str:
    """What every finished run says: means over the seeds, and paired differences to stored random images."""
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for arm in arms:
        for path in folder.glob("*.json"):
            found = json.loads(path.read_text())
            if found["arm"] == asdict(arm):
                runs.setdefault(arm.name, {})[found["seed"]] = found
    rows = []
    for arm in arms:
        if arm.name in runs:
            mine = runs[arm.name]
            cells = [number(interval([run[name] for run in mine.values()]), name) for name in MEASURES]
            against = runs.get("real, random", {})
            difference = paired_difference(mine, against, "forgetting")
            same = arm.name == "real, random" or not mine.keys() & against.keys()
            rows.append([arm.name, str(arm.kept), str(len(mine)), *cells, "" if same else number(difference, "", True)])
    return markdown_table(["replayed", "kept", "seeds", *MEASURES.values(), "forgetting, against real random"], rows)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    if not 1 <= args.kept <= args.candidates:
        parser.error(f"--kept must be from 1 to --candidates, got {args.kept} of {args.candidates}")
    be_quiet()
    settings = settings_for(
        args.data,
        args.data_dir,
        network="mlp",
        tasks=TASKS[args.data],
        epochs=args.epochs,
        ema_decay=EMA[args.data],
        gradient_clip=None,
        seen=0,
        replay_ratio=0.5,
        generated=None,
    )
    folder = args.output_dir / (args.data if args.epochs is None else f"{args.data}-{args.epochs}-epochs")
    folder.mkdir(parents=True, exist_ok=True)
    arms = arms_of(args.kept, args.candidates)
    left = [(arm, seed) for seed in args.seeds for arm in arms if not (folder / file_name(arm, seed)).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=start_worker) as pool:
        futures = [
            pool.submit(run, arm, seed, settings, args.data_dir, folder / file_name(arm, seed)) for arm, seed in left
        ]
        for future in tqdm(futures, unit="run"):
            future.result()
    text = table(folder, arms)
    write_text(args.output_dir / f"{args.data}.md", text + "\n")
    print(text)


if __name__ == "__main__":
    run_main(main)
