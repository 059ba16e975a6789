import pytest
import torch

from helpers import files


def test_a_file_takes_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "one.txt"
    files.write_text(path, "old")

    def fail():
        with files.replacing(path) as partial:
            partial.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    files.write_text(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("one.txt", "new")]


def test_tensors_come_back_and_damage_is_named(tmp_path):
    path = tmp_path / "result.pt"
    content = {"a": 0.5, "none": None, "parts": [{"x": torch.arange(3)}]}
    files.write_tensors(path, content)
    back = files.read_tensors(path)
    assert torch.equal(back["parts"][0].pop("x"), content["parts"][0].pop("x"))
    assert back == content
    whole = path.read_bytes()
    for damaged in (b"", b"cut off", whole[:-20], whole[:60]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"result\.pt is damaged \("):
            files.read_tensors(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="not a file of results"):
        files.read_tensors(path)
