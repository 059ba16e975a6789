"""Modern Hopfield attention for diffusers models: attention scores carried from layer to layer."""

from hopfield_replay.attention.installation import HopfieldAttention, install_hopfield_attention
from hopfield_replay.attention.processor import HopfieldAttnProcessor
from hopfield_replay.attention.uniformity import LayerUniformity, TokenUniformityRecorder

__all__ = [
    "HopfieldAttention",
    "HopfieldAttnProcessor",
    "LayerUniformity",
    "TokenUniformityRecorder",
    "install_hopfield_attention",
]
