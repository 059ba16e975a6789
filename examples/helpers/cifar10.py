"""CIFAR-10 from a folder, in torchvision's layout or as .npz files."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

FOLDER = "cifar-10-batches-py"  # torchvision's
LAYOUTS = f"""A CIFAR-10 folder has one of two layouts:
  torchvision's:  {FOLDER}/ with data_batch_1 ... data_batch_5, test_batch and batches.meta, as made by
                  python -c "from torchvision.datasets import CIFAR10; CIFAR10('data', download=True)"
  .npz:           train.npz and test.npz, each with images (n, 32, 32, 3) uint8 and labels (n,) from 0 to 9,
                  there or in cifar10/
Pass the folder that holds them: --data-dir FOLDER."""

Images = tuple[Tensor, Tensor]


def load_cifar10(data_dir: Path) -> tuple[Images, Images]:
    """Training and test set of a folder: images (n, 3, 32, 32) in [-1, 1] and labels (n,).

    Raises:
        ValueError: the folder has neither layout, or a file that is not what it should be; the message names both
            layouts.
    """
    if (data_dir / FOLDER).is_dir():
        return read_torchvision(data_dir, train=True), read_torchvision(data_dir, train=False)
    for folder in (data_dir, data_dir / "cifar10"):
        if (folder / "train.npz").is_file() and (folder / "test.npz").is_file():
            return read_npz(folder, train=True), read_npz(folder, train=False)
    raise ValueError(f"There is no CIFAR-10 in {data_dir}.\n{LAYOUTS}")


def read_torchvision(data_dir: Path, *, train: bool) -> Images:
    """One set in torchvision's layout; torchvision compares the files with their known checksums."""
    from torchvision.datasets import CIFAR10

    try:
        data = CIFAR10(str(data_dir), train=train)
    except RuntimeError as error:
        raise ValueError(f"torchvision cannot read {data_dir / FOLDER}: {error}.\n{LAYOUTS}") from None
    return as_tensors(data.data, np.asarray(data.targets))


def read_npz(data_dir: Path, *, train: bool) -> Images:
    """One set from an .npz file."""
    path = data_dir / ("train.npz" if train else "test.npz")
    try:
        with path.open("rb") as file, np.load(file) as data:
            images, labels = data["images"], data["labels"]
    except (KeyError, ValueError, OSError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}.\n{LAYOUTS}") from None
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3):
        raise ValueError(f"{path} holds images {images.dtype} of shape {images.shape}.\n{LAYOUTS}")
    if labels.shape != images.shape[:1] or set(np.unique(labels).tolist()) != set(range(10)):
        raise ValueError(
            f"{path} holds {len(images)} images, and labels of shape {labels.shape} with the values "
            f"{np.unique(labels).tolist()[:20]}; every class from 0 to 9 must occur.\n{LAYOUTS}"
        )
    return as_tensors(images, labels)


def as_tensors(images: np.ndarray, labels: np.ndarray) -> Images:
    """Images (n, 32, 32, 3) uint8 as (n, 3, 32, 32) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0, torch.from_numpy(labels).long()
