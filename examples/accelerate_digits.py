"""Replay in a training loop of one's own: diffusers and Accelerate, no LightningModule, no Trainer.

python examples/accelerate_digits.py                           # after a kill, the same command goes on
accelerate launch examples/accelerate_digits.py --policy random --output-dir runs/accelerate_random

Handwritten digits in five tasks of two. "replay:" marks the lines that a script of yours needs.
"""

from pathlib import Path

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--policy", type=str, default="greedy_gain", help="what the buffer keeps; none: no replay")
    parser.add_argument("--capacity", type=int, default=50, help="samples kept")
    parser.add_argument("--tasks", type=int, default=5, help="tasks the ten digits are split into")
    parser.add_argument("--epochs", type=int, default=20, help="of each task")
    parser.add_argument("--batch-size", type=int, default=32, help="in each process")
    parser.add_argument("--mixed-precision", type=str, choices=["no", "fp16", "bf16"], default="no")
    parser.add_argument("--cpu", type=bool, default=False, help="even where there is a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/accelerate_digits"), help="checkpoints, results")
    return parser


answer_help(__name__, make_parser)

from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, send_to_device, set_seed
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from helpers.files import write_json, write_text
from helpers.run_folder import check_run
from helpers.splits import PRESETS, Split, load, split_classes, unknown_policies
from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, ReplayBatches, TaskSource, run_report
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.policies import POLICIES


@dataclass
class Epochs:
    """How many epochs of the task at hand are done; saved with every checkpoint."""

    done: int = 0

    def state_dict(self) -> dict[str, int]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


def make_network() -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def train(accelerator: Accelerator, tasks: list[Split], folder: Path, args: Any) -> ForgettingTracker:
    """Train on one task after the other, from the newest checkpoint in ``folder`` if there is one."""
    scheduler = DDPMScheduler()
    network = make_network()
    average = EMAModel(network.parameters(), decay=0.95)
    average.to(accelerator.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    network, optimizer = accelerator.prepare(network, optimizer)
    weights = list(accelerator.unwrap_model(network).parameters())
    epochs = Epochs()

    # replay: the buffer, and the tracker that fills it and measures what is forgotten, with the averaged weights
    buffer = None
    if args.policy != "none":
        buffer = EnergyReplayBuffer(args.capacity, args.policy, groups="task", seed=args.seed)
    tracker = ForgettingTracker(buffer, seed=args.seed)
    denoiser = DiffusersDenoiser(accelerator.unwrap_model(network), scheduler, average=average)
    accelerator.register_for_checkpointing(epochs, average, tracker)  # the buffer is part of the tracker's state

    def to_device(batch: Any) -> Any:
        return send_to_device(batch, accelerator.device)

    resume(accelerator, folder)
    done = tracker.next_task * args.epochs + epochs.done
    bar = tqdm(total=len(tasks) * args.epochs, initial=done, unit="epoch", disable=not accelerator.is_main_process)
    for task in tasks[tracker.next_task :]:
        loader = accelerator.prepare(DataLoader(task.train, batch_size=args.batch_size, shuffle=True, drop_last=True))
        # replay: read the task before training on it; the loader's batches then carry replayed samples along
        source = TaskSource(loader, prepare=to_device)
        held_out = TaskSource(DataLoader(task.held_out, batch_size=256), prepare=to_device)
        tracker.begin_task(source)
        batches = loader if buffer is None else ReplayBatches(loader, buffer, replay_ratio=0.5, seed=args.seed)
        for epoch in range(epochs.done, args.epochs):
            loader.set_epoch(epoch)
            if buffer is not None:
                batches.set_epoch(epoch)
            network.train()
            for images, _ in batches:
                noise = torch.randn_like(images)
                timesteps = torch.randint(len(scheduler), (len(images),), device=images.device)
                predicted = network(scheduler.add_noise(images, noise, timesteps), timesteps).sample
                accelerator.backward(mse_loss(predicted.float(), noise))
                optimizer.step()
                optimizer.zero_grad()
                average.step(weights)
            epochs.done = epoch + 1
            bar.update()
            if epochs.done < args.epochs:
                save(accelerator, folder)
        # replay: measure all tasks so far, and choose what to keep of this one
        tracker.end_task(source, denoiser=denoiser, probe_source=held_out)
        epochs.done = 0
        save(accelerator, folder)
    bar.close()
    return tracker


def resume(accelerator: Accelerator, folder: Path) -> None:
    """Load the newest complete checkpoint, if there is one."""
    newest = folder / "newest.txt"
    if newest.exists():
        accelerator.load_state(str(folder / newest.read_text()))


def save(accelerator: Accelerator, folder: Path) -> None:
    """Save all that was prepared or registered; a kill at any moment leaves the checkpoint before, or this one."""
    newest = folder / "newest.txt"
    name = "odd" if newest.exists() and newest.read_text() == "even" else "even"
    accelerator.save_state(str(folder / name))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_text(newest, name)
    accelerator.wait_for_everyone()


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    if wrong := unknown_policies([args.policy]) or (
        args.policy not in ("none", *POLICIES) and f"no arm of a study: {args.policy}"
    ):
        parser.error(wrong)
    for name, least in (("capacity", 1), ("tasks", 2), ("epochs", 1), ("batch_size", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),  # the same order after a resume
    )
    settings = {name: value for name, value in vars(args).items() if name not in ("output_dir", "cpu")}
    try:
        check_run(args.output_dir, settings, resume=(args.output_dir / "run.json").exists())
    except ValueError as error:
        parser.error(str(error))
    accelerator.wait_for_everyone()  # all have looked before one writes
    if accelerator.is_main_process:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(args.output_dir / "run.json", settings)
    set_seed(args.seed)
    images, labels = load("digits", Path())
    preset = PRESETS["digits"]
    tasks = [
        Split(images, labels, classes, preset.train, args.batch_size, args.seed)
        for classes in split_classes(args.tasks)
    ]
    tracker = train(accelerator, tasks, args.output_dir, args)
    if accelerator.is_main_process:
        print(tracker.table())
        names = {number: f"digits {', '.join(map(str, split.classes))}" for number, split in enumerate(tasks)}
        print(f"Wrote {run_report(tracker, names=names).write(args.output_dir)}.")
    accelerator.end_training()


if __name__ == "__main__":
    run_main(main)
