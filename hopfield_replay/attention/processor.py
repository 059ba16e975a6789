"""Modern Hopfield attention as an attention processor of diffusers."""

from typing import Any

from torch import Tensor

from hopfield_replay.attention.state import CarriedScores
from hopfield_replay.functional.hopfield_attention import Start, hopfield_attention


class HopfieldAttnProcessor:
    """Self-attention whose scores go on from those of the layer before; all else is as in diffusers' AttnProcessor2_0.

    Usually made by :func:`install_hopfield_attention`. With a = 0, and when it is called with another sequence to
    attend to (cross-attention), the previous processor does the work.

    Args:
        previous: the processor in whose place it stands.
        carried: the scores, shared by all layers of the model.
        a: share of the carried scores, in [0, 1).
        start: what the first layer starts from, see :func:`hopfield_attention`.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> from hopfield_replay.attention import install_hopfield_attention
        >>> model = DiTTransformer2DModel(2, 4, 1, num_layers=1, sample_size=4, num_embeds_ada_norm=2)
        >>> with install_hopfield_attention(model, 0.2):
        ...     processor = model.transformer_blocks[0].attn1.processor
        >>> type(processor).__name__, processor.a, type(processor.previous).__name__
        ('HopfieldAttnProcessor', 0.2, 'AttnProcessor2_0')
    """

    def __init__(self, previous: Any, carried: CarriedScores, a: float, start: Start) -> None:
        self.previous = previous
        self.a = a
        self.start = start
        self._carried = carried

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Attention of a module ``attn`` on hidden states (batch, n, d) or (batch, d, height, width)."""
        if self.a == 0.0 or encoder_hidden_states is not None:
            plain: Tensor = self.previous(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return plain
        residual, image = hidden_states, hidden_states.ndim == 4
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if image:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        batch, tokens, _ = hidden_states.shape
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, tokens, batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        attended = self._attend(attn, hidden_states, attention_mask)
        hidden_states = attn.to_out[1](attn.to_out[0](attended))
        if image:
            hidden_states = hidden_states.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            hidden_states = hidden_states + residual
        result: Tensor = hidden_states / attn.rescale_output_factor
        return result

    def _attend(self, attn: Any, hidden_states: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of all heads, side by side (batch, n, heads * d); the scores move on."""
        projections = (attn.to_q, attn.to_k, attn.to_v)
        query, key, value = (
            project(hidden_states).unflatten(2, (attn.heads, -1)).transpose(1, 2) for project in projections
        )
        query = query if attn.norm_q is None else attn.norm_q(query)
        key = key if attn.norm_k is None else attn.norm_k(key)
        dtype = query.dtype
        if attn.upcast_attention:
            query, key = query.float(), key.float()
        scores = self._carried.open()
        shape = (query.shape[0], query.shape[1], query.shape[2])
        out, scores[shape] = hopfield_attention(
            query, key, value, scores.get(shape), self.a, scale=attn.scale, mask=mask, start=self.start
        )
        return out.transpose(1, 2).flatten(2).to(dtype)


__all__ = ["HopfieldAttnProcessor"]
