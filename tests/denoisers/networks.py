"""Small networks for the tests: diffusers models, and one that knows the clean signal."""

import torch
from torch import Tensor


def unet(**settings):
    from diffusers import UNet2DModel

    defaults = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (4, 8), "norm_num_groups": 2,
        "layers_per_block": 1, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }  # fmt: skip
    torch.manual_seed(0)
    return UNet2DModel(**{**defaults, **settings})


def text_unet(**settings):
    from diffusers import UNet2DConditionModel

    defaults = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 2,
        "layers_per_block": 1, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 12, "attention_head_dim": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    return UNet2DConditionModel(**{**defaults, **settings})


def dit(**settings):
    from diffusers import DiTTransformer2DModel

    defaults = {
        "sample_size": 8, "in_channels": 1, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4,
        "patch_size": 2, "num_embeds_ada_norm": 10, "norm_num_groups": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    return DiTTransformer2DModel(**{**defaults, **settings})


def transformer(**settings):
    from diffusers import Transformer2DModel

    defaults = {
        "sample_size": 8, "in_channels": 1, "out_channels": 1, "num_layers": 1, "num_attention_heads": 2,
        "attention_head_dim": 4, "patch_size": 2, "num_embeds_ada_norm": 10, "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False, "norm_num_groups": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    return Transformer2DModel(**{**defaults, **settings})


def images(n: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
