"""Samples from folders of images, array files and datamodules by name."""

import sys

import numpy as np
import pytest
import torch

from hopfield_replay.cli.datasets import Samples, check_scales, in_one_numbering, load_data

PIXELS = np.random.default_rng(0).integers(0, 256, size=(6, 5, 4), dtype=np.uint8)
SCALED = torch.from_numpy(PIXELS.astype(np.float32) / 127.5 - 1.0)


def folder_of_images(folder, suffix=".png", count=6, classes=()):
    image = pytest.importorskip("PIL.Image")
    for i in range(count):
        place = folder / classes[i % len(classes)] if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        image.fromarray(PIXELS[i]).save(place / f"{i}{suffix}")
    return folder


def test_a_folder_of_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    found = load_data(str(folder_of_images(tmp_path)))
    assert torch.equal(found.samples, SCALED[:, None])
    assert found.names == tuple(f"{i}.png" for i in range(6))
    assert (found.labels, found.classes, found.captions, found.label_names()) == (None, (), (), None)


def test_subfolders_are_classes(tmp_path):
    found = load_data(str(folder_of_images(tmp_path, ".BMP", classes=("cat", "dog"))))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.label_names() == ["cat"] * 3 + ["dog"] * 3
    assert torch.equal(found.samples, SCALED[[0, 2, 4, 1, 3, 5], None])
    assert found.names[0] == "cat/0.BMP"


def test_images_in_colour(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rgb = np.random.default_rng(1).integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
    image.fromarray(rgb).save(tmp_path / "a.png")
    image.fromarray(rgb).convert("RGBA").save(tmp_path / "b.png")
    expected = torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1.0).permute(2, 0, 1)
    assert torch.equal(load_data(str(tmp_path)).samples, torch.stack([expected, expected]))


def captioned(folder, lines):
    folder_of_images(folder, count=4)
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return str(folder)


def test_captions(tmp_path):
    lines = [f'{{"file_name": "{i}.png", "text": "a {kind}"}}' for i, kind in enumerate(["cat", "dog"] * 2)]
    found = load_data(captioned(tmp_path, [*lines, ""]))
    assert found.captions == ("a cat", "a dog") * 2
    assert found.label_names() == ["a cat", "a dog"] * 2
    assert found.batches()[0]["captions"] == ["a cat", "a dog"] * 2
    with pytest.raises(ValueError, match=r"1 of 4 images in .* have no caption: 3.png"):
        load_data(captioned(tmp_path, lines[:3]))
    for line in ("{", '{"text": "a"}', "3"):
        with pytest.raises(ValueError, match=r"metadata.jsonl, line 2"):
            load_data(captioned(tmp_path, [lines[0], line]))


def test_captions_beside_images_and_in_subfolders_are_those_that_select_reads(tmp_path):
    folder_of_images(tmp_path, count=2)
    (tmp_path / "._0.png").write_bytes(b"what macOS leaves beside a file")
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text(f"picture {i}\n")
    found = load_data(str(tmp_path))
    assert (found.captions, found.names) == (("picture 0", "picture 1"), ("0.png", "1.png"))
    (tmp_path / "1.txt").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images in .* have no caption: 1.png"):
        load_data(str(tmp_path))
    nested = tmp_path / "nested"
    for name in ("cat", "dog"):
        captioned(nested / name, [f'{{"file_name": "{i}.png", "text": "a {name} {i}"}}' for i in range(4)])
    assert load_data(str(nested)).captions == tuple(f"a {name} {i}" for name in ("cat", "dog") for i in range(4))


SIGNED = Samples(torch.linspace(-1, 1, 32).view(2, 1, 4, 4), scaled=True)
POSITIVE = Samples(torch.linspace(0, 1, 32).view(2, 4, 4))


@pytest.mark.parametrize(
    ("parts", "model", "wrong"),
    [
        ([SIGNED, POSITIVE], None, "1 holds images as floats from 0 to 1, 0 from -1 to 1"),
        ([SIGNED, Samples(127.5 * (POSITIVE.samples + 1))], None, "1 holds images as floats from 128 to 255"),
        ([Samples(SIGNED.samples), POSITIVE], None, "holds images as floats"),
        ([Samples(255 * POSITIVE.samples), POSITIVE], None, "0 holds images as floats from 0 to 255, 1 from 0 to 1"),
        ([POSITIVE], "pipeline/", "0 holds images as floats from 0 to 1, and pipeline/ takes them from -1 to 1"),
        ([POSITIVE], None, None),
        ([SIGNED], "pipeline/", None),
        ([SIGNED, Samples(1.1 * SIGNED.samples)], "pipeline/", None),  # as bicubic resampling overshoots
        ([SIGNED, Samples((SIGNED.samples + 1) / 2, scaled=True)], None, None),  # bright bytes
        ([SIGNED, Samples(torch.full((2, 16), 255.0))], None, None),  # no images: vectors
        ([POSITIVE, Samples(torch.zeros(2, 4, 4))], None, None),
    ],
)
def test_images_on_different_scales_are_refused(parts, model, wrong):
    named = {str(number): part for number, part in enumerate(parts)}
    if wrong is None:
        check_scales(named, model)
    else:
        with pytest.raises(ValueError, match=f"{wrong}.*as uint8 or as floats in"):
            check_scales(named, model)


def test_labels_of_several_folders_get_one_numbering(tmp_path):
    parts = [
        load_data(str(folder_of_images(tmp_path / str(i), classes=names)))
        for i, names in enumerate([("cat", "dog"), ("ant", "dog")])
    ]
    first, second = in_one_numbering(parts)
    assert first.classes == second.classes == ("ant", "cat", "dog")
    assert (first.labels.tolist(), second.labels.tolist()) == ([1, 1, 1, 2, 2, 2], [0, 0, 0, 2, 2, 2])
    assert first.label_names() == parts[0].label_names()
    numbers = Samples(SCALED, torch.arange(6))
    assert in_one_numbering([numbers]) == [numbers]


def test_batches_and_images():
    samples = Samples(torch.zeros(300, 5, 4), torch.arange(300))
    assert [len(x) for x, _ in samples.batches()] == [256, 44]
    assert samples.as_images(strict=True).samples.shape == (300, 1, 5, 4)
    assert Samples(torch.zeros(2, 7)).as_images(strict=False).samples.shape == (2, 7)
    with pytest.raises(ValueError, match=r"samples of shape \(7,\), which are no images"):
        Samples(torch.zeros(2, 7)).as_images(strict=True)


def test_folders_that_hold_no_data(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        load_data(str(tmp_path))
    folder_of_images(tmp_path, count=2)
    (tmp_path / "9.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"9.png is not an image that can be read"):
        load_data(str(tmp_path))
    (tmp_path / "9.png").unlink()
    pytest.importorskip("PIL.Image").fromarray(PIXELS[0, :3]).save(tmp_path / "5.png")
    with pytest.raises(ValueError, match=r"5.png has shape \(3, 4\), but .*0.png has \(5, 4\); give images"):
        load_data(str(tmp_path))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_array_files(tmp_path, suffix, labelled, dtype):
    arrays = {"images": PIXELS.astype(dtype), "scale": np.array(2.0)}
    if labelled:
        arrays = {"score": np.zeros(6, np.float32), "labels": np.arange(6, dtype=np.int32), **arrays}
    path = tmp_path / f"data{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays, names=np.array(["a"] * 6))
    else:
        from safetensors.numpy import save_file

        save_file(arrays, path)
    found = load_data(str(path))
    expected = SCALED if dtype == "uint8" else torch.from_numpy(PIXELS.astype(np.float32))
    assert torch.equal(found.samples, expected)
    assert found.label_names() == (list(range(6)) if labelled else None)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["ids", "labels"], "labels"), (["source", "y"], "y"), (["ID", "split"], "split"), (["index"], None),
        (["kind", "split"], "kind"), (["ids", "Target"], "Target"),
    ],
)  # fmt: skip
def test_which_array_of_a_file_holds_the_labels(tmp_path, suffix, names, labels):
    arrays = {name: np.full(6, number, np.int64) for number, name in enumerate(names)} | {"images": PIXELS}
    if suffix == ".npz":
        np.savez(tmp_path / f"data{suffix}", **arrays)
    else:
        from safetensors.numpy import save_file

        save_file(arrays, tmp_path / f"data{suffix}")
    found = load_data(str(tmp_path / f"data{suffix}")).label_names()
    assert found == (None if labels is None else [names.index(labels)] * 6)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_that_hold_no_data(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    with pytest.raises(ValueError, match=f"data{suffix} does not exist"):
        load_data(str(path))
    path.write_bytes(b"PK or not")
    with pytest.raises(ValueError, match=f"data{suffix} cannot be read as {suffix}"):
        load_data(str(path))
    np.savez(tmp_path / "flat.npz", labels=np.arange(4))
    with pytest.raises(ValueError, match=r"holds no array of samples \(n, ...\); it holds \['labels'\]"):
        load_data(str(tmp_path / "flat.npz"))


def test_pickles_in_npz_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("it ran",))

    np.savez(tmp_path / "bomb.npz", images=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match=r"bomb.npz cannot be read as .npz"):
        load_data(str(tmp_path / "bomb.npz"))


MODULE = """
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

class Digits(LightningDataModule):
    def prepare_data(self):
        self.calls = ["prepare"]
    def setup(self, stage):
        self.calls.append(stage)
    def train_dataloader(self):
        assert self.calls == ["prepare", "fit"]
        return DataLoader(torch.arange(40.0).view(20, 2), batch_size=4)

class Needs:
    def __init__(self, path): ...
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "own_data"
    sys.modules.pop("own_data", None)


def test_a_datamodule_by_name(module):
    batches = list(load_data(f"{module}:Digits"))
    assert torch.equal(torch.cat(batches), torch.arange(40.0).view(20, 2))


@pytest.mark.parametrize("name", ["own_data:Missing", "own_data:Needs", "nowhere.at.all:Digits", "own_data:"])
def test_datamodules_that_cannot_be_made(module, name):
    with pytest.raises(ValueError, match=f"'{name}' cannot be imported and called without arguments"):
        load_data(name)


def test_something_else(tmp_path):
    with pytest.raises(ValueError, match=r"missing.csv' does not exist; give a folder of images, a .npz"):
        load_data(str(tmp_path / "missing.csv"))
    (tmp_path / "here.csv").write_text("1,2")
    with pytest.raises(ValueError, match=r"is not a folder, a .npz or .safetensors file, nor module:DataModule"):
        load_data(str(tmp_path / "here.csv"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".webp", ".tif"])
def test_damaged_images_are_named(tmp_path, suffix):
    path = next(iter(folder_of_images(tmp_path, suffix, count=1).iterdir()))
    whole = path.read_bytes()
    said = []
    for keep in range(0, len(whole), 7):  # cut anywhere, an image is read or refused by name, and nothing else happens
        path.write_bytes(whole[:keep])
        try:
            load_data(str(tmp_path))
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 2
    assert all(f"0{suffix} is not an image that can be read" in message for message in said)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_whole_numbers_and_truth_values_are_scaled_by_what_they_can_hold(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"

    def read(array):
        if suffix == ".npz":
            np.savez(path, x=array)
        else:
            from safetensors.numpy import save_file

            save_file({"x": array}, path)
        return load_data(str(path)).samples.double().numpy()

    deep = np.random.default_rng(0).integers(0, 65536, (5000, 3)).astype(np.uint16)
    np.testing.assert_allclose(read(deep), deep / 65535 * 2.0 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(read(deep > 9), np.where(deep > 9, 1.0, -1.0))
    for kind in ("int8", "int32", "int64", "uint32"):
        with pytest.raises(ValueError, match=rf"'x' holds {kind}, whose range no file says; save the samples as uint8"):
            read(deep.astype(kind))


def test_captions_that_contradict_each_other(tmp_path):
    lines = [f'{{"file_name": "{i}.png", "text": "a cat"}}' for i in range(4)]
    assert len(load_data(captioned(tmp_path, [*lines, lines[0]])).captions) == 4
    with pytest.raises(ValueError, match=r"line 5: 0.png has another caption above"):
        load_data(captioned(tmp_path, [*lines, '{"file_name": "0.png", "text": "a dog"}']))
