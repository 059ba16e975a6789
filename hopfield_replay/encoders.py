"""How a batch becomes samples, and samples become the vectors of the energies."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.utilities.checks import check_integer

Encoder = Callable[[Any], Tensor]


def split_batch(batch: Any) -> tuple[Tensor, Any]:
    """Part a batch into its samples, the first floating tensor, and its condition, all the rest.

    Args:
        batch: a tensor, or any nesting of tuples, lists and mappings, in the order of which "first" is meant.

    Returns:
        The samples (n, *shape), and the batch without them: None if nothing is left.

    Raises:
        ValueError: the batch holds no floating tensor with a batch dimension.

    Example:
        >>> split_batch((torch.zeros(2, 3), torch.tensor([4, 5])))
        (tensor([[0., 0., 0.],
                [0., 0., 0.]]), [tensor([4, 5])])
    """
    samples, rest = _part(batch)
    if samples is None:
        raise ValueError(
            f"the batch ({type(batch).__name__}) holds no floating tensor of samples (n, *shape). Convert images to "
            "floats in the dataset's transform, or pass an encoder that reads such batches."
        )
    return samples, rest


def _part(batch: Any) -> tuple[Tensor | None, Any]:
    if isinstance(batch, Tensor):
        return (batch, None) if batch.is_floating_point() and batch.ndim > 1 else (None, batch)
    if isinstance(batch, Mapping):
        for key, value in batch.items():
            samples, left = _part(value)
            if samples is not None:
                rest = {name: left if name == key else item for name, item in batch.items()}
                return samples, {name: item for name, item in rest.items() if name != key or item is not None} or None
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            samples, left = _part(value)
            if samples is not None:
                kept = [] if left is None else [left]
                return samples, [*batch[:index], *kept, *batch[index + 1 :]] or None
    return None, batch


def first_labels(batch: Any, n: int) -> Tensor | None:
    """The first tensor of integers (n,) in a batch, int64 on the CPU, or None.

    Example:
        >>> first_labels((torch.zeros(2, 3), torch.tensor([4, 5])), 2)
        tensor([4, 5])
    """
    if isinstance(batch, Tensor):
        whole = batch.shape == (n,) and not batch.is_floating_point() and not batch.is_complex()
        return batch.cpu().to(torch.int64) if whole else None
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return next((label for item in items if (label := first_labels(item, n)) is not None), None)


def pixels(batch: Any) -> Tensor:
    """Encode a batch as its own samples: the first floating tensor, flattened to (n, d). Cached latents work as well.

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
        chunk_size: samples encoded at a time, >= 1.

    Raises:
        TypeError: ``model`` is not callable, or returns no tensor.
        ValueError: not one feature vector for each sample; NaN or infinite features.

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

    def __call__(self, batch: Any) -> Tensor:
        """Encode a batch as vectors (n, d), on the batch's device and in float32 or better."""
        return self.features(batch).flatten(1)

    @torch.no_grad()
    def features(self, batch: Any) -> Tensor:
        """Encode a batch as features in their own shape (n, *features)."""
        samples, _ = split_batch(batch)
        weight = next(self.model.parameters(), samples) if isinstance(self.model, nn.Module) else samples
        parts = []
        with evaluating(self.model):
            for part in torch.split(samples, self.chunk_size):
                features = self.encode(part.to(weight.device, weight.dtype))
                if not isinstance(features, Tensor):
                    raise TypeError(f"the encoder must return a tensor, got {type(features).__name__}.")
                if features.ndim < 2 or len(features) != len(part):
                    raise ValueError(
                        f"the encoder must return one feature vector for each of the {len(part)} samples, got shape "
                        f"{tuple(features.shape)}."
                    )
                if not bool(features.isfinite().all()):
                    raise ValueError(self.not_finite(features))
                parts.append(features.to(samples.device, torch.promote_types(features.dtype, torch.float32)))
        return torch.cat(parts)

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
        weight, parts = next(self.vae.parameters()), []
        with evaluating(self.vae):
            for part in latents.split(self.chunk_size):
                mean, std, scale = self._scaling(part)
                raw = part * std / scale + mean
                parts.append(self.vae.decode(raw.to(weight.device, weight.dtype)).sample.float().cpu())
        return torch.cat(parts)

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


def as_encoder(encoder: Encoder | nn.Module | None) -> Encoder:
    """Turn what a user passes into a function from a batch to vectors (n, d).

    Args:
        encoder: None for :func:`pixels`; a diffusers autoencoder; any other module, which gets the samples of the
            batch; or a function, which gets the whole batch.

    Raises:
        TypeError: none of these.

    Example:
        >>> as_encoder(None) is pixels
        True
    """
    if encoder is None:
        return pixels
    if isinstance(encoder, nn.Module):
        return LatentEncoder(encoder) if _is_autoencoder(encoder) else ModuleEncoder(encoder)
    if callable(encoder):
        return encoder
    raise TypeError(f"encoder must be None, a torch module or a function of the batch, got {type(encoder).__name__}.")


__all__ = [
    "Encoder",
    "LatentEncoder",
    "ModuleEncoder",
    "as_encoder",
    "first_labels",
    "pixels",
    "split_batch",
    "vectors_of",
]
