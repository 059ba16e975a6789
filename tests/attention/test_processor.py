"""What the installed processor computes, against an attention written out literally."""

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers.models.attention_processor import Attention, AttnProcessor

from hopfield_replay.attention import install_hopfield_attention
from hopfield_replay.attention.installation import self_attention_layers
from tests.attention.models import MODELS, Literal, assert_same_gradients, call, gradients, make


def literally(model, a, start="zero"):
    """Make the model's self-attention literal; returns the scores, to be emptied before every forward."""
    scores = {}
    for layer in self_attention_layers(model).values():
        layer.set_processor(Literal(a, scores, start))
    return scores


@pytest.mark.heavy
@pytest.mark.parametrize("kind", MODELS)
def test_with_a_zero_nothing_changes_bit_by_bit(kind):
    model = make(kind)
    expected = [call(model, kind, n=n) for n in (3, 2)]
    sum(out.sum() for out in expected).backward()
    before = gradients(model)
    model.zero_grad()
    with install_hopfield_attention(model, 0.0):
        found = [call(model, kind, n=n) for n in (3, 2)]
        sum(out.sum() for out in found).backward()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in gradients(model).items())


@pytest.mark.heavy
@pytest.mark.parametrize("start", ["zero", "scores"])
@pytest.mark.parametrize("kind", MODELS)
def test_values_and_gradients_of_a_model(kind, start):
    model, other = make(kind), make(kind)
    plain = call(model, kind).detach()
    literally(other, 0.6, start)
    expected = call(other, kind)
    expected.square().sum().backward()
    with install_hopfield_attention(model, 0.6, start=start):
        found = call(model, kind)
        found.square().sum().backward()
        assert torch.equal(call(model, kind), found)  # every forward begins anew
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert float((found.detach() - plain).abs().max()) > 1e-3 * float(plain.abs().max())
    assert_same_gradients(gradients(model), gradients(other), 1e-10)


def test_a_unet_goes_on_with_the_scores_of_each_resolution():
    model = make("unet")
    scores = literally(model, 0.6)
    call(model, "unet")
    layers = self_attention_layers(model)
    assert len(layers) == 7
    assert {key[2] for key in scores} == {64, 16}  # two sequences of layers, of tokens at 8x8 and at 4x4


class Chain(torch.nn.Module):
    """Attention modules one after the other."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x, **settings):
        for layer in self.layers:
            x = layer(x, **settings)
        return x


def chain(count=3, width=8, **settings):
    torch.manual_seed(0)
    return Chain(*(Attention(width, heads=2, dim_head=4, **settings) for _ in range(count))).double()


def compare(x, **settings):
    extra = settings.pop("extra", {})
    mask = settings.pop("mask", None)
    model, other = chain(**settings), chain(**settings)
    scores = {}
    for layer in other.layers:
        layer.set_processor(Literal(0.5, scores))
    expected = other(x, attention_mask=mask, **extra)
    with install_hopfield_attention(model, 0.5):
        torch.testing.assert_close(model(x, attention_mask=mask, **extra), expected, rtol=1e-9, atol=1e-11)


def test_norms_residuals_and_images():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 3, 3, generator=draw, dtype=torch.float64)
    compare(x, norm_num_groups=2, residual_connection=True, rescale_output_factor=1.5, bias=True)
    compare(x.flatten(2).mT, norm_num_groups=2, residual_connection=True)
    compare(x.flatten(2).mT, qk_norm="layer_norm")
    wide = torch.randn(2, 32, 2, 2, generator=draw, dtype=torch.float64)  # SpatialNorm has 32 groups
    latent = torch.randn(2, 6, 2, 2, generator=draw, dtype=torch.float64)
    compare(wide, width=32, spatial_norm_dim=6, extra={"temb": latent})


def test_masks_as_diffusers_takes_them():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.zeros(2, 1, 5, dtype=torch.float64)
    mask[0, :, 3:] = -10000.0
    compare(x, mask=mask)
    model = chain()
    with install_hopfield_attention(model, 0.5):
        changed = x.clone()
        changed[0, 3:] += 1.0
        found = [model(inputs, attention_mask=mask) for inputs in (x, changed)]
    torch.testing.assert_close(found[0][0, :3], found[1][0, :3])  # nobody looks at the masked tokens


def test_unscaled_attention_stays_unscaled():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = chain(count=1, scale_qk=False)
    (layer,) = model.layers
    assert type(layer.processor) is AttnProcessor
    expected = model(x)
    with install_hopfield_attention(model, 0.5, start="scores"):  # of one layer: plain attention
        torch.testing.assert_close(model(x), expected)


def test_another_sequence_to_attend_to_is_cross_attention():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = chain()
    expected = model(x, encoder_hidden_states=x.flip(1))
    with install_hopfield_attention(model, 0.5):
        assert torch.equal(model(x, encoder_hidden_states=x.flip(1)), expected)
        assert not torch.allclose(model(x), chain()(x))


def test_autocast_and_upcast():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    model = chain().float()
    with install_hopfield_attention(model, 0.5):
        expected = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(x)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)
    upcast = chain(upcast_attention=True).bfloat16()
    with install_hopfield_attention(upcast, 0.5):
        found = upcast(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)
