"""One layer, and several, against loops over every query in float64, and against torch's own attention."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from hopfield_replay.functional.hopfield_attention import hopfield_attention


def inputs(layers=3, batch=2, heads=2, n=5, m=5, d=4, e=3, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return [
        [torch.randn(batch, heads, *size, dtype=dtype, generator=draw) for size in ((n, d), (m, d), (m, e))]
        for _ in range(layers)
    ]


def by_hand(layers, a, *, scale=None, start="zero", bias=None):
    """The outputs of all layers and the last state, by loops over samples, heads, queries and keys."""
    batch, heads, n, d = layers[0][0].shape
    m, scale = layers[0][1].shape[2], scale or 1 / math.sqrt(d)
    outs = [torch.zeros(batch, heads, n, layers[0][2].shape[3], dtype=torch.float64) for _ in layers]
    state = torch.zeros(batch, heads, n, m, dtype=torch.float64)
    for number, ((query, key, value), out) in enumerate(zip(layers, outs, strict=True)):
        for b in range(batch):
            for h in range(heads):
                for i in range(n):
                    weights = []
                    for j in range(m):
                        score = scale * sum(float(query[b, h, i, c] * key[b, h, j, c]) for c in range(d))
                        before = score if number == 0 and start == "scores" else float(state[b, h, i, j])
                        state[b, h, i, j] = a * before + (1 - a) * score
                        weights.append(math.exp(state[b, h, i, j] + (0 if bias is None else float(bias[b, h, i, j]))))
                    for j in range(m):
                        out[b, h, i] += weights[j] / sum(weights) * value[b, h, j]
    return outs, state


def chain(layers, a, **settings):
    outs, state = [], None
    for layer in layers:
        out, state = hopfield_attention(*layer, state, a, **settings)
        outs.append(out)
    return outs, state


@pytest.mark.heavy
@pytest.mark.parametrize("start", ["zero", "scores"])
@pytest.mark.parametrize("a", [0.0, 0.2, 0.9])
def test_values(a, start):
    layers = inputs()
    expected, last = by_hand(layers, a, start=start)
    outs, state = chain(layers, a, start=start)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)
    for out, other in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, other, rtol=1e-12, atol=1e-12)


def test_other_scale_other_keys_and_masks():
    layers = inputs(n=4, m=6)
    bias = torch.randn(2, 2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected, last = by_hand(layers, 0.4, scale=0.7, bias=bias)
    outs, state = chain(layers, 0.4, scale=0.7, mask=bias)
    torch.testing.assert_close(outs[-1], expected[-1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)
    seen = torch.ones(1, 1, 1, 6, dtype=torch.bool)
    seen[..., 4:] = False
    expected, last = by_hand([[query, key[:, :, :4], value[:, :, :4]] for query, key, value in layers], 0.4)
    for mask in (seen, torch.where(seen, 0.0, -torch.inf).double()):
        outs, state = chain(layers, 0.4, mask=mask)
        torch.testing.assert_close(outs[-1], expected[-1], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state[..., :4], last, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("a", [0.0, 0.3])
def test_it_is_torchs_attention_with_the_state_as_the_mask(a):
    (query, key, value), *_ = inputs()
    state = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    expected = scaled_dot_product_attention(query, key, value, attn_mask=a * state, scale=(1 - a) / 2)
    torch.testing.assert_close(hopfield_attention(query, key, value, state, a)[0], expected, rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_the_state():
    layers = inputs(batch=1, heads=1, n=2, m=2, d=2, e=1)
    flat = [x.requires_grad_() for layer in layers for x in layer]

    def last(*flat):
        outs, state = chain([flat[i : i + 3] for i in range(0, 9, 3)], 0.4)
        return outs[-1], state

    assert torch.autograd.gradcheck(last, flat)
    (out, _) = last(*flat)
    assert torch.autograd.grad(out.sum(), flat[0])[0].abs().min() > 1e-4  # the first layer's queries


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2), (torch.float16, 4e-3)])
def test_low_precision(dtype, rtol):
    layers = inputs(dtype=dtype)
    outs, state = chain(layers, 0.5)
    assert state.dtype == outs[-1].dtype == dtype
    expected, _ = by_hand([[x.double() for x in layer] for layer in layers], 0.5)
    torch.testing.assert_close(outs[-1].double(), expected[-1], rtol=rtol, atol=rtol)


def test_the_state_comes_to_the_layers_precision():
    (first, second, _) = inputs()
    _, state = hopfield_attention(*first, None, 0.5)
    out, new = hopfield_attention(*(x.float() for x in second), state, 0.5)
    assert out.dtype == new.dtype == torch.float32


@pytest.mark.parametrize("a", [-0.1, 1.0, 1.5, float("nan")])
def test_a_outside(a):
    with pytest.raises(ValueError, match=r"a \(share of the carried scores\) must lie in \[0, 1\), got"):
        hopfield_attention(*inputs()[0], None, a)


def test_bad_input():
    layer = inputs()[0]
    for a in (True, "0.5", None):
        with pytest.raises(TypeError, match=r"a \(share of the carried scores\) must be a number, got"):
            hopfield_attention(*layer, None, a)
    with pytest.raises(ValueError, match="start must be one of"):
        hopfield_attention(*layer, None, 0.5, start="one")
    with pytest.raises(ValueError, match=r"the state has shape \(2, 2, 4, 4\) and this layer's scores \(2, 2, 5, 5\)"):
        hopfield_attention(*layer, torch.zeros(2, 2, 4, 4), 0.5)
