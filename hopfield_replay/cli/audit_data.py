"""The data of an audit: sources by task, as batches with names and labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopfield_replay.cli.datasets import Samples

_SHOWN = 8  # classes that a note lists


@dataclass(frozen=True, eq=False)
class Part:
    """One source of data.

    Attributes:
        batches: of its samples.
        labels: the class of each; None if nothing is known.
        names: what its samples are called; None likewise.
        samples: where they are held in memory.
    """

    batches: Iterable[Any]
    labels: Sequence[Any] | None = None
    names: Sequence[str] | None = None
    samples: "Samples | None" = None

    @property
    def captioned(self) -> bool:
        """Whether its samples have captions, or may have some."""
        return self.samples is None or bool(self.samples.captions)


def read(
    sources: Sequence[str], expects_images: bool, limits: Mapping[str, Any], classes: Sequence[str] = ()
) -> dict[str, Part]:
    """Every source, with labels that mean the same class in all of them, or that of their place in ``classes``."""
    from hopfield_replay.cli.datasets import Samples, in_one_numbering, load_data

    if len(set(sources)) < len(sources):
        raise ValueError(f"--data names one source twice: {' '.join(sources)}.")
    if len(set(classes)) < len(classes):
        raise ValueError(f"--classes names one class twice: {' '.join(classes)}.")
    loaded = {source: load_data(source, **limits) for source in sources}
    held = {source: data for source, data in loaded.items() if isinstance(data, Samples)}
    held = dict(zip(held, in_one_numbering(list(held.values()), classes), strict=True))
    parts = {}
    for source, data in loaded.items():
        if isinstance(data, Samples):
            images = held[source].as_images(strict=expects_images)
            names = [f"{source}/{name}" if len(sources) > 1 else name for name in images.names]
            names = names or [f"{Path(source).name}[{row}]" for row in range(len(images))]
            parts[source] = Part(images.batches(), images.label_names(), names, images)
        else:
            parts[source] = Part(data)
    return parts


def by_task(data: dict[str, Iterable[Any]]) -> Any:
    """One source as it is; several as tasks, called by their last names where these differ."""
    if len(data) == 1:
        return next(iter(data.values()))
    short = [Path(source).name for source in data]
    return dict(zip(short if len(set(short)) == len(short) else data, data.values(), strict=True))


def read_one(source: str | None, expects_images: bool, limits: Mapping[str, Any]) -> Part | None:
    """A source; None if there is none."""
    return None if source is None else read([source], expects_images, limits)[source]


def numbering(parts: Mapping[str, Part]) -> str:
    """Which numbers the classes of folders got; empty where there are none."""
    held = (part.samples for part in parts.values() if part.samples is not None)
    classes = next((samples.classes for samples in held if samples.labels is not None and samples.classes), ())
    shown = [f"{number} = {name}" for number, name in enumerate(classes[:_SHOWN])]
    return ", ".join(shown + (["..."] if len(classes) > _SHOWN else []))


def check_together(parts: Mapping[str, Part | None], model: str | None) -> None:
    """Refuse sources on different scales; see :func:`~hopfield_replay.cli.datasets.check_scales`."""
    from hopfield_replay.cli.datasets import check_scales

    held = {name: part.samples for name, part in parts.items() if part is not None}
    check_scales({name: samples for name, samples in held.items() if samples is not None}, model)


def together(parts: Sequence[Sequence[Any] | None]) -> list[Any] | None:
    """All of them in one list; None if any is unknown."""
    known = [part for part in parts if part is not None]
    return [item for part in known for item in part] if len(known) == len(parts) else None


__all__ = ["Part", "by_task", "check_together", "numbering", "read", "read_one", "together"]
