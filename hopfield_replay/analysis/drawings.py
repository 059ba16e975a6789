"""What two versions of a text-to-image pipeline draw of the same prompts from the same seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hopfield_replay.analysis.gate import Gate
from hopfield_replay.encoders import Encoder, pixels, vectors_of
from hopfield_replay.figures import picture_rows
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.html import heading, html_page, paragraph, picture, table
from hopfield_replay.utilities.progress import track
from hopfield_replay.utilities.showing import Shown, ShownText, jsonable
from hopfield_replay.utilities.tables import text_table
from hopfield_replay.utilities.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 6  # pairs of pictures in the figure
_READING = """\
Both versions draw every prompt from the same seeds. A distance is the mean squared difference of the two drawings, as
the encoder sees them; it is relative to the mean distance between the first version's drawings of the same prompt from
different seeds: at 0 % nothing changed, at 100 % another seed would have changed as much."""


@dataclass(frozen=True, eq=False, repr=False)
class DrawingReport(Shown):
    """Distances of drawings.

    Attributes:
        prompts: the P prompts.
        distances: (P, S) float64, between both versions' drawings of a prompt from a seed, mean squared difference of
            their vectors.
        spread: (P,) float64, mean distance between the first version's drawings of a prompt from different seeds.
        before: (k, channels, height, width) in [-1, 1], the first version's drawings that differ most.
        after: the second version's, of the same prompts and seeds.
        shown: which prompt and seed these are of.

    Example:
        >>> class Grey:
        ...     def __init__(self, level): self.level = level
        ...     def __call__(self, prompt, generator, output_type):
        ...         images = self.level + 0.1 * torch.rand(1, 3, 2, 2, generator=generator)
        ...         return type("Output", (), {"images": images})
        >>> report = compare_drawings(Grey(0.2), Grey(0.7), ["a cat"], seeds=3)
        >>> round(float(report.distances.mean()), 3), report.gate(0.5).passed  # 0.5 in [0, 1] is 1 in [-1, 1]
        (1.0, False)
    """

    prompts: tuple[str, ...]
    distances: Tensor
    spread: Tensor
    before: Tensor
    after: Tensor
    shown: tuple[tuple[int, int], ...]

    @property
    def relative(self) -> Tensor:
        """(P,) mean distance of each prompt over its spread; 0 where there is neither."""
        means = self.distances.mean(1)
        return torch.where(means == 0, torch.zeros_like(means), means / self.spread)

    def gate(self, threshold: float, *, level: float = 0.05) -> Gate:
        """Test every prompt, and all together, against a threshold of the relative distance (see :class:`Gate`).

        Args:
            threshold: allowed distance, as a share of the spread.
            level: chance that any of them fails although none changed by more.

        Raises:
            ValueError: one seed only.
        """
        count = self.distances.shape[1]
        spread = self.spread[:, None].expand_as(self.distances).flatten()
        groups = {"all prompts": list(range(self.distances.numel()))}
        for at, prompt in enumerate(self.prompts):
            groups[f"prompt {prompt}"] = list(range(at * count, (at + 1) * count))
        return Gate.of(spread, spread + self.distances.flatten(), groups, threshold, level)

    def table(self) -> str:
        """The report as text, the prompts that changed most first."""
        whole = float(self.distances.mean() / self.spread.mean()) if bool(self.spread.any()) else math.nan
        line = f"{len(self.prompts)} prompts, {self.distances.shape[1]} seeds: relative distance {whole:.1%}"
        return ShownText(f"{line}\n\n{text_table(('prompt', 'distance', 'spread', 'relative'), self._cells())}")

    def _cells(self) -> list[list[str]]:
        return [
            [printable(row["prompt"]), f"{row['distance']:.4g}", f"{row['spread']:.4g}", f"{row['relative']:.1%}"]
            for row in self.rows()
        ]

    def _line(self) -> str:
        return f"DrawingReport({len(self.prompts)} prompts, {self.distances.shape[1]} seeds)"

    def rows(self) -> list[dict[str, Any]]:
        """For each prompt, the one that changed most first, its distance, spread and their ratio."""
        means, relative = self.distances.mean(1), self.relative
        return [
            {
                "prompt": self.prompts[at],
                "distance": float(means[at]),
                "spread": float(self.spread[at]),
                "relative": float(relative[at]),
            }
            for at in relative.argsort(descending=True, stable=True).tolist()
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report in plain Python, ready for JSON: no pictures."""
        names = ("prompts", "distances", "spread", "relative")
        result: dict[str, Any] = jsonable({name: getattr(self, name) for name in names})
        return result

    def _draw(self, axis: "Axes") -> None:
        rows = self.rows()
        axis.barh([printable(row["prompt"])[:30] for row in rows], [row["relative"] for row in rows])
        axis.set_xlabel("distance over the spread of seeds")

    def figures(self) -> "dict[str, Figure]":
        """The drawings that differ most, before and after.

        Raises:
            ImportError: matplotlib is not installed.
        """
        captions = [f"{printable(self.prompts[prompt])[:24]}\nseed {seed}" for prompt, seed in self.shown]
        rows = [("drawn by the first version", self.before), ("by the second one, from the same seeds", self.after)]
        drawn = picture_rows(rows, captions=captions)
        return {} if drawn is None else {"drawings": drawn}

    def html(self, notes: "dict[str, str] | None" = None, figures: "dict[str, Figure] | None" = None) -> str:
        """The report as one self-contained page.

        Args:
            notes: what to say of the run, by name.
            figures: those of :meth:`figures`, if they are drawn already.

        Raises:
            ImportError: matplotlib is not installed.
        """
        parts = [paragraph(self.table().splitlines()[0], "lead")]
        parts += [paragraph(f"{name.capitalize()}: {value}") for name, value in (notes or {}).items()]
        drawn = self.figures() if figures is None else figures
        parts += [picture(figure, "Drawings of both versions that differ most") for figure in drawn.values()]
        parts += [heading("By prompt"), table(("prompt", "distance", "spread", "relative"), self._cells())]
        return html_page(
            "Drawings of two versions of a model", [*parts, heading("How to read this"), paragraph(_READING)]
        )


def compare_drawings(
    before: Callable[..., Any],
    after: Callable[..., Any],
    prompts: Sequence[str],
    *,
    seeds: int = 4,
    encoder: Encoder = pixels,
    size: int | None = None,
    **settings: Any,
) -> DrawingReport:
    """Let two text-to-image pipelines draw the same prompts from the same seeds, and measure how far apart they are.

    Args:
        before: a pipeline of diffusers: called with one prompt, a generator and ``output_type="pt"``.
        after: another version of it.
        prompts: at least one.
        seeds: so many drawings of each prompt, >= 2: the first version's differ by the seed, which is the measure.
        encoder: maps images (n, channels, height, width) in [-1, 1] to vectors; pixels by default.
        size: side of the images that the encoder takes; None: as they are drawn.
        settings: for the pipelines, such as ``num_inference_steps``.

    Raises:
        ValueError: no prompts; one twice; fewer than two seeds; drawings that are not finite.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise ValueError("compare_drawings needs a list of prompts, at least one.")
    if len(set(prompts)) < len(prompts):
        raise ValueError("one prompt is there twice; give each once, and more seeds.")
    check_integer(seeds, "seeds", 2)
    drawn: list[list[Tensor]] = []
    for pipeline, name in ((before, "the first version"), (after, "the second version")):
        drawn.append([])
        for prompt in track(prompts, f"Drawing with {name}", len(prompts)):
            drawn[-1].append(torch.cat([_drawing(pipeline, prompt, seed, settings, name) for seed in range(seeds)]))

    def vectors(images: Tensor) -> Tensor:
        shown = images if size is None else interpolate(images, (size, size), mode="bilinear", antialias=True)
        return vectors_of(encoder, shown).cpu().double()

    pairs = [(vectors(one), vectors(two)) for one, two in zip(*drawn, strict=True)]
    distances = torch.stack([(one - two).square().mean(1) for one, two in pairs])
    spread = torch.stack([_spread(one) for one, _ in pairs])
    most = distances.flatten().argsort(descending=True, stable=True)[:_SHOWN].tolist()
    shown = tuple(divmod(at, seeds) for at in most)
    first, second = (torch.stack([images[prompt][seed] for prompt, seed in shown]) for images in drawn)
    return DrawingReport(tuple(prompts), distances, spread, first, second, shown)


@torch.no_grad()
def _drawing(pipeline: Callable[..., Any], prompt: str, seed: int, settings: dict[str, Any], name: str) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    images: Tensor = pipeline(prompt=[prompt], generator=draws, output_type="pt", **settings).images
    images = images.float().cpu() * 2.0 - 1.0
    if not bool(images.isfinite().all()):
        raise ValueError(f"{name} drew NaN or infinite values of {prompt!r}; check its weights and precision.")
    return images


def _spread(vectors: Tensor) -> Tensor:
    """Mean squared difference of all pairs of rows."""
    count = len(vectors)
    pairs = torch.combinations(torch.arange(count), 2)
    return (vectors[pairs[:, 0]] - vectors[pairs[:, 1]]).square().mean()


__all__ = ["DrawingReport", "compare_drawings"]
