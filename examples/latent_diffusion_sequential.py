"""Fine-tune a text-to-image latent diffusion model on one folder of captioned images after the other.

python examples/latent_diffusion_sequential.py                           # a tiny pipeline and digits, made on the spot
python examples/latent_diffusion_sequential.py --pretrained stable-diffusion-v1-5/stable-diffusion-v1-5 \
    --tasks data/birds data/cars --lora-rank 16 --precision bf16-mixed   # each folder has a metadata.jsonl
python examples/latent_diffusion_sequential.py --resume                  # go on after an interruption

The run's folder holds samples/ (after each number of tasks one grid, with a row of pictures for every task),
checkpoints/, history.json, TensorBoard logs, and in the end the pipeline, or its LoRA weights.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioned import Captioned, read_captioned, save_grid
from diffusers.utils import logging
from jsonargparse import ArgumentParser
from latent_cache import cached_latents
from latent_diffusion import Drawing, LatentDiffusion, add_lora, load_pipeline, require
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from run_folder import check_run, plain, write_folder
from splits import be_quiet, unknown_policies
from tiny_pipeline import build_tiny
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, StackDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.files import write_json
from hopfield_replay.table import summarize

_FREE = ("resume", "output_dir", "accelerator")  # what may differ when a run is resumed


class Gallery(Callback):
    """Draws the same captions of every task before the first task and after each."""

    def __init__(self, monitor: ForgettingMonitor, tasks: Sequence[Captioned], folder: Path, drawing: Drawing) -> None:
        self.monitor = monitor
        self.tasks = tasks
        self.folder = folder
        self.drawing = drawing

    def draw(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw unless it is drawn: a boundary that is repeated after an interruption needs no second grid."""
        learned = len(self.monitor.history)
        path = self.folder / f"{learned}_{f'after_{self.tasks[learned - 1].name}' if learned else 'before'}.png"
        if path.exists():
            return
        assert isinstance(pl_module, LatentDiffusion)
        before = pl_module.device
        pl_module.to(trainer.strategy.root_device)  # at on_fit_end Lightning has taken it away already
        captions = [task.distinct_captions(self.drawing.count) for task in self.tasks]
        save_grid(path, [pl_module.sample(row, self.drawing) for row in captions])
        pl_module.to(before)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.draw(trainer, pl_module)


class EpochLines(Callback):
    """Prints a line for every epoch."""

    def __init__(self, monitor: ForgettingMonitor, tasks: int) -> None:
        self.monitor = monitor
        self.tasks = tasks

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(
            f"task {len(self.monitor.history) + 1} of {self.tasks}, epoch {trainer.current_epoch + 1} of "
            f"{trainer.max_epochs}: loss {trainer.callback_metrics['train/loss']:.4f}",
            flush=True,
        )


def make_loader(model: LatentDiffusion, task: Captioned, latents: Tensor, args: Any, number: int) -> DataLoader[Any]:
    """Batches of one task, in an order that is a function of seed, task and epoch."""
    tokens = model.tokens(task.captions)
    data = StackDataset(latents=latents, input_ids=tokens)  # type: ignore[arg-type]  # tensors will do
    order = DistributedSampler[Any](data, num_replicas=1, rank=0, seed=args.seed + 1000 * number)
    return DataLoader(data, batch_size=args.batch_size, sampler=order)


def save_result(model: LatentDiffusion, folder: Path, lora: bool) -> Path:
    """Write the trained pipeline, or its LoRA weights."""

    def save_lora(path: Path) -> None:
        from peft import get_peft_model_state_dict

        model.pipeline.save_lora_weights(path, unet_lora_layers=get_peft_model_state_dict(model.unet))

    target = folder / ("lora" if lora else "pipeline")
    write_folder(target, save_lora if lora else model.pipeline.save_pretrained)
    return target


def run(args: Any) -> None:
    """Check everything, then train on all tasks."""
    require("transformers", *(["peft", "accelerate"] if args.lora_rank else []))
    folder = args.output_dir
    settings = {name: plain(value) for name, value in args.items() if name not in _FREE}
    check_run(folder, settings, args.resume)
    tiny = args.pretrained is None
    if tiny:
        folder.mkdir(parents=True, exist_ok=True)
        source, folders = build_tiny(folder / "tiny")
    else:
        source, folders = args.pretrained, args.tasks
    tasks = [read_captioned(task, args.caption_column) for task in folders]
    seed_everything(args.seed, verbose=False)
    pipeline = load_pipeline(str(source))
    if args.lora_rank:
        add_lora(pipeline.unet, args.lora_rank, args.lora_targets)
    model = LatentDiffusion(pipeline, args.learning_rate or default_rate(tiny, args.lora_rank), args.seed)
    size = image_size(pipeline, args.size)
    drawing = Drawing(args.samples, args.sample_steps, args.guidance or (1.0 if tiny else 7.5), size)
    buffer = None if args.policy == "none" else EnergyReplayBuffer(args.capacity, args.policy, seed=args.seed)
    monitor = ForgettingMonitor(buffer, probe_size=args.probes, seed=args.seed)
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        callbacks=[
            monitor,
            Gallery(monitor, tasks, folder / "samples", drawing),
            EpochLines(monitor, len(tasks)),
            ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),  # every epoch
        ],
        logger=TensorBoardLogger(folder, name="logs", version=""),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model.vae.to(trainer.strategy.root_device)
    latents = cached_latents(tasks, model.vae, size, folder / "latents")
    write_json(folder / "run.json", settings)

    pairs = enumerate(zip(tasks, latents, strict=True))
    data: list[Any] = [make_loader(model, task, found, args, number) for number, (task, found) in pairs]
    if buffer is not None:
        data = [ReplayDataModule(item, buffer, replay_ratio=args.replay_ratio, seed=args.seed) for item in data]
    last = folder / "checkpoints" / "last.ckpt"
    fit_tasks(trainer, model, data, ckpt_path=last if args.resume and last.exists() else None)
    history = [
        {"task": tasks[record["task"]].name, "replayed": record["replayed"], "probes": summarize(record)}
        for record in monitor.history
    ]
    write_json(folder / "history.json", history)
    result = save_result(model, folder, bool(args.lora_rank))
    print(monitor.table())
    print(f"Wrote {result}, {folder}/samples and {folder}/history.json.")


def default_rate(tiny: bool, lora_rank: int) -> float:
    """Learning rate: weights from scratch, low-rank matrices or pretrained weights."""
    if tiny:
        return 2e-3
    return 1e-4 if lora_rank else 1e-5


def image_size(pipeline: Any, wanted: int | None) -> int:
    """Height and width of the images: what is wanted, or what the UNet was made for."""
    factor = pipeline.vae_scale_factor
    size: int = pipeline.unet.config.sample_size * factor if wanted is None else wanted
    if size < 1 or size % 8 or size % factor:
        raise ValueError(f"--size must be a multiple of 8 and of {factor}, got {size}.")
    return size


def quiet_loading() -> None:
    """Silence what is meant to be: frozen parts in eval mode, embeddings put into the batches, one checkpoint kept."""
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*overridden `on_after_batch_transfer` in `LightningModule`.*")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--pretrained", type=str | None, default=None, help="pipeline folder or hub id; none: tiny")
    parser.add_argument("--tasks", type=Path, nargs="+", default=[], help="folders of captioned images, in order")
    parser.add_argument("--caption-column", type=str, default="text", help="of the captions in metadata.jsonl")
    parser.add_argument("--lora-rank", type=int, default=0, help="train LoRA of this rank; 0: the whole UNet")
    parser.add_argument(
        "--lora-targets", nargs="+", type=str, default=["to_q", "to_k", "to_v", "to_out.0"], help="layers"
    )
    parser.add_argument("--size", type=int | None, default=None, help="of the images (default: the UNet's)")
    parser.add_argument("--policy", type=str, default="greedy_gain", help='of the buffer; "none": no replay')
    parser.add_argument("--capacity", type=int, default=50, help="samples kept in all")
    parser.add_argument("--replay-ratio", type=float, default=0.5, help="share of each batch that is replayed")
    parser.add_argument("--epochs", type=int, default=15, help="of each task")
    parser.add_argument("--batch-size", type=int, default=16, help="new samples of a batch")
    parser.add_argument("--learning-rate", type=float | None, default=None, help="default: 1e-5, 1e-4 with LoRA")
    parser.add_argument("--probes", type=int, default=128, help="samples of each task whose forgetting is measured")
    parser.add_argument("--samples", type=int, default=5, help="pictures of each task in a grid")
    parser.add_argument("--sample-steps", type=int, default=25, help="denoising steps of a picture")
    parser.add_argument("--guidance", type=float | None, default=None, help="default: 7.5, none for the tiny pipeline")
    parser.add_argument("--precision", type=str, default="32-true", help="Lightning precision, e.g. bf16-mixed")
    parser.add_argument("--accelerator", type=str, default="auto", help="Lightning accelerator")
    parser.add_argument("--seed", type=int, default=0, help="of buffer, order, noise and LoRA")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/latent_diffusion_sequential"), help="of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output-dir")
    args = parser.parse_args(arguments)
    if wrong := unknown_policies([args.policy]):
        parser.error(wrong)
    if (args.pretrained is None) != (not args.tasks):
        parser.error("--pretrained and --tasks go together; without both a tiny pipeline is made.")
    for name in ("capacity", "epochs", "batch_size", "probes", "samples", "sample_steps"):
        if args[name] < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {args[name]}")
    if args.lora_rank < 0:
        parser.error(f"--lora-rank must not be negative, got {args.lora_rank}")
    if not 0.0 < args.replay_ratio < 1.0:
        parser.error(f"--replay-ratio must lie in (0, 1), got {args.replay_ratio}; for no replay use --policy none")
    be_quiet()
    quiet_loading()
    run(args)


if __name__ == "__main__":
    main()
