"""Rows allocated once, copied in and out, of one form; and files that are replaced only when they are whole."""

import errno
import gc
import os
import pickle
import subprocess
import sys

import pytest
import torch

from hopfield_replay.buffer.storage import SampleStore, load_tree, plain, save_tree
from tests.utilities.test_nested import NESTINGS, Pair, same


@pytest.mark.parametrize("name", NESTINGS)
def test_what_is_put_comes_back(name):
    samples = NESTINGS[name]
    store = SampleStore(6)
    store.put(samples, torch.tensor([5, 0, 3, 1]))
    found = store.get(torch.tensor([5, 0, 3, 1]))
    assert same(plain(found), plain(samples)) or name == "tuple of strings"  # captions are kept in a list
    if name == "tuple of strings":
        assert same(found[0], samples[0])
        assert found[1] == list(samples[1])
    assert type(found) is type(samples)


def test_rows_that_were_not_named_stay():
    store = SampleStore(4)
    store.put(torch.arange(4.0)[:, None], torch.arange(4))
    store.put(torch.tensor([[9.0], [8.0]]), torch.tensor([3, 1]))
    assert store.get(torch.arange(4)).flatten().tolist() == [0.0, 8.0, 2.0, 9.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_dtypes_are_kept(dtype):
    samples = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    store = SampleStore(2)
    store.put(samples, torch.arange(2))
    assert same(store.get(torch.arange(2)), samples)
    assert store.nbytes == 4 * samples.element_size()


def test_copies_in_both_directions():
    big = torch.arange(1000.0).view(500, 2)
    store = SampleStore(3)
    store.put({"x": big[100:103]}, torch.arange(3))
    big.zero_()
    out = store.get(torch.arange(3))["x"]
    assert out.flatten().tolist() == [200.0, 201.0, 202.0, 203.0, 204.0, 205.0]
    assert out.untyped_storage().nbytes() == 6 * 4
    out.zero_()
    assert store.get(torch.tensor([0]))["x"].tolist() == [[200.0, 201.0]]


def test_size_is_that_of_the_capacity_from_the_first_samples_on():
    store = SampleStore(50)
    assert store.nbytes == 0
    sizes = set()
    for start in range(5):
        store.put((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)), torch.tensor([start, 20 + start]))
        sizes.add(store.nbytes)
    assert sizes == {50 * (3 * 4 + 8)}


def test_gradients_are_not_kept():
    samples = torch.ones(2, 2, requires_grad=True)
    store = SampleStore(2)
    store.put(samples * 2, torch.arange(2))
    assert not store.get(torch.arange(2)).requires_grad


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x": torch.zeros(2, 4), "t": ["a", "b"]}, r"batch\['x'\] was kept as torch.float32 of shape \(3,\).*\(4,\)"),
        ({"x": torch.zeros(2, 3).double(), "t": ["a", "b"]}, "is now torch.float64"),
        (
            {"x": torch.zeros(2, 3), "t": torch.zeros(2)},
            r"batch\['t'\] was kept as text .* torch.float32",
        ),
        ({"x": torch.zeros(2, 3), "t": [torch.zeros(2), torch.zeros(2)]}, r"batch\['t'\] is a list of 5 items"),
        ({"x": torch.zeros(2, 3)}, "has keys"),
        (torch.zeros(2, 3), "has keys"),
    ],
)
def test_another_form_is_refused_and_nothing_is_written(other, message):
    store = SampleStore(5)
    first = {"x": torch.ones(5, 3), "t": list("vwxyz")}
    store.put(first, torch.arange(5))
    with pytest.raises(ValueError, match=message):
        store.put(other, torch.arange(2))
    assert same(store.get(torch.arange(5)), first)


def test_another_number_of_samples_is_refused():
    with pytest.raises(ValueError, match="3 samples were given for 2 places"):
        SampleStore(5).put(torch.zeros(3, 1), torch.arange(2))


def test_plain_makes_tuples_of_namedtuples():
    found = plain({"a": Pair(torch.ones(1), [torch.zeros(1)])})
    assert type(found["a"]) is tuple
    assert same(found, {"a": (torch.ones(1), [torch.zeros(1)])})


TREE = {
    "numbers": (1, 2.5, None, True, "text", -0.1),
    "tensors": [torch.arange(3, dtype=torch.uint8), torch.empty(0, 4), torch.tensor(3.5, dtype=torch.bfloat16)],
    3: {"empty": [], "view": torch.arange(10.0)[::3]},
}


def test_files_give_back_the_same_tree(tmp_path):
    save_tree(tmp_path / "a.safetensors", TREE)
    assert same(load_tree(tmp_path / "a.safetensors"), TREE)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_tensors_that_share_memory_are_written_each(tmp_path):
    shared = torch.arange(4.0)
    save_tree(str(tmp_path / "a"), {"a": shared, "b": shared[1:]})
    assert same(load_tree(str(tmp_path / "a")), {"a": shared, "b": shared[1:]})


@pytest.mark.parametrize("step", ["outline", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "a.safetensors"
    save_tree(path, {"old": torch.ones(2)})
    if step == "replace":

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((OSError, TypeError)):
        save_tree(path, {"new": torch.zeros(2), "thing": 1 if step == "replace" else object()})
    assert os.listdir(tmp_path) == ["a.safetensors"]
    assert same(load_tree(path), {"old": torch.ones(2)})


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError):
        load_tree(tmp_path / "missing")
    (tmp_path / "text").write_text("hello")
    save_file({"a": torch.ones(1)}, str(tmp_path / "foreign"))
    save_tree(tmp_path / "whole", {"a": torch.ones(1000)})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    for name in ("text", "foreign", "cut"):
        with pytest.raises(ValueError, match=f"{name} is not a file written by hopfield-replay, or it is damaged"):
            load_tree(tmp_path / name)


def test_what_is_written_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    save_tree(tmp_path / "a.safetensors", TREE)
    assert done == ["fsync", "replace", "fsync"]  # the file, its name, and the folder that holds the name


FORKED = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def in_a_fork(work):
    """What a forked process sees, as text."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as answer:
        return answer.read()


@FORKED
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_and_does_not_write_into_its_parents_rows(tmp_path):
    store = SampleStore(4, tmp_path)
    rows = torch.arange(8.0).view(4, 2)
    store.put(rows, torch.arange(4))
    assert in_a_fork(lambda: store.get(torch.tensor([1])).tolist()) == "[[2.0, 3.0]]"
    for said, write in (
        ("The rows in", lambda: store.put(-rows, torch.arange(4))),
        ("The rows in", lambda: store.prepare_refill(-rows)()),
        ("storage=", lambda: SampleStore(4, tmp_path)),
    ):
        assert in_a_fork(write).startswith(f"ValueError: {said}")
    assert torch.equal(store.get(torch.arange(4)), rows)
    assert len(list(tmp_path.glob("*.bin"))) == 1


@pytest.mark.heavy
@FORKED
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_processes_that_outlive_the_buffer_do_not_keep_its_folder(tmp_path):
    """Workers of a DataLoader that stay alive are forked from the process that holds the buffer."""
    store = SampleStore(4, tmp_path)
    store.put(torch.ones(4, 2), torch.arange(4))
    end, wait = os.pipe()
    child = os.fork()
    if not child:
        os.close(wait)
        os.read(end, 1)
        os._exit(0)
    try:
        del store
        gc.collect()
        again = SampleStore(4, tmp_path)
        again.put(torch.zeros(4, 2), torch.arange(4))
        with pytest.raises(ValueError, match=rf"in use by another buffer.*held by process {os.getpid()}"):
            SampleStore(4, tmp_path)
    finally:
        os.close(wait)
        os.waitpid(child, 0)


HOLDS = """
import sys, time
from hopfield_replay.buffer.storage import SampleStore
store = SampleStore(4, sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.heavy
def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=rf"in use by another buffer.*held by process {other.pid} on "):
            SampleStore(4, tmp_path)
        with pytest.raises(ValueError, match="in use"):  # a second try has not freed it
            SampleStore(4, tmp_path)
        other.kill()
    SampleStore(4, tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_no_other_buffer(tmp_path, monkeypatch, number):
    import fcntl

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.warns(UserWarning, match="in_use cannot be locked"):
        store = SampleStore(4, tmp_path)
    with pytest.raises(ValueError, match="in use"):  # within this process it still is
        SampleStore(4, tmp_path)
    store.put(torch.ones(4, 2), torch.arange(4))


def test_a_buffer_with_storage_is_not_sent_to_other_processes(tmp_path):
    with pytest.raises(TypeError, match="cannot be sent to another process; send its state_dict"):
        pickle.dumps(SampleStore(4, tmp_path))
    assert pickle.loads(pickle.dumps(SampleStore(4))).capacity == 4


def test_what_was_prepared_and_never_put_leaves_nothing(tmp_path):
    for folder in (None, tmp_path):
        store = SampleStore(4, folder)
        store.prepare_put(torch.ones(4, 2), torch.arange(4))
        assert store.nbytes == 0
        store.put({"other": torch.ones(4, 3)}, torch.arange(4))
        store.prepare_refill(torch.ones(2, 9))
        assert same(store.get(torch.arange(4)), {"other": torch.ones(4, 3)})
    store.prepare_refill(torch.ones(2, 9))()
    assert store.get(torch.arange(2)).shape == (2, 9)


def test_no_memory_for_a_buffer_is_said_with_its_size():
    with pytest.raises(MemoryError, match=r"memory for a buffer of 1048576 samples of \(268435456,\) torch.float32 \("):
        SampleStore(1 << 20).put(torch.zeros(1).expand(1, 1 << 28), torch.arange(1))
