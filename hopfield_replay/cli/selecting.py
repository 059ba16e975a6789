"""hopfield-replay select."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.forecast import add_limits
from hopfield_replay.cli.names import FORMATS, POLICIES
from hopfield_replay.cli.output import drawn, say, write
from hopfield_replay.utilities.choices import did_you_mean

if TYPE_CHECKING:
    from hopfield_replay.analysis import ImageCollection, SelectionReport

HELP = "choose the samples of a data set that are worth keeping, and hand them to a trainer"
DESCRIPTION = """\
Choose the samples of a data set that are worth keeping: a replay set, a
regularisation set or any other small set that stands for all. No model is
trained. Images are handed over in the form that a trainer reads.
"""
EPILOG = """\
examples:
  the 200 photographs that cover a folder best, for kohya's sd-scripts
    hopfield-replay select photos/ --keep 200 --encoder dinov2/ \\
        --export kohya --output regularisation/
  what protects the old images from a fine-tune on new ones, class by class
    hopfield-replay select old/ new/ --keep 500 --by folder \\
        --encoder stable-diffusion/ --output-dir results/
  class images for prior preservation, of which there are none: the best 100 of
  1000 that the model generates itself
    hopfield-replay select --generate stable-diffusion/ --prompts prompts.txt \\
        --pool 1000 --keep 100 --encoder dinov2/ --export diffusers \\
        --output class-images/ --prompt "a photo of a dog"
"""
SOURCE = (
    "a folder of images (captions in a metadata.jsonl or in .txt files of the same names), a folder that datasets' "
    "save_to_disk wrote, .parquet or webdataset .tar files or a folder of them, a .npz or .safetensors file, or "
    "package.module:DataModule"
)


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument(
        "old", type=str | None, nargs="?", default=None, metavar="OLD",
        help=f"what to choose from, unless it is generated: {SOURCE}",
    )  # fmt: skip
    parser.add_argument(
        "new", type=str | None, nargs="?", default=None, metavar="NEW",
        help="what will be trained on, likewise; the choice then protects most from it",
    )  # fmt: skip
    group = parser.add_argument_group("the choice")
    group.add_argument("--keep", type=int, required=True, metavar="K", help="how many to keep")
    group.add_argument("--policy", type=str, default="greedy_gain", metavar="NAME", help=", ".join(POLICIES))
    group.add_argument(
        "--by", type=str | None, default=None, metavar="label|folder|task",
        help="equal shares for each class, each folder, or each of OLD and --also; all compete if not given",
    )  # fmt: skip
    group.add_argument("--also", type=str, nargs="+", default=None, metavar="SOURCE", help="more to choose from")
    group.add_argument(
        "--pool", type=int | None, default=None, metavar="N",
        help="choose among N drawn at random, or generate so many (10 times --keep if not given)",
    )  # fmt: skip
    group.add_argument(
        "--unique", type=float | None, nargs="?", const=0.1, default=None, metavar="SHARE",
        help="keep one of several near-duplicates, and report them: those within this share of the usual distance "
        "to the 10th nearest sample (0.1 if no number is given)",
    )  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the random policies and of the pool")
    group = parser.add_argument_group("where there is no data")
    group.add_argument(
        "--generate", type=str | None, default=None, metavar="PIPELINE",
        help="choose among images of this text-to-image pipeline (a folder of save_pretrained); a single SOURCE is NEW "
        "then",
    )  # fmt: skip
    group.add_argument(
        "--prompts", type=str | None, default=None, metavar="FILE", help="its prompts, one a line, used in turns"
    )
    group.add_argument(
        "--steps", type=int | None, default=None, metavar="N", help="of its sampler; its own if not given"
    )
    group = parser.add_argument_group("how samples are compared")
    group.add_argument(
        "--encoder", type=str, default="pixels", metavar="pixels|PATH",
        help="folder of a diffusers autoencoder or pipeline, of a transformers vision model (DINOv2, CLIP), or a "
        "TorchScript file, which is a program: only from people you trust",
    )  # fmt: skip
    group.add_argument(
        "--size", type=int | None, default=None, metavar="N",
        help="side to which images are scaled and cropped for the encoder; what the encoder takes if not given",
    )  # fmt: skip
    group.add_argument(
        "--device",
        type=str,
        default="cpu",
        metavar="DEVICE",
        help="of the encoder and the pipeline, and where samples are compared",
    )
    group.add_argument(
        "--beta", type=float | None, default=None, metavar="BETA", help="inverse temperature; calibrated if not given"
    )
    group.add_argument(
        "--replay-ratio", type=float, default=0.5, metavar="SHARE", help="share of each batch that would be replayed"
    )
    group = parser.add_argument_group("the outcome")
    group.add_argument(
        "--output-dir", type=str | None, default=None, metavar="DIR",
        help="write select.json and contact_sheet.png there",
    )  # fmt: skip
    group.add_argument(
        "--export", type=str | None, default=None, metavar="FORMAT",
        help=f"hand the images over, named by rank: {', '.join(FORMATS)}",
    )  # fmt: skip
    group.add_argument(
        "--output", type=str | None, default=None, metavar="DIR", help="where to; it must not exist, or be empty"
    )
    group.add_argument(
        "--files", type=str, default="copy", metavar="HOW", help="copy image files, or hardlink or symlink them"
    )
    group.add_argument(
        "--use", type=str, default="regularise", metavar="USE",
        help="what the trainer does with them: regularise (keep what the model knows of them), train, validate",
    )  # fmt: skip
    group.add_argument(
        "--repeats", type=int, default=4, metavar="N",
        help="how often an image is shown in an epoch on average: as often as it stands for others; 1: all alike",
    )  # fmt: skip
    group.add_argument("--prompt", type=str | None, default=None, metavar="TEXT", help="for images without captions")
    add_limits(parser)


def run(options: Any) -> int:
    """Choose, print, write and hand over."""
    _check_outcome(options)
    with tempfile.TemporaryDirectory(prefix="hopfield-replay-") as scratch:
        return _chosen(options, _generated(options, scratch) if options.generate else None)


def _chosen(options: Any, generated: "ImageCollection | None") -> int:
    from hopfield_replay.analysis import ImageCollection, select

    if generated is not None:
        sources, parts = [options.generate], [(generated, generated.labels)]
        options.new = options.new or options.old
    else:
        sources = [options.old, *(options.also or [])]
        parts = [_read(source, options) for source in sources]
    old, labels = _joined(parts, sources)
    images = old if isinstance(old, ImageCollection) else None
    if options.export is not None and images is None:
        raise ValueError(f"{options.old} holds no images, and only images can be exported.")
    encoder, size = _encoder(options)
    report = select(
        old,
        None if options.new is None else _read(options.new, options)[0],
        keep=options.keep,
        policy=options.policy,
        by=_groups(options.by, parts, sources, labels),
        encoder=encoder,
        size=size,
        beta="auto" if options.beta is None else options.beta,
        pool=None if generated is not None else options.pool,
        unique=False if options.unique is None else options.unique,
        labels=labels,
        replay_ratio=options.replay_ratio,
        seed=options.seed,
        device=options.device,
    )
    figures = {}
    if images is not None and options.output_dir is not None:
        figures["contact_sheet"] = drawn(lambda: report.figure(partial(images.pictures, size=64)))
    wrote = write(options.output_dir, "select", report, figures)
    handed = _hand_over(report, images, options) if options.export is not None and images is not None else ""
    for text in (report.table(), wrote, handed):
        say(text, options.quiet)
    return FINE


def _check_outcome(options: Any) -> None:
    """Refuse, before the work begins, what could not be written at its end."""
    from hopfield_replay.analysis.exports.place import check_free

    if (options.generate is None) != (options.prompts is None):
        raise ValueError("--generate PIPELINE and --prompts FILE belong together: a pipeline needs prompts.")
    if options.generate is None and options.old is None:
        raise ValueError("Give OLD, what to choose from, or --generate PIPELINE and --prompts FILE.")
    if options.generate is not None and options.files != "copy":
        raise ValueError(f"Generated images are not kept elsewhere: --files {options.files} cannot link to them.")
    if (options.export is None) != (options.output is None):
        raise ValueError("--export FORMAT and --output DIR belong together: what to write, and where to.")
    if options.export is not None:
        if options.export not in FORMATS:
            raise ValueError(
                f"Unknown --export {options.export!r}; choose one of {', '.join(FORMATS)}."
                f"{did_you_mean(options.export, FORMATS)}"
            )
        check_free(options.output)


def _generated(options: Any, scratch: str) -> "ImageCollection":
    """Images that a pipeline generates, in a folder that is removed in the end."""
    from hopfield_replay.analysis.generating import generate_images, read_prompts
    from hopfield_replay.checkpoints import open_pipeline

    prompts = read_prompts(options.prompts)
    pipeline = open_pipeline(options.generate).to(options.device)
    count = 10 * options.keep if options.pool is None else options.pool
    settings = {} if options.steps is None else {"num_inference_steps": options.steps}
    return generate_images(pipeline, prompts, count, scratch, seed=options.seed, **settings)


def _read(source: str, options: Any) -> tuple[Any, list[Any] | None]:
    """What a source holds, images where it has any, and the class of each sample."""
    import torch

    from hopfield_replay.analysis import ImageCollection, read_collection
    from hopfield_replay.cli.datasets import Samples, load_data

    path = Path(source)
    if path.is_dir() or path.suffix in (".tar", ".parquet"):
        images = read_collection(path, max_pixels=options.max_pixels)
        return images, images.labels
    data = load_data(source, max_pixels=options.max_pixels, max_bytes=options.max_bytes)
    if not isinstance(data, Samples):
        return data, None
    labels = None if data.labels is None else data.labels.tolist()
    pictures = data.as_images(strict=False).samples
    if data.scaled:  # as bytes again: of bright ones alone no number would say so
        pictures = ((pictures + 1.0) * 127.5).round().to(torch.uint8)
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
        return data.samples, labels
    return ImageCollection.of_pixels(pictures, labels=labels), labels


def _joined(parts: Sequence[tuple[Any, list[Any] | None]], sources: Sequence[str]) -> tuple[Any, list[Any] | None]:
    from hopfield_replay.analysis import ImageCollection

    if len(parts) == 1:
        return parts[0]
    for (data, _), source in zip(parts, sources, strict=True):
        if not isinstance(data, ImageCollection):
            raise ValueError(f"{source} holds no images, which several sources need; give one source alone.")
    items = [
        replace(item, name=f"{Path(source).name}/{item.name}")
        for (data, _), source in zip(parts, sources, strict=True)
        for item in data
    ]
    joined = ImageCollection(items)
    return joined, joined.labels


def _groups(
    by: str | None, parts: Sequence[tuple[Any, list[Any] | None]], sources: Sequence[str], labels: list[Any] | None
) -> Any:
    """The group of each sample, or the name of what the groups are."""
    from hopfield_replay.analysis import ImageCollection
    from hopfield_replay.analysis.images.folder import empty_subfolders

    if by == "label" and labels is None:
        raise ValueError("--by label needs a class for every sample: subfolders, labels in the metadata or the array.")
    if by is None or by == "label":
        return labels if by else None
    if by == "task":
        if len(parts) == 1:
            raise ValueError("--by task needs several sources: OLD, and more with --also.")
        return [source for (data, _), source in zip(parts, sources, strict=True) for _ in range(len(data))]
    if by != "folder":
        raise ValueError(
            f"--by must be label, folder or task, got {by!r}.{did_you_mean(by, ('label', 'folder', 'task'))}"
        )
    for (data, _), source in zip(parts, sources, strict=True):
        if not isinstance(data, ImageCollection) or not Path(source).is_dir():
            raise ValueError(f"--by folder needs folders of images, and {source} is none.")
        if empty := empty_subfolders(Path(source)):
            raise ValueError(f"{source} has folders without images: {', '.join(empty[:5])}. Remove or fill them.")
    return [item.folder for data, _ in parts for item in data]


def _encoder(options: Any) -> tuple[Any, int | None]:
    """The encoder, None for pixels, and the side of the images that it takes."""
    if options.encoder == "pixels":
        return None, options.size
    from hopfield_replay.checkpoints import load_encoder

    encoder, size = load_encoder(options.encoder)
    encoder.to(options.device)
    return encoder, options.size or size


def _hand_over(report: "SelectionReport", images: "ImageCollection", options: Any) -> str:
    """Write the images for a trainer; returns what to say of it."""
    from hopfield_replay.analysis.exports import export

    written = export(
        report,
        images,
        options.output,
        options.export,
        files=options.files,
        use=options.use,
        repeats=options.repeats,
        prompt=options.prompt,
    )
    shown = f"{min(written.repeats)} to {max(written.repeats)} times" if len(set(written.repeats)) > 1 else "alike"
    return (
        f"Wrote {written.images} images to {written.folder}, shown {shown}; no share of an epoch is further than "
        f"{written.error:.2g} from its weight's"
    )
