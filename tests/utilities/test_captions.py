"""Captions come as they were written, or the file and the line are named."""

import json

import pytest

from hopfield_replay.utilities.captions import read_captions


def written(folder, data):
    (folder / "metadata.jsonl").write_bytes(data)
    return folder / "metadata.jsonl"


def row(caption, name="a.png"):
    return json.dumps({"file_name": name, "text": caption}, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    "caption", ["one\u2028line", "one\u2029line", "one\x85line", "a\x0bb\x0cc", "a\x1c\x1db", "猫 é"]
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_only_a_line_feed_ends_a_line(tmp_path, caption, end):
    data = b"\xef\xbb\xbf" + row(caption) + end + end + row("two", "b.png")
    found = read_captions(written(tmp_path, data))
    assert found == [(1, "a.png", caption), (3, "b.png", "two")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"file_name": "a.png", "text": "\xe9"}', "line 2 is not UTF-8"),  # Latin-1
        ("\ufeff".encode("utf-16") + row("x").decode().encode("utf-16-le"), "line 2 is not"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'{"file_name": "a.png", "text": ' + b"9" * 10_000 + b"}", "line 2 is not JSON"),
        (b"{", "line 2 is not JSON"),
        (b"3", 'line 2 has no "file_name"'),
        (b'{"file_name": 3, "text": "x"}', 'line 2 has no "file_name"'),
        (b'{"file_name": "a.png", "text": "\\ud800"}', "line 2: the caption holds half of a character"),
        (b'{"file_name": "a.png", "text": 7}', "line 2: a.png has no caption 'text'"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"metadata.jsonl, {message}"):
        read_captions(written(tmp_path, row("one") + b"\n" + line))
