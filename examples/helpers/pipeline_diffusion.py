"""Any text-to-image pipeline as a LightningModule: its network is trained on cached latents and embeddings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from helpers.latent_diffusion import Drawing
from helpers.partly_trained import PartlyTrained
from hopfield_replay.checkpoints import open_pipeline
from hopfield_replay.denoisers import DelegatingDenoiser
from hopfield_replay.functional import ddim_denoise
from hopfield_replay.pipelines import PipelineDenoiser, PipelineModel, Row


def is_stable_diffusion(source: str) -> bool:
    """Whether a folder, or an id on the hub, is a Stable Diffusion 1 or 2 pipeline, or cannot be told."""
    index = Path(source, "model_index.json")
    if not index.is_file():
        return True  # an id, or a folder whose error names what is missing
    try:
        return json.loads(index.read_text()).get("_class_name") in (None, "StableDiffusionPipeline")
    except (ValueError, AttributeError):
        return True


def load_model(source: str, variant: str | None) -> PipelineModel:
    """The pipeline in a folder, read.

    Raises:
        ValueError: a folder that cannot be loaded, or a pipeline that works in an unknown way.
    """
    return PipelineModel(open_pipeline(source, variant=variant))


def default_size(model: PipelineModel) -> int:
    """Height and width that a pipeline draws at if it is not told otherwise.

    Raises:
        ValueError: it does not say.
    """
    pipeline = model.pipeline
    side = getattr(pipeline, "default_sample_size", None) or model.network.config.get("sample_size")
    if not isinstance(side, int):
        raise ValueError(f"{type(pipeline).__name__} does not say for which size it was made; give --size.")
    return side * int(pipeline.vae_scale_factor)


class Embedded(DelegatingDenoiser):
    """A pipeline's denoiser whose conditions are numbers of captions, looked up in what was embedded before.

    Args:
        denoiser: of the pipeline.
        rows: what the network is given of each caption.
    """

    denoiser: PipelineDenoiser

    def __init__(self, denoiser: PipelineDenoiser, rows: Sequence[Row]) -> None:
        self.denoiser = denoiser
        self.rows = rows

    def predict_clean(self, noisy: Tensor, timestep: float, condition: Any = None) -> Tensor:
        """Estimate the clean samples."""
        return self.denoiser.predict_clean(noisy, timestep, [self.rows[at] for at in condition["caption"].tolist()])


class PipelineDiffusion(PartlyTrained):
    """Denoising diffusion or flow matching on latents under text; batches are dicts of ``samples`` and ``caption``.

    Captions are embedded before, each once, and the text encoders are given up: batches hold the captions' numbers.
    Noise and timesteps are a function of the seed and the step: a run that is resumed takes the steps that it would
    have taken. What the network is given, how it is told the time and what it predicts is the pipeline's own way.

    Args:
        model: the pipeline; its network is trained where it is not frozen.
        captions: all captions of all tasks, each once.
        size: height and width of the images.
        learning_rate: of AdamW.
        seed: of noise and timesteps.
        warmup: steps over which the learning rate rises to its value, at the start of every task.
    """

    strict_loading = False  # checkpoints hold what is trained, see on_save_checkpoint

    def __init__(
        self, model: PipelineModel, captions: Sequence[str], size: int, learning_rate: float, seed: int, warmup: int = 0
    ) -> None:
        super().__init__()
        self.number = {caption: number for number, caption in enumerate(captions)}
        rows = model.conditions(list(self.number), (size, size))
        model.layout((size, size))  # read while there are text encoders: the pipeline is not called without them
        self.pipeline = model.pipeline
        self.side = size
        for name, part in self.pipeline.components.items():
            if isinstance(part, nn.Module) and part is not model.network and name != "vae":
                setattr(self.pipeline, name, None)  # the text encoders: their work is done
        self.pipeline.vae.requires_grad_(False).eval()
        self.model = [model]  # in a list: no submodule
        self.network = model.network.train()
        self.embedded = Embedded(model.denoiser, rows)
        self.learning_rate = learning_rate
        self.seed = seed
        self.warmup = warmup

    def numbers(self, captions: Sequence[str]) -> Tensor:
        """Numbers (n,) of captions."""
        return torch.tensor([self.number[caption] for caption in captions])

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error of what the network predicts (noise, velocity or flow) at uniform timesteps."""
        clean, rows = batch["samples"], [self.embedded.rows[at] for at in batch["caption"].tolist()]
        denoiser = self.embedded.denoiser
        # batches whose gradients are accumulated share their global_step
        draws = torch.Generator(self.device).manual_seed(self.seed + 1_000_003 * self.global_step + batch_idx)
        noise = torch.randn(clean.shape, generator=draws, device=self.device)
        times = torch.randint(int(denoiser.num_timesteps or 1000), (len(clean),), generator=draws, device=self.device)
        amounts = torch.tensor([denoiser.schedule.amounts(at) for at in times.tolist()], device=self.device)
        signal, amount = (part.view(-1, *[1] * (clean.ndim - 1)).to(clean.dtype) for part in amounts.unbind(1))
        predicted = denoiser.predictions(signal * clean + amount * noise, times, rows)
        targets = {"epsilon": noise, "sample": clean, "flow_prediction": noise - clean}
        target = targets.get(denoiser.prediction_type, signal * noise - amount * clean)
        loss = mse_loss(predicted.float(), target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(clean))
        return loss

    @torch.no_grad()
    def sample(self, captions: Sequence[str], drawing: Drawing) -> list[Image.Image]:
        """Pictures of the captions by DDIM without guidance, each from its own noise, the same at every call."""
        shape = self.model[0].layout((self.side, self.side)).sample
        noise = torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(n)) for n in range(len(captions))]
        )
        steps = int(self.embedded.num_timesteps or 1000)
        times = [steps - 1 - steps * step // drawing.steps for step in range(drawing.steps)]
        condition = {"caption": self.numbers(captions)}
        samples = ddim_denoise(self.embedded, noise.to(self.device), times, condition)
        images = self.model[0].decode(samples, (self.side, self.side)).clamp(-1, 1)
        pixels = ((images + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(picture) for picture in pixels]

    def save(self, folder: Path, lora: bool) -> None:
        """Write the trained network, or its LoRA weights."""
        if not lora:
            self.network.save_pretrained(folder)
            return
        from peft import get_peft_model_state_dict

        layers = {f"{self.model[0].component}_lora_layers": get_peft_model_state_dict(self.network)}
        self.pipeline.save_lora_weights(folder, **layers)


__all__ = ["Embedded", "PipelineDiffusion", "default_size", "is_stable_diffusion", "load_model"]
