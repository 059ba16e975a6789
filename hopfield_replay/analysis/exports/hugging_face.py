"""Hugging Face datasets: what datasets.load_from_disk reads."""

from collections.abc import Sequence

from hopfield_replay.analysis.exports.imagefolder import described
from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings


def write_hugging_face(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """A data set with the columns ``image``, ``text``, ``rank``, ``weight``, ``repeats``, ``label`` and ``source``."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError('This format needs datasets: pip install "hopfield-replay[datasets]".') from error
    rows = []
    for one in kept:
        written = place.writing(place.image(one))  # in the form that every trainer reads
        text = one.item.caption if one.item.caption is not None else settings.prompt
        image = {"bytes": written.read_bytes(), "path": written.name}
        rows.append({"image": image, **({} if text is None else {"text": text}), **described(one)})
        written.unlink()
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    features = {name: datasets.Value(_TYPES.get(name, "string")) for name in columns}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features({**features, "image": datasets.Image()}))
    quiet = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        dataset.save_to_disk(str(place.writing("")))
    finally:
        if quiet:
            datasets.utils.logging.enable_progress_bar()


_TYPES = {"rank": "int64", "repeats": "int64", "weight": "float64"}
