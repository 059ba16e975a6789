"""Captions of images in the imagefolder convention: a metadata.jsonl with one JSON object a line."""

import json
from pathlib import Path
from typing import Any


def read_captions(metadata: Path, column: str = "text") -> list[tuple[int, str, str]]:
    """Line number, file name and caption of every line that is not empty.

    Args:
        metadata: UTF-8, with lines ``{"file_name": "1.png", "text": "a red bird"}``.
        column: name of the captions' entry.

    Raises:
        ValueError: another encoding, a line that is no such object; the message says which file and line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "metadata.jsonl")
        ...     _ = file.write_text('{"file_name": "1.png", "text": "a red bird"}', encoding="utf-8")
        ...     read_captions(file)
        [(1, '1.png', 'a red bird')]
    """
    captions = []
    # in bytes: nothing but a line feed ends a line, and captions may hold all that Unicode calls one
    for number, line in enumerate(metadata.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            captions.append((number, *_row(line, column, f"{metadata}, line {number}")))
    return captions


def _row(line: bytes, column: str, where: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error}); save the file in that encoding.") from None
    except (ValueError, RecursionError) as error:  # also of numbers without end and of nestings without end
        raise ValueError(f"{where} is not JSON ({error}).") from None
    if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
        raise ValueError(f'{where} has no "file_name".')
    caption = row.get(column)
    if not isinstance(caption, str) or not caption.strip():
        others = [name for name in row if name not in ("file_name", column)]
        raise ValueError(f"{where}: {row['file_name']} has no caption {column!r} (other entries: {others}).")
    try:
        caption.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{where}: the caption holds half of a character (\\ud800 to \\udfff alone).") from None
    return row["file_name"], caption


__all__ = ["read_captions"]
