"""Small diffusers models in float64, how they are called, and an attention processor written out literally."""

import torch

from tests.denoisers import networks

MODELS = ("unet", "text_unet", "dit", "transformer")


def make(kind, **settings):
    """A model with self-attention in several layers, in eval mode."""
    if kind == "unet":  # attention at 8x8 and 4x4 on the way down, in the middle and on the way up
        settings = {
            "down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2,
            "attention_head_dim": 2, **settings,
        }  # fmt: skip
    elif kind in ("dit", "transformer"):
        settings = {"num_layers": 3, **settings}
    model = getattr(networks, kind)(**settings).double().eval()
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():  # as initialised, attention would hardly look at its input
        if ".to_q." in name or ".to_k." in name:
            weight.data = torch.randn(weight.shape, generator=draw, dtype=weight.dtype)
    return model


def call(model, kind, n=3, seed=0):
    """The model's prediction for n noisy images."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 8, 8, generator=draw, dtype=torch.float64)
    times = torch.arange(n) * 300 + 10
    if kind == "unet":
        return model(x, times, return_dict=False)[0]
    if kind == "text_unet":
        text = torch.randn(n, 5, 12, generator=draw, dtype=torch.float64)
        return model(x, times, encoder_hidden_states=text, return_dict=False)[0]
    return model(x, timestep=times, class_labels=torch.arange(n), return_dict=False)[0]


def gradients(model):
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(found, expected, tolerance):
    """Equal up to a share of the largest of all: some gradients are zero but for rounding."""
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= tolerance * largest, name


class Literal:
    """Attention of diffusers' modules with carried scores, step by step; ``scores`` is emptied by the caller."""

    def __init__(self, a, scores, start="zero"):
        self.a, self.scores, self.start = a, scores, start

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        x = hidden_states
        if attn.spatial_norm is not None:
            x = attn.spatial_norm(x, temb)
        if x.ndim == 4:
            x = torch.stack([sample.reshape(sample.shape[0], -1).T for sample in x])
        if attn.group_norm is not None:
            x = self.normalised(attn.group_norm, x)
        samples, tokens, _ = x.shape
        projected = [x @ part.weight.T + (0.0 if part.bias is None else part.bias) for part in self.parts(attn)]
        width = projected[0].shape[2] // attn.heads
        key = (samples, attn.heads, tokens)
        before, now, outputs = self.scores.get(key), [], []
        for b in range(samples):
            heads = []
            for h in range(attn.heads):
                query, keys, values = (part[b, :, h * width : (h + 1) * width] for part in projected)
                if attn.norm_q is not None:
                    query, keys = attn.norm_q(query), attn.norm_k(keys)
                products = query @ keys.T / width**0.5
                start = products if self.start == "scores" else torch.zeros_like(products)
                carried = start if before is None else before[b][h]
                heads.append((self.a * carried + (1 - self.a) * products, values))
            now.append([scores for scores, _ in heads])
            bias = 0.0 if attention_mask is None else attention_mask[b]
            weights = [torch.exp(scores + bias - (scores + bias).max(1, keepdim=True).values) for scores, _ in heads]
            parts = [(w / w.sum(1, keepdim=True)) @ v for w, (_, v) in zip(weights, heads, strict=True)]
            outputs.append(torch.cat(parts, 1))
        self.scores[key] = now
        out = torch.stack(outputs) @ attn.to_out[0].weight.T + attn.to_out[0].bias
        if hidden_states.ndim == 4:
            out = torch.stack([sample.T.reshape(hidden_states.shape[1:]) for sample in out])
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor

    @staticmethod
    def parts(attn):
        return attn.to_q, attn.to_k, attn.to_v

    @staticmethod
    def normalised(norm, x):
        samples, tokens, width = x.shape
        groups = x.reshape(samples, tokens, norm.num_groups, -1)
        centred = groups - groups.mean((1, 3), keepdim=True)
        scaled = centred / (centred.square().mean((1, 3), keepdim=True) + norm.eps).sqrt()
        return scaled.reshape(samples, tokens, width) * norm.weight + norm.bias
