"""Folders of images of several sizes; samples by their names; a verdict also where all else is quiet."""

import json

import numpy as np
import pytest

from hopfield_replay.cli import main
from hopfield_replay.cli.datasets import load_data

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folders(tmp_path):
    """Two classes of grey images of three sizes; the new ones are lighter, and one old image most of all."""
    draw = np.random.default_rng(0)
    for part, base in (("old", 40), ("new", 150)):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(6):
                size = [(12, 8), (8, 8), (8, 14)][number % 3]
                values = draw.integers(0, 60, size) + base
                image.fromarray(values.astype("uint8")).save(tmp_path / part / label / f"{label}{number}.png")
    return tmp_path


def test_images_are_scaled_and_cropped_around_their_centres(folders):
    data = load_data(str(folders / "old"), size=4)
    assert data.samples.shape == (12, 1, 4, 4)
    assert load_data(str(folders / "old"), several=8).samples.shape == (12, 1, 8, 8)
    left = load_data(str(folders / "old"), size=8).samples[1]
    file = folders / "old" / data.names[1]
    pixels = np.asarray(image.open(file), dtype=np.float32) / 127.5 - 1
    assert np.array_equal(left[0].numpy(), pixels)  # one that has this size is left as it is
    small = folders / "small"
    small.mkdir()
    image.open(file).save(small / "a.png")
    assert load_data(str(small), several=4).samples.shape == (1, 1, 8, 8)  # all of one size: as they are
    assert load_data(str(small), size=4).samples.shape == (1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"give images of one size and one kind, or the size .*--size"):
        load_data(str(folders / "old"))
    with pytest.raises(ValueError, match="size must be a whole number >= 1, got 0"):
        load_data(str(folders / "old"), size=0)


def test_a_forecast_calls_samples_and_classes_by_their_names(folders, capsys):
    out = folders / "out"
    options = ["--capacities", "3", "--size", "4", "--output-dir", str(out)]
    pytest.importorskip("matplotlib")
    assert main(["forecast", str(folders / "old"), str(folders / "new"), *options]) == 0
    said = capsys.readouterr().out
    found = json.loads((out / "forecast.json").read_text())
    worst = int(np.argmax(found["rises"]))
    names = load_data(str(folders / "old"), size=4).names
    assert f"most at risk: {names[worst]}\n" in said
    assert set(found["classes"]) == {"cat", "dog"}
    assert "\ncat " in said
    assert "\ndog " in said


def test_a_forecast_of_arrays_is_that_of_the_same_images_in_folders(tmp_path, capsys):
    """Arrays have their channels last, images from files first: number by number they would be other images."""
    image = pytest.importorskip("PIL.Image")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 9, 6, 5, 3), dtype=np.uint8)
    for name, some in zip(("old", "new"), pictures, strict=True):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(some):
            image.fromarray(picture).save(tmp_path / name / f"{number}.png")
        np.savez(tmp_path / f"{name}.npz", some)
    np.savez(tmp_path / "floats.npz", (pictures[0] / 255).astype(np.float32))
    said = []
    for old, new in (("old", "new"), ("old.npz", "new"), ("old", "new.npz"), ("old.npz", "new.npz")):
        assert main(["forecast", str(tmp_path / old), str(tmp_path / new), "--capacities", "3"]) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if "most at risk" not in line])
    assert said[1:] == said[:1] * 3
    assert main(["forecast", str(tmp_path / "floats.npz"), str(tmp_path / "new")]) == 2
    assert "floats.npz holds images as floats from 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["old", "old/results", "new/../old"])
def test_results_do_not_go_where_samples_are_read_from(folders, capsys, place):
    """The next time the figures were samples."""
    old, new = str(folders / "old"), str(folders / "new")
    files = sorted(folders.rglob("*"))
    for command in (["forecast", old, new], ["select", new, "--also", old, "--keep", "2"], ["audit", "--before", "a",
                    "--after", "b", "--data", new, "--old-data", old]):  # fmt: skip
        assert main([*command, "--output-dir", str(folders / place)]) == 2
        assert f"lies in '{old}', which is read" in capsys.readouterr().err
    handing = ["--keep", "2", "--export", "json", "--output", str(folders / place)]
    assert main(["select", old, *handing]) == 2
    assert "lies in" in capsys.readouterr().err
    assert sorted(folders.rglob("*")) == files


@pytest.mark.heavy
def test_an_audit_brings_images_to_the_pipelines_size_and_says_why_it_failed(folders, capsys):
    from tests.checkpoints.test_checkpoints import pipeline

    before, after = (str(pipeline(folders / f"pipeline{seed}", seed)) for seed in (0, 1))
    data = ["--data", str(folders / "old"), "--before", before, "--after", after, "--quiet", "--draws", "2"]
    worse = main(["audit", *data, "--fail-above", "-0.9"])
    said = capsys.readouterr()
    assert (worse, said.out) == (1, "")
    assert said.err.startswith("hopfield-replay: FAILED")
    assert said.err.count("\n") == 1
    assert main(["audit", *data, "--fail-above", "1e9"]) == 0
    assert capsys.readouterr() == ("", "")
