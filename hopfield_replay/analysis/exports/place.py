"""Place: a folder that appears under its name only when all in it is written."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hopfield_replay.analysis.images import Item

Files = Literal["copy", "hardlink", "symlink"]
_AS_THEY_ARE = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}  # what every trainer reads; the rest becomes PNG


@dataclass(frozen=True, eq=False)
class Kept:
    """One sample that is handed over.

    Attributes:
        rank: its place in the choice, from 1.
        item: the image, and what is known of it.
        weight: how many of the old samples it stands for.
        repeats: how often a trainer shows it in an epoch.
    """

    rank: int
    item: Item
    weight: float
    repeats: int

    @property
    def caption(self) -> str | None:
        """Its caption on one line: trainers take further lines for further captions."""
        return None if self.item.caption is None else " ".join(self.item.caption.split())


class Place:
    """A folder while it is written.

    Args:
        partial: where it is written.
        final: where it will be.
        digits: of the names of its images.
        files: whether image files are copied or linked; pixels, and files that not every trainer reads, become PNG
            files.
    """

    def __init__(self, partial: Path, final: Path, digits: int, files: Files) -> None:
        self._partial, self._final, self._digits, self._files = partial, final, digits, files

    def at(self, name: str) -> str:
        """The path that a file or folder in it will have; absolute, for a trainer that runs elsewhere."""
        return str(self._final / name) if name else str(self._final)

    def writing(self, name: str) -> Path:
        """Where to write a file or folder that will be in it."""
        path = self._partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def text(self, name: str, content: str) -> None:
        """Write a text file."""
        self.writing(name).write_text(content, encoding="utf-8")

    def image(self, kept: Kept, folder: str = "") -> str:
        """Write an image, named by its rank so that the first n files are the best n; returns its name in the place.

        Raises:
            ValueError: a file that cannot be linked from here.
        """
        form, _, _ = kept.item.header()
        name = str(Path(folder, f"{kept.rank:0{self._digits}d}{_AS_THEY_ARE.get(form, '.png')}"))
        path, content = self.writing(name), kept.item.content
        if form not in _AS_THEY_ARE:
            kept.item.open().save(path)
        elif isinstance(content, Path) and self._files != "copy":
            self._link(content, path)
        else:
            data = kept.item.encoded()
            assert data is not None  # only pixels have none, and no format
            path.write_bytes(data)
        return name

    def captions(self, kept: Kept, image: str) -> None:
        """Write the caption of an image beside it, if it has one."""
        if kept.caption is not None:
            self.text(str(Path(image).with_suffix(".txt")), kept.caption)

    def by_repeats(self, kept: Sequence[Kept]) -> list[tuple[str, int]]:
        """Write images and captions into a folder for each number of repeats; names and numbers, the most first."""
        for one in kept:
            self.captions(one, self.image(one, f"repeats_{one.repeats}"))
        return [(f"repeats_{count}", count) for count in sorted({one.repeats for one in kept}, reverse=True)]

    def _link(self, source: Path, path: Path) -> None:
        source = source.resolve()
        if self._files == "symlink":
            path.symlink_to(source)
            return
        try:
            path.hardlink_to(source)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise ValueError(
                    f"{source} cannot be hard-linked to {self._final} ({error.strerror}); they may lie on two file "
                    'systems. Use files="copy" or "symlink".'
                ) from error
            raise


@contextlib.contextmanager
def new_place(folder: str | os.PathLike[str], count: int, files: Files) -> Iterator[Place]:
    """A folder to write to, which appears when the block ends; nothing is left if it fails.

    Args:
        folder: does not exist, or is empty.
        count: of the images that it will hold.
        files: see :class:`Place`.

    Raises:
        ValueError: the folder is not empty, is a file, or has a name that configuration files cannot hold.
    """
    final = Path(os.path.abspath(folder))
    check_free(final)
    partial = final.with_name(f".{uuid.uuid4().hex}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir()
    try:
        yield Place(partial, final, max(4, len(str(count))), files)
        if final.is_dir():
            final.rmdir()  # empty, or somebody else wrote to it meanwhile, and it is left alone
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that an export would overwrite, or whose name no configuration file can hold.

    Raises:
        ValueError: which of these.
    """
    final = Path(os.path.abspath(folder))
    if final.exists() and not final.is_dir():
        raise ValueError(f"{final} is a file; give a folder that does not exist, or is empty.")
    if final.is_dir() and any(final.iterdir()):
        raise ValueError(f"{final} is not empty; give a folder that does not exist, or is empty.")
    try:
        str(final).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(
            f"{os.fsencode(final)!r} is no UTF-8, and no configuration file can hold it; give another folder."
        ) from None
