"""Encoders: how samples become the vectors of the energies."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from hopfield_replay.encoders.columns import Columns, split_batch
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.device import in_chunks_that_fit

Encoder = Callable[[Any], Tensor]


def pixels(batch: Any) -> Tensor:
    """Encode a batch as its own samples, flattened to (n, d). Cached latents work as well.

    Example:
        >>> pixels({"label": torch.tensor([1]), "image": torch.zeros(1, 3, 4, 4)}).shape
        torch.Size([1, 48])
    """
    samples, _ = split_batch(batch)
    return samples.flatten(1)


class ModuleEncoder:
    """Encode with any module or callable of the samples, in chunks, in eval mode and without gradients.

    Args:
        model: maps samples (n, *shape) to features (n, *features).
        chunk_size: samples encoded at a time, >= 1; halved where the device has no memory.

    Raises:
        TypeError: ``model`` is not callable, or returns no tensor.
        ValueError: not one feature vector for each sample; NaN or infinite features.
        MemoryError: not even one sample at a time fits on the device.

    Example:
        >>> ModuleEncoder(nn.Flatten())(torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(self, model: Callable[[Tensor], Tensor], *, chunk_size: int = 128) -> None:
        if not callable(model):
            raise TypeError(f"model must be a module or a callable, got {type(model).__name__}.")
        check_integer(chunk_size, "chunk_size", 1)
        self.model = model
        self.chunk_size = chunk_size

    def to(self, device: torch.device | str) -> Self:
        """Move the module to a device, in place; returns the encoder itself."""
        if isinstance(self.model, nn.Module):
            self.model.to(device)
        return self

    def __call__(self, batch: Any) -> Tensor:
        """Encode a batch as vectors (n, d), on the batch's device and in float32 or better."""
        return self.features(batch).flatten(1)

    @torch.no_grad()
    def features(self, batch: Any) -> Tensor:
        """Encode a batch as features in their own shape (n, *features)."""
        samples, _ = split_batch(batch)
        with evaluating(self.model):
            features, self.chunk_size = in_chunks_that_fit(
                lambda size: torch.cat([self._of_chunk(part) for part in torch.split(samples, size)]),
                self.chunk_size,
                "The encoder does",
            )
        return features

    def _of_chunk(self, samples: Tensor) -> Tensor:
        weight = next(self.model.parameters(), samples) if isinstance(self.model, nn.Module) else samples
        features = self.encode(samples.to(weight.device, weight.dtype))
        if not isinstance(features, Tensor):
            raise TypeError(f"the encoder must return a tensor, got {type(features).__name__}.")
        if features.ndim < 2 or len(features) != len(samples):
            raise ValueError(
                f"the encoder must return one feature vector for each of the {len(samples)} samples, got shape "
                f"{tuple(features.shape)}."
            )
        if not bool(features.isfinite().all()):
            raise ValueError(self.not_finite(features))
        return features.to(samples.device, torch.promote_types(features.dtype, torch.float32))

    def encode(self, samples: Tensor) -> Tensor:
        """Features of one chunk of samples."""
        return self.model(samples)

    def not_finite(self, features: Tensor) -> str:
        """Message for features that hold NaN or infinity."""
        return f"the encoder returned NaN or infinite features ({features.dtype}); check its weights and precision."


class LatentEncoder(ModuleEncoder):
    """Encode as the scaled latents of a diffusers autoencoder, as latent diffusion models are trained on.

    The mean of the posterior, not a sample of it, so that a sample has one latent: (mean - shift) * scaling, with
    shift_factor and scaling_factor, or latents_mean and latents_std, of the autoencoder's config.

    Args:
        vae: a diffusers AutoencoderKL, AutoencoderTiny or VQModel.
        chunk_size: images encoded at a time, >= 1.

    Raises:
        TypeError: ``vae`` has no encode.
        ValueError: NaN or infinite latents, as of some autoencoders in half precision.

    Example:
        >>> from diffusers import AutoencoderKL
        >>> vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2)
        >>> encoder = LatentEncoder(vae)
        >>> encoder(torch.zeros(2, 3, 8, 8)).shape, encoder.features(torch.zeros(2, 3, 8, 8)).shape
        (torch.Size([2, 128]), torch.Size([2, 2, 8, 8]))

    Source: Rombach et al., arXiv:2112.10752, appendix G (rescaled latents).
    """

    def __init__(self, vae: nn.Module, *, chunk_size: int = 16) -> None:
        if not (isinstance(vae, nn.Module) and _is_autoencoder(vae)):
            raise TypeError(f"vae must be a diffusers autoencoder with encode(), got {type(vae).__name__}.")
        super().__init__(vae, chunk_size=chunk_size)
        self.vae: Any = vae

    def encode(self, samples: Tensor) -> Tensor:
        """Scaled latents of one chunk of images."""
        output = self.vae.encode(samples)
        latents: Tensor = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        mean, std, scale = self._scaling(latents)
        return (latents - mean) * scale / std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (n, channels, height, width) of scaled latents, float32 on the CPU: the inverse of the encoding."""
        weight = next(self.vae.parameters())

        def decoded(size: int) -> Tensor:
            parts = []
            for part in latents.split(size):
                mean, std, scale = self._scaling(part)
                raw = part * std / scale + mean
                parts.append(self.vae.decode(raw.to(weight.device, weight.dtype)).sample.float().cpu())
            return torch.cat(parts)

        with evaluating(self.vae):
            return in_chunks_that_fit(decoded, self.chunk_size, "The autoencoder does")[0]

    def _scaling(self, like: Tensor) -> tuple[Tensor | float, Tensor | float, float]:
        """Mean and deviation of the autoencoder's latents, and the factor on what is left."""
        config = self.vae.config
        scale = getattr(config, "scaling_factor", None) or 1.0
        mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        if mean is None or std is None:
            return getattr(config, "shift_factor", None) or 0.0, 1.0, scale
        shape = (1, -1, *[1] * (like.ndim - 2))
        return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape), scale

    def not_finite(self, features: Tensor) -> str:
        """Message for latents that hold NaN or infinity."""
        return (
            f"the autoencoder's latents hold NaN or infinity in {next(self.vae.parameters()).dtype}. Some autoencoders "
            "(Stable Diffusion XL's among them) overflow in half precision: use vae.to(torch.float32) or bfloat16."
        )


def _is_autoencoder(model: object) -> bool:
    return callable(getattr(model, "encode", None)) and hasattr(model, "config")


@torch.no_grad()
def vectors_of(encoder: Encoder, batch: Any) -> Tensor:
    """Vectors (n, d) of a prepared batch, float32, on the batch's device.

    Args:
        encoder: maps a batch to vectors.
        batch: as the model gets it.

    Raises:
        TypeError: an encoder that returns no vectors.

    Example:
        >>> vectors_of(pixels, torch.zeros(2, 1, 4, 4)).shape
        torch.Size([2, 16])
    """
    vectors = encoder(batch)
    if not isinstance(vectors, Tensor) or vectors.ndim < 2 or not vectors.is_floating_point():
        raise TypeError(
            f"encoder must return a floating tensor (n, d), got {getattr(vectors, 'dtype', type(vectors).__name__)} of "
            f"shape {tuple(getattr(vectors, 'shape', ()))}."
        )
    return vectors.detach().flatten(1).float()


def as_encoder(encoder: Encoder | nn.Module | None, columns: Columns | None = None) -> Encoder:
    """Turn what a user passes into a function from a batch to vectors (n, d).

    Args:
        encoder: None for the samples themselves; a diffusers autoencoder; any other module, which gets the samples of
            the batch; or a function, which gets the whole batch.
        columns: where the samples are in a batch; None: by the rules.

    Raises:
        TypeError: none of these.

    Example:
        >>> as_encoder(None) is pixels
        True
        >>> as_encoder(None, Columns(samples="b"))({"a": torch.zeros(2, 3), "b": torch.ones(2, 1, 2)})
        tensor([[1., 1.],
                [1., 1.]])
    """
    if encoder is None:
        if columns is None or columns.samples is None:
            return pixels
        return lambda batch: columns.samples_of(batch).flatten(1)
    if isinstance(encoder, nn.Module):
        encoder = LatentEncoder(encoder) if _is_autoencoder(encoder) else ModuleEncoder(encoder)
    if isinstance(encoder, ModuleEncoder) and columns is not None and columns.samples is not None:
        of_samples = encoder
        return lambda batch: of_samples(columns.inputs_of(batch))
    if callable(encoder):
        return encoder
    raise TypeError(f"encoder must be None, a torch module or a function of the batch, got {type(encoder).__name__}.")


__all__ = ["Encoder", "LatentEncoder", "ModuleEncoder", "as_encoder", "pixels", "vectors_of"]
