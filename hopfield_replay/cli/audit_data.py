"""The data of an audit: sources by task, as batches with names and labels."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Part:
    """One source of data: its batches, and what its samples are called."""

    def __init__(self, batches: Iterable[Any], labels: Sequence[Any] | None, names: Sequence[str] | None) -> None:
        self.batches = batches
        self.labels = labels
        self.names = names


def read(sources: Sequence[str], expects_images: bool, limits: Mapping[str, Any]) -> dict[str, Part]:
    """Every source, with labels that mean the same class in all of them."""
    from hopfield_replay.cli.datasets import Samples, in_one_numbering, load_data

    if len(set(sources)) < len(sources):
        raise ValueError(f"--data names one source twice: {' '.join(sources)}.")
    loaded = {source: load_data(source, **limits) for source in sources}
    held = {source: data for source, data in loaded.items() if isinstance(data, Samples)}
    held = dict(zip(held, in_one_numbering(list(held.values())), strict=True))
    parts = {}
    for source, data in loaded.items():
        if isinstance(data, Samples):
            images = held[source].as_images(strict=expects_images)
            names = [f"{source}/{name}" if len(sources) > 1 else name for name in images.names]
            names = names or [f"{Path(source).name}[{row}]" for row in range(len(images))]
            parts[source] = Part(images.batches(), images.label_names(), names)
        else:
            parts[source] = Part(data, None, None)
    return parts


def by_task(data: dict[str, Iterable[Any]]) -> Any:
    """One source as it is; several as tasks, called by their last names where these differ."""
    if len(data) == 1:
        return next(iter(data.values()))
    short = [Path(source).name for source in data]
    return dict(zip(short if len(set(short)) == len(short) else data, data.values(), strict=True))


def read_one(source: str | None, expects_images: bool, limits: Mapping[str, Any]) -> Iterable[Any] | None:
    """The batches of a source; None if there is none."""
    return None if source is None else read([source], expects_images, limits)[source].batches


def together(parts: Sequence[Sequence[Any] | None]) -> list[Any] | None:
    """All of them in one list; None if any is unknown."""
    known = [part for part in parts if part is not None]
    return [item for part in known for item in part] if len(known) == len(parts) else None


__all__ = ["Part", "by_task", "read", "read_one", "together"]
