"""Tractable settings as data: the patterns of an old task and the groups whose energies are compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hopfield_replay.functional import energy

SAME_POINT = 1e-6  # distance below which two fixed points are one; the retrieval stops at steps of 1e-11 or less


@dataclass(frozen=True, eq=False)
class Setting:
    """Patterns of the old task, each in a named group.

    Attributes:
        name: what the tables call it.
        patterns: (N, d) float64.
        groups: (N,) int64, index into ``group_names``.
        group_names: name of each group, in the order of the tables.

    Raises:
        ValueError: patterns that are no floating matrix of at least two rows; groups that do not fit.

    Example:
        >>> mine = Setting("mine", torch.eye(3), torch.tensor([0, 0, 1]), ("near", "far"))
        >>> mine.members(0)
        tensor([0, 1])
    """

    name: str
    patterns: Tensor = field(repr=False)
    groups: Tensor = field(repr=False)
    group_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.patterns.ndim != 2 or not self.patterns.is_floating_point() or len(self.patterns) < 2:
            raise ValueError(
                f"patterns must be a floating (N, d) matrix with N >= 2, got {self.patterns.dtype} of shape "
                f"{tuple(self.patterns.shape)}."
            )
        if self.groups.shape != (len(self.patterns),) or self.groups.is_floating_point():
            raise ValueError(
                f"groups must hold one whole number for each of the {len(self.patterns)} patterns, got "
                f"{self.groups.dtype} of shape {tuple(self.groups.shape)}."
            )
        if sorted(set(self.groups.tolist())) != list(range(len(self.group_names))):
            raise ValueError(
                f"groups must use every index from 0 to {len(self.group_names) - 1} (one for each of "
                f"{self.group_names}), got {sorted(set(self.groups.tolist()))}."
            )
        object.__setattr__(self, "patterns", self.patterns.to(torch.float64))
        object.__setattr__(self, "groups", self.groups.to(torch.int64))

    def members(self, group: int) -> Tensor:
        """Return the indices of the patterns in one group, (n,) int64."""
        return (self.groups == group).nonzero().flatten()


def equiangular(n: int, c: float, d: int) -> Tensor:
    """Return ``n`` unit vectors in R^d whose pairwise inner products all are ``c``.

    Args:
        n: number of vectors, 1 <= n <= d.
        c: correlation, in [0, 1).
        d: dimension.

    Returns:
        (n, d) float64.

    Raises:
        ValueError: out of range.

    Example:
        >>> x = equiangular(3, 0.35, 5)
        >>> (x @ x.T).round(decimals=6)[0]
        tensor([1.0000, 0.3500, 0.3500], dtype=torch.float64)
    """
    if not 1 <= n <= d:
        raise ValueError(f"n = {n} equiangular vectors need 1 <= n <= d, got d = {d}.")
    if not 0 <= c < 1:
        raise ValueError(f"the correlation c must lie in [0, 1), got {c}.")
    gram = torch.full((n, n), c, dtype=torch.float64)
    gram.fill_diagonal_(1.0)
    vectors = torch.zeros(n, d, dtype=torch.float64)
    vectors[:, :n] = torch.linalg.cholesky(gram)
    return vectors


def cluster_and_outlier(n: int = 12, c: float = 0.35, d: int = 50) -> Setting:
    """An equiangular cluster of unit vectors and one unit vector orthogonal to all of them.

    Args:
        n: cluster size, 2 <= n < d.
        c: pairwise correlation in the cluster, in [0, 1).
        d: dimension.

    Returns:
        The setting with the groups ``cluster`` and ``outlier``.

    Raises:
        ValueError: out of range.

    Example:
        >>> cluster_and_outlier().patterns.shape
        torch.Size([13, 50])
    """
    setting = several_clusters([n], [c], d, outliers=1)
    return Setting(f"cluster and outlier (n={n}, c={c}, d={d})", setting.patterns, setting.groups, setting.group_names)


def several_clusters(sizes: Sequence[int], correlations: Sequence[float], d: int, *, outliers: int = 1) -> Setting:
    """Mutually orthogonal equiangular clusters and unit outliers orthogonal to everything.

    Args:
        sizes: number of patterns of each cluster, >= 2.
        correlations: pairwise correlation within each cluster, in [0, 1).
        d: dimension, at least the number of patterns.
        outliers: number of outliers, >= 0.

    Returns:
        The setting; groups ``cluster`` (or ``cluster 1``, ``cluster 2``, ...) and ``outlier``.

    Raises:
        ValueError: out of range, or the patterns do not fit into d dimensions.

    Example:
        >>> several_clusters([3, 4], [0.2, 0.6], d=10).group_names
        ('cluster 1', 'cluster 2', 'outlier')
    """
    if len(sizes) != len(correlations) or not sizes:
        raise ValueError(f"sizes and correlations must be equally long, got {sizes} and {correlations}.")
    if min(sizes) < 2 or outliers < 0:
        raise ValueError(f"a cluster needs at least 2 patterns and outliers >= 0, got {sizes} and {outliers}.")
    total = sum(sizes) + outliers
    if total > d:
        raise ValueError(f"{total} patterns in orthogonal groups do not fit into d = {d} dimensions; raise d.")
    patterns = torch.eye(total, d, dtype=torch.float64)
    start = 0
    for n, c in zip(sizes, correlations, strict=True):
        patterns[start : start + n, start : start + n] = equiangular(n, c, n)
        start += n
    names = ["cluster"] if len(sizes) == 1 else [f"cluster {i + 1}" for i in range(len(sizes))]
    groups = [g for g, n in enumerate([*sizes, outliers]) for _ in range(n)]
    shown = ", ".join(f"{n} at c={c}" for n, c in zip(sizes, correlations, strict=True))
    names += ["outlier"] * (outliers > 0)
    return Setting(f"clusters ({shown}), {outliers} outliers, d={d}", patterns, torch.tensor(groups), tuple(names))


def mixed_density(
    sizes: Sequence[int] = (16, 16, 16),
    correlations: Sequence[float] = (0.2, 0.5, 0.8),
    outliers: int = 4,
    d: int = 50,
    seed: int = 0,
) -> Setting:
    """Unit vectors in random clusters of different density, and isolated ones.

    A member of a cluster with centre u and correlation c is sqrt(c) u + sqrt(1 - c) z with z uniform on the sphere,
    normalised; the centres and the isolated vectors are uniform on the sphere too.

    Args:
        sizes: number of patterns of each cluster, >= 1.
        correlations: mean correlation within each cluster, in [0, 1].
        outliers: number of isolated patterns, >= 0.
        d: dimension, >= 2.
        seed: of the random directions.

    Returns:
        The setting with one group for each density, named after its correlation.

    Raises:
        ValueError: out of range.

    Example:
        >>> mixed_density().group_names
        ('c=0.2', 'c=0.5', 'c=0.8', 'isolated')
    """
    if len(sizes) != len(correlations) or not sizes or min(sizes) < 1 or outliers < 0 or d < 2:
        raise ValueError(
            f"mixed density needs as many sizes (>= 1) as correlations, outliers >= 0 and d >= 2; got sizes {sizes}, "
            f"correlations {correlations}, outliers {outliers}, d {d}."
        )
    if not all(0 <= c <= 1 for c in correlations):
        raise ValueError(f"correlations must lie in [0, 1], got {correlations}.")
    generator = torch.Generator().manual_seed(seed)
    parts = [
        math.sqrt(c) * sphere(1, d, generator) + math.sqrt(1 - c) * sphere(n, d, generator)
        for n, c in zip(sizes, correlations, strict=True)
    ]
    patterns = torch.cat([*parts, sphere(outliers, d, generator)])
    groups = [g for g, n in enumerate([*sizes, outliers]) for _ in range(n)]
    names = [f"c={c}" for c in correlations] + ["isolated"] * (outliers > 0)
    unit = patterns / patterns.norm(dim=1, keepdim=True)
    return Setting(f"mixed density (d={d})", unit, torch.tensor(groups), tuple(names))


def sphere(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` points uniformly from the unit sphere of R^d, (n, d) float64."""
    points = torch.randn(n, d, generator=generator, dtype=torch.float64)
    norms: Tensor = points.norm(dim=1, keepdim=True)
    return points / norms


def digits(per_class: int = 20, classes: Sequence[int] = (0, 1, 2, 3, 4), seed: int = 0) -> Setting:
    """Handwritten digits of 8 x 8 pixels (embedded in scikit-learn), as unit vectors, one group for each class.

    Args:
        per_class: images of each class, drawn without replacement, >= 1.
        classes: which digits, in [0, 9].
        seed: of the draw.

    Returns:
        The setting with d = 64.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: too many images asked for, or no such class.

    Example:
        >>> digits(per_class=5, classes=(0, 1)).patterns.shape
        torch.Size([10, 64])
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'hopfield-replay[examples]'") from error
    data = load_digits()
    images, labels = torch.from_numpy(data.data), torch.from_numpy(data.target)
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for digit in classes:
        members = (labels == digit).nonzero().flatten()
        if not 1 <= per_class <= len(members):
            raise ValueError(f"digit {digit} has {len(members)} images, cannot draw {per_class}.")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    patterns = images[torch.cat(chosen)]
    groups = torch.arange(len(classes)).repeat_interleave(per_class)
    unit = patterns / patterns.norm(dim=1, keepdim=True)
    return Setting(f"digits {', '.join(map(str, classes))}", unit, groups, tuple(f"digit {c}" for c in classes))


def from_file(path: str | Path, *, unit: bool = True) -> Setting:
    r"""Read patterns, and optionally their groups, from a ``.safetensors``, ``.npy`` or ``.csv`` file.

    Args:
        path: ``.npy``: an (N, d) array. ``.csv``: N comma-separated rows without a header. ``.safetensors``: a tensor
            ``patterns`` (N, d) and, optionally, ``groups`` (N,) of whole numbers from 0.
        unit: scale every pattern to length 1: the dot-form energy is else dominated by the longest one.

    Returns:
        The setting; without groups all patterns are in one, named ``patterns`` (see :func:`by_energy`).

    Raises:
        ValueError: an unknown ending, no tensor ``patterns`` in the file, or a pattern of length 0 with ``unit``.
        FileNotFoundError: no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "mine.csv").write_text("3,4\n0,2\n")
        ...     from_file(Path(folder, "mine.csv")).patterns
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]], dtype=torch.float64)
    """
    import numpy as np
    from safetensors.torch import load_file

    path = Path(path)
    groups = None
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        if "patterns" not in tensors:
            raise ValueError(f"{path} holds the tensors {sorted(tensors)}; one must be called 'patterns'.")
        patterns, groups = tensors["patterns"], tensors.get("groups")
    elif path.suffix == ".npy":
        patterns = torch.from_numpy(np.load(path, allow_pickle=False).astype(np.float64))
    elif path.suffix == ".csv":
        patterns = torch.from_numpy(np.loadtxt(path, delimiter=",", ndmin=2))
    else:
        raise ValueError(f"patterns are read from .safetensors, .npy or .csv files, got {path.name!r}.")
    if unit:
        norms = patterns.norm(dim=1, keepdim=True)
        if not bool((norms > 0).all()):
            raise ValueError(f"{path.name} holds {int((norms == 0).sum())} patterns of length 0; remove them.")
        patterns = patterns / norms
    if groups is None:
        return Setting(path.name, patterns, torch.zeros(len(patterns), dtype=torch.int64), ("patterns",))
    names = tuple(f"group {g}" for g in range(int(groups.max()) + 1))
    return Setting(path.name, patterns, groups, names)


def by_energy(setting: Setting, beta: float, share: float = 0.2) -> Setting:
    """Regroup a setting into its patterns of highest energy and the rest (for patterns that come without groups).

    Args:
        setting: any setting.
        beta: inverse temperature of the dot-form energy, > 0.
        share: of the patterns that form the group ``high energy``, in (0, 1).

    Returns:
        The setting with the groups ``low energy`` and ``high energy``.

    Raises:
        ValueError: ``share`` leaves one of the groups empty.

    Example:
        >>> by_energy(cluster_and_outlier(), beta=8.0, share=1 / 13).members(1)  # the outlier is the last pattern
        tensor([12])
    """
    count = round(share * len(setting.patterns))
    if not 1 <= count < len(setting.patterns):
        raise ValueError(f"a share of {share} of {len(setting.patterns)} patterns leaves a group empty.")
    levels = energy(setting.patterns, setting.patterns, beta, similarity="dot", normalize=False)
    groups = torch.zeros(len(setting.patterns), dtype=torch.int64)
    groups[levels.argsort(descending=True, stable=True)[:count]] = 1
    return Setting(setting.name, setting.patterns, groups, ("low energy", "high energy"))


def asked_for(n: int, c: float, d: int, beta: float, patterns: str | None) -> Setting:
    """The cluster and outlier, or the patterns of a file; without groups its fifth of highest energy and the rest."""
    setting = cluster_and_outlier(n, c, d) if patterns is None else from_file(patterns)
    return setting if len(setting.group_names) > 1 else by_energy(setting, beta)


__all__ = [
    "SAME_POINT",
    "Setting",
    "asked_for",
    "by_energy",
    "cluster_and_outlier",
    "digits",
    "equiangular",
    "from_file",
    "mixed_density",
    "several_clusters",
    "sphere",
]
