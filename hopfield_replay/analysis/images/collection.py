"""ImageCollection: images in a fixed order, of any sizes, as batches of one size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from hopfield_replay.analysis.images.item import Item, as_bytes
from hopfield_replay.utilities.images import pixels
from hopfield_replay.utilities.progress import track

_BATCH = 64


@dataclass(frozen=True, eq=False)
class ImageCollection:
    """Images in a fixed order, with what is known of each.

    Args:
        items: the images, at least one.

    Raises:
        ValueError: no images.

    Example:
        >>> found = ImageCollection.of_pixels(torch.rand(3, 3, 8, 8), captions=["a", "b", "c"])
        >>> len(found), found[1].caption, [len(batch) for batch in found.batches(4)]
        (3, 'b', [3])
    """

    items: Sequence[Item]

    def __post_init__(self) -> None:
        if not len(self.items):
            raise ValueError("A collection of images needs at least one.")

    @classmethod
    def of_pixels(
        cls,
        samples: Tensor,
        *,
        captions: Sequence[str | None] | None = None,
        labels: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
    ) -> Self:
        """Images that are held in memory.

        Args:
            samples: (n, channels, height, width), see :class:`Item`.
            captions: one for each.
            labels: the class of each.
            names: of each; None: their numbers.

        Raises:
            ValueError: samples of another shape; floating ones of which no range is known.
        """
        if samples.ndim != 4 or samples.shape[1] not in (1, 3):
            raise ValueError(
                f"samples of shape {tuple(samples.shape[1:])} are no images (1 or 3 channels, height, width)."
            )
        samples = as_bytes(samples)  # one scale for all
        return cls(
            [
                Item(
                    names[i] if names else str(i),
                    image,
                    captions[i] if captions else None,
                    str(labels[i]) if labels is not None else None,
                )
                for i, image in enumerate(samples)
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Item:
        return self.items[position]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def labels(self) -> list[str] | None:
        """The class of each image; None if that of one is not known."""
        labels = [item.label for item in self.items]
        return None if None in labels else [str(label) for label in labels]

    @cached_property
    def form(self) -> tuple[tuple[int, int] | None, bool]:
        """The one size (width, height) of all images, None if they have several; and whether all are grey."""
        headers = [item.header() for item in track(self.items, "Looking at images", total=len(self.items))]
        sizes = {size for _, size, _ in headers}
        return (sizes.pop() if len(sizes) == 1 else None), all(grey for _, _, grey in headers)

    def batches(self, size: int | None = None, *, grey: bool | None = None) -> "ImageBatches":
        """All images as batches (b, channels, height, width) in [-1, 1], which can be read again and again.

        Args:
            size: side to which they are scaled and cropped around their centres; None: as they are.
            grey: whether they have one channel or three; None: one, if all of them are grey.

        Raises:
            ValueError: images of several sizes, and no size to bring them to.
        """
        common, all_grey = self.form
        if size is None and common is None:
            raise ValueError("The images have several sizes; give the size to bring them to.")
        return ImageBatches(self.items, size, all_grey if grey is None else grey)

    def pictures(self, positions: Tensor, size: int) -> Tensor:
        """Some of the images, for people to look at.

        Args:
            positions: (m,) of the images.
            size: of their longer side; the rest of the square is white.

        Returns:
            (m, 3, size, size) bytes.
        """
        from PIL import Image, ImageOps

        shown = []
        for position in positions.tolist():
            picture = ImageOps.contain(self.items[position].open().convert("RGB"), (size, size))
            square = Image.new("RGB", (size, size), "white")
            square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
            shown.append(((pixels(square) + 1.0) * 127.5).round().to(torch.uint8))
        return torch.stack(shown) if shown else torch.zeros(0, 3, size, size, dtype=torch.uint8)


class ImageBatches:
    """A re-iterable of batches of images; see :meth:`ImageCollection.batches`."""

    def __init__(self, items: Sequence[Item], size: int | None, grey: bool) -> None:
        self._items, self._size, self._grey = items, size, grey

    def __len__(self) -> int:
        return -(-len(self._items) // _BATCH)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._items), _BATCH):
            yield torch.stack([self._read(item) for item in self._items[start : start + _BATCH]])

    def _read(self, item: Item) -> Tensor:
        from PIL import ImageOps

        image = item.open().convert("L" if self._grey else "RGB")
        if self._size is not None and image.size != (self._size, self._size):
            image = ImageOps.fit(image, (self._size, self._size))
        return pixels(image)
