import errno
import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from hopfield_replay.functional.rows import Rows
from hopfield_replay.memory import vector_store
from hopfield_replay.memory.vector_store import VectorStore

IMAGES = torch.randint(0, 256, (70, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).float()
KINDS = {
    "noise": (torch.randn(70, 50, generator=torch.Generator().manual_seed(1)), torch.float32),
    "double": (torch.randn(70, 50, generator=torch.Generator().manual_seed(1)).double(), torch.float64),
    "half": (torch.randn(70, 50, generator=torch.Generator().manual_seed(1)).half().float(), torch.float16),
    "levels": (IMAGES, torch.uint8),
    "to tensor": (IMAGES / 255, torch.uint8),
    "normalized": ((IMAGES / 255 - 0.5) / 0.5, torch.uint8),
    "in one step": (IMAGES / 127.5 - 1, torch.uint8),
    "normalized by other means": ((IMAGES / 255 - 0.4914) / 0.247, torch.float32),
}


def filled(vectors, monkeypatch, chunk=2000, **options):
    monkeypatch.setattr(vector_store, "_CHUNK", chunk)
    monkeypatch.setattr(vector_store, "HELD", 1 << 20)  # nothing stays in memory
    store = VectorStore(1 << 20, **options)
    for part in vectors.split(9):
        store.add(part)
    return store


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_was_put(kind, monkeypatch, tmp_path):
    vectors, stored = KINDS[kind]
    rows = filled(vectors, monkeypatch, folder=tmp_path).rows()
    assert isinstance(rows, Rows)
    assert len(rows.parts) > 1
    assert {getattr(part, "kept", part).dtype for part in rows.parts} == {stored}
    assert torch.equal(rows[:], vectors)
    assert rows[:].dtype == vectors.dtype
    index = torch.tensor([69, 0, 33, 33])
    assert torch.equal(rows[index], vectors[index])
    assert not list(tmp_path.iterdir())  # the files have no name


def test_a_chunk_that_needs_more_bits_gets_them(monkeypatch, tmp_path):
    vectors = IMAGES / 255
    vectors[-1, 0] += 1e-3
    rows = filled(vectors, monkeypatch, folder=tmp_path).rows()
    assert torch.equal(rows[:], vectors)
    assert {getattr(part, "kept", part).dtype for part in rows.parts} == {torch.uint8, torch.float32}


def test_few_vectors_stay_in_memory():
    store = VectorStore()
    for part in KINDS["noise"][0].split(9):
        store.add(part)
    assert torch.equal(store.rows(), KINDS["noise"][0])
    assert isinstance(store.rows(), torch.Tensor)


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_vectors():
    script = """
        import resource, torch
        from hopfield_replay.memory.vector_store import VectorStore
        part = torch.randn(512, 1024)
        limit = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize() + (100 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        store = VectorStore(256 << 20)
        for _ in range(300):  # 600 MiB
            store.add(part)
        rows = store.rows()
        total = sum(float(piece.double().sum()) for piece in rows)
        assert abs(total - 300 * float(part.double().sum())) < 1e-3, total
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("reason", ["full", "read-only"])
def test_where_no_file_can_be_made_the_memory_holds_what_it_may(reason, monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOSPC if reason == "full" else errno.EROFS, reason)

    monkeypatch.setattr(vector_store, "_allocate", refuse)
    vectors = KINDS["noise"][0]
    assert torch.equal(filled(vectors, monkeypatch, folder=tmp_path).rows()[:], vectors)
    monkeypatch.setattr(vector_store, "HELD", 1 << 20)
    store = VectorStore(1 << 20, tmp_path)
    many = vectors.repeat(60, 1)[:5000]
    with pytest.raises(OSError, match=rf"vectors of 50 numbers.*{reason}.*TMPDIR.*memory=.*encoder=") as caught:
        store.add(many)
    assert caught.value.errno == (errno.ENOSPC if reason == "full" else errno.EROFS)


@pytest.mark.heavy
def test_a_full_disk_is_an_error_and_no_crash(tmp_path):
    """A file may not grow beyond the limit, as it would on a full disk."""
    script = f"""
        import resource, signal, torch
        from hopfield_replay.memory.vector_store import VectorStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, 1 << 15))
        store = VectorStore(1 << 20, {str(tmp_path)!r})
        try:
            for _ in range(100):
                store.add(torch.randn(64, 1024))
        except OSError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "could not be had" in done.stdout


def test_bad_input_is_named():
    for memory in (0, -1, 1e9, True, "1 GiB"):
        with pytest.raises(ValueError, match=r"memory \(bytes\) must be a whole number >= 1048576"):
            VectorStore(memory)
    with pytest.raises(ValueError, match="empty"):
        VectorStore().rows()
    with pytest.raises(ValueError, match=r"less than the 4194304 bytes of one batch.*raise memory="):
        VectorStore(1 << 20).add(torch.zeros(1024, 1024))
    assert resource  # used in the child processes
