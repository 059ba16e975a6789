"""What is handed over, read back by each trainer's rules, and what is refused before anything is written."""

import json
import os
from itertools import combinations_with_replacement, pairwise

import pytest
import torch
from PIL import Image

from hopfield_replay.analysis import ImageCollection, read_collection, select
from hopfield_replay.analysis.exports import FORMATS, export
from hopfield_replay.analysis.exports import place as places
from hopfield_replay.analysis.exports.repeats import apportion, largest_error
from tests.analysis import trainers

TRAINERS = {
    "kohya": trainers.kohya,
    "simpletuner": trainers.simpletuner,
    "ai-toolkit": trainers.ai_toolkit,
    "onetrainer": trainers.onetrainer,
    "json": trainers.json_list,
}


def pictures(folder, count=14, captions=True, suffix=".png"):
    """A folder of small images in two clusters of unequal size, with captions that files of settings must quote."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        centre = 60 if i < count * 2 // 3 else 190
        pixels = (torch.randint(-20, 20, (6, 6), generator=generator) + centre).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i:02d} 'ö\" {suffix}")
        if captions:
            text = f'a "grey" square № {i}: ö\\n\n#{{}}'
            (folder / f"{i:02d} 'ö\" .txt").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    images = read_collection(pictures(tmp_path_factory.mktemp("data") / "old"))
    return select(images, keep=5), images


@pytest.mark.parametrize("form", TRAINERS)
@pytest.mark.parametrize("use", ["regularise", "train"])
def test_a_trainer_shows_the_chosen_images_with_their_captions_as_often_as_they_weigh(chosen, tmp_path, form, use):
    report, images = chosen
    written = export(report, images, tmp_path / "out", form, use=use, repeats=3)
    shown = TRAINERS[form](tmp_path / "out")
    assert sum(times for _, _, times, _ in shown) == 15
    if form != "json":
        assert {regular for *_, regular in shown} == {use == "regularise"}
    by_rank = sorted(shown, key=lambda row: row[0].stem)
    assert [row[0].stem for row in by_rank] == ["0001", "0002", "0003", "0004", "0005"]
    for (file, caption, times, _), at, expected in zip(by_rank, report.indices.tolist(), written.repeats, strict=True):
        assert times == expected
        assert file.read_bytes() == images[at].content.read_bytes()
        whole = images[at].caption
        assert caption == (whole if form == "json" else " ".join(whole.split()))
    total = float(report.weights.sum())
    errors = [abs(times / 15 - w / total) for (_, _, times, _), w in zip(by_rank, report.weights.tolist(), strict=True)]
    assert max(errors) == pytest.approx(written.error)


def test_dreambooth_gets_a_folder_of_images_alone_and_one_prompt(chosen, tmp_path):
    report, images = chosen
    with pytest.raises(ValueError, match="one prompt for all class images"):
        export(report, images, tmp_path / "out", "diffusers")
    assert not (tmp_path / "out").exists()
    written = export(report, images, tmp_path / "out", "diffusers", prompt="a 'grey' \"square\"")
    shown = trainers.dreambooth(tmp_path / "out")
    assert [row[0].name for row in shown] == [f"000{i}.png" for i in range(1, 6)]
    assert {row[1] for row in shown} == {"a 'grey' \"square\""}
    assert written.repeats == (1,) * 5


def test_imagefolder_is_read_by_datasets_itself(chosen, tmp_path):
    datasets = pytest.importorskip("datasets")
    report, images = chosen
    export(report, images, tmp_path / "out", "imagefolder")
    found = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    rows = sorted(found["train"], key=lambda row: row["rank"])
    assert [row["text"] for row in rows] == [images[at].caption for at in report.indices.tolist()]
    assert [row["weight"] for row in rows] == report.weights.tolist()
    assert [row["source"] for row in rows] == [images[at].name for at in report.indices.tolist()]
    assert [row["image"].tobytes() for row in rows] == [images[at].open().tobytes() for at in report.indices.tolist()]
    again = read_collection(tmp_path / "out")  # and by this library
    assert [item.caption for item in again] == [row["text"] for row in rows]


def test_datasets_load_what_was_saved(chosen, tmp_path):
    datasets = pytest.importorskip("datasets")
    report, images = chosen
    export(report, images, tmp_path / "out", "hf")
    found = datasets.load_from_disk(str(tmp_path / "out"))
    assert found["rank"][:] == [1, 2, 3, 4, 5]
    assert [row["image"].tobytes() for row in found] == [images[at].open().tobytes() for at in report.indices.tolist()]
    assert [item.caption for item in read_collection(tmp_path / "out")] == found["text"][:]
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.heavy
@pytest.mark.parametrize("form", FORMATS)
def test_images_without_captions_need_a_prompt_where_the_trainer_does(tmp_path, form):
    if form == "hf":
        pytest.importorskip("datasets")
    images = read_collection(pictures(tmp_path / "old", captions=False))
    report = select(images, keep=3)
    if form in ("imagefolder", "json", "hf"):
        assert export(report, images, tmp_path / "bare", form).images == 3
    else:
        with pytest.raises(ValueError, match=r"give a prompt"):
            export(report, images, tmp_path / "bare", form)
        assert not (tmp_path / "bare").exists()
    export(report, images, tmp_path / "out", form, prompt="a square")
    if form in TRAINERS:
        assert {row[1] for row in TRAINERS[form](tmp_path / "out")} == {"a square"}


@pytest.mark.parametrize("form", ["simpletuner", "onetrainer"])
def test_images_that_only_validate_are_shown_once(chosen, tmp_path, form):
    report, images = chosen
    export(report, images, tmp_path / "out", form, use="validate")
    assert {times for _, _, times, _ in TRAINERS[form](tmp_path / "out")} == {1}
    assert ("eval" in (tmp_path / "out").glob("*.json").__next__().read_text()) == (form == "simpletuner")
    with pytest.raises(ValueError, match="no setting for use='validate'"):
        export(report, images, tmp_path / "other", "kohya", use="validate")


@pytest.mark.parametrize("files", ["hardlink", "symlink"])
def test_files_can_be_linked(chosen, tmp_path, files):
    report, images = chosen
    export(report, images, tmp_path / "out", "kohya", files=files)
    for (file, *_), at in zip(
        sorted(trainers.kohya(tmp_path / "out"), key=lambda row: row[0].stem), report.indices.tolist(), strict=True
    ):
        assert file.samefile(images[at].content)
        assert file.is_symlink() == (files == "symlink")


def test_links_across_file_systems_are_refused_and_nothing_is_left(chosen, tmp_path, monkeypatch):
    report, images = chosen

    def across(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(places.Path, "hardlink_to", across)
    with pytest.raises(ValueError, match="two file systems"):
        export(report, images, tmp_path / "out", "kohya", files="hardlink")
    assert not list(tmp_path.iterdir())


def test_what_not_every_trainer_reads_becomes_png_and_names_that_lie_are_mended(tmp_path):
    folder = pictures(tmp_path / "old", suffix=".bmp")
    Image.new("L", (6, 6)).save(tmp_path / "jpeg.jpg")
    (folder / "jpeg.png").write_bytes((tmp_path / "jpeg.jpg").read_bytes())  # a JPEG by another name
    (folder / "jpeg.txt").write_text("black")
    images = read_collection(folder)
    export(select(images, keep=15), images, tmp_path / "out", "kohya", files="symlink")
    found = [row[0] for row in trainers.kohya(tmp_path / "out")]
    assert sorted(path.suffix for path in found) == [".jpg"] + [".png"] * 14
    starts = {path.suffix: path.read_bytes()[:3] for path in found}
    assert starts == {".jpg": b"\xff\xd8\xff", ".png": b"\x89PN"}


def test_pixels_in_memory_are_written_as_png_on_one_scale(tmp_path):
    pixels = torch.rand(6, 3, 4, 4) * 2 - 1
    pixels[1] = pixels[1].abs()  # alone it would be taken for [0, 1]
    images = ImageCollection.of_pixels(pixels, captions=list("abcdef"))
    report = select(pixels, keep=6)
    export(report, images, tmp_path / "out", "imagefolder")
    for row in (tmp_path / "out" / "metadata.jsonl").read_text().splitlines():
        row = json.loads(row)
        at = report.indices.tolist()[row["rank"] - 1]
        expected = ((pixels[at] + 1) * 127.5).round().permute(1, 2, 0).flatten()
        with Image.open(tmp_path / "out" / row["file_name"]) as written:
            assert list(written.tobytes()) == expected.tolist()


def test_a_folder_with_something_in_it_is_left_alone(chosen, tmp_path):
    report, images = chosen
    (tmp_path / "out").mkdir()
    export(report, images, tmp_path / "out", "json")  # empty: fine
    before = sorted(os.listdir(tmp_path / "out"))
    with pytest.raises(ValueError, match="is not empty"):
        export(report, images, tmp_path / "out", "json")
    assert sorted(os.listdir(tmp_path / "out")) == before
    with pytest.raises(ValueError, match="is a file"):
        export(report, images, tmp_path / "out" / "replay.json", "json")
    with pytest.raises(ValueError, match="no UTF-8"):
        export(report, images, os.fsdecode(bytes(tmp_path) + b"/\xff"), "json")


@pytest.mark.heavy
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_left_of_an_export_that_fails(tmp_path, form):
    if form == "hf":
        pytest.importorskip("datasets")
    folder = pictures(tmp_path / "old")
    images = read_collection(folder)
    report = select(images, keep=5)
    images[report.indices[-1]].content.write_bytes(b"no image any more")
    with pytest.raises(ValueError, match="not an image that can be read"):
        export(report, images, tmp_path / "out", form, prompt="a square")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"form": "lora"}, ValueError, "Unknown format 'lora'"),
        ({"files": "move"}, ValueError, "files must be"),
        ({"use": "forget"}, ValueError, "use must be"),
        ({"repeats": 0}, ValueError, "repeats must be a whole number >= 1"),
        ({"repeats": 1.5}, TypeError, "repeats must be a whole number"),
        ({"images": []}, ValueError, "of 14 samples, but 0 images"),
    ],
)
def test_bad_settings_are_refused(chosen, tmp_path, change, error, message):
    report, images = chosen
    settings = {"form": "kohya", "images": images, **change}
    with pytest.raises(error, match=message):
        export(report, settings.pop("images"), tmp_path / "out", settings.pop("form"), **settings)
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_utf8_do_no_harm(tmp_path):
    folder = pictures(tmp_path / "old", captions=False)
    Image.new("L", (6, 6)).save(os.fsdecode(bytes(folder) + b"/\xff\x1b.png"), format="PNG")
    images = read_collection(folder)
    report = select(images, keep=15)
    export(report, images, tmp_path / "out", "json")
    rows = json.loads((tmp_path / "out" / "replay.json").read_text(encoding="utf-8"))
    assert "\\xff\x1b.png" in [row["source"] for row in rows]


def test_repeats_are_the_nearest_whole_numbers():
    """Against every way to give out the total."""

    def ways(count, total):
        for cuts in combinations_with_replacement(range(total - count + 1), count - 1):
            edges = [0, *cuts, total - count]
            yield [b - a + 1 for a, b in pairwise(edges)]

    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        count = int(torch.randint(1, 5, (), generator=generator))
        total = count + int(torch.randint(0, 9, (), generator=generator))
        weights = (torch.rand(count, generator=generator) ** 3 * 50 + 0.01).tolist()
        found = apportion(weights, total)
        quotas = [total * w / sum(weights) for w in weights]
        assert sum(found) == total
        assert min(found) >= 1
        if min(quotas) >= 1:
            assert all(abs(r - q) < 1 for r, q in zip(found, quotas, strict=True))
            assert largest_error(weights, found) < 1 / total
            apart = [sum(abs(r - q) for r, q in zip(way, quotas, strict=True)) for way in ways(count, total)]
            assert sum(abs(r - q) for r, q in zip(found, quotas, strict=True)) == pytest.approx(min(apart))
    assert apportion([2.0, 4.0, 6.0], 12) == [2, 4, 6]  # whole quotas are kept
    assert apportion([1.0, 1.0, 1.0], 4) == [2, 1, 1]  # the earlier one wins
    for bad, message in ((([1.0, 0.0], 2), "positive"), (([1.0, 1.0], 1), "at least 1")):
        with pytest.raises(ValueError, match=message):
            apportion(*bad)
