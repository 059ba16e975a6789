r"""Fine-tune a text-to-image latent diffusion model on one folder of captioned images after the other.

python examples/latent_diffusion_sequential.py                           # a tiny pipeline and digits, made on the spot
python examples/latent_diffusion_sequential.py --policy none --output-dir runs/no_replay  # what is lost without it
python examples/latent_diffusion_sequential.py --pretrained stable-diffusion-v1-5/stable-diffusion-v1-5 \
    --tasks data/birds data/cars --lora-rank 16 --precision bf16-mixed   # each folder has a metadata.jsonl
python examples/latent_diffusion_sequential.py --pretrained flux/ --tasks data/birds data/cars --lora-rank 16 \
    --size 512 --precision bf16-true     # SDXL, Stable Diffusion 3, FLUX and their kin: a local folder of the pipeline
python examples/latent_diffusion_sequential.py --resume                  # go on after an interruption

On a small GPU: --lora-rank 16 --precision bf16-mixed --gradient-checkpointing --batch-size 1 --accumulate 4 --samples 2
What the weights take is computed and printed before training, what the run took in the end; in examples/, python -m
helpers.needs does so for known models.

The run's folder holds samples/ (after each number of tasks one grid, with a row of pictures for every task),
checkpoints/, history.json, TensorBoard logs, and in the end the pipeline, or its LoRA weights.

In the tiny run (seed 0) the second task's digits are inverted: without replay the error on the first task rises from
.081 to .281 and its captions give black digits on white; with 50 samples kept it ends at .068.
"""

from helpers.command import answer_help, run_main
from helpers.latent_options import make_parser, parse

answer_help(__name__, lambda: make_parser(__doc__))

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers.utils import logging
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, DistributedSampler, StackDataset

from helpers.caption_gallery import Gallery
from helpers.captioned import Captioned, read_captioned
from helpers.files import write_json
from helpers.latent_cache import cached_latents
from helpers.latent_diffusion import Drawing, LatentDiffusion, add_lora, load_pipeline, require
from helpers.needs import describe, spent
from helpers.pipeline_diffusion import PipelineDiffusion, default_size, is_stable_diffusion, load_model
from helpers.run_folder import check_run, plain, write_folder
from helpers.splits import be_quiet
from helpers.tiny_pipeline import build_tiny
from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks, run_report
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.tracker import summarize

Model = LatentDiffusion | PipelineDiffusion
_FREE = ("resume", "output_dir", "accelerator")  # what may differ when a run is resumed


class EpochLines(Callback):
    """Prints a line for every epoch."""

    def __init__(self, monitor: ForgettingMonitor, tasks: int) -> None:
        self.monitor = monitor
        self.tasks = tasks

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        print(
            f"task {self.monitor.tracker.next_task} (the last: {self.tasks - 1}), epoch {trainer.current_epoch + 1} of "
            f"{trainer.max_epochs}: loss {trainer.callback_metrics['train/loss']:.4f}",
            flush=True,
        )


def make_loader(model: Model, task: Captioned, latents: Tensor, args: Any, number: int) -> DataLoader[Any]:
    """Batches of one task, in an order that is a function of seed, task and epoch."""
    columns = (
        {"samples": latents, "caption": model.numbers(task.captions)}
        if isinstance(model, PipelineDiffusion)
        else {"latents": latents, "input_ids": model.tokens(task.captions)}
    )
    data = StackDataset(**columns)  # type: ignore[arg-type]  # tensors will do
    order = DistributedSampler[Any](data, num_replicas=1, rank=0, seed=args.seed + 1000 * number)
    return DataLoader(data, batch_size=args.batch_size, sampler=order)


def denoiser(module: Any) -> Any:
    """What is measured: the network as it is trained; the scheduler that the pipeline samples with may differ."""
    if isinstance(module, PipelineDiffusion):
        return module.embedded
    return DiffusersDenoiser(module.unet, module.scheduler)


def save_result(model: Model, folder: Path, lora: bool) -> Path:
    """Write the trained pipeline, or its LoRA weights; of other pipelines than Stable Diffusion the network alone."""
    if isinstance(model, PipelineDiffusion):
        target = folder / ("lora" if lora else model.model[0].component)
        write_folder(target, lambda path: model.save(path, lora))
        return target

    def save_lora(path: Path) -> None:
        from peft import get_peft_model_state_dict

        model.pipeline.save_lora_weights(path, unet_lora_layers=get_peft_model_state_dict(model.unet))

    target = folder / ("lora" if lora else "pipeline")
    write_folder(target, save_lora if lora else model.pipeline.save_pretrained)
    return target


@dataclass(frozen=True)
class Run:
    """What was checked and is ready to be trained."""

    trainer: Trainer
    monitor: ForgettingMonitor
    model: Model
    tasks: list[Captioned]
    latents: list[Tensor]


def prepare(args: Any) -> Run:
    """Check everything, and encode the images.

    Raises:
        ValueError, OSError, ImportError, MisconfigurationException: what is wrong; no file of the run is written then.
    """
    require("transformers", *(["peft", "accelerate"] if args.lora_rank else []))
    folder = args.output_dir
    settings = {name: plain(value) for name, value in args.items() if name not in _FREE}
    check_run(folder, settings, args.resume)
    if args.pretrained is None:
        folder.mkdir(parents=True, exist_ok=True)
        source, folders = build_tiny(folder / "tiny")
    else:
        source, folders = args.pretrained, args.tasks
    tasks = [read_captioned(task, args.caption_column) for task in folders]
    if len(tasks[0]) < 3:
        raise ValueError(f"{folders[0]} holds {len(tasks[0])} images; the energies of the first task need at least 3.")
    seed_everything(args.seed, verbose=False)
    model, size = build_model(str(source), tasks, args)
    buffer = None if args.policy == "none" else EnergyReplayBuffer(args.capacity, args.policy, seed=args.seed)
    monitor = ForgettingMonitor(buffer, denoiser=denoiser, probe_size=args.probes, seed=args.seed)
    drawing = Drawing(args.samples, args.sample_steps, args.guidance, size)
    trainer = Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        accumulate_grad_batches=args.accumulate,
        gradient_clip_val=args.gradient_clip,
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
    vae = model.pipeline.vae.to(trainer.strategy.root_device)
    encode = None
    if isinstance(model, PipelineDiffusion):
        encode = model.model[0].encode
    latents = cached_latents(tasks, vae, size, folder / "latents", encode)
    write_json(folder / "run.json", settings)
    return Run(trainer, monitor, model, tasks, latents)


def train(ready: Run, args: Any) -> None:
    """Train on all tasks, and write what came of it."""
    folder, buffer = args.output_dir, ready.monitor.buffer
    pairs = enumerate(zip(ready.tasks, ready.latents, strict=True))
    data: list[Any] = [make_loader(ready.model, task, cached, args, number) for number, (task, cached) in pairs]
    if buffer is not None:
        data = [ReplayDataModule(item, buffer, replay_ratio=args.replay_ratio, seed=args.seed) for item in data]
    network = model_network(ready.model)
    frozen = [part for part in ready.model.pipeline.components.values() if isinstance(part, Module)]
    print(describe(network, (part for part in frozen if part is not network), args.precision), flush=True)
    last = folder / "checkpoints" / "last.ckpt"
    fit_tasks(ready.trainer, ready.model, data, ckpt_path=last if args.resume and last.exists() else None)
    history = [
        {"task": ready.tasks[record.task].name, "replayed": record.replayed, "probes": summarize(record)}
        for record in ready.monitor.history
    ]
    write_json(folder / "history.json", history)
    result = save_result(ready.model, folder, bool(args.lora_rank))
    names = {number: task.name for number, task in enumerate(ready.tasks)}
    page = run_report(ready.monitor, names=names).write(folder)
    print(ready.monitor.table())
    print(f"Wrote {result}, {folder}/samples, {folder}/history.json and {page}.")


def model_network(model: Model) -> Module:
    """The network that is trained."""
    network: Module = model.network if isinstance(model, PipelineDiffusion) else model.unet
    return network


def build_model(source: str, tasks: Sequence[Captioned], args: Any) -> tuple[Model, int]:
    """What is trained, and the height and width of its images.

    Raises:
        ValueError, ImportError: a pipeline that cannot be loaded or trained; a size that it does not take.
    """
    if is_stable_diffusion(source):
        pipeline = load_pipeline(source, args.variant)
        size, network = image_size(pipeline, args.size), pipeline.unet
    else:
        if args.caption_dropout:
            raise ValueError("--caption-dropout is for Stable Diffusion pipelines; leave it out for other ones.")
        read = load_model(source, args.variant)
        size, network = args.size or default_size(read), read.network
        if args.lora_rank and not hasattr(network, "add_adapter"):
            raise ValueError(
                f"{type(network).__name__} of the installed diffusers takes no LoRA; leave out --lora-rank."
            )
    if args.lora_rank:
        add_lora(network, args.lora_rank, args.lora_targets)
    if args.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if is_stable_diffusion(source):
        options = {"warmup": args.warmup, "caption_dropout": args.caption_dropout}
        return LatentDiffusion(pipeline, args.learning_rate, args.seed, **options), size
    captions = list(dict.fromkeys(caption for task in tasks for caption in task.captions))
    return PipelineDiffusion(read, captions, size, args.learning_rate, args.seed, args.warmup), size


def image_size(pipeline: Any, wanted: int | None) -> int:
    """Height and width of the images: what is wanted, or what the UNet was made for."""
    factor, made_for = pipeline.vae_scale_factor, pipeline.unet.config.sample_size
    if wanted is None and not isinstance(made_for, int):
        raise ValueError(f"The UNet's config does not say for which size it was made ({made_for}); give --size.")
    size: int = made_for * factor if wanted is None else wanted
    if size < 1 or size % 8 or size % factor:
        raise ValueError(f"--size must be a multiple of 8 and of {factor}, got {size}.")
    return size


def quiet_loading() -> None:
    """Silence what is meant to be: frozen parts in eval mode, embeddings put into the batches, one checkpoint kept."""
    logging.disable_progress_bar()
    if find_spec("transformers") is not None:  # else prepare says so
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*overridden `on_after_batch_transfer` in `LightningModule`.*")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    args, started = parse(parser, arguments), time.perf_counter()
    be_quiet()
    quiet_loading()
    try:
        ready = prepare(args)
    except (ValueError, OSError, ImportError, MisconfigurationException) as error:
        parser.error(str(error))
    train(ready, args)
    print(spent(started))


if __name__ == "__main__":
    run_main(main)
