"""Hostile input by example, and a short run of the campaign in fuzz.py with a fixed seed."""

import io
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from hopfield_replay import EnergyReplayBuffer, fit_tasks
from hopfield_replay.buffer.storage import load_tree, save_tree
from hopfield_replay.cli.datasets import load_data
from hopfield_replay.utilities.states import check_plain
from tests.lightning.small import Foreign, loader, trainer
from tests.reliability.fuzz import Bomb, full_buffer, make_stream, make_tracker
from tests.utilities.test_nested import same

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


def test_the_campaign():
    """In a process of its own: memory is limited there, and a dead interpreter is seen."""
    command = [sys.executable, "-m", "tests.reliability.fuzz", "--mutations", "20", "--masks", "1", "--seed", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    refused = dict(re.findall(r"^(.+?) +refused (\d+)", result.stdout, re.MULTILINE))
    assert len(refused) == 17
    assert all(int(count) > 3 for count in refused.values()), refused  # or the mutations are harmless


# -- buffer files


def refused(buffer, path, message):
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message) as caught:
        buffer.load(path)
    assert str(path) in str(caught.value)
    assert same(buffer.state_dict(), before)


def test_one_tensor_cannot_stand_for_a_thousand(tmp_path):
    item = '{"tensor": "0"}'
    outline = '{"list": [' + ", ".join([item] * 1000) + "]}"
    save_file({"0": torch.ones(1000)}, str(tmp_path / "many"), metadata={"hopfield_replay": outline})
    refused(full_buffer(), tmp_path / "many", "damaged")


def test_tensors_that_belong_nowhere(tmp_path):
    save_file({"0": torch.ones(2), "../x": torch.ones(2)}, str(tmp_path / "more"),
              metadata={"hopfield_replay": '{"list": [{"tensor": "0"}]}'})  # fmt: skip
    refused(full_buffer(), tmp_path / "more", "belong nowhere")


def test_samples_of_no_ids_take_no_room(tmp_path):
    state = {**EnergyReplayBuffer(4).state_dict(), "samples": torch.zeros(0, 10**9, 10**3)}
    save_tree(tmp_path / "wide", state)
    refused(full_buffer(), tmp_path / "wide", "samples of no ids")


def test_a_reserve_of_another_form(tmp_path):
    state = full_buffer().state_dict()
    state["reserve_samples"]["x"] = state["reserve_samples"]["x"].double()
    save_tree(tmp_path / "other", state)
    refused(full_buffer(), tmp_path / "other", "damaged.*shape and dtype")


def test_a_buffer_does_not_live_on_its_file(tmp_path):
    """A mapped file that is cut ends the process when it is touched."""
    full_buffer().save(tmp_path / "file")
    buffer = EnergyReplayBuffer(5)
    buffer.load(tmp_path / "file")
    os.truncate(tmp_path / "file", 0)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert same(buffer.state_dict(), full_buffer().state_dict())


def test_a_pickle_is_no_buffer_file(tmp_path):
    import pickle

    with open(tmp_path / "pickle", "wb") as file:
        pickle.dump(Bomb(), file)
    refused(full_buffer(), tmp_path / "pickle", "is not a file written by hopfield-replay")


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_a_scratch_file_that_is_cut_is_an_error(tmp_path, length):
    buffer = EnergyReplayBuffer(4, "random", storage=tmp_path, beta=1.0)
    x = torch.randn(8, 3)
    buffer.update(x.repeat(1, 5000), x, ids=torch.arange(8), task=0)
    os.truncate(tmp_path / "0.bin", length)
    for attempt in (lambda: buffer.sample(2), buffer.state_dict, lambda: buffer.save(tmp_path / "file")):
        with pytest.raises(OSError, match=rf"0.bin was cut to {length} of 240000 bytes while in use; go on from"):
            attempt()


def test_a_scratch_file_is_never_a_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "0.bin").symlink_to(victim)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "in_use").symlink_to(tmp_path / "elsewhere")
    buffer = EnergyReplayBuffer(4, "random", storage=tmp_path / "scratch", beta=1.0)
    buffer.update(torch.ones(4, 3), torch.randn(4, 3), ids=torch.arange(4), task=0)
    with pytest.raises(OSError, match="in_use"):
        EnergyReplayBuffer(4, storage=tmp_path / "locked")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()


# -- states


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(1).expand(10**12), "a tensor of 4000000000000 bytes is made of 4"),
        (torch.eye(2).to_sparse(), "is not dense"),
        (torch.zeros(2, device="meta"), "is not dense"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_tensors_that_are_not_what_they_claim(tensor, message):
    with pytest.raises(ValueError, match=message):
        check_plain({"a": [tensor]})
    for make, part in ((lambda: full_buffer(), "observed"), (lambda: make_tracker(2), "probes")):
        thing = make()
        state = thing.state_dict()
        state[part] = tensor if part == "observed" else [{**state[part][0], "vectors": tensor}, *state[part][1:]]
        with pytest.raises(ValueError, match=f"damaged.*{message}"):
            thing.load_state_dict(state)


def test_many_tensors_cannot_share_one_memory():
    state = full_buffer().state_dict()
    x = torch.zeros(5, 1000)
    state["samples"] = {f"{i}": x for i in range(100)}
    state["reserve"] = state["reserve_samples"] = None
    with pytest.raises(ValueError, match=r"tensors of .* bytes are made of"):
        full_buffer().load_state_dict(state)


def test_a_tracker_takes_over_all_or_nothing():
    """The buffer's part is right, and another part is not."""
    tracker, other = make_tracker(1), make_tracker(2)
    before = tracker.state_dict()
    for part in ("beta", "history", "probes", "open_task"):
        state = other.state_dict()
        state[part] = "x"
        with pytest.raises(ValueError, match="The state of the tracker is damaged"):
            tracker.load_state_dict(state)
        del state[part]
        with pytest.raises(ValueError, match=f"The state of the tracker is damaged: KeyError.*{part}"):
            tracker.load_state_dict(state)
    assert same(tracker.state_dict(), before)
    tracker.load_state_dict(other.state_dict())
    assert same(tracker.state_dict(), other.state_dict())


def test_a_replay_stream_takes_over_all_or_nothing():
    stream, good = make_stream(1), make_stream(2).state_dict()
    before = stream.state_dict()
    for part in good:
        for bad in ("x", None, float("nan"), [1], torch.zeros(2)):
            if part == "generator" and bad is None:
                continue
            with pytest.raises(ValueError, match="The state of the replay stream is damaged"):
                stream.load_state_dict({**good, part: bad})
    assert same(stream.state_dict(), before)


# -- checkpoints


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "no dict", "task in words", "negative task"])
def test_damaged_checkpoints_are_named(tmp_path, damage):
    path = tmp_path / "last.ckpt"
    runner = trainer(max_epochs=1)
    fit_tasks(runner, Foreign(), [loader(), loader(1)])
    runner.save_checkpoint(path)
    if damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "text":
        path.write_text("no checkpoint")
    elif damage == "pickle":
        torch.save({"callbacks": Bomb()}, path)
    elif damage == "no dict":
        torch.save([1, 2], path)
    else:
        state = torch.load(path, weights_only=True)
        state["callbacks"]["TaskCursor"]["task"] = "two" if damage == "task in words" else -1
        torch.save(state, path)
    with pytest.raises(Exception, match=r"last.ckpt (is not a checkpoint|does not say|is damaged|is whole, but holds)"):
        fit_tasks(trainer(max_epochs=1), Foreign(), [loader(), loader(1)], ckpt_path=path)


# -- data


def zipped(path, compression=zipfile.ZIP_DEFLATED, **bodies):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in bodies.items():
            archive.writestr(f"{name}.npy", body)
    return str(path)


def npy(array):
    held = io.BytesIO()
    numpy.save(held, array)
    return held.getvalue()


def peak(path, message):
    """Most bytes that numpy held while the file was refused."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=message) as caught:
        load_data(str(path))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    return most


def test_an_array_that_declares_more_than_there_is(tmp_path):
    honest = npy(numpy.zeros((3, 4), numpy.float32))
    body = honest.replace(b"(3, 4), }       ", b"(30000000, 4), }")
    path = zipped(tmp_path / "much.npz", x=body)
    assert peak(path, r"x.npy declares \(30000000, 4\) of float32, more than its") < 10**6


def test_a_zip_bomb(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        header = npy(numpy.zeros((1, 1), numpy.uint8))[:-1].replace(b"(1, 1), }        ", b"(300, 1000000), }")
        with archive.open("x.npy", "w") as file:
            file.write(header)
            for _ in range(300):
                file.write(bytes(10**6))
    assert path.stat().st_size < 2_700_000  # expands to more than 100 times that
    assert peak(path, r"would expand to 300000128; if that is meant, write it with numpy.savez") < 10**6


def test_what_compresses_well_is_read(tmp_path):
    numpy.savez_compressed(tmp_path / "blank.npz", x=numpy.zeros((1000, 28, 28), numpy.uint8))
    assert (tmp_path / "blank.npz").stat().st_size * 500 < 1000 * 28 * 28
    assert load_data(str(tmp_path / "blank.npz")).samples.shape == (1000, 28, 28)


def test_other_byte_orders_are_read_and_packings_that_numpy_does_not_write_are_not(tmp_path):
    x = numpy.arange(6.0).reshape(3, 2)
    numpy.savez(tmp_path / "big.npz", x=x.astype(">f8"), names=numpy.array(["a"] * 3), y=x.astype("complex64"))
    assert load_data(str(tmp_path / "big.npz")).samples.tolist() == x.tolist()
    with pytest.raises(ValueError, match="packed in a way that numpy does not write"):
        load_data(zipped(tmp_path / "lzma.npz", zipfile.ZIP_LZMA, x=npy(x)))


@pytest.mark.parametrize("value", [numpy.nan, numpy.inf])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_samples_that_are_not_finite_name_the_file_and_the_rows(tmp_path, value, suffix):
    x = numpy.zeros((9, 2, 2), numpy.float32)
    x[[3, 7], 1] = value
    path = tmp_path / f"x.{suffix}"
    numpy.savez(path, x=x) if suffix == "npz" else save_file({"x": torch.from_numpy(x)}, path)
    with pytest.raises(ValueError, match=rf"x.{suffix} holds NaN or infinite values in 2 of 9 rows .*\[3, 7\]"):
        load_data(str(path))


def test_only_formats_that_run_no_program_are_opened(tmp_path, monkeypatch):
    pytest.importorskip("PIL.Image")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was run"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ValueError, match=r"a.png is not an image that can be read"):
        load_data(str(tmp_path))


def test_an_image_of_a_hundred_million_pixels(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("1", (10_000, 10_000)).save(tmp_path / "big.png")
    assert (tmp_path / "big.png").stat().st_size < 200_000
    with pytest.raises(ValueError, match=r"big.png is not an image that can be read .*pixels"):
        load_data(str(tmp_path))


def test_pipes_among_the_images_are_passed_over(tmp_path):
    image = pytest.importorskip("PIL.Image")
    os.mkfifo(tmp_path / "a.png")  # to open it would wait for ever
    image.new("L", (4, 4)).save(tmp_path / "b.png")
    assert load_data(str(tmp_path)).samples.shape == (1, 1, 4, 4)


@pytest.mark.parametrize("name", ["os:abort", "sys:exit", "builtins:breakpoint", "torch.nn:Linear", ":x", "..:x"])
def test_names_that_are_no_datamodule_are_not_called(name):
    with pytest.raises(ValueError, match=rf"'{re.escape(name)}' cannot be imported and called"):
        load_data(name)


def test_a_loaded_tree_is_what_was_saved(tmp_path):
    tree = {"a": [torch.arange(3), (torch.zeros(0, 2), "x", None)], "b": 1.5}
    save_tree(tmp_path / "tree", tree)
    assert same(load_tree(tmp_path / "tree"), tree)
