"""A Stable Diffusion pipeline as a LightningModule: its UNet is trained on cached latents, all else is frozen."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss

_PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


def require(*packages: str) -> None:
    """Refuse to go on without these packages."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} not installed: pip install "hopfield-replay[latent]".')


def load_pipeline(source: str) -> Any:
    """A StableDiffusionPipeline in float32, from a local folder or by its id on the Hugging Face hub.

    Raises:
        ValueError: a folder without one of the pipeline's parts; an id that cannot be loaded; another kind of pipeline.
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
            source, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source} cannot be loaded as a Stable Diffusion pipeline ({error}).") from error
    if not isinstance(pipeline.unet, UNet2DConditionModel):
        raise ValueError(f"The unet of {source} is {type(pipeline.unet).__name__}, not a UNet2DConditionModel.")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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


class LatentDiffusion(LightningModule):
    """Denoising diffusion on latents under text; batches are dicts of ``latents`` and ``input_ids``.

    Captions stay tokens until a batch is on the device, so that what is kept and replayed is small. Noise and timesteps
    are a function of the seed and the step: a run that is resumed takes the steps that it would have taken. Nothing
    here knows of hopfield_replay.

    Args:
        pipeline: its UNet is trained where it is not frozen (see :func:`add_lora`).
        learning_rate: of AdamW.
        seed: of noise and timesteps.
    """

    strict_loading = False  # checkpoints hold what is trained, see on_save_checkpoint

    def __init__(self, pipeline: Any, learning_rate: float, seed: int = 0) -> None:
        super().__init__()
        self.pipeline = pipeline
        self.unet = pipeline.unet.train()
        self.vae = pipeline.vae.requires_grad_(False).eval()
        self.text_encoder = pipeline.text_encoder.requires_grad_(False).eval()
        self.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.learning_rate = learning_rate
        self.seed = seed

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Token ids (n, length) of captions; long ones are cut."""
        tokenizer = self.pipeline.tokenizer
        length = tokenizer.model_max_length
        found = tokenizer(list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        ids: Tensor = found.input_ids
        return ids

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        """Put the captions' embeddings in the place of their tokens."""
        with torch.no_grad():
            embeddings = self.text_encoder(batch["input_ids"])[0]
        return {"latents": batch["latents"], "encoder_hidden_states": embeddings}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of what the UNet predicts (noise or velocity) at uniform timesteps."""
        latents, scheduler = batch["latents"], self.scheduler
        draws = torch.Generator(self.device).manual_seed(self.seed + self.global_step)
        noise = torch.randn(latents.shape, generator=draws, device=self.device)
        steps = scheduler.config.num_train_timesteps
        timesteps = torch.randint(steps, (len(latents),), generator=draws, device=self.device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, encoder_hidden_states=batch["encoder_hidden_states"]).sample
        if scheduler.config.prediction_type == "v_prediction":
            noise = scheduler.get_velocity(latents, noise, timesteps)
        loss = mse_loss(predicted.float(), noise)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(latents))
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW on what is trained."""
        return torch.optim.AdamW(self._trained().values(), lr=self.learning_rate)

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained only: the rest is in the pipeline's folder."""
        checkpoint["state_dict"] = {name: checkpoint["state_dict"][name] for name in self._trained()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint in which other weights were trained."""
        differing = set(checkpoint["state_dict"]) ^ set(self._trained())
        if differing:
            raise ValueError(f"The checkpoint and this model do not train the same weights: {sorted(differing)[:5]}.")

    @torch.no_grad()
    def sample(self, captions: Sequence[str], drawing: Drawing) -> list[Image.Image]:
        """Pictures of the captions, each from its own noise, the same at every call."""
        draws = [torch.Generator().manual_seed(number) for number in range(len(captions))]
        self.unet.eval()
        found: list[Image.Image] = self.pipeline(
            list(captions),
            height=drawing.size,
            width=drawing.size,
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            generator=draws,
        ).images
        self.unet.train()
        return found
