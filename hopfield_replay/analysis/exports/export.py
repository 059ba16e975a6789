"""Export: the chosen images in the form that a trainer reads."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hopfield_replay.analysis.exports.ai_toolkit import write_ai_toolkit
from hopfield_replay.analysis.exports.dreambooth import write_dreambooth
from hopfield_replay.analysis.exports.hugging_face import write_hugging_face
from hopfield_replay.analysis.exports.imagefolder import write_imagefolder
from hopfield_replay.analysis.exports.json_list import write_json_list
from hopfield_replay.analysis.exports.kohya import write_kohya
from hopfield_replay.analysis.exports.onetrainer import write_onetrainer
from hopfield_replay.analysis.exports.place import Files, Kept, Place, check_free, new_place
from hopfield_replay.analysis.exports.repeats import apportion, largest_error
from hopfield_replay.analysis.exports.settings import Settings, Use
from hopfield_replay.analysis.exports.simpletuner import write_simpletuner
from hopfield_replay.analysis.images import ImageCollection, Item
from hopfield_replay.analysis.selection_report import SelectionReport
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.progress import track

_WRITERS: dict[str, Callable[[Place, Sequence[Kept], Settings], None]] = {
    "imagefolder": write_imagefolder,
    "json": write_json_list,
    "kohya": write_kohya,
    "simpletuner": write_simpletuner,
    "ai-toolkit": write_ai_toolkit,
    "onetrainer": write_onetrainer,
    "diffusers": write_dreambooth,
    "hf": write_hugging_face,
}
FORMATS = tuple(_WRITERS)


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        folder: where.
        images: how many.
        repeats: of each image, best first.
        error: how far the share of one image in an epoch at most lies from that of its weight.
    """

    folder: str
    images: int
    repeats: tuple[int, ...]
    error: float


def export(
    report: SelectionReport,
    images: Sequence[Item] | ImageCollection,
    folder: str | os.PathLike[str],
    form: str,
    *,
    files: Files = "copy",
    use: Use = "regularise",
    repeats: int = 4,
    prompt: str | None = None,
) -> Written:
    """Write the chosen images as a trainer reads them: named by rank, captions kept, weights as repeats.

    All is written before the folder appears under its name; if anything fails, nothing is left of it.

    Args:
        report: of :func:`~hopfield_replay.select`.
        images: the old samples that it chose from, in their order.
        folder: does not exist, or is empty.
        form: ``"imagefolder"`` (metadata.jsonl), ``"json"`` (a list), ``"kohya"`` (TOML for --dataset_config),
            ``"simpletuner"`` (data backends), ``"ai-toolkit"`` (YAML), ``"onetrainer"`` (concepts), ``"diffusers"``
            (class images of DreamBooth scripts) or ``"hf"`` (``datasets.load_from_disk``).
        files: ``"copy"`` image files, or ``"hardlink"`` or ``"symlink"`` them.
        use: ``"regularise"``: keep what the model knows of them; ``"train"``: like the trainer's own images;
            ``"validate"``: measure only.
        repeats: how often an image is shown in an epoch on average, >= 1: the weights become whole numbers with this
            mean, see :func:`~hopfield_replay.analysis.exports.repeats.apportion`; 1: all alike, as they are for
            ``"diffusers"`` and for ``use="validate"`` whatever is given.
        prompt: for images without captions.

    Returns:
        What was written, with the error of the repeats.

    Raises:
        ValueError: an unknown format, a folder that is not empty, captions missing, images that do not decode.
        TypeError: repeats that are no whole number.

    Example:
        >>> import tempfile, torch
        >>> from hopfield_replay.analysis import ImageCollection, select
        >>> images = ImageCollection.of_pixels(torch.rand(8, 1, 4, 4), captions=["noise"] * 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = export(select(images, keep=3), images, folder + "/replay", "kohya", repeats=2)
        >>> found.images, sum(found.repeats)
        (3, 6)
    """
    if form not in _WRITERS:
        raise ValueError(f"Unknown format {form!r}; choose one of {list(FORMATS)}.{did_you_mean(form, FORMATS)}")
    if files not in ("copy", "hardlink", "symlink"):
        raise ValueError(
            f'files must be "copy", "hardlink" or "symlink", got {files!r}.'
            f"{did_you_mean(files, ('copy', 'hardlink', 'symlink'))}"
        )
    if use not in ("regularise", "train", "validate"):
        raise ValueError(
            f'use must be "regularise", "train" or "validate", got {use!r}.'
            f"{did_you_mean(use, ('regularise', 'train', 'validate'))}"
        )
    check_integer(repeats, "repeats", 1, wrong_type=TypeError)
    if len(images) != report.samples:
        raise ValueError(f"The report is of {report.samples} samples, but {len(images)} images were given.")
    check_free(folder)
    weights = report.weights.tolist()
    alike = use == "validate" or form == "diffusers"  # whose scripts show all class images equally often
    shown = apportion(weights, (1 if alike else repeats) * len(report))
    chosen = enumerate(zip(report.indices.tolist(), weights, shown, strict=True), start=1)
    kept = [Kept(rank, images[at], weight, count) for rank, (at, weight, count) in chosen]
    with new_place(folder, len(kept), files) as place:
        _WRITERS[form](place, list(track(kept, "Writing images")), Settings(use, prompt))
    return Written(os.fspath(folder), len(kept), tuple(shown), largest_error(weights, shown))
