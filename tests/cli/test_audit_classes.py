"""A class-conditional model gets the numbers that it knows, and it is told which."""

import json

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("jsonargparse")
pytest.importorskip("PIL")

from PIL import Image

from hopfield_replay.cli import main
from hopfield_replay.denoisers import CallableDenoiser, DiffusersDenoiser

KNOWN = ["bird", "cat", "deer", "dog"]
PIXELS = np.random.default_rng(0).integers(0, 255, size=(12, 4, 4, 3), dtype=np.uint8)


class Told(nn.Module):
    """Predicts the number in its table, at the label that it gets: its errors tell which that was."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4))
        self.denoiser = CallableDenoiser(
            lambda x, t, rest: self.table[rest[0]].view(-1, 1, 1, 1).expand_as(x),
            torch.linspace(0.99, 0.01, 20),
            conditional=True,
        )


class Deaf(nn.Module):
    """The same for any label."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(4))
        self.denoiser = CallableDenoiser(lambda x, t: self.table.sum() * 0 + x, torch.linspace(0.99, 0.01, 20))


def folder(place, names):
    for number, pixels in enumerate(PIXELS):
        path = place / names[number % len(names)]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path / f"{number:02}.png")
    return place


def checkpoints(place, model=Told):
    before, after = model(), model()
    nn.init.zeros_(before.table)
    after.table.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for name, one in (("a", before), ("b", after)):
        torch.save(one.state_dict(), place / f"{name}.pt")


def audit(place, data, *more, model="Told"):
    return main([
        "audit", "--before", str(place / "a.pt"), "--after", str(place / "b.pt"), "--model", f"{__name__}:{model}",
        "--data", *map(str, data), "--device", "cpu", "--output-dir", str(place / "out"), *more,
    ])  # fmt: skip


def rises(place):
    report = json.loads((place / "out" / "audit.json").read_text())
    return dict(zip(report["names"], report["rises"], strict=True)), list(report["classes"])


def expected(place, labels):
    """From an array in the order of the folder, whose labels are the model's own numbers."""
    order = np.argsort(labels, kind="stable")
    np.savez(place / "own.npz", images=PIXELS[order], labels=np.array(labels)[order])
    assert audit(place, [place / "own.npz"]) == 0
    return list(rises(place)[0].values())


def test_folders_get_the_numbers_of_the_classes_that_are_given(tmp_path, capsys):
    checkpoints(tmp_path)
    right = expected(tmp_path, [1, 3] * 6)
    wrong = expected(tmp_path, [0, 1] * 6)
    assert not np.allclose(right, wrong, rtol=0.1)
    assert "classes:" not in capsys.readouterr().out
    source = folder(tmp_path / "images", ["cat", "dog"])
    assert audit(tmp_path, [source], "--classes", *KNOWN) == 0
    found, classes = rises(tmp_path)
    assert np.allclose(list(found.values()), right)
    assert sorted(classes) == ["cat", "dog"]
    assert "classes:" not in capsys.readouterr().out


@pytest.mark.heavy
def test_numbers_that_nobody_gave_are_told_and_a_gate_sees_them(tmp_path, capsys):
    checkpoints(tmp_path)
    source = folder(tmp_path / "images", ["cat", "dog"])
    assert audit(tmp_path, [source]) == 0
    assert "classes: 0 = cat, 1 = dog for the model, by the names of the folders (--classes" in capsys.readouterr().out
    assert audit(tmp_path, [source], "--classes", *KNOWN) == 0  # nothing that was kept is of the other numbers
    again, _ = rises(tmp_path)
    (tmp_path / "out" / "audit.json").unlink()
    assert audit(tmp_path, [source], "--classes", *KNOWN) == 0
    assert rises(tmp_path)[0] == again
    assert audit(tmp_path, [source]) == 0
    assert not np.allclose(list(rises(tmp_path)[0].values()), list(again.values()), rtol=0.1)


def test_a_model_without_classes_is_not_told_of_them(tmp_path, capsys):
    checkpoints(tmp_path, Deaf)
    assert audit(tmp_path, [folder(tmp_path / "images", ["cat", "dog"])], model="Deaf") == 0
    assert "classes:" not in capsys.readouterr().out


def test_one_subfolder_has_a_number_if_its_class_is_given(tmp_path):
    checkpoints(tmp_path)
    right = expected(tmp_path, [2] * 12)
    one = folder(tmp_path / "images", ["deer"])
    assert audit(tmp_path, [one], "--classes", *KNOWN) == 0
    found, classes = rises(tmp_path)
    assert np.allclose(list(found.values()), right)
    assert classes == ["deer"]


def test_labels_of_a_file_get_names(tmp_path):
    checkpoints(tmp_path)
    np.savez(tmp_path / "own.npz", images=PIXELS, labels=np.array([0, 3] * 6))
    assert audit(tmp_path, [tmp_path / "own.npz"], "--classes", *KNOWN) == 0
    assert sorted(rises(tmp_path)[1]) == ["bird", "dog"]


@pytest.mark.parametrize(
    ("names", "labels", "given", "message"),
    [
        (["cat", "wolf"], None, KNOWN, "the subfolder 'wolf' holds samples and is none of the classes ['bird', 'cat',"),
        (["cat", "."], None, KNOWN, "the folder itself holds samples and is none of the classes"),
        (None, [0, 4], KNOWN, "labels from 0 to 4 are more than the 4 classes of --classes"),
        (["cat", "dog"], None, ["cat", "dog", "cat"], "--classes names one class twice: cat dog cat"),
    ],
)
def test_classes_that_do_not_fit(tmp_path, capsys, names, labels, given, message):
    checkpoints(tmp_path)
    if names is None:
        source = tmp_path / "own.npz"
        np.savez(source, images=PIXELS, labels=np.array(labels * 6))
    else:
        source = folder(tmp_path / "images", names)
    assert audit(tmp_path, [source], "--classes", *given) == 2
    assert message in capsys.readouterr().err


def test_which_networks_of_diffusers_take_classes():
    diffusers = pytest.importorskip("diffusers")
    small = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    for classes in (None, 4):
        unet = diffusers.UNet2DModel(8, 1, 1, num_class_embeds=classes, **small, **blocks)
        assert DiffusersDenoiser(unet, diffusers.DDPMScheduler()).conditional is (classes is not None)
