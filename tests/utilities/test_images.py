"""Pixels are what the files say, against arithmetic in float64 on the numbers that were written."""

import warnings

import numpy as np
import pytest
import torch

from hopfield_replay.utilities.images import open_image, pixels, read_images

image = pytest.importorskip("PIL.Image")
RAMP = np.arange(12, dtype=np.int64).reshape(3, 4)


def read(file):
    return pixels(open_image(file)).double().numpy()


def wanted(numbers, most):
    return (np.asarray(numbers, np.float64) / most * 2.0 - 1.0)[None]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_of_grey_keep_them_all(tmp_path, suffix):
    numbers = (RAMP * 5957).astype(np.uint16)
    image.fromarray(numbers).save(tmp_path / f"a.{suffix}")
    found = read(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(found, wanted(numbers, 65535), atol=1e-6)
    assert len(np.unique(found)) == 12


@pytest.mark.parametrize("order", ["little", "big"])
def test_sixteen_bits_in_tiff_in_either_order_and_black_is_zero_or_white_is(tmp_path, order):
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    numbers = (RAMP * 5957).astype("<u2" if order == "little" else ">u2")
    mode = "I;16" if order == "little" else "I;16B"
    image.frombytes(mode, (4, 3), numbers.tobytes()).save(tmp_path / "a.tif")
    np.testing.assert_allclose(read(tmp_path / "a.tif"), wanted(numbers, 65535), atol=1e-6)
    if order == "little":
        tags = ImageFileDirectory_v2()
        tags[262] = 0  # white is zero
        image.frombytes(mode, (4, 3), numbers.tobytes()).save(tmp_path / "b.tif", tiffinfo=tags)
        with image.open(tmp_path / "b.tif") as written:
            inverted = written.tag_v2[262] == 0
        if inverted:
            np.testing.assert_allclose(read(tmp_path / "b.tif"), -wanted(numbers, 65535), atol=1e-6)


def twelve_bit_tiff(numbers):
    """A grey TIFF of 12 bits a pixel, by hand: two pixels in three bytes, each row a whole number of them."""
    height, width = numbers.shape
    rows = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for row in numbers for a, b in row.reshape(-1, 2).tolist()
    )
    tags = [(256, 3, width), (257, 3, height), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1),
            (278, 3, height), (279, 4, len(rows))]  # fmt: skip
    entries = b"".join(
        tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, kind, value in tags
    )
    directory = len(tags).to_bytes(2, "little") + entries + bytes(4)
    return b"II*\0" + (8 + len(rows)).to_bytes(4, "little") + rows + directory


def test_twelve_bits_of_grey(tmp_path):
    numbers = RAMP * 372
    (tmp_path / "a.tif").write_bytes(twelve_bit_tiff(numbers))
    np.testing.assert_allclose(read(tmp_path / "a.tif"), wanted(numbers, 4095), atol=1e-6)


def test_a_pgm_of_any_range_is_scaled_by_it(tmp_path):
    numbers = (RAMP * 90).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 4 3 1000\n" + numbers.tobytes())
    np.testing.assert_allclose(read(tmp_path / "a.pgm"), wanted(numbers, 1000), atol=2e-5)


@pytest.mark.parametrize("kind", ["float", "integers"])
def test_numbers_whose_range_no_file_says_are_refused(tmp_path, kind):
    numbers = RAMP.astype(np.float32 if kind == "float" else np.int32)
    image.fromarray(numbers).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif .*the range of its numbers \(mode [FI], TIFF\) is not known; save it"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_says(tmp_path, orientation, deep):
    """EXIF's own table: which side of the stored picture is the visual top, and which the visual left."""
    top_left = RAMP * (5957 if deep else 20)
    stored = {
        1: top_left, 2: top_left[:, ::-1], 3: top_left[::-1, ::-1], 4: top_left[::-1], 5: top_left.T,
        6: np.rot90(top_left), 7: top_left[::-1, ::-1].T, 8: np.rot90(top_left, -1),
    }[orientation]  # fmt: skip
    tags = image.Exif()
    tags[0x0112] = orientation
    dtype = np.uint16 if deep else np.uint8
    image.fromarray(np.ascontiguousarray(stored).astype(dtype)).save(tmp_path / "a.png", exif=tags)
    np.testing.assert_allclose(read(tmp_path / "a.png"), wanted(top_left, 65535 if deep else 255), atol=1e-6)
    assert read_images([tmp_path / "a.png"]).shape == (1, 1, 3, 4)


def test_palettes_transparency_cmyk_and_two_tones(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    few = image.fromarray(rgb).quantize(8)
    few.save(tmp_path / "palette.png")
    colours = np.array(few.getpalette()).reshape(-1, 3)[np.asarray(few)]
    np.testing.assert_allclose(read(tmp_path / "palette.png"), wanted(colours, 255)[0].transpose(2, 0, 1), atol=1e-6)

    alpha = np.array([[0, 255, 128, 64]] * 3, dtype=np.uint8)
    image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "alpha.png")
    share = alpha[..., None] / 255.0
    on_white = rgb * share + 255.0 * (1.0 - share)
    found = read(tmp_path / "alpha.png")
    np.testing.assert_allclose(found, wanted(on_white, 255)[0].transpose(2, 0, 1), atol=2 / 255)

    grey = image.merge("LA", [image.fromarray(rgb[..., 0]), image.fromarray(alpha)])
    grey.save(tmp_path / "grey.png")
    np.testing.assert_allclose(read(tmp_path / "grey.png"), wanted(on_white[..., 0], 255), atol=2 / 255)

    ink = np.random.default_rng(1).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    image.frombytes("CMYK", (8, 8), ink.tobytes()).save(tmp_path / "ink.tif")
    cyan_to_red = 255.0 * (1 - ink[..., :3] / 255.0) * (1 - ink[..., 3:] / 255.0)
    found = read(tmp_path / "ink.tif")
    np.testing.assert_allclose(found, wanted(cyan_to_red, 255)[0].transpose(2, 0, 1), atol=2.1 / 127.5)

    image.fromarray(RAMP % 2 == 1).save(tmp_path / "tones.png")
    np.testing.assert_allclose(read(tmp_path / "tones.png"), wanted(RAMP % 2, 1), atol=1e-6)


def test_several_images_in_one_file_are_refused(tmp_path):
    first, second = (image.fromarray((RAMP * n).astype(np.uint8)) for n in (1, 20))
    for suffix in ("gif", "tif", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        first.save(path, save_all=True, append_images=[second])
        with pytest.raises(ValueError, match=rf"a.{suffix} .*it holds 2 images; save each in a file of its own"):
            open_image(path)


def test_large_images_are_refused_before_they_are_decoded(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.new("1", (9000, 9000)).save(tmp_path / "a.png")  # a few kB
    assert (tmp_path / "a.png").stat().st_size < 20_000
    for reader in (lambda: open_image(tmp_path / "a.png"), lambda: read_images([tmp_path / "a.png"])):
        with pytest.raises(ValueError, match="9000 x 9000 pixels, more than max_pixels=67108864"):
            reader()
    assert open_image(tmp_path / "a.png", max_pixels=81_000_000).size == (9000, 9000)


def test_all_images_together_are_counted_by_the_first_header(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file in files:
        image.new("RGB", (10, 20)).save(file)
    assert read_images(files, max_bytes=3 * 3 * 200 * 4).shape == (3, 3, 20, 10)
    with pytest.raises(ValueError, match=r"3 images of \(20, 10\) pixels take 7200 bytes, more than max_bytes=7199"):
        read_images(files, max_bytes=7199)


def test_a_file_that_is_no_image_is_named(tmp_path):
    for data in (b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ValueError, match=r"a.png is not an image that can be read"):
            open_image(tmp_path / "a.png")
    assert torch.equal(pixels(image.new("L", (1, 1), 255)), torch.ones(1, 1, 1))
