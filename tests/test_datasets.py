"""Samples from folders of images, array files and datamodules by name."""

import sys

import numpy as np
import pytest
import torch

from hopfield_replay.datasets import load_data
from tests.test_nested import same

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
    assert same(load_data(str(folder_of_images(tmp_path))), SCALED)


def test_subfolders_are_classes(tmp_path):
    samples, labels = load_data(str(folder_of_images(tmp_path, ".BMP", classes=("cat", "dog"))))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(samples, SCALED[[0, 2, 4, 1, 3, 5]])


def test_images_in_colour(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rgb = np.random.default_rng(1).integers(0, 256, size=(5, 4, 3), dtype=np.uint8)
    image.fromarray(rgb).save(tmp_path / "a.png")
    image.fromarray(rgb).convert("RGBA").save(tmp_path / "b.png")
    expected = torch.from_numpy(rgb.astype(np.float32) / 127.5 - 1.0)
    assert same(load_data(str(tmp_path)), torch.stack([expected, expected]))


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
    assert same(found, (expected, torch.arange(6)) if labelled else expected)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files_that_hold_no_data(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    with pytest.raises(ValueError, match=f"data{suffix} cannot be read as {suffix}"):
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
    with pytest.raises(ValueError, match=r"is not a folder, a .npz or .safetensors file, nor module:DataModule"):
        load_data(str(tmp_path / "missing.csv"))
