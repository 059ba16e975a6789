"""Does modern Hopfield attention make a small diffusion transformer better, or forget less? Digits, five tasks.

python examples/hopfield_attention_digits.py                            # a in 0, .2, .5, three seeds
python examples/hopfield_attention_digits.py --a 0 .2 .5 --start scores # the first layer keeps plain attention

A class-conditional DiT learns two digits after two, without replay. A finished run is never run again: stop and go on
as you like, with more seeds too; the tables cover every finished run in the output folder.
"""

from pathlib import Path

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--a", type=float, nargs="+", default=[0.0, 0.2, 0.5], help="shares of carried scores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of model, data, order and noise")
    parser.add_argument("--start", type=str, choices=["zero", "scores"], default="zero", help="of the first layer")
    parser.add_argument("--tasks", type=int, default=5, help="number of tasks the ten digits are split into, 2 to 10")
    parser.add_argument("--epochs", type=int, default=20, help="of each task")
    parser.add_argument("--layers", type=int, default=6, help="transformer blocks")
    parser.add_argument("--width", type=int, default=64, help="of each token, a multiple of 16")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of Adam")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/hopfield_attention_digits"), help="results")
    return parser


answer_help(__name__, make_parser)

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from scipy.stats import t as student
from torch import Tensor
from tqdm.auto import tqdm

from helpers.ddpm import DDPM
from helpers.digit_classifier import DigitClassifier, train_classifier
from helpers.files import read_tensors, write_tensors, write_text
from helpers.run_folder import claim_folder
from helpers.splits import PRESETS, Split, load, split_classes, start_worker, train_tasks
from hopfield_replay import run_report
from hopfield_replay.attention import TokenUniformityRecorder, install_hopfield_attention
from hopfield_replay.functional import precision_recall
from hopfield_replay.theory import markdown_table
from hopfield_replay.tracker import summarize

PER_CLASS = 50  # images generated of each digit after the last task
NOISE_LEVELS = (100, 300, 500)  # timesteps at which token uniformity is measured
MEASURES = {
    "error": "error when learned",
    "forgetting": "forgetting",
    "precision": "precision, last task",
    "recall": "recall, last task",
    "right_new": "right digit, last task",
    "right_old": "right digit, earlier tasks",
}


@dataclass(frozen=True)
class Settings:
    """What the runs of one folder have in common."""

    tasks: int
    epochs: int
    layers: int
    width: int
    learning_rate: float
    start: Literal["zero", "scores"]


def make_model(settings: Settings, a: float) -> DDPM:
    """A class-conditional DiT for digits whose attention layers hand on their scores."""
    model = DDPM(
        8,
        width=settings.width,
        learning_rate=settings.learning_rate,
        network="dit",
        layers=settings.layers,
        classes=10,
        warmup=50,
    )
    install_hopfield_attention(model.network, a, start=settings.start)
    return model


@torch.no_grad()
def uniformity(model: DDPM, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean cosine similarity and relative residual of the tokens after each layer, (layers,), over noisy images."""
    draw = torch.Generator().manual_seed(0)
    with TokenUniformityRecorder(model.network) as recorder:
        for level in NOISE_LEVELS:
            times = torch.full((len(images),), level)
            noise = torch.randn(images.shape, generator=draw)
            model(model.scheduler.add_noise(images, noise, times), times, labels)
    rows = recorder.table()
    return {"cosine": torch.tensor([row.cosine for row in rows]), "residual": torch.tensor([r.residual for r in rows])}


def run(a: float, seed: int, settings: Settings, folder: Path) -> None:
    """Train one model on all tasks, measure, and write the result, all or nothing."""
    started = time.process_time()
    preset = PRESETS["digits"]
    images, labels = load("digits", folder)
    tasks = [
        Split(images, labels, classes, preset.train, preset.batch_size, seed)
        for classes in split_classes(settings.tasks)
    ]
    model, monitor = train_tasks(
        "none",
        tasks,
        partial(make_model, settings, a),
        capacity=1,
        replay_ratio=0.5,
        epochs=settings.epochs,
        seed=seed,
        accelerator="cpu",
        ema_decay=preset.ema_decay,
    )
    model.eval()
    generated = model.sample(10 * PER_CLASS, torch.arange(10).repeat_interleave(PER_CLASS), seed=seed)
    held_out = [torch.cat(parts) for parts in zip(*(split.held_out.tensors for split in tasks), strict=True)]
    rises = [probe.reconstruction for probe in monitor.history[-1].probes[:-1]]
    result = {
        "a": a,
        "seed": seed,
        "seconds": time.process_time() - started,
        "error": sum(float(summarize(record)[-1]["error"]) for record in monitor.history) / len(tasks),
        "forgetting": float(torch.cat([rise for rise in rises if rise is not None]).mean()),
        "generated": ((generated + 1) * 127.5).round().to(torch.uint8),
        **uniformity(model, held_out[0], held_out[1]),
    }
    page = run_report(monitor, title=f"What was forgotten: a = {a:g}, seed {seed}").html()
    write_text((folder / file_name(a, seed)).with_suffix(".html"), page)
    write_tensors(folder / file_name(a, seed), result)


def file_name(a: float, seed: int) -> str:
    """Name of a run's result."""
    return f"a{a:g}-{seed}.pt"


@lru_cache(maxsize=1)
def classifier() -> DigitClassifier:
    """A classifier of real digits, whose features the images are compared in."""
    return train_classifier(*load("digits", Path()))[0]


def measure(result: dict[str, Any], new: list[int]) -> dict[str, float]:
    """The measures of one run; ``new`` are the digits of its last task."""
    judge = classifier()
    images, labels = load("digits", Path())
    generated, wanted = result["generated"].float() / 127.5 - 1, torch.arange(10).repeat_interleave(PER_CLASS)
    right, last = judge.classify(generated) == wanted, torch.isin(wanted, torch.tensor(new))
    real = images[torch.isin(labels, torch.tensor(new))][: int(last.sum())]
    precision, recall = precision_recall(judge.features(real), judge.features(generated[last]))
    return {
        "error": result["error"],
        "forgetting": result["forgetting"],
        "precision": precision,
        "recall": recall,
        "right_new": float(right[last].float().mean()),
        "right_old": float(right[~last].float().mean()),
    }


def measure_real(new: list[int]) -> dict[str, float]:
    """The measures of real images in the place of generated ones: what can be reached."""
    images, labels = load("digits", Path())
    others = torch.cat([images[labels == digit][-PER_CLASS:] for digit in range(10)])
    generated = ((others + 1) * 127.5).round().to(torch.uint8)
    return measure({"error": 0.0, "forgetting": 0.0, "generated": generated}, new)


def interval(values: list[float], sign: str = "") -> str:
    """Mean and its 95 % interval by Student's t, which does not make few seeds look like many.

    Example:
        >>> interval([0.1, 0.2, 0.3])
        '.200 [-.048, .448]'
        >>> interval([0.1, 0.2, 0.3], "+")
        '+.200 [-.048, +.448]'
    """
    x = torch.tensor(values, dtype=torch.float64)
    mean, half = float(x.mean()), 0.0
    if len(x) > 1:
        half = float(student.ppf(0.975, len(x) - 1) * x.std() / len(x) ** 0.5)
    shown = [f"{value:{sign}.3f}".replace("0.", ".", 1) for value in (mean, mean - half, mean + half)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if len(x) > 1 else shown[0]


def report(folder: Path, settings: Settings) -> str:
    """Markdown tables of all finished runs: the measures, their paired differences to a = 0, token uniformity."""
    results = [read_tensors(path) for path in sorted(folder.glob("*.pt"))]
    new = split_classes(settings.tasks)[-1]
    measured = {(result["a"], result["seed"]): measure(result, new) for result in results}
    arms = {a: sorted(seed for b, seed in measured if b == a) for a in sorted({result["a"] for result in results})}
    rows = [
        [f"{a:g}", str(len(seeds)), *(interval([measured[a, seed][name] for seed in seeds]) for name in MEASURES)]
        for a, seeds in arms.items()
    ]
    for a, seeds in arms.items():
        both = [seed for seed in seeds if seed in arms.get(0.0, [])]
        if a and both:
            paired = [
                interval([measured[a, seed][name] - measured[0.0, seed][name] for seed in both], "+")
                for name in MEASURES
            ]
            rows.append([f"{a:g} - plain", str(len(both)), *paired])
    lines = [markdown_table(["a", "seeds", *MEASURES.values()], rows)]
    lines += ["", "Tokens after each layer of the last model: mean cosine similarity / relative residual"]
    for a in arms:
        mine = [result for result in results if result["a"] == a]
        pairs = zip(*(torch.stack([r[name] for r in mine]).mean(0) for name in ("cosine", "residual")), strict=True)
        lines.append(f"  a = {a:g}: " + ", ".join(f"{cosine:.3f} / {residual:.3f}" for cosine, residual in pairs))
    reached = ", ".join(f"{MEASURES[name]} {value:.2f}" for name, value in list(measure_real(new).items())[2:])
    lines.append(f"Real images in the place of generated ones reach: {reached}.")
    lines.append(f"{len(results)} runs took {sum(result['seconds'] for result in results):.0f} CPU seconds.")
    return "\n".join(lines)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    if wrong := [a for a in args.a if not 0.0 <= a < 1.0]:
        parser.error(f"--a must lie in [0, 1), got {wrong}")
    if not 2 <= args.tasks <= 10:
        parser.error(f"--tasks must be 2 to 10, got {args.tasks}")
    if args.width < 16 or args.width % 16:
        parser.error(f"--width must be a multiple of 16, got {args.width}")
    for name in ("epochs", "layers", "jobs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    settings = Settings(args.tasks, args.epochs, args.layers, args.width, args.learning_rate, args.start)
    try:
        claim_folder(args.output_dir, asdict(settings))
    except ValueError as error:
        parser.error(str(error))
    todo = [(a, seed) for seed in args.seeds for a in args.a if not (args.output_dir / file_name(a, seed)).exists()]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=start_worker) as pool:
        futures = [pool.submit(run, a, seed, settings, args.output_dir) for a, seed in todo]
        for future in tqdm(futures, unit="run"):
            future.result()
    start_worker()
    text = report(args.output_dir, settings)
    write_text(args.output_dir / "attention.md", text)
    print(text)
    print(f"Wrote {args.output_dir}/attention.md, {len(list(args.output_dir.glob('*.pt')))} runs.")


if __name__ == "__main__":
    run_main(main)
