"""Train a DDPM on splits of handwritten digits, and watch what it forgets under each replay policy.

python examples/ddpm_mnist_splits.py                                    # scikit-learn's 8x8 digits, no download
python examples/ddpm_mnist_splits.py --data mnist --tasks 2             # MNIST by torchvision, 14x14
python examples/ddpm_mnist_splits.py --forecast                         # and was the forecast right?
tensorboard --logdir runs/ddpm_mnist_splits                             # scalars, histograms and scatters per arm
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ddpm import DDPM
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from splits import (
    PRESETS,
    Split,
    be_quiet,
    forecast_agreement,
    forecast_boundary,
    load,
    split_classes,
    train_tasks,
    unknown_policies,
)
from torch import Tensor
from tqdm.auto import tqdm

from hopfield_replay.figures import energy_against_forgetting
from hopfield_replay.functional import Correlation
from hopfield_replay.table import error_rise, summarize


class Gallery(Callback):
    """Keeps pictures after every task: generated samples, and reconstructions of held-out images of every task."""

    timestep = 300

    def __init__(self, tasks: list[Split]) -> None:
        self.images = [split.held_out.tensors[0][:8] for split in tasks]
        self.generated: list[Tensor] = []
        self.reconstructed: list[list[Tensor]] = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DDPM)
        pl_module.eval()
        self.generated.append(pl_module.sample(24).cpu())
        noise = torch.randn(self.images[0].shape, generator=torch.Generator().manual_seed(1))
        a = pl_module.scheduler.alphas_cumprod[self.timestep].cpu()
        row = []
        with torch.no_grad():
            for images in self.images[: len(self.generated)]:
                noisy = a.sqrt() * images + (1 - a).sqrt() * noise[: len(images)]
                times = torch.full((len(images),), self.timestep, device=pl_module.device)
                predicted = pl_module.unet(noisy.to(pl_module.device), times).sample.cpu()
                row.append((noisy - (1 - a).sqrt() * predicted) / a.sqrt())
        self.reconstructed.append(row)
        pl_module.train()


class Epochs(Callback):
    """Moves one progress bar through all arms, tasks and epochs."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.update(1)


def tiles(axis: Any, images: Tensor, title: str = "") -> None:
    """Draw images (n, 1, h, w) as one row."""
    axis.imshow(torch.cat(list(images[:, 0]), dim=1).clamp(-1, 1).numpy(), cmap="gray", vmin=-1, vmax=1)
    axis.set_title(title, fontsize="small", loc="left")
    axis.set_axis_off()


def draw_gallery(gallery: Gallery, tasks: list[Split], policy: str, folder: Path) -> None:
    """Write samples and reconstructions, before and after, as PNG."""
    count = len(gallery.generated)
    figure = Figure(figsize=(9, 0.75 * count), layout="constrained")
    for axis, images, split in zip(figure.subplots(count, 1), gallery.generated, tasks, strict=True):
        tiles(axis, images, f"generated after training on {split.classes}")
    figure.savefig(folder / f"samples_{policy}.png", dpi=120)
    figure = Figure(figsize=(9, 0.85 * count), layout="constrained")
    axes = figure.subplots(count, 3)
    for task, split in enumerate(tasks):
        tiles(axes[task, 0], gallery.images[task], f"held-out images of {split.classes}")
        tiles(axes[task, 1], gallery.reconstructed[task][task], f"reconstructed at t={gallery.timestep}, just learned")
        tiles(axes[task, 2], gallery.reconstructed[-1][task], "reconstructed after the last task")
    figure.savefig(folder / f"reconstructions_{policy}.png", dpi=120)


def run_arm(policy: str, tasks: list[Split], args: Any, epochs: int, width: int, bar: Any) -> dict[str, Any]:
    """Train the same model from the same seed under one policy ("none": no replay)."""
    started = time.perf_counter()
    gallery = Gallery(tasks)
    _, monitor = train_tasks(
        policy,
        tasks,
        capacity=args.capacity,
        replay_ratio=args.replay_ratio,
        epochs=epochs,
        width=width,
        seed=args.seed,
        accelerator=args.accelerator,
        callbacks=[gallery, Epochs(bar)],
        logger=TensorBoardLogger(args.output_dir, name=policy, version=""),
    )
    folder = Path(args.output_dir)
    draw_gallery(gallery, tasks, policy, folder)
    figure = energy_against_forgetting(monitor.history[-1])
    if figure is not None:
        figure.savefig(folder / f"energy_against_forgetting_{policy}.png", dpi=120)
    return {
        "policy": policy,
        "seconds": time.perf_counter() - started,
        "buffer_bytes": 0 if monitor.buffer is None else monitor.buffer.nbytes,
        "tasks": [task_summary(record) for record in monitor.history],
        "history": monitor.history,
        "rises": [r for p in monitor.history[-1]["probes"][:-1] if (r := error_rise(p)) is not None],
    }


def task_summary(record: dict[str, Any]) -> dict[str, Any]:
    """One record of the monitor's history, over the probes of all earlier tasks."""
    rows = summarize(record)
    earlier = [probe for probe in record["probes"] if probe["task"] < record["task"]]
    rises = torch.cat([r for p in earlier if (r := error_rise(p)) is not None]) if earlier else None
    intrinsic = torch.cat([probe["energy"] - probe["energy_start"] for probe in earlier]) if earlier else None
    return {
        "task": record["task"],
        "intrinsic_forgetting": None if intrinsic is None else float(intrinsic.mean()),
        "reconstruction_forgetting": None if rises is None else float(rises.mean()),
        "reconstruction_forgetting_p95": None if rises is None else float(rises.quantile(0.95)),
        "error_current_task": rows[-1]["error"],
        "beta": record["beta"],
        "n_eff": record["n_eff"],
        "replayed": record["replayed"],
        "boundary_seconds": record["seconds"],
    }


def paired_interval(first: list[Tensor], second: list[Tensor]) -> tuple[float, float, float]:
    """Mean of second - first over the same probes, and its 95 % bootstrap interval."""
    difference = torch.cat(second) - torch.cat(first)
    draws = torch.randint(len(difference), (2000, len(difference)), generator=torch.Generator().manual_seed(0))
    means = difference[draws].mean(1)
    return float(difference.mean()), float(means.quantile(0.025)), float(means.quantile(0.975))


def report(arms: list[dict[str, Any]]) -> str:
    """The table, and which differences between arms are within noise."""
    lines = [
        "After the last task, over the held-out probes of all earlier tasks (rise since each task was learned):",
        f"{'policy':<14}{'intrinsic':>11}{'reconstruction':>16}{'95th pct':>10}{'error, new task':>17}"
        f"{'buffer kB':>11}{'seconds':>9}",
    ]
    for arm in arms:
        last = arm["tasks"][-1]
        lines.append(
            f"{arm['policy']:<14}{last['intrinsic_forgetting']:>11.3f}{last['reconstruction_forgetting']:>16.4f}"
            f"{last['reconstruction_forgetting_p95']:>10.4f}{last['error_current_task']:>17.4f}"
            f"{arm['buffer_bytes'] / 1024:>11.1f}{arm['seconds']:>9.0f}"
        )
    lines.append("Differences in reconstruction forgetting (95 % bootstrap interval over probes; one run each):")
    for i, first in enumerate(arms):
        for second in arms[i + 1 :]:
            mean, low, high = paired_interval(first["rises"], second["rises"])
            verdict = "within noise" if low <= 0.0 <= high else ("less forgetting" if mean < 0 else "more forgetting")
            lines.append(
                f"  {second['policy']} against {first['policy']}: {mean:+.4f} [{low:+.4f}, {high:+.4f}] {verdict}"
            )
    return "\n".join(lines)


def agreement_report(found: list[Correlation]) -> str:
    """How well the forecast predicted what was forgotten at each boundary."""
    lines = [
        "Forecast against measured reconstruction forgetting without replay, over the held-out probes of each task",
        "at the boundary after it (Spearman, 95 % bootstrap interval over probes; one run):",
    ]
    lines += [
        f"  task {task}: {r.estimate:+.2f} [{r.low:+.2f}, {r.high:+.2f}], {r.n} probes" for task, r in enumerate(found)
    ]
    return "\n".join(lines)


def draw_curves(arms: list[dict[str, Any]], folder: Path) -> None:
    """Reconstruction forgetting after each task, one line for each arm."""
    figure = Figure(figsize=(5.5, 3.5), layout="constrained")
    axis = figure.subplots()
    for arm in arms:
        points = [(t["task"] + 1, t["reconstruction_forgetting"]) for t in arm["tasks"] if t["task"] > 0]
        axis.plot(*zip(*points, strict=True), marker="o", label=arm["policy"])
    axis.set_xlabel("tasks learned")
    axis.set_ylabel("reconstruction forgetting\nof earlier tasks (held out)")
    axis.set_xticks([t["task"] + 1 for t in arms[0]["tasks"] if t["task"] > 0])
    axis.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "forgetting.png", dpi=120)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=str, choices=list(PRESETS), default="digits", help="which digits")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is, or is downloaded to")
    parser.add_argument("--tasks", type=int, default=5, help="number of tasks the ten digits are split into, 2 to 10")
    parser.add_argument(
        "--policies", nargs="+", default=["none", "random", "high_energy", "greedy_gain"], help="one arm for each"
    )
    parser.add_argument("--capacity", type=int, default=50, help="samples kept in all")
    parser.add_argument("--replay-ratio", type=float, default=0.5, help="share of each batch that is replayed")
    parser.add_argument("--epochs", type=int, default=None, help="epochs for each task (default: by data)")
    parser.add_argument("--seed", type=int, default=0, help="of model, data split, data order, buffer and noise")
    parser.add_argument("--forecast", action="store_true", help="predict first what is lost, and then say how well")
    parser.add_argument("--accelerator", type=str, default="auto", help="Lightning accelerator")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/ddpm_mnist_splits"), help="results and logs")
    args = parser.parse_args()
    if wrong := unknown_policies(args.policies):
        parser.error(wrong)
    if not 2 <= args.tasks <= 10:
        parser.error(f"--tasks must be 2 to 10, got {args.tasks}")
    if args.capacity < 1:
        parser.error(f"--capacity must be at least 1, got {args.capacity}; for no replay use --policies none")
    if not 0.0 < args.replay_ratio < 1.0:
        parser.error(f"--replay-ratio must lie in (0, 1), got {args.replay_ratio}; for no replay use --policies none")
    if args.forecast and "none" not in args.policies:
        parser.error("--forecast is compared with the arm without replay; add none to --policies")
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")

    be_quiet()
    preset = PRESETS[args.data]
    torch.set_num_threads(min(preset.threads, torch.get_num_threads()))
    epochs = preset.epochs if args.epochs is None else args.epochs
    images, labels = load(args.data, args.data_dir)
    splits = [
        Split(images, labels, classes, preset.train, preset.batch_size, args.seed)
        for classes in split_classes(args.tasks)
    ]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    print(
        f"{args.data}: tasks {[split.classes for split in splits]}, {len(splits[0].train)} training images in the first"
    )
    if args.forecast:
        print(f"Forecast of the first boundary, {splits[0].classes} -> {splits[1].classes}, from the images alone:")
        options = {"capacity": args.capacity, "replay_ratio": args.replay_ratio, "seed": args.seed}
        print(forecast_boundary(splits[0], splits[1], **options).table())
    arms = []
    with tqdm(total=len(args.policies) * args.tasks * epochs, unit="epoch", mininterval=1.0) as bar:
        for policy in args.policies:
            bar.set_description(policy)
            arms.append(run_arm(policy, splits, args, epochs, preset.width, bar))
    print(report(arms))
    draw_curves(arms, args.output_dir)
    results: dict[str, Any] = {
        "arguments": {
            name: value if isinstance(value, int | float | list) else str(value) for name, value in args.items()
        },
        "epochs": epochs,
        "arms": [{name: value for name, value in arm.items() if name not in ("rises", "history")} for arm in arms],
    }
    if args.forecast:
        (history,) = [arm["history"] for arm in arms if arm["policy"] == "none"]
        agreement = forecast_agreement(history, splits)
        print(agreement_report(agreement))
        results["forecast"] = [asdict(correlation) for correlation in agreement]
    (args.output_dir / "results.json").write_text(json.dumps(results, indent=2))
    print(f"Wrote {args.output_dir}/results.json, figures and TensorBoard logs.")


if __name__ == "__main__":
    main()
