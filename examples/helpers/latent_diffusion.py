"""A Stable Diffusion pipeline as a LightningModule: its UNet is trained on cached latents, all else is frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import mse_loss

from helpers.partly_trained import PartlyTrained

_PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def require(*packages: str) -> None:
    """Refuse to go on without these packages."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} not installed: pip install "hopfield-replay[latent]".')


def load_pipeline(source: str, variant: str | None = None) -> Any:
    """A Stable Diffusion 1 or 2 pipeline in float32, from a local folder or by its id on the Hugging Face hub.

    Args:
        source: a folder, or an id.
        variant: of the weights, where their files are called after one: "fp16", "non_ema".

    Raises:
        ValueError: a folder without one of the pipeline's parts; what cannot be loaded; another kind of pipeline.
    """
    require("transformers")
    folder = Path(source)
    if folder.exists():
        missing = [part for part in ("model_index.json", *_PARTS) if not (folder / part).exists()]
        if missing:
            raise ValueError(
                f"{folder} is not the folder of a Stable Diffusion pipeline: it has no {', '.join(missing)}. Give a "
                "folder that pipeline.save_pretrained has written."
            )
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            source, variant=variant, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        others = sorted({file.name.split(".")[1] for file in folder.glob("unet/*.*.safetensors")} - {variant})
        hint = f" Its unet has the variants {others}: pass --variant." if others else ""
        raise ValueError(f"{source} cannot be loaded as a Stable Diffusion pipeline ({error}).{hint}") from error
    _check_kind(pipeline, source)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.float()  # transformers keeps the precision of the file
    pipeline.vae.enable_slicing()  # one image at a time: its activations are far larger than the UNet's
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_kind(pipeline: Any, source: str) -> None:
    """Refuse pipelines with the same parts whose UNet is called otherwise, or is trained otherwise."""
    unet, scheduler = pipeline.unet, pipeline.scheduler
    if not isinstance(unet, UNet2DConditionModel):
        raise ValueError(f"The unet of {source} is {type(unet).__name__}, not a UNet2DConditionModel.")
    more = ("addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
    extra = [name for name in more if unet.config.get(name) is not None]
    channels, latents = unet.config.in_channels, pipeline.vae.config.latent_channels
    if extra or channels != latents:
        raise ValueError(
            f"The UNet of {source} takes {channels} channels (latents have {latents})"
            f"{' and has ' + ', '.join(extra) if extra else ''}: text-to-image pipelines like Stable Diffusion 1 and 2 "
            "can be trained here, but not Stable Diffusion XL, inpainting or upscaling."
        )
    kind = scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or kind not in ("epsilon", "v_prediction", "sample"):
        raise ValueError(
            f"The scheduler of {source} is {type(scheduler).__name__} with prediction_type={kind!r}; one with "
            "alphas_cumprod (DDPM, DDIM, PNDM, ...) that predicts epsilon, v_prediction or sample is needed."
        )


def add_lora(unet: Any, rank: int, targets: Sequence[str]) -> None:
    """Freeze a UNet and add trainable low-rank matrices to its layers whose names end in one of the targets.

    Raises:
        ValueError: a target that no linear or convolutional layer is called.
    """
    require("peft")
    from peft import LoraConfig

    layers = [n for n, layer in unet.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in layers)]
    if unknown or not targets:
        endings = sorted({name.rsplit(".", 1)[-1] for name in layers if not name.rsplit(".", 1)[-1].isdigit()})
        raise ValueError(
            f"The UNet has no layers called {unknown} for LoRA; its linear and convolutional layers are called "
            f"{endings} (or numbered, e.g. to_out.0)."
        )
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(targets)))


@dataclass(frozen=True)
class Drawing:
    """Pictures of each task, denoising steps, guidance (1: none), height and width."""

    count: int
    steps: int
    guidance: float
    size: int


class LatentDiffusion(PartlyTrained):
    """Denoising diffusion on latents under text; batches are dicts of ``latents`` and ``input_ids``.

    Captions stay tokens until a batch is on the device, so that what is kept and replayed is small. Noise and timesteps
    are a function of the seed and the step: a run that is resumed takes the steps that it would have taken. Nothing
    here knows of hopfield_replay.

    Args:
        pipeline: its UNet is trained where it is not frozen (see :func:`add_lora`).
        learning_rate: of AdamW.
        seed: of noise, timesteps and left out captions.
        warmup: steps over which the learning rate rises to its value, at the start of every task.
        caption_dropout: share of the captions that are trained on as empty ones, for classifier-free guidance.
    """

    strict_loading = False  # checkpoints hold what is trained, see on_save_checkpoint
    no_caption: Tensor

    def __init__(
        self, pipeline: Any, learning_rate: float, seed: int = 0, *, warmup: int = 0, caption_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.unet = pipeline.unet.train()
        self.vae = pipeline.vae.requires_grad_(False).eval()
        self.text_encoder = pipeline.text_encoder.requires_grad_(False).eval()
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.learning_rate = learning_rate
        self.seed = seed
        self.warmup = warmup
        self.caption_dropout = caption_dropout
        self.register_buffer("no_caption", self.embed(self.tokens([""])), persistent=False)

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Token ids (n, length) of captions; long ones are cut."""
        tokenizer = self.pipeline.tokenizer
        length = tokenizer.model_max_length
        tokens = tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        ids: Tensor = tokens.input_ids
        return ids

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """What the UNet attends to (n, length, width)."""
        embeddings: Tensor = self.text_encoder(tokens)[0]
        return embeddings

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Put the captions' embeddings in the place of their tokens."""
        return {"latents": batch["latents"], "encoder_hidden_states": self.embed(batch["input_ids"])}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of what the UNet predicts (noise, velocity or latents) at uniform timesteps."""
        latents, captions, scheduler = batch["latents"], batch["encoder_hidden_states"], self.scheduler
        # batches whose gradients are accumulated share their global_step
        draws = torch.Generator(self.device).manual_seed(self.seed + 1_000_003 * self.global_step + batch_idx)
        noise = torch.randn(latents.shape, generator=draws, device=self.device)
        steps = scheduler.config.num_train_timesteps
        timesteps = torch.randint(steps, (len(latents),), generator=draws, device=self.device)
        left_out = torch.rand(len(latents), 1, 1, generator=draws, device=self.device) < self.caption_dropout
        noisy = scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(
            noisy, timesteps, encoder_hidden_states=torch.where(left_out, self.no_caption, captions)
        ).sample
        target = {"epsilon": noise, "sample": latents}.get(scheduler.config.prediction_type)
        if target is None:
            target = scheduler.get_velocity(latents, noise, timesteps)
        loss = mse_loss(predicted.float(), target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(latents))
        return loss

    @torch.no_grad()
    def sample(self, captions: Sequence[str], drawing: Drawing) -> list[Image.Image]:
        """Pictures of the captions, each from its own noise, the same at every call."""
        draws = [torch.Generator().manual_seed(number) for number in range(len(captions))]
        self.unet.eval()
        pictures: list[Image.Image] = self.pipeline(
            list(captions),
            height=drawing.size,
            width=drawing.size,
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            generator=draws,
        ).images
        self.unet.train()
        return pictures
