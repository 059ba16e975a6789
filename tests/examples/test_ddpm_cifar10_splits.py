import hashlib
import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("jsonargparse")
pytest.importorskip("matplotlib")
pytest.importorskip("tensorboard")
pytest.importorskip("torchvision")

from torchvision.datasets import CIFAR10

from helpers.cifar10 import load_cifar10
from helpers.splits import be_quiet
from hopfield_replay.policies import POLICIES

SCRIPT = Path(__file__).parents[2] / "examples" / "ddpm_cifar10_splits.py"


def images_and_labels(count, seed):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10


def write_npz(folder, train, test):
    folder.mkdir(exist_ok=True)
    for name, (images, labels) in (("train", train), ("test", test)):
        np.savez(folder / f"{name}.npz", images=images, labels=labels)


def write_torchvision(monkeypatch, folder, train, test):
    """The files of the original data set, whose checksums torchvision is told."""
    inside = folder / "cifar-10-batches-py"
    inside.mkdir(parents=True)

    def write(name, content):
        (inside / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((inside / name).read_bytes()).hexdigest()]

    def batch(name, images, labels):
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # a row: all red, all green, all blue
        return write(name, {"data": rows, "labels": labels.tolist()})

    parts = zip(np.array_split(train[0], 5), np.array_split(train[1], 5), strict=True)
    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{i}", *part) for i, part in enumerate(parts, 1)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", *test)])
    name, checksum = write("batches.meta", {"label_names": [str(label) for label in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": checksum})


def test_both_layouts_give_the_same_images(monkeypatch, tmp_path):
    train, test = images_and_labels(50, 0), images_and_labels(20, 1)
    write_npz(tmp_path / "npz", train, test)
    write_torchvision(monkeypatch, tmp_path / "torchvision", train, test)
    for folder in ("npz", "torchvision"):
        for found, (images, labels) in zip(load_cifar10(tmp_path / folder), (train, test), strict=True):
            expected = (images.astype(np.float64) / 127.5 - 1).transpose(0, 3, 1, 2)
            np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
            assert found[0].dtype == torch.float32
            assert found[1].tolist() == labels.tolist()
            assert found[1].dtype == torch.int64


def spoil_nothing(folder):
    folder.rmdir()


def spoil_test(folder):
    write_npz(folder, images_and_labels(10, 0), images_and_labels(10, 0))
    (folder / "test.npz").unlink()


def spoil_shape(folder):
    images, labels = images_and_labels(10, 0)
    write_npz(folder, (images[:, :28], labels), (images, labels))


def spoil_type(folder):
    images, labels = images_and_labels(10, 0)
    write_npz(folder, (images.astype(np.float32), labels), (images, labels))


def spoil_labels(folder):
    images, labels = images_and_labels(10, 0)
    write_npz(folder, (images, labels), (images, labels + 1))


def spoil_keys(folder):
    write_npz(folder, images_and_labels(10, 0), images_and_labels(10, 0))
    np.savez(folder / "train.npz", x=np.zeros(3))


def spoil_file(folder):
    write_npz(folder, images_and_labels(10, 0), images_and_labels(10, 0))
    (folder / "train.npz").write_bytes(b"no archive")


def spoil_end(folder):
    write_npz(folder, images_and_labels(10, 0), images_and_labels(10, 0))
    whole = (folder / "train.npz").read_bytes()
    (folder / "train.npz").write_bytes(whole[: len(whole) // 2])


def spoil_checksum(folder):
    (folder / "cifar-10-batches-py").mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing, "There is no CIFAR-10 in"),
        (spoil_test, "There is no CIFAR-10 in"),
        (spoil_shape, r"train\.npz holds images uint8 of shape \(10, 28, 32, 3\)"),
        (spoil_type, r"train\.npz holds images float32"),
        (spoil_labels, r"test\.npz holds 10 images, and labels of shape \(10,\) with the values \[1, 2"),
        (spoil_keys, r"train\.npz cannot be read: .*images"),
        (spoil_file, r"train\.npz cannot be read"),
        (spoil_end, r"train\.npz cannot be read"),
        (spoil_checksum, "torchvision cannot read .*cifar-10-batches-py: "),
    ],
)
def test_a_wrong_folder_names_both_layouts(tmp_path, spoil, message):
    folder = tmp_path / "data"
    folder.mkdir()
    spoil(folder)
    with pytest.raises(ValueError, match=message) as raised:
        load_cifar10(folder)
    assert "cifar-10-batches-py/ with data_batch_1" in str(raised.value)
    assert "train.npz and test.npz, each with images (n, 32, 32, 3) uint8" in str(raised.value)


def start(monkeypatch, *arguments):
    """Run the script in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    be_quiet()
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise


@pytest.mark.heavy
def test_tiny_runs_class_conditional_from_end_to_end(monkeypatch, capsys, tmp_path):
    write_npz(tmp_path / "data", images_and_labels(400, 0), images_and_labels(30, 1))
    threads = torch.get_num_threads()
    try:
        start(
            monkeypatch, "--data-dir", tmp_path / "data", "--epochs", 1, "--policies", "none", "greedy_gain",
            "--capacity", 8, "--class-conditional", "--schedule", "cosine", "--output-dir", tmp_path / "out",
            "--batch-size", 16, "--width", 32,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert "CIFAR-10: tasks [[0, 8], [4, 6]], 80 training images in the first" in printed
    assert "greedy_gain against none" in printed
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["arguments"]["class_conditional"] is True
    assert [arm["policy"] for arm in results["arms"]] == ["none", "greedy_gain"]
    none, greedy = (arm["tasks"][1] for arm in results["arms"])
    assert none["reconstruction_forgetting"] != greedy["reconstruction_forgetting"]
    assert [none["replayed"], greedy["replayed"]] == [0, 8]
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"forgetting.png", "samples_none.png", "reconstructions_greedy_gain.png"} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policies", "best"], "unknown policies ['best']; choose from none"),
        (["--tasks", "11"], "--tasks must be 2 to 10, got 11"),
        (["--train", "31"], "--train must be at least one batch of 32, got 31"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--width", "12"], "--width must be a multiple of 8, got 12"),
        (["--capacity", "0"], "--capacity must be at least 1, got 0"),
        (["--preset", "huge"], "huge"),
        (["--schedule", "sine"], "sine"),
        (["--data-dir", "nowhere"], "There is no CIFAR-10 in nowhere"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_paper_preset_needs_a_gpu(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        start(monkeypatch, "--preset", "paper")
    assert "the accelerator is gpu, but torch finds none; use --preset tiny on a CPU" in capsys.readouterr().err


def test_presets_and_options_reach_the_training(monkeypatch, tmp_path):
    import ddpm_cifar10_splits as script

    write_npz(tmp_path, images_and_labels(400, 0), images_and_labels(30, 1))
    calls = []
    monkeypatch.setattr(script, "run_arms", lambda *given, **training: calls.append((given, training)))
    threads = torch.get_num_threads()
    for arguments in (
        ["--preset", "paper", "--accelerator", "cpu", "--class-conditional"],
        ["--policies", "all", "--capacity", "7", "--tasks", "5", "--train", "32"],
        ["--preset", "paper", "--accelerator", "cpu", "--width", "8", "--batch-size", "5", "--precision", "32-true"],
    ):
        monkeypatch.setattr(sys, "argv", ["script", "--data-dir", str(tmp_path), *arguments])
        script.main()
    torch.set_num_threads(threads)
    (paper, paper_training), (tiny, tiny_training), (cut, cut_training) = calls
    assert paper[0] == ["none", "random", "high_energy", "low_energy", "greedy_gain"]
    assert paper_training["precision"] == "bf16-mixed"
    assert paper_training["accelerator"] == "cpu"
    assert [(len(split.train), split.batch_size) for split in paper[1]] == [(200, 128)] * 2
    assert paper[2].keywords["classes"] == 10
    assert tiny[0] == ["none", *POLICIES]
    assert tiny_training["capacity"] == 7
    assert [len(split.train) for split in tiny[1]] == [32] * 5
    assert tiny[2].keywords["classes"] is None
    assert (tiny[2]().network.config.sample_size, tiny[1][0].train.tensors[0].shape[1:]) == (16, (3, 16, 16))
    unet = cut[2]().network
    assert (unet.config.sample_size, unet.config.in_channels) == (32, 3)
    assert tuple(unet.config.block_out_channels) == (8, 16, 16, 16)
    assert [type(block).__name__ for block in unet.down_blocks].index("AttnDownBlock2D") == 1  # at 16x16
    assert cut[1][0].batch_size == 5
    assert cut_training["precision"] == "32-true"
