"""What is read from .npz files, against numpy's own reader; what is refused, before it costs memory."""

import io
import zipfile

import numpy as np
import pytest

from hopfield_replay.cli.array_files import read_npz


def test_numbers_come_back_as_numpy_reads_them(tmp_path):
    arrays = {
        "bytes": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "big_endian": np.linspace(0, 1, 5).astype(">f4"),
        "flags": np.array([True, False]),
        "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "names": np.array(["a", "b"]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        found = read_npz(tmp_path / "x.npz")
        with np.load(tmp_path / "x.npz") as reference:
            assert set(found) == set(reference) - {"names"}  # text is no sample
            for name, array in found.items():
                np.testing.assert_array_equal(array, reference[name])
                assert array.dtype.isnative


def test_objects_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    np.savez(tmp_path / "x.npz", x=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match="holds objects, that is pickles"):
        read_npz(tmp_path / "x.npz")


def test_a_header_that_declares_more_than_there_is(tmp_path):
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", out.getvalue() + bytes(80))
    with pytest.raises(ValueError, match=r"declares \(1099511627776,\) of float64, more than"):
        read_npz(tmp_path / "x.npz")


@pytest.mark.heavy
def test_a_file_that_would_expand_without_end(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as entry:
        for _ in range(300):
            entry.write(bytes(1 << 20))
    with pytest.raises(ValueError, match="would expand to 314572800"):
        read_npz(tmp_path / "x.npz")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match="damaged"):
        read_npz(tmp_path / "x.npz")
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "y.npz")
