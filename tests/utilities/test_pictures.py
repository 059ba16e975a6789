"""PNG files are read back by another library; thumbnails are means of blocks."""

import io

import numpy as np
import pytest
import torch

from hopfield_replay.utilities.pictures import png, thumbnails


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 64)])
def test_another_library_reads_the_same_picture(size):
    images = pytest.importorskip("PIL.Image")
    picture = torch.randint(256, (*size, 3), dtype=torch.uint8)
    with images.open(io.BytesIO(png(picture))) as read:
        read.verify()  # checksums
    with images.open(io.BytesIO(png(picture))) as read:
        assert read.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read), picture.numpy())


def test_small_samples_stay_and_large_ones_become_means():
    small = torch.randint(256, (2, 3, 9, 6), dtype=torch.uint8)
    assert torch.equal(thumbnails(small), small.permute(0, 2, 3, 1))
    large = torch.rand(2, 1, 128, 64)
    blocks = large[:, 0].reshape(2, 64, 2, 32, 2).mean((2, 4))
    np.testing.assert_allclose(thumbnails(large)[..., 0].numpy(), blocks.numpy() * 255, atol=0.51)
    assert thumbnails(torch.rand(3, 10)) is None
