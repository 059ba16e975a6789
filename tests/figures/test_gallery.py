"""Pictures are the samples' own numbers, in place; latents are shown, other samples are not."""

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from hopfield_replay.figures import as_pictures, picture_rows
from tests.figures.readable import check_readable

RNG = np.random.default_rng(0)


def test_ranges():
    grey = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    np.testing.assert_allclose(as_pictures(grey)[0, :, :, 1], [[0.0, 0.2], [0.4, 1.0]])
    signed = torch.tensor([[[[-1.0, 0.0], [1.0, 3.0]]]])
    np.testing.assert_allclose(as_pictures(signed)[0, :, :, 0], [[0.0, 0.5], [1.0, 1.0]])
    unit = torch.tensor([[[[0.0, 0.25], [0.5, 2.0]]]])
    np.testing.assert_allclose(as_pictures(unit)[0, :, :, 2], [[0.0, 0.25], [0.5, 1.0]])
    colour = torch.from_numpy(RNG.uniform(size=(2, 3, 4, 5)))
    np.testing.assert_allclose(as_pictures(colour), colour.numpy().transpose(0, 2, 3, 1), rtol=1e-6)
    assert torch.isfinite(as_pictures(torch.full((1, 1, 2, 2), torch.nan))).all()


def test_channels_of_latents_lie_beside_each_other_in_one_scale():
    latents = torch.from_numpy(RNG.normal(size=(3, 4, 5, 6))) * 7
    found = as_pictures(latents)
    assert found.shape == (3, 10, 12, 3)
    low, high = np.quantile(latents.float().numpy(), [0.01, 0.99])
    for channel, (row, column) in enumerate([(0, 0), (0, 6), (5, 0), (5, 6)]):
        expected = np.clip((latents[:, channel].numpy() - low) / (high - low), 0, 1)
        np.testing.assert_allclose(found[:, row : row + 5, column : column + 6, 2], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 10), (4,), (4, 1, 1, 9), (0, 1, 8, 8), (2, 3, 4, 5, 6)])
def test_no_pictures(shape):
    assert as_pictures(torch.zeros(shape)) is None
    assert picture_rows([("samples", torch.zeros(shape))]) is None


def test_rows_hold_the_samples_in_order():
    samples = torch.from_numpy(RNG.uniform(size=(10, 1, 8, 8)))
    captions = [f"task {i}\n0.{i}1 to 0.{i}2" for i in range(10)]
    figure = picture_rows([("first", samples), ("second", samples[:4])], captions=captions, title="Samples")
    check_readable(figure)
    first, second = (axis.images[0].get_array() for axis in figure.axes)
    for i in range(10):
        np.testing.assert_allclose(first[:, 9 * i : 9 * i + 8, 0], samples[i, 0], rtol=1e-6)
    np.testing.assert_allclose(second[:, : 4 * 9], first[:, : 4 * 9])
    assert (second[:, 4 * 9 :] == 1).all()
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["first", "second"]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == captions


def test_for_a_card_of_a_dashboard():
    samples = torch.from_numpy(RNG.uniform(size=(6, 1, 8, 8)))
    figure = picture_rows([("first", samples)], captions=["task 10\n0.0023 to\n1.3e+02"] * 6, title="S", narrow=True)
    check_readable(figure, narrow=True)


def test_beside_each_other():
    rows = [(f"row {i}", torch.rand(8, 3, 6, 6)) for i in range(6)]
    figure = picture_rows(rows, beside=3)
    check_readable(figure)
    assert len(figure.axes) == 6
    assert len({round(axis.get_position().y0, 3) for axis in figure.axes}) == 2
