"""hopfield-replay select, from files to files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hopfield_replay.cli import main
from tests.analysis import trainers
from tests.analysis.test_exports import pictures
from tests.analysis.test_generating import Pipeline

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "train.npz"


def run(*arguments, quiet=True):
    return main(["select", *map(str, arguments), *(["--quiet"] if quiet else [])])


def folders(tmp_path, counts=(6, 4)):
    (tmp_path / "old").mkdir()
    for name, count in zip("ab", counts, strict=True):
        pictures(tmp_path / "old" / name, count=count)
    return tmp_path / "old"


def test_a_folder_goes_in_and_a_trainers_folder_comes_out(tmp_path, capsys):
    old = folders(tmp_path)
    new = pictures(tmp_path / "new", count=5)
    outcome = ["--export", "onetrainer", "--output", tmp_path / "out", "--output-dir", tmp_path / "res"]
    assert run(old, new, "--keep", 4, "--by", "folder", *outcome, quiet=False) == 0
    told = json.loads((tmp_path / "res" / "select.json").read_text())
    names = [row["name"] for row in told["chosen"]]
    assert [name[0] for name in names] == ["a", "b", "a", "b"]
    shown = sorted(trainers.onetrainer(tmp_path / "out"), key=lambda row: row[0].stem)
    assert [row[0].read_bytes() for row in shown] == [(old / name).read_bytes() for name in names]
    assert sum(row[2] for row in shown) == 16
    with Image.open(tmp_path / "res" / "contact_sheet.png") as sheet:
        assert sheet.width == 800
    assert "4 of 10 samples chosen by greedy_gain" in (said := capsys.readouterr().out)
    assert f"Wrote 4 images to {tmp_path}/out" in said


def test_arrays_have_no_files_and_can_be_exported(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 5, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "old.npz", images=images, labels=np.arange(12) % 3)
    arguments = ["--keep", 6, "--by", "label", "--export", "json", "--output", tmp_path / "out"]
    assert run(tmp_path / "old.npz", *arguments) == 0
    rows = json.loads((tmp_path / "out" / "replay.json").read_text())
    assert [row["label"] for row in rows] == ["0", "1", "2"] * 2
    for row in rows:
        with Image.open(row["path"]) as written:
            np.testing.assert_array_equal(np.asarray(written), images[int(row["source"])])


def test_bright_bytes_are_handed_over_as_they_are_and_floats_of_no_known_range_refused(tmp_path, capsys):
    images = np.random.default_rng(0).integers(128, 256, (6, 5, 5, 3), dtype=np.uint8)
    np.savez(tmp_path / "bright.npz", images=images)
    assert run(tmp_path / "bright.npz", "--keep", 3, "--export", "json", "--output", tmp_path / "out") == 0
    for row in json.loads((tmp_path / "out" / "replay.json").read_text()):
        with Image.open(row["path"]) as written:
            np.testing.assert_array_equal(np.asarray(written), images[int(row["source"])])
    np.savez(tmp_path / "floats.npz", images=images.astype(np.float32))
    assert run(tmp_path / "floats.npz", "--keep", 3) == 2
    assert "images as floats from 128 to 255: their range is not known" in capsys.readouterr().err


def test_vectors_and_datamodules_are_chosen_from_but_not_exported(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "old.npz", x=np.random.default_rng(0).normal(size=(9, 4)).astype("f4"))
    assert run(tmp_path / "old.npz", "--keep", 3, "--output-dir", tmp_path / "res") == 0
    assert sorted(path.name for path in (tmp_path / "res").iterdir()) == ["select.json"]
    assert run(tmp_path / "old.npz", "--keep", 3, "--export", "json", "--output", tmp_path / "out") == 2
    assert "holds no images" in capsys.readouterr().err
    (tmp_path / "own.py").write_text(
        "import torch\nclass Data:\n    def prepare_data(self): pass\n    def setup(self, stage): pass\n"
        "    def train_dataloader(self): return [torch.arange(8.0)[:, None]]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run("own:Data", "--keep", 2) == 0


def test_several_sources_are_tasks(tmp_path):
    one, two = pictures(tmp_path / "one", count=8), pictures(tmp_path / "two", count=4)
    arguments = ["--also", two, "--keep", 4, "--by", "task", "--output-dir", tmp_path / "res"]
    assert run(one, *arguments) == 0
    told = json.loads((tmp_path / "res" / "select.json").read_text())
    assert {name: row["kept"] for name, row in told["classes"].items()} == {str(one): 2, str(two): 2}
    assert {row["name"].split("/")[0] for row in told["chosen"]} == {"one", "two"}


def test_an_encoder_from_disk_says_how_large_images_are(tmp_path, monkeypatch):
    from hopfield_replay import checkpoints

    old, asked = folders(tmp_path), []

    class Encoder:
        def to(self, device):
            asked.append(device)

        def __call__(self, batch):
            asked.append(tuple(batch.shape))
            return batch.flatten(1)

    monkeypatch.setattr(checkpoints, "load_encoder", lambda path: checkpoints.LoadedEncoder(Encoder(), 3))
    assert run(old, "--keep", 2, "--encoder", "somewhere") == 0
    assert asked == ["cpu", (10, 1, 3, 3)]
    assert run(old, "--keep", 2, "--encoder", "somewhere", "--size", "5") == 0
    assert asked[-1] == (10, 1, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "99"], "--keep 99 is more than the 10"),
        (["--keep", "2", "--by", "colour"], "--by must be label, folder or task"),
        (["--keep", "2", "--by", "task"], "--by task needs several sources"),
        (["--keep", "2", "--export", "json"], "belong together"),
        (["--keep", "2", "--output", "out"], "belong together"),
        (["--keep", "2", "--export", "zip", "--output", "out"], "Unknown --export"),
        (["--keep", "2", "--export", "json", "--output", "old"], "--output 'old' lies in 'old', which is read"),
        (["--keep", "2", "--encoder", "missing"], "missing does not exist"),
        (["--keep", "2", "--policy", "best"], "Unknown policy"),
        (["--also", "nowhere", "--keep", "2"], "nowhere"),
        (["--keep", "2", "--generate", "pipeline"], "a pipeline needs prompts"),
        (["--keep", "2", "--prompts", "p.txt"], "belong together"),
        (["--keep", "2", "--generate", "p", "--prompts", "p.txt", "--files", "symlink"], "cannot link"),
        (["--keep", "2", "--generate", "p", "--prompts", "p.txt"], "p.txt cannot be read"),
    ],
)
def test_bad_input_ends_with_2_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("old", *arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


def test_nothing_to_choose_from_is_said(tmp_path, capsys):
    assert run("--keep", "2") == 2
    assert "Give OLD" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", "--keep", "2") == 2
    assert "nowhere" in capsys.readouterr().err


def test_names_write_no_lines_of_their_own(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    pictures(tmp_path / "old" / "cats\nno 2 samples protect more", count=4)
    pictures(tmp_path / "old" / "\x1b[31mdogs", count=4)
    assert run(tmp_path / "old", "--keep", 2, "--output-dir", tmp_path / "out", quiet=False) == 0
    said = capsys.readouterr().out
    assert r"cats\nno 2 samples protect more" in said
    assert "\x1b" not in said


def test_an_empty_class_is_named(tmp_path, capsys):
    (folders(tmp_path) / "c").mkdir()
    assert run(tmp_path / "old", "--keep", 3, "--by", "folder") == 2
    assert "folders without images: c" in capsys.readouterr().err
    assert run(tmp_path / "old", "--keep", 3, "--by", "label") == 0


def test_a_pipeline_generates_what_there_is_to_choose_from(tmp_path, monkeypatch):
    from hopfield_replay import checkpoints

    class Grey(Pipeline):
        def to(self, device):
            assert device == "cpu"
            return self

    pipeline = Grey()
    monkeypatch.setattr(checkpoints, "open_pipeline", lambda path: pipeline)
    (tmp_path / "prompts.txt").write_text("grey 0.2\ngrey 0.8\n")
    new = pictures(tmp_path / "new", count=5)
    generate = ["--generate", "somewhere", "--prompts", tmp_path / "prompts.txt", "--steps", 3, "--keep", 4]
    outcome = ["--export", "kohya", "--output", tmp_path / "out", "--output-dir", tmp_path / "res"]
    assert run(new, *generate, *outcome, "--pool", 9, "--size", 4) == 0
    assert [asked for asked, _ in pipeline.asked] == [8, 1]
    assert pipeline.asked[0][1] == {"num_inference_steps": 3}
    told = json.loads((tmp_path / "res" / "select.json").read_text())
    assert (told["samples"], told["candidates"]) == (9, 9)
    shown = trainers.kohya(tmp_path / "out")
    assert {row[1] for row in shown} == {"grey 0.2", "grey 0.8"}
    assert run(*generate) == 0  # the new data unknown, and 10 times as many as are kept
    assert sum(asked for asked, _ in pipeline.asked[2:]) == 40


@pytest.mark.skipif(not CIFAR.is_file(), reason="the CIFAR-10 subset is not here")
def test_real_photographs_end_to_end(tmp_path):
    """Airplanes, automobiles and few cats, against a fine-tune on dogs; the choice covers more than random ones."""
    with np.load(CIFAR) as data:
        images, labels, names = (data[name] for name in ("images", "labels", "classes"))
    for split, kinds in (("old", {0: 40, 1: 40, 3: 10}), ("new", {5: 40})):
        for kind, count in kinds.items():
            folder = tmp_path / split / str(names[kind])
            folder.mkdir(parents=True)
            for i in np.flatnonzero(labels == kind)[:count]:
                Image.fromarray(images[i]).save(folder / f"{i}.png")
                (folder / f"{i}.txt").write_text(f"a photo of a {folder.name}")
    outcome = ["--export", "kohya", "--output", tmp_path / "out", "--output-dir", tmp_path / "res"]
    with pytest.warns(UserWarning, match="pixel by pixel"):
        assert run(tmp_path / "old", tmp_path / "new", "--keep", 12, "--unique", *outcome) == 0
    told = json.loads((tmp_path / "res" / "select.json").read_text())
    assert told["protected"]["kept"]["mean"] > 1.1 * told["protected"]["random"]["mean"]
    shown = trainers.kohya(tmp_path / "out")
    assert len(shown) == 12
    for file, caption, _, _ in shown:
        row = told["chosen"][int(file.stem) - 1]
        assert caption == f"a photo of a {row['name'].split('/')[0]}"
        assert file.read_bytes() == (tmp_path / "old" / row["name"]).read_bytes()
