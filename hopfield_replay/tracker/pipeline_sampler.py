"""PipelineSampler: captioned images out of a text-to-image pipeline."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class PipelineSampler:
    """Draws captioned images from a text-to-image pipeline of diffusers, its prompts in turns.

    Args:
        pipeline: called with ``prompt=`` and ``output_type="pt"``.
        prompts: at least one.
        names: of the images and of the captions in a batch.
        settings: for the pipeline, such as ``num_inference_steps`` or ``guidance_scale``.

    Raises:
        ValueError: no prompts.

    Example:
        >>> import torch
        >>> class Grey:
        ...     def __call__(self, prompt, output_type):
        ...         return type("Output", (), {"images": torch.full((len(prompt), 3, 2, 2), 0.5)})
        >>> batch = PipelineSampler(Grey(), ["a cat", "a dog"])(3)
        >>> batch["text"], batch["image"].shape, batch["image"].unique()
        (['a cat', 'a dog', 'a cat'], torch.Size([3, 3, 2, 2]), tensor([0.]))
    """

    def __init__(
        self,
        pipeline: Callable[..., Any],
        prompts: Sequence[str],
        *,
        names: tuple[str, str] = ("image", "text"),
        **settings: Any,
    ) -> None:
        if isinstance(prompts, str) or not len(prompts):
            raise ValueError("A pipeline needs a list of prompts, at least one.")
        self.pipeline = pipeline
        self.prompts = list(prompts)
        self.names = names
        self.settings = settings
        self._next = 0

    def __call__(self, count: int) -> dict[str, Any]:
        """Draw: images (n, 3, h, w) in [-1, 1], float32 on the CPU, and their prompts."""
        asked = [self.prompts[(self._next + i) % len(self.prompts)] for i in range(count)]
        self._next += count
        images: Tensor = self.pipeline(prompt=asked, output_type="pt", **self.settings).images
        return {self.names[0]: images.float().cpu() * 2.0 - 1.0, self.names[1]: asked}
