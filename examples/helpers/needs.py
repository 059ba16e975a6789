"""What training takes: computed before from numbers of parameters, measured after.

python -m helpers.needs, in examples/, prints what is computed of known models. Activations, the autoencoder's work and
what a device's libraries take come on top.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

_MATRICES = ("to_q", "to_k", "to_v", "to_out.0")  # what LoRA is put onto by default


def bytes_of(total: int, trained: int, precision: str) -> int:
    """Bytes of a network's weights, and of the gradients and both of AdamW's moments of those that are trained.

    Args:
        total: number of weights.
        trained: number of those that are trained.
        precision: of Lightning's Trainer.

    Example:
        >>> bytes_of(100, 10, "bf16-true"), bytes_of(100, 100, "bf16-mixed")
        (260, 1600)
    """
    each = 2 if precision in ("bf16-true", "16-true") else 4
    return each * (total + 3 * trained)


def describe(network: nn.Module, frozen: Iterable[nn.Module], precision: str) -> str:
    """A line on what a network and the parts that are kept beside it take."""
    weights = [(weight.numel(), weight.requires_grad) for weight in network.parameters()]
    total, trained = sum(count for count, _ in weights), sum(count for count, wanted in weights if wanted)
    beside = sum(weight.numel() for part in frozen for weight in part.parameters())
    held = bytes_of(total, trained, precision) + bytes_of(beside, 0, precision)
    return (
        f"computed from numbers of parameters: {total / 1e6:.2f} million weights of the network, {trained / 1e6:.2f} "
        f"million of them trained, {beside / 1e6:.2f} million beside it; with gradients and AdamW's moments in "
        f"{precision} {held / 2**30:.3f} GiB, without activations"
    )


def spent(started: float) -> str:
    """A line on the time since then (of time.perf_counter) and the most memory that the process has taken."""
    parts = [f"took {time.perf_counter() - started:.0f} s"]
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        parts.append(f"{peak / 2**30:.2f} GiB of host memory at most")
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of GPU memory at most")
    return ", ".join(parts)


def lora_weights(network: nn.Module, rank: int) -> int:
    """Number of weights that LoRA of a rank adds to the attention's matrices."""
    layers = [layer for name, layer in network.named_modules() if name.endswith(_MATRICES)]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers if isinstance(layer, nn.Linear))


def known_networks() -> dict[str, Any]:
    """Networks as their published configurations make them, without their weights."""
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

    with torch.device("meta"):
        return {
            "Stable Diffusion 1.5": UNet2DConditionModel(cross_attention_dim=768),
            "Stable Diffusion XL": UNet2DConditionModel(
                block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
                addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
            ),
            "Stable Diffusion 3 medium": SD3Transformer2DModel(
                num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192,
            ),
            "FLUX.1 dev": FluxTransformer2DModel(guidance_embeds=True),
        }  # fmt: skip


def main() -> None:
    print("| network | weights | LoRA, rank 16 | full, bf16-mixed | LoRA, bf16-mixed | LoRA, bf16-true |")
    print("|---|---|---|---|---|---|")
    for name, network in known_networks().items():
        total, added = sum(weight.numel() for weight in network.parameters()), lora_weights(network, 16)
        sizes = [
            bytes_of(total, total, "bf16-mixed"),
            bytes_of(total + added, added, "bf16-mixed"),
            bytes_of(total + added, added, "bf16-true"),
        ]
        cells = " | ".join(f"{size / 2**30:.1f} GiB" for size in sizes)
        print(f"| {name} | {total / 1e6:.0f} million | {added / 1e6:.1f} million | {cells} |")


if __name__ == "__main__":
    main()
