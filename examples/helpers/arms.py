"""One arm for each replay policy, trained from the same seed, compared in a table, figures and results.json."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from tqdm.auto import tqdm

from helpers.command import Parser
from helpers.ddpm import DDPM
from helpers.files import replacing, write_figure, write_json, write_tensors
from helpers.gallery import Gallery, draw_gallery
from helpers.run_folder import check_results, plain
from helpers.splits import Split, foreseen, train_tasks, unknown_policies
from hopfield_replay import ForgettingMonitor, RunReport, run_report
from hopfield_replay.figures import energy_against_forgetting, forgetting_over_tasks
from hopfield_replay.theory import markdown_table
from hopfield_replay.tracker import BoundaryRecord, overall, summarize

_FREE = ("output_dir", "data_dir", "accelerator", "forecast", "checkpoints")  # what makes no other results


class Epochs(Callback):
    """Moves one progress bar through all arms, tasks and epochs."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.update(1)


class TaskCheckpoints(Callback):
    """Writes the weights that a task ends with, the averaged ones if there is an average, as task0.ckpt and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # only the module as it stands, which is what the monitor has measured: no optimizer, no average beside it
        trainer.save_checkpoint(self.folder / f"task{self.task}.ckpt", weights_only=True)
        self.task += 1


def write_held_out(tasks: Sequence[Split], folder: Path) -> None:
    """Write the held-out images of each task, in [-1, 1], and their labels as task0.npz and so on."""
    for number, split in enumerate(tasks):
        images, labels = split.held_out.tensors
        with replacing(folder / f"task{number}.npz") as partial, partial.open("wb") as file:
            np.savez_compressed(file, images=images.numpy(), labels=labels.numpy())


def check_options(parser: Parser, args: Any) -> None:
    """Say what is wrong with the options that every example of arms has, before anything runs."""
    if args.policies is not None and (wrong := unknown_policies(args.policies)):
        parser.error(wrong)
    if args.tasks is not None and not 2 <= args.tasks <= 10:
        parser.error(f"--tasks must be 2 to 10, got {args.tasks}")
    if args.capacity is not None and args.capacity < 1:
        parser.error(f"--capacity must be at least 1, got {args.capacity}; for no replay use --policies none")
    if not 0.0 < args.replay_ratio < 1.0:
        parser.error(f"--replay-ratio must lie in (0, 1), got {args.replay_ratio}; for no replay use --policies none")
    if args.epochs is not None and args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    try:
        check_results(args.output_dir / "results.json", vars(args), _FREE)
    except ValueError as error:
        parser.error(f"{error} (--output-dir)")


def run_arm(
    policy: str,
    tasks: Sequence[Split],
    make_model: Callable[[], DDPM],
    folder: Path,
    bar: Any,
    checkpoints: bool,
    training: Any,
) -> dict[str, Any]:
    """Train the same model from the same seed under one policy ("none": no replay)."""
    started = time.perf_counter()
    gallery = Gallery(tasks)
    saving = [TaskCheckpoints(folder / policy)] if checkpoints else []
    _, monitor = train_tasks(
        policy,
        tasks,
        make_model,
        callbacks=[gallery, Epochs(bar), *saving],
        logger=TensorBoardLogger(folder, name=policy, version=""),
        **training,
    )
    draw_gallery(gallery, policy, folder)
    figure = energy_against_forgetting(monitor.history[-1])
    if figure is not None:
        write_figure(folder / f"energy_against_forgetting_{policy}.png", figure)
    write_tensors(folder / policy / "history.pt", monitor.state_dict())  # for hopfield-replay report
    report_of_arm(policy, monitor, tasks, training).write(folder / policy)
    return {
        "policy": policy,
        "drawn": "" if monitor.buffer is None else monitor.buffer.sampling,
        "seconds": time.perf_counter() - started,
        "buffer_bytes": 0 if monitor.buffer is None else monitor.buffer.nbytes,
        "tasks": [task_summary(record) for record in monitor.history],
        "history": monitor.history,
        "rises": [r for p in monitor.history[-1].probes[:-1] if (r := p.reconstruction) is not None],
    }


def report_of_arm(policy: str, monitor: ForgettingMonitor, tasks: Sequence[Split], training: Any) -> RunReport:
    """The page of one arm; what is foreseen of each task counts on no replay."""
    return run_report(
        monitor,
        title=f"What was forgotten: {'no replay' if policy == 'none' else policy}",
        names={number: f"classes {', '.join(map(str, split.classes))}" for number, split in enumerate(tasks)},
        forecasts=foreseen(monitor.history, tasks),
        settings={name: value for name, value in training.items() if isinstance(value, bool | int | float | str)},
    )


def task_summary(record: BoundaryRecord) -> dict[str, Any]:
    """One record of the monitor's history, over the probes of all earlier tasks."""
    numbers = overall(record)
    return {
        "task": record.task,
        "intrinsic_forgetting": numbers.get("intrinsic"),
        "reconstruction_forgetting": numbers.get("reconstruction"),
        "reconstruction_forgetting_p95": numbers.get("reconstruction_p95"),
        "error_current_task": summarize(record)[-1]["error"],
        "beta": record.beta,
        "n_eff": record.n_eff,
        "replayed": record.replayed,
        "boundary_seconds": record.seconds,
    }


def paired_interval(first: list[Tensor], second: list[Tensor]) -> tuple[float, float, float]:
    """Mean of second - first over the same probes, and its 95 % bootstrap interval."""
    difference = torch.cat(second) - torch.cat(first)
    draws = torch.randint(len(difference), (2000, len(difference)), generator=torch.Generator().manual_seed(0))
    means = difference[draws].mean(1)
    return float(difference.mean()), float(means.quantile(0.025)), float(means.quantile(0.975))


def report(arms: list[dict[str, Any]]) -> str:
    """The table, and which differences between arms are within noise."""
    headers = [
        "policy",
        "drawn by",
        "intrinsic",
        "reconstruction",
        "95th percentile",
        "error, new task",
        "buffer kB",
        "seconds",
    ]
    rows = []
    for arm in arms:
        last = arm["tasks"][-1]
        cells = [f"{last['intrinsic_forgetting']:.3f}", f"{last['reconstruction_forgetting']:.4f}"]
        cells += [f"{last['reconstruction_forgetting_p95']:.4f}", f"{last['error_current_task']:.4f}"]
        rows.append([arm["policy"], arm["drawn"], *cells, f"{arm['buffer_bytes'] / 1024:.1f}", f"{arm['seconds']:.0f}"])
    lines = [
        "Forgetting after the last task, over the held-out probes of all earlier tasks (rise since each was learned):",
        markdown_table(headers, rows),
    ]
    if len(arms) > 1:
        lines.append("Differences in reconstruction forgetting (95 % interval over probes; other seeds differ, too):")
    for i, first in enumerate(arms):
        for second in arms[i + 1 :]:
            mean, low, high = paired_interval(first["rises"], second["rises"])
            verdict = "within noise" if low <= 0.0 <= high else ("less forgetting" if mean < 0 else "more forgetting")
            lines.append(
                f"  {second['policy']} against {first['policy']}: {mean:+.4f} [{low:+.4f}, {high:+.4f}] {verdict}"
            )
    return "\n".join(lines)


def draw_curves(arms: list[dict[str, Any]], folder: Path) -> None:
    """Reconstruction forgetting after each task, one line for each arm."""
    figure = forgetting_over_tasks(
        {
            arm["policy"]: [(t["task"], t["reconstruction_forgetting"]) for t in arm["tasks"] if t["task"] > 0]
            for arm in arms
        },
        "reconstruction forgetting, held out\n(rise of the mean squared error, per pixel)",
    )
    write_figure(folder / "forgetting.png", figure)


def run_arms(
    policies: Sequence[str],
    tasks: Sequence[Split],
    make_model: Callable[[], DDPM],
    args: Any,
    *,
    checkpoints: bool = False,
    **training: Any,
) -> list[dict[str, Any]]:
    """Train every arm, and compare them in what is printed and written to args.output_dir.

    Args:
        policies: one arm for each; "none": no replay.
        tasks: in this order.
        make_model: makes the model of each arm.
        args: the parsed arguments, for results.json.
        checkpoints: write the weights of each arm after every task, and each task's held-out images, for
            ``hopfield-replay audit``.
        training: keyword arguments of train_tasks.

    Returns:
        What was measured of each arm, with the monitor's ``history``.
    """
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoints:
        write_held_out(tasks, folder)
    arms: list[dict[str, Any]] = []
    with tqdm(total=len(policies) * len(tasks) * training["epochs"], unit="epoch", mininterval=1.0) as bar:
        for policy in policies:
            bar.set_description(policy)
            arms.append(run_arm(policy, tasks, make_model, folder, bar, checkpoints, training))
            write_results(arms, args, training, folder)  # after each, so that an interrupted run leaves the others
    print(report(arms))
    draw_curves(arms, folder)
    print(f"Wrote {folder}/results.json, figures, TensorBoard logs and a page of each arm: {folder}/*/report.html")
    return arms


def write_results(arms: list[dict[str, Any]], args: Any, training: dict[str, Any], folder: Path) -> None:
    """The arguments and every arm's numbers, as JSON."""
    results = {
        "arguments": {name: plain(value) for name, value in vars(args).items()},
        "epochs": training["epochs"],
        "arms": [{name: value for name, value in arm.items() if name not in ("rises", "history")} for arm in arms],
    }
    write_json(folder / "results.json", results)
