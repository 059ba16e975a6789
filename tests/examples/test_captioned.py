import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import captioned


def write(folder, names=("a.png", "b.png"), lines=None):
    folder.mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4), (10 * number, 20, 30)).save(folder / name)
    if lines is None:
        lines = [json.dumps({"file_name": name, "text": f"picture {name[0]}"}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def row(name, **entries):
    return json.dumps({"file_name": name, **entries})


def test_files_and_captions_come_in_the_order_of_the_metadata(tmp_path):
    folder = write(tmp_path / "birds", lines=[row("b.png", text="two"), "", row("a.png", text="one")])
    task = captioned.read_captioned(folder)
    assert (task.name, task.files, task.captions) == ("birds", (folder / "b.png", folder / "a.png"), ("two", "one"))
    assert task.distinct_captions(3) == ["two", "one", "two"]


def test_another_column_and_images_in_subfolders(tmp_path):
    folder = write(tmp_path / "cars", names=(), lines=[row("red/a.png", caption="a red car")])
    (folder / "red").mkdir()
    Image.new("RGB", (4, 4)).save(folder / "red" / "a.png")
    assert captioned.read_captioned(folder, "caption").captions == ("a red car",)


@pytest.mark.parametrize(
    ("names", "lines", "message"),
    [
        ((), [], "holds no images"),
        (("a.png",), ["{oops"], "line 1 is not JSON"),
        (("a.png",), [json.dumps({"text": "one"})], 'line 1 has no "file_name"'),
        (("a.png",), [row("a.png", caption="one")], r"a.png has no caption 'text' \(other entries: \['caption'\]\)"),
        (("a.png",), [row("a.png", text="  ")], "a.png has no caption"),
        (("a.png",), [row("a.png", text=None)], "a.png has no caption"),
        (("a.png",), [row("a.png", text="one"), row("c.png", text="two")], r"line 2: there is no image 'c.png' \(.png"),
        (("a.png", "b.png"), [row("a.png", text="one")], "no caption for 1 of 2 images: b.png"),
        (("a.png",), [], "no caption for 1 of 1 images"),
    ],
)
def test_folders_that_are_not_complete_are_refused(tmp_path, names, lines, message):
    with pytest.raises(ValueError, match=message):
        captioned.read_captioned(write(tmp_path / "task", names, lines))


def test_a_folder_without_captions_is_refused_and_told_how_they_look(tmp_path):
    folder = write(tmp_path / "task")
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match=r'no captions: put a metadata.jsonl there.*"file_name": "a.png"'):
        captioned.read_captioned(folder)
    with pytest.raises(ValueError, match="is not a folder"):
        captioned.read_captioned(tmp_path / "nowhere")


def test_images_are_cropped_around_their_centres(tmp_path):
    pixels = np.zeros((4, 12, 3), np.uint8)
    pixels[:, 4:8] = (255, 51, 0)  # the middle square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "grey.png")
    images = captioned.read_images([tmp_path / "wide.png", tmp_path / "grey.png"], 4)
    assert images.shape == (2, 3, 4, 4)
    torch.testing.assert_close(images[0, :, 0, 0], torch.tensor([1.0, -0.6, -1.0]))
    assert (images[1] == 1.0).all()


def test_images_come_upright_and_on_white(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 255  # white above black
    turned = Image.Exif()
    turned[0x0112] = 3  # as a camera held upside down writes it
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=turned)
    clear = np.dstack([np.zeros_like(pixels), np.array([0, 0, 255, 255], np.uint8)[:, None].repeat(4, 1)])
    Image.fromarray(clear).save(tmp_path / "clear.png")  # black, transparent in its upper half
    Image.fromarray(pixels[..., 0]).convert("P").save(tmp_path / "palette.png", transparency=b"\x00")
    turned, clear, palette = captioned.read_images([tmp_path / f"{n}.png" for n in ("turned", "clear", "palette")], 4)
    assert turned[0, :, 0].tolist() == [-1, -1, 1, 1]
    assert clear[0, :, 0].tolist() == [1, 1, -1, -1]
    assert (palette == 1).all()


def test_sixteen_bits_are_not_cut_to_white(tmp_path):
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(tmp_path / "deep.png")
    found = captioned.read_images([tmp_path / "deep.png"], 4)
    torch.testing.assert_close(found, torch.full((1, 3, 4, 4), 4000 / 32767.5 - 1.0))


def test_metadata_of_other_editors(tmp_path):
    lines = [json.dumps({"file_name": "a.png", "text": "one\u2028line"}, ensure_ascii=False), row("b.png", text="é")]
    folder = write(tmp_path / "task")
    (folder / "metadata.jsonl").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert captioned.read_captioned(folder).captions == ("one\u2028line", "é")
    (folder / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "\xe9"}')
    with pytest.raises(ValueError, match=r"metadata.jsonl, line 1 is not UTF-8"):
        captioned.read_captioned(folder)


def test_the_name_of_the_folder_one_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path / "birds"))
    assert captioned.read_captioned(captioned.Path()).name == "birds"


@pytest.mark.parametrize("damage", [b"not an image", None])
def test_an_image_that_does_not_decode_is_named(tmp_path, damage):
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900] if damage is None else damage)  # cut off, or something else
    with pytest.raises(ValueError, match=r"broken.png is not an image that can be read"):
        captioned.read_images([path], 8)


def test_what_is_written_is_read_again(tmp_path):
    images = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 127.5 - 1.0
    captioned.write_captioned(tmp_path / "task", images, ["one", "two", "two"])
    task = captioned.read_captioned(tmp_path / "task")
    torch.testing.assert_close(captioned.read_images(task.files, 8), images)
    assert task.captions == ("one", "two", "two")


def test_the_fingerprint_is_that_of_the_pictures_in_their_order(tmp_path):
    first, copy = write(tmp_path / "first"), write(tmp_path / "copy")
    other = write(tmp_path / "other", names=("b.png", "a.png"))
    fingerprints = [captioned.read_captioned(folder).fingerprint() for folder in (first, copy, other)]
    assert fingerprints[0] == fingerprints[1]
    Image.new("RGB", (4, 4), (11, 20, 30)).save(first / "a.png")
    assert captioned.read_captioned(first).fingerprint() not in fingerprints
