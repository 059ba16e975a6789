"""A residual perceptron in the place of a UNet: for images so small that convolutions cost more than they give."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn


class MLP(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Residual blocks over the flattened image and the timestep, called like a UNet2DModel.

    The noise is predicted as the blocks' output plus a multiple of the noisy image that depends on the timestep: a
    hidden layer needs not carry the noise through.

    Args:
        sample_size: height and width of the images.
        in_channels: image channels.
        width: hidden units.
        blocks: residual blocks.
        num_class_embeds: number of classes if the labels condition the network; None: unconditional.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sample_size: int,
        in_channels: int = 1,
        width: int = 512,
        blocks: int = 3,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        pixels = in_channels * sample_size**2
        self.first = nn.Linear(pixels, width)
        self.time = nn.Sequential(Timesteps(64, True, 0.0), TimestepEmbedding(64, width))
        self.class_embedding = None if num_class_embeds is None else nn.Embedding(num_class_embeds, width)
        self.residuals = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, pixels)
        self.share = nn.Linear(width, 1)
        for layer in (self.last, self.share):  # the first prediction is zero
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predicted noise of noisy images (n, channels, h, w) at timesteps (n,) or one for all."""
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time(times)
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(class_labels)
        hidden = self.first(sample.flatten(1))
        for residual in self.residuals:
            hidden = hidden + residual(hidden + embedding)
        noise = self.last(self.norm(hidden)).view(sample.shape) + self.share(embedding)[:, :, None, None] * sample
        return UNet2DOutput(sample=noise) if return_dict else (noise,)
