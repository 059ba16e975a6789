"""The comparison of an audit: the first version is loaded and measured once, each second one in its turn."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hopfield_replay.cli.audit_data import Part, by_task, check_together, numbering, read, read_one, together
from hopfield_replay.cli.cost import code_fingerprint, fingerprint
from hopfield_replay.cli.own_code import importable
from hopfield_replay.cli.watched import has_step, watched
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from hopfield_replay.analysis import AuditReport, DrawingReport
    from hopfield_replay.checkpoints import Version

    Compared = tuple[AuditReport | DrawingReport, dict[str, str]]

_SHOWN = 16  # samples that a training step is shown: it takes more memory than to measure


@contextmanager
def comparison(options: Any) -> "Iterator[Callable[[str], Compared]]":
    """What compares the first version with a second one: its report, and what to say of it."""
    from hopfield_replay.analysis.generating import read_prompts
    from hopfield_replay.checkpoints import load_version

    prompts = [] if options.prompts is None else list(dict.fromkeys(read_prompts(options.prompts)))
    settings = _settings(options)
    with importable(options.model):
        first = load_version(options.before, options.model, **settings)
    code = code_fingerprint()  # of the model's class, too: a mended class is another model
    with TemporaryDirectory() as scratch:
        folder = Path(scratch if options.output_dir is None else options.output_dir, "measured")
        keeps = options.output_dir is not None or len(options.after) > 1
        draw = _remembered(first) if prompts else None

        def compare(after: str) -> "Compared":
            from hopfield_replay.checkpoints import load_versions

            with importable(options.model):
                pair = load_versions(first, after, options.model, **settings)
            if draw is None:
                return _audit(options, after, pair, (folder, code) if keeps else None)
            return _drawings(options, pair, draw, prompts)

        yield compare


def _settings(options: Any) -> dict[str, Any]:
    import torch

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return {
        "model_args": options.model_args,
        "unsafe_pickle": options.unsafe_pickle,
        "weights": options.weights,
        "stepwise": True,
        "device": options.device,
        "variant": options.variant,
        "dtype": dtypes[options.dtype],
        "config": options.pipeline_config,
    }


def _remembered(version: "Version") -> Callable[..., Any]:
    """The pipeline of a version, which draws each prompt and seed once."""
    pipeline = _drawing(version)
    kept: dict[tuple[str, int], Any] = {}

    def draw(*, prompt: list[str], generator: Any, **settings: Any) -> Any:
        key = (prompt[0], generator.initial_seed())
        if key not in kept:
            kept[key] = pipeline(prompt=prompt, generator=generator, **settings)
        return kept[key]

    return draw


def _drawing(version: "Version") -> Any:
    if version.model is None:
        raise ValueError("--prompts needs two pipelines that draw from texts; give --data for other models.")
    pipeline = version.model.pipeline
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _drawings(
    options: Any, versions: "tuple[Version, Version]", draw: Callable[..., Any], prompts: list[str]
) -> "Compared":
    """What one version draws against the first, and what to say of it."""
    from hopfield_replay.analysis import compare_drawings
    from hopfield_replay.checkpoints import load_encoder

    settings = {"num_inference_steps": options.steps, "height": options.size, "width": options.size}
    more: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if options.encoder is not None:
        loaded = load_encoder(options.encoder)
        more |= {"encoder": loaded.encoder, "size": loaded.size}
    report = compare_drawings(draw, _drawing(versions[1]), prompts, seeds=options.seeds, **more)
    return report, _notes(versions, {"prompts": options.prompts, "encoder": options.encoder or "pixels"})


def _audit(options: Any, after: str, versions: "tuple[Version, Version]", kept: tuple[Path, str] | None) -> "Compared":
    """The audit of one version, and what to say of it; errors are kept in a folder, under the code that they are of."""
    from hopfield_replay.analysis import Journal, audit
    from hopfield_replay.utilities.nested import identity

    first, second = versions
    limits = {
        "max_pixels": options.max_pixels,
        "max_bytes": options.max_bytes,
        "size": options.size,
        "several": first.size,
    }
    sources, classes = [*options.data, *options.target], options.classes or ()
    data: Mapping[str, Part] = read(sources, first.expects_images, limits, classes)
    old, new = (read_one(source, first.expects_images, limits) for source in (options.old_data, options.new_data))
    takes_images = first.expects_images and first.prepare is not identity  # it encodes them, as they are after scaling
    check_together(
        {**data, str(options.old_data): old, str(options.new_data): new}, first.source if takes_images else None
    )
    said = {"data": ", ".join(options.data), **({"target": ", ".join(options.target)} if options.target else {})}
    if has_step(first):
        first, second, said["measured"] = _seen(first, second, next(iter(data.values())))
    assert first.denoiser is not None
    assert second.denoiser is not None
    result = audit(
        first.denoiser,
        second.denoiser,
        by_task({source: part.batches for source, part in data.items()}),
        labels=together([part.labels for part in data.values()]),
        names=together([part.names for part in data.values()]) or (),
        old_data=None if old is None else old.batches,
        new_data=None if new is None else new.batches,
        prepare=first.prepare,
        decode=first.decode,
        timesteps=options.timesteps,
        draws=options.draws,
        seed=options.seed,
        journal=None if kept is None else Journal(kept[0], *_measured(options, after, kept[1])),
        read=first.read,
    )
    if first.model is not None and (bare := [name for name, part in data.items() if not part.captioned]):
        said["captions"] = f"none in {', '.join(bare)}, whose images were measured with empty ones"
    takes_labels = first.model is None and getattr(first.denoiser, "conditional", True)
    if takes_labels and not classes and (numbers := numbering(data)):  # the model's own numbers are not known
        said["classes"] = f"{numbers} for the model, by the names of the folders (--classes says otherwise)"
    return result, _notes(versions, said)


def _seen(first: "Version", second: "Version", part: Part) -> "tuple[Version, Version, str]":
    """Both versions as their training steps tell what they denoise, on the first samples of the data."""
    import torch

    from hopfield_replay.utilities.nested import take

    batch = next(iter(part.batches), None)
    if batch is None:
        raise ValueError("--data holds no samples to compare the two versions on.")
    if part.samples is not None:  # else it is of the size that the module is trained with
        batch = take(batch, torch.arange(min(len(part.samples), _SHOWN)))
    (first, told), (second, other) = (watched(version, batch) for version in (first, second))
    if told != other:
        raise ValueError(f"The training steps of the two versions differ: {told}, and {other}.")
    return first, second, told


def _measured(options: Any, after: str, code: str) -> tuple[str, str]:
    """What the errors of both versions depend on, and those of the first alone."""
    given = ("timesteps", "draws", "seed", "dtype", "model", "model_args", "weights", "variant", "device", "classes")
    settings = {name: getattr(options, name) for name in given}
    config = "" if options.pipeline_config is None else fingerprint(options.pipeline_config)
    first = f"{fingerprint(options.before)} {config} {settings} {code}"
    return f"{first} {fingerprint(after)}", first


def _notes(versions: "tuple[Version, Version]", more: Mapping[str, str]) -> dict[str, str]:
    said = {name: f"{one.source} ({one.weights})" for name, one in zip(("before", "after"), versions, strict=True)}
    return {name: printable(value, None) for name, value in {**said, **more}.items()}


__all__ = ["comparison"]
