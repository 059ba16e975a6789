"""Folders of captioned images in Hugging Face's imagefolder convention: image files and a metadata.jsonl."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor

from hopfield_replay.analysis import IMAGE_SUFFIXES, open_image, pixels, read_captions


@dataclass(frozen=True)
class Captioned:
    """The images of one task and what they show.

    Attributes:
        folder: that holds metadata.jsonl.
        files: the images, one for each line of metadata.jsonl.
        captions: one for each image.
    """

    folder: Path
    files: tuple[Path, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def name(self) -> str:
        """Name of the folder, by which the task is called."""
        return self.folder.resolve().name  # also of "." and "birds/.."

    def fingerprint(self) -> str:
        """SHA-256 of the images' bytes, in their order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def distinct_captions(self, count: int) -> list[str]:
        """The first ``count`` captions that differ, from the start again if there are fewer."""
        different = list(dict.fromkeys(self.captions))
        return [different[i % len(different)] for i in range(count)]


def read_captioned(folder: Path, column: str = "text") -> Captioned:
    """Read which images a folder holds and what their captions are; no image is opened yet.

    Args:
        folder: with a metadata.jsonl of lines ``{"file_name": "1.png", "text": "a red bird"}``, paths being relative
            to the folder.
        column: name of the captions' entry.

    Raises:
        ValueError: no such folder, no images, or an image without a caption; the message says where and which.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one folder of captioned images for each task.")
    present = {
        file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    }
    if not present:
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}); a task needs at least one.")
    metadata = folder / "metadata.jsonl"
    if not metadata.is_file():
        raise ValueError(
            f"{folder} has {len(present)} images but no captions: put a metadata.jsonl there, with a line "
            f'{{"file_name": "{min(present).relative_to(folder)}", "{column}": "..."}} for each image.'
        )
    files, captions = [], []
    for number, name, caption in read_captions(metadata, column):
        if folder / name not in present:
            raise ValueError(
                f"{metadata}, line {number}: there is no image {name!r} ({', '.join(IMAGE_SUFFIXES)}) in {folder}."
            )
        files.append(folder / name)
        captions.append(caption)
    bare = sorted(str(file.relative_to(folder)) for file in present - set(files))
    if bare:
        raise ValueError(f"{metadata} has no caption for {len(bare)} of {len(present)} images: {', '.join(bare[:5])}.")
    return Captioned(folder, tuple(files), tuple(captions))


def read_images(files: Sequence[Path], size: int) -> Tensor:
    """Images (n, 3, size, size) in [-1, 1], upright, on white, scaled and cropped around their centres.

    Raises:
        ValueError: a file that does not decode, or whose numbers have no known range.
    """
    squares = [pixels(ImageOps.fit(open_image(file), (size, size))) for file in files]
    return torch.stack([square.expand(3, -1, -1) for square in squares])


def write_captioned(folder: Path, images: Tensor, captions: Sequence[str]) -> None:
    """Write images (n, 3, h, w) in [-1, 1] and their captions as such a folder."""
    folder.mkdir(parents=True)
    lines = []
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        pixels = ((image.permute(1, 2, 0) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number:05d}.png")
        lines.append(json.dumps({"file_name": f"{number:05d}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
