"""Images from folders, data sets and shards: what is read of each, and what is refused."""

import io
import json
import os
import tarfile

import pytest
import torch
from PIL import Image

from hopfield_replay.analysis import ImageCollection, Item, read_collection


def png(value=0, size=(4, 6), mode="L", **settings):
    file = io.BytesIO()
    Image.new(mode, size, value).save(file, settings.pop("format", "PNG"), **settings)
    return file.getvalue()


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_folder_has_captions_beside_its_images_and_its_subfolders_are_classes(tmp_path):
    fill(tmp_path / "cats", a__png=png(1), a__txt="\ufeffa cat\n", b__png=png(2), b__txt="")
    fill(tmp_path / "dogs", a__png=png(3), a__txt="a dog")
    fill(tmp_path / ".hidden")
    fill(tmp_path, **{".left.png": png(9)})
    found = read_collection(tmp_path)
    assert [item.name for item in found] == ["cats/a.png", "cats/b.png", "dogs/a.png"]
    assert [item.caption for item in found] == ["a cat", "", "a dog"]
    assert found.labels == ["cats", "cats", "dogs"]
    assert [item.folder for item in found] == ["cats", "cats", "dogs"]


def test_linked_folders_are_classes_and_hidden_ones_are_not(tmp_path):
    """A class whose folder is a link was passed over, and what Jupyter keeps of an image counted as a class."""
    fill(tmp_path / "elsewhere", a__png=png(1), b__png=png(2))
    fill(tmp_path / "data" / "cat", c__png=png(3))
    fill(tmp_path / "data" / "cat" / ".ipynb_checkpoints", c_checkpoint__png=png(3))
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "data")  # a circle
    (tmp_path / "data" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = read_collection(tmp_path / "data")
    assert [item.name for item in found] == ["cat/c.png", "dog/a.png", "dog/b.png"]
    assert found.labels == ["cat", "dog", "dog"]


def test_metadata_may_lie_in_any_folder_and_name_classes(tmp_path):
    line = json.dumps({"file_name": "a.png", "text": "one\u2028line", "label": 7}, ensure_ascii=False)
    fill(tmp_path / "cats", a__png=png(), metadata__jsonl=line + "\n\n")
    found = read_collection(tmp_path)
    assert (found[0].caption, found[0].label) == ("one\u2028line", "7")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ("[]", 'has no "file_name"'),
        ('{"file_name": "a.png"}', "has no caption"),
        ('{"file_name": "b.png", "text": "b"}', "there is no file 'b.png'"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_damaged_metadata_is_refused_with_file_and_line(tmp_path, metadata, message):
    fill(tmp_path, a__png=png(), metadata__jsonl=metadata)
    with pytest.raises(ValueError, match=message) as error:
        read_collection(tmp_path)
    assert "metadata.jsonl" in str(error.value)


def test_captions_for_some_images_only_are_refused(tmp_path):
    fill(tmp_path, a__png=png(), a__txt="a", b__png=png())
    with pytest.raises(ValueError, match=r"1 of 2 images in .* have no caption: b.png"):
        read_collection(tmp_path)


@pytest.mark.parametrize("way", ["parquet", "saved"])
def test_data_sets_of_hugging_face(tmp_path, way):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {"image": [png(10), png(20)], "text": ["a", "b"], "label": [1, 0]}
    table = datasets.Dataset.from_dict(
        {**columns, "image": [{"bytes": b, "path": None} for b in columns["image"]]}, features=features
    )
    if way == "parquet":
        table.to_parquet(str(tmp_path / "train.parquet"))
    else:
        datasets.utils.logging.disable_progress_bar()
        table.save_to_disk(str(tmp_path))
        datasets.utils.logging.enable_progress_bar()
    found = read_collection(tmp_path)
    assert [item.caption for item in found] == ["a", "b"]
    assert found.labels == ["dog", "cat"]
    assert [item.open().getpixel((0, 0)) for item in found] == [10, 20]


def test_parquet_without_features_and_what_is_wrong_with_it(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table({"picture": [png(5)], "caption": ["five"], "class": [3]}), path)
    found = read_collection(path)
    assert (found[0].caption, found[0].label, found[0].open().getpixel((0, 0))) == ("five", "3", 5)
    parquet.write_table(pyarrow.table({"caption": ["five"]}), path)
    with pytest.raises(ValueError, match="no columns of encoded images"):
        read_collection(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="not a parquet file"):
        read_collection(path)


def test_a_data_set_of_several_splits_asks_for_one(tmp_path):
    fill(tmp_path / "train", state__json="{}")
    fill(tmp_path, dataset_dict__json='{"splits": ["train"]}')
    with pytest.raises(ValueError, match="splits train; give the folder"):
        read_collection(tmp_path)


def shard(path, *members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def test_shards_of_a_webdataset(tmp_path):
    shard(
        tmp_path / "b.tar",
        ("x/2.png", png(2)),
        ("x/2.json", b'{"caption": "two"}'),
        ("x/3.a.png", png(3)),
        ("x/3.txt", b"three"),
    )
    shard(
        tmp_path / "a.tar", ("1.cls", b"5"), ("1.jpg", png(1, format="JPEG")), ("1.txt", b"one\n"), ("notes.md", b"-")
    )
    found = read_collection(tmp_path)
    assert [item.caption for item in found] == ["one", "two", "three"]
    assert [item.label for item in found] == ["5", None, None]
    assert [item.name for item in found] == ["a.tar/1.jpg", "b.tar/x/2.png", "b.tar/x/3.a.png"]
    assert [item.open().getpixel((0, 0)) for item in found] == [1, 2, 3]
    assert len(read_collection(tmp_path / "b.tar")) == 2


def test_shards_agree_with_the_library_that_made_the_format(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as sink:
        for i in range(3):
            sink.write({"__key__": f"s{i}", "png": png(i), "txt": f"caption {i}", "cls": i})
    found = read_collection(tmp_path / "0.tar")
    assert [(item.caption, item.label) for item in found] == [(f"caption {i}", str(i)) for i in range(3)]
    assert [item.open().getpixel((0, 0)) for item in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "holds no images"),
        ([("1.png", png()), ("1.jpg", png())], "several images"),
        ([("1.png", png()), ("1.txt", b"\xff")], "is not UTF-8"),
        ([("1.png", png()), ("1.json", b"{")], "is not JSON"),
        ([("1.png", png()), ("1.txt", b"x" * ((1 << 20) + 1))], "too large for a text"),
        ([("1.png", png()), ("1.txt", b"one"), ("2.png", png())], "1 of 2 images"),
    ],
)
def test_damaged_shards_are_refused(tmp_path, members, message):
    shard(tmp_path / "x.tar", *members)
    with pytest.raises(ValueError, match=message):
        read_collection(tmp_path / "x.tar")
    (tmp_path / "y.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ValueError, match="not a plain"):
        read_collection(tmp_path / "y.tar")


def test_images_are_upright_and_white_where_they_are_transparent(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture = Image.new("RGB", (6, 4), "red")
    picture.putpixel((0, 3), (0, 0, 255))
    picture.save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (4, 6), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    found = read_collection(tmp_path)
    clear, turned = (item.open() for item in found)
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert turned.size == (4, 6)
    assert turned.getpixel((0, 0)) == (0, 0, 255)
    assert found.form == ((4, 6), False)
    assert next(iter(found.batches())).shape == (2, 3, 6, 4)


def test_batches_are_scaled_cropped_and_read_again(tmp_path):
    fill(tmp_path, a__png=png(0, (8, 4)), b__png=png(255, (4, 12)))
    found = read_collection(tmp_path)
    assert found.form == (None, True)
    with pytest.raises(ValueError, match="several sizes"):
        found.batches()
    batches = found.batches(3)
    assert [batch.shape for batch in batches] == [(2, 1, 3, 3)]
    for _ in range(2):
        (batch,) = batches
        assert batch[0].unique().tolist() == [-1.0]
        assert batch[1].unique().tolist() == [1.0]
    pictures = found.pictures(torch.tensor([1, 0]), 6)
    assert pictures.shape == (2, 3, 6, 6)
    assert pictures[1, 0, 0].tolist() == [255] * 6  # white above the flat one
    assert pictures[1, 0, 2].tolist() == [0] * 6


def test_grey_of_sixteen_bits_is_rounded_to_eight(tmp_path):
    fill(tmp_path, deep__png=png(0x8080, (4, 4), "I;16"))
    (item,) = read_collection(tmp_path)
    assert item.open().mode == "L"
    assert item.open().getpixel((0, 0)) == 128
    assert item.encoded() == png(0x8080, (4, 4), "I;16")  # what is handed on keeps its bits


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an image that can be read"),
        (png()[:-20], "not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n", "not an image that can be read"),
    ],
)
def test_images_that_do_not_decode_are_named(tmp_path, content, message):
    fill(tmp_path, good__png=png(), bad__png=content)
    with pytest.raises(ValueError, match=message) as error:
        list(read_collection(tmp_path).batches(4))
    assert str(error.value).startswith("bad.png")


def test_an_image_that_would_take_all_memory_is_refused(tmp_path):
    fill(tmp_path, big__png=png())
    with pytest.raises(ValueError, match=r"big.png is not an image .*4 x 6 pixels, more than max_pixels"):
        read_collection(tmp_path, max_pixels=23).batches()
    assert len(read_collection(tmp_path, max_pixels=24).batches()) == 1
    with pytest.raises(ValueError, match="max_pixels must be a whole number"):
        read_collection(tmp_path, max_pixels=0)


def test_nothing_and_the_wrong_thing_are_refused(tmp_path):
    for path, message in ((tmp_path / "no", "does not exist"), (tmp_path, "holds no images")):
        with pytest.raises(ValueError, match=message):
            read_collection(path)
    fill(tmp_path, x__csv="1")
    with pytest.raises(ValueError, match="neither a folder"):
        read_collection(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="at least one"):
        ImageCollection([])
    with pytest.raises(ValueError, match="are no images"):
        ImageCollection.of_pixels(torch.rand(2, 5))
    with pytest.raises(ValueError, match="are no images"):
        Item("x", torch.rand(5, 2, 2)).open()


def test_names_are_text_whatever_they_were(tmp_path):
    fill(tmp_path, a__png=png())
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    found = read_collection(tmp_path)
    assert found[0].name == "\\xff.png"
    assert found[0].open().size == (4, 6)
