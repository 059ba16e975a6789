"""Files of a buffer: damaged, hostile, of another form, on a full disk, in a read-only folder; its storage folder."""

import gc
import os
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hopfield_replay import EnergyReplayBuffer
from hopfield_replay.buffer.storage import SampleStore, load_tree, save_tree
from tests.buffer.test_buffer import filled, images
from tests.utilities.test_nested import same

# forking spares the children the imports
FORKED = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def two_phases(**options):
    """A buffer with samples in reserve and a history."""
    buffer = EnergyReplayBuffer(6, beta=0.5, **options)
    for task in range(2):
        x = images(40, seed=task)
        observed = torch.zeros(len(buffer)) if task else None
        labels = (x[:, 0] > 0).long()
        buffer.update({"x": x}, x, ids=torch.arange(40) + 100 * task, task=task, labels=labels, observed=observed)
    return buffer


def refused(state, message, buffer=None):
    """The state is refused with this message, and nothing changes."""
    buffer = filled(capacity=4) if buffer is None else buffer
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load_state_dict(state)
    assert same(buffer.state_dict(), before)


# -- states


def changed(part, name, change):
    state = two_phases().state_dict()
    state[part] = {**state[part], name: change(state[part][name])}
    return state


def put(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[0] = value
        return tensor

    return change


HOSTILE = {
    "nothing": ({}, "Not a state of an EnergyReplayBuffer of this version: format None"),
    "a list": ([], "Not a state of an EnergyReplayBuffer of this version: format 'list'"),
    "an older version": ({"format": "hopfield-replay buffer 1"}, "of this version: format 'hopfield-replay buffer 1'"),
    "only a format": ({"format": "hopfield-replay buffer 2"}, "damaged: KeyError"),
    "NaN energies": (changed("kept", "energies", put(torch.nan)), "damaged.*energies are NaN"),
    "NaN vectors": (changed("kept", "vectors", put(torch.nan)), "damaged.*vectors holds NaN"),
    "infinite vectors in reserve": (changed("reserve", "vectors", put(torch.inf)), "damaged.*vectors holds NaN"),
    "keys out of range": (changed("kept", "keys", put(1.5)), r"damaged.*keys lie outside \(0, 1\)"),
    "infinite weights": (changed("kept", "weights", put(torch.inf)), "damaged.*weights are not finite"),
    "repeated ids": (changed("kept", "ids", lambda t: torch.zeros_like(t)), "damaged.*ids are repeated"),
    "floating ids": (changed("kept", "ids", torch.Tensor.double), "damaged.*ids has dtype torch.float64"),
    "half energies": (changed("kept", "energies", torch.Tensor.half), "damaged.*energies has dtype torch.float16"),
    "integer vectors": (changed("kept", "vectors", torch.Tensor.long), "damaged.*vectors has dtype torch.int64"),
    "fewer tasks": (changed("kept", "tasks", lambda t: t[:3]), r"damaged.*tasks has shape \(3,\) for 6 samples"),
    "no ids": (changed("kept", "ids", lambda t: None), "damaged"),
    "ids kept and in reserve": (
        {**two_phases().state_dict(), "reserve": two_phases().state_dict()["kept"],
         "reserve_samples": two_phases().state_dict()["samples"]},
        "damaged.*in reserve do not fit",
    ),
    "another space in reserve": (changed("reserve", "vectors", lambda t: t[:, :2]), "damaged.*in reserve do not fit"),
    "reserve without labels": (changed("reserve", "labels", lambda t: None), "damaged.*in reserve do not fit"),
    "fewer samples": ({**two_phases().state_dict(), "samples": {"x": torch.zeros(2, 4)}}, "damaged.*2 samples for 6"),
    "samples that are none": ({**two_phases().state_dict(), "samples": 7}, "damaged"),
    "no samples": ({**two_phases().state_dict(), "samples": None}, "damaged"),
    "reserve without samples": ({**two_phases().state_dict(), "reserve_samples": None}, "damaged"),
    "a history of others": ({**two_phases().state_dict(), "observed": torch.zeros(2, 1).double()}, "damaged.*observed"),
    "a flat history": ({**two_phases().state_dict(), "observed": torch.zeros(6).double()}, "damaged.*observed"),
    "beta below 0": ({**two_phases().state_dict(), "beta": -1.0}, "damaged.*beta"),
    "beta in words": ({**two_phases().state_dict(), "beta": "warm"}, "damaged.*beta"),
    "a task in words": ({**two_phases().state_dict(), "newest_task": "last"}, "damaged"),
    "a generator of 3 bytes": ({**two_phases().state_dict(), "generator": torch.zeros(3).byte()}, "damaged"),
}  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("case", HOSTILE)
def test_damaged_states_are_refused_and_change_nothing(case, tmp_path):
    state, message = HOSTILE[case]
    refused(state, message)
    save_tree(tmp_path / "file", state)  # and from a file, too
    buffer = filled(capacity=8)
    before = buffer.state_dict()
    with pytest.raises(ValueError, match=message):
        buffer.load(tmp_path / "file")
    assert same(buffer.state_dict(), before)


def test_a_state_without_labels_does_not_fit_groups_of_labels():
    plain = EnergyReplayBuffer(4, "random")
    plain.update(images(9), images(9), ids=torch.arange(9), task=0)
    refused(plain.state_dict(), 'holds samples without labels, but this buffer has groups="label"',
            filled(capacity=4, groups="label"))  # fmt: skip


# -- files


def forged(folder, outline, **tensors):
    path = folder / "forged"
    save_file(tensors or {"0": torch.ones(1)}, str(path), metadata={"hopfield_replay": outline})
    return path


@pytest.mark.parametrize(
    "outline",
    [
        "", "[]", "7", "null", "{}", '{"tensor": "9"}', '{"tensor": {}}', '{"tensor": "0", "value": 1}',
        '{"code": "x"}',
        '{"dict": [["a"]]}', '{"dict": [[{}, {"value": 1}]]}', '{"list": 3}', '{"list": [3]}', "[" * 100_000,
        '{"list": [' * 5_000 + "]}" * 5_000,
    ],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_forged_outlines_are_refused(tmp_path, outline):
    with pytest.raises(ValueError, match="forged is not a file written by hopfield-replay, or it is damaged"):
        load_tree(forged(tmp_path, outline))


def test_files_of_other_things_are_refused(tmp_path):
    buffer = filled(capacity=4)
    before = buffer.state_dict()
    save_tree(tmp_path / "tree", {"a": torch.ones(1)})
    save_tree(tmp_path / "list", [torch.ones(1)])
    torch.save(buffer.state_dict(), tmp_path / "pickle")
    (tmp_path / "empty").touch()
    (tmp_path / "long_header").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    for name in ("tree", "list"):
        with pytest.raises(ValueError, match="Not a state of an EnergyReplayBuffer"):
            buffer.load(tmp_path / name)
    for name in ("pickle", "empty", "long_header"):
        with pytest.raises(ValueError, match=f"{name} is not a file written by hopfield-replay"):
            buffer.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        buffer.load(tmp_path / "missing")
    assert same(buffer.state_dict(), before)


def test_a_file_that_was_cut_or_changed_anywhere_never_changes_the_buffer(tmp_path):
    source = two_phases()
    source.save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    path = tmp_path / "damaged"
    buffer = filled(capacity=6)
    before = buffer.state_dict()
    for length in (0, 1, 7, 8, 9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            buffer.load(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    refusals = 0
    for place in range(8, header, 37):  # a flipped bit in the header: refused, or without consequence
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        other = EnergyReplayBuffer(6)
        try:
            other.load(path)
        except ValueError:
            refusals += 1
            assert len(other) == 0
    assert refusals > 20
    assert same(buffer.state_dict(), before)


def _with_small_files(body, folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    body(folder)


def with_small_files(body, folder):
    """Run where no file may grow beyond 20 kB, the same error as on a full disk.

    In a process of its own: the limit would hold for the file that pytest's own output goes to, too.
    """
    child = get_context("fork").Process(target=_with_small_files, args=(body, folder))
    child.start()
    child.join(120)
    assert child.exitcode == 0


def big():
    buffer = EnergyReplayBuffer(400, "random")
    x = images(400, d=40)
    buffer.update(x, x, ids=torch.arange(400), task=0, energies=x[:, 0])
    return buffer


def a_full_disk_leaves_the_old_file(tmp_path):
    small = filled(capacity=4)
    small.save(tmp_path / "file")
    with pytest.raises(OSError, match="file could not be written"):
        big().save(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]
    again = EnergyReplayBuffer(4)
    again.load(tmp_path / "file")
    assert same(again.state_dict(), small.state_dict())


@FORKED
def test_a_full_disk_leaves_the_old_file(tmp_path):
    with_small_files(a_full_disk_leaves_the_old_file, tmp_path)


def a_full_disk_under_the_storage_folder_is_an_error_and_changes_nothing(tmp_path):
    buffer = EnergyReplayBuffer(400, "random", storage=tmp_path)
    x = images(400, d=40)
    with pytest.raises(OSError, match=r"File too large|No space"):
        buffer.update(x, x, ids=torch.arange(400), task=0, energies=x[:, 0])
    assert len(buffer) == 0
    kept = EnergyReplayBuffer(400, "random", storage=tmp_path / "other")
    kept.update(x[:, :3], x, ids=torch.arange(400), task=0, energies=x[:, 0])
    before = kept.state_dict()
    with pytest.raises(OSError, match=r"File too large|No space"):
        kept.load_state_dict(big().state_dict())
    assert same(kept.state_dict(), before)


@FORKED
def test_a_full_disk_under_the_storage_folder_is_an_error_and_changes_nothing(tmp_path):
    with_small_files(a_full_disk_under_the_storage_folder_is_an_error_and_changes_nothing, tmp_path)


@pytest.fixture
def read_only():
    """A folder that this user must not write to (root writes anywhere, and becomes nobody for a moment)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "read_only"
        folder.mkdir()
        filled(capacity=4).save(folder / "file")
        os.chmod(folder / "file", 0o644)
        os.chmod(name, 0o755)
        os.chmod(folder, 0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        yield folder
        if root:
            os.seteuid(0)
        os.chmod(folder, 0o755)


def test_a_read_only_folder_is_an_error(read_only):
    buffer = filled(capacity=8)
    with pytest.raises(OSError, match=r"could not be written|Permission denied"):
        buffer.save(read_only / "file")
    with pytest.raises(PermissionError):
        EnergyReplayBuffer(4, storage=read_only)
    with pytest.raises(PermissionError):
        EnergyReplayBuffer(4, storage=read_only / "new")
    assert os.listdir(read_only) == ["file"]
    buffer.load(read_only / "file")
    assert len(buffer) == 4


def write_often(path, value):
    for _ in range(30):
        save_tree(path, {"value": torch.full((20_000,), value)})


@FORKED
def test_two_processes_that_write_one_file_leave_one_of_theirs(tmp_path):
    path = tmp_path / "file"
    writers = [get_context("fork").Process(target=write_often, args=(path, value)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():  # whoever reads meanwhile finds a whole file
            assert len(load_tree(path)["value"].unique()) == 1
        time.sleep(0.01)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert float(load_tree(path)["value"].unique()) in (1.0, 2.0)
    assert os.listdir(tmp_path) == ["file"]


# -- the storage folder


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64, torch.bfloat16, torch.bool])
def test_mapped_rows_are_those_in_memory(tmp_path, dtype):
    stores = [SampleStore(10), SampleStore(10, tmp_path)]
    rows = {"x": (images(6) > 0).to(dtype), "text": [f"a {i}" for i in range(6)], "none": torch.zeros(6, 0)}
    for store in stores:
        store.put(rows, torch.tensor([9, 0, 3, 4, 7, 2]))
    assert same(*(store.get(torch.arange(10)) for store in stores))
    assert stores[0].nbytes == stores[1].nbytes
    (file,) = tmp_path.glob("*.bin")
    assert file.stat().st_size == 10 * 4 * dtype.itemsize


@pytest.mark.parametrize("policy", ["random", "greedy_gain"])
def test_a_buffer_on_a_folder_behaves_like_one_in_memory(tmp_path, policy):
    first, second = EnergyReplayBuffer(9, policy), EnergyReplayBuffer(9, policy, storage=tmp_path / "a" / "b")
    for task in range(4):
        x = images(20, seed=task)
        for buffer in (first, second):
            buffer.refine(x)
            buffer.update((x * 30).to(torch.uint8), x, ids=torch.arange(20) + 100 * task, task=task)
    assert same(first.state_dict(), second.state_dict())
    assert torch.equal(first.sample(12), second.sample(12))
    assert second.sample(1).dtype == torch.uint8


def test_loading_again_and_again_does_not_fill_the_folder(tmp_path):
    source = two_phases()
    buffer = EnergyReplayBuffer(6, storage=tmp_path)
    for _ in range(4):
        buffer.load_state_dict(source.state_dict())
        assert same(buffer.state_dict(), source.state_dict())
        assert len(list(tmp_path.glob("*.bin"))) == 1


def refused_in(folder):
    with pytest.raises(ValueError, match="is in use by another buffer"):
        EnergyReplayBuffer(4, storage=folder)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_folder_belongs_to_one_buffer_at_a_time(tmp_path):
    first = EnergyReplayBuffer(4, storage=tmp_path)
    with pytest.raises(ValueError, match=r"is in use by another buffer; give each buffer .* its own folder"):
        EnergyReplayBuffer(4, storage=tmp_path)
    other = get_context("fork").Process(target=refused_in, args=(tmp_path,))
    other.start()
    other.join(60)
    assert other.exitcode == 0
    x = images(9)
    first.update(x, x, ids=torch.arange(9), task=0)
    state = first.state_dict()
    del first
    gc.collect()
    second = EnergyReplayBuffer(4, storage=tmp_path)  # free again; what lies there is scratch space
    assert len(second) == 0
    second.load_state_dict(state)
    assert same(second.state_dict(), state)
    assert torch.equal(second.gather(torch.arange(4)), x[second.ids])


def test_a_relative_folder_is_where_the_buffer_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer = EnergyReplayBuffer(4, storage="rows")
    (tmp_path / "later" / "rows").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "later")
    x = images(9)
    buffer.update(x, x, ids=torch.arange(9), task=0)
    assert not list((tmp_path / "later" / "rows").iterdir())
    assert (tmp_path / "rows" / "0.bin").exists()
    assert torch.equal(buffer.gather(torch.arange(4)), x[buffer.ids])


def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        EnergyReplayBuffer(4, storage=tmp_path / "file")


@pytest.mark.parametrize("weights", [0.0, 1e308, -1.0, float("nan"), float("inf")])
def test_weights_that_are_no_numbers_of_samples_are_refused(weights):
    source = filled(capacity=4, sampling="weight")
    state = source.state_dict()
    state["kept"]["weights"] = torch.full((4,), weights, dtype=torch.float64)
    buffer = EnergyReplayBuffer(4, sampling="weight")
    with pytest.raises(ValueError, match=r"weights are no[t ]"):
        buffer.load_state_dict(state)
    state["kept"]["weights"] = torch.tensor([0.0, 0.0, 1e-300, 1e15], dtype=torch.float64)
    buffer.load_state_dict(state)
    assert bool(buffer.draw_shares.isfinite().all())
    buffer.sample(3)
