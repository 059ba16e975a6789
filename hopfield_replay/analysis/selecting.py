"""Select: the samples worth keeping of a data set, with what they are worth."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hopfield_replay.analysis.groups import Groups, Names
from hopfield_replay.analysis.images import ImageCollection
from hopfield_replay.analysis.near_duplicates import near_duplicates
from hopfield_replay.analysis.replay_plan import ReplayPlan
from hopfield_replay.analysis.selection_report import Protection, SelectionReport
from hopfield_replay.analysis.vectors import Compared, Data, check_forms, read_vectors
from hopfield_replay.buffer.choice import weigh
from hopfield_replay.functional import PatternTiles
from hopfield_replay.functional.many import energies_of
from hopfield_replay.functional.rows import Matrix, placed
from hopfield_replay.memory.readings import spread_indices
from hopfield_replay.memory.settings import as_beta
from hopfield_replay.memory.temperature import calibrate_beta, default_n_eff, diagnose
from hopfield_replay.policies import Policy, Random, as_policy, balanced, requirements
from hopfield_replay.policies.candidates import Candidates, sample_keys
from hopfield_replay.utilities.checks import Similarity, check_integer, check_ratio
from hopfield_replay.utilities.device import check_device

_DRAWS = 5  # of random sets to compare with
_COUNTED = 16384  # samples whose protection is counted where a pool bounds the work, spread evenly
_SHOWN = 60  # of the worst covered
_NEAR = 0.1  # of the usual distance: a near-duplicate
_SIDE = 64  # to which images of several sizes are brought where nothing says to which
_PHOTOGRAPH = 32  # pixels; colour images of such a side or more


def select(
    old: Data | ImageCollection,
    new: Data | ImageCollection | None = None,
    *,
    keep: int,
    policy: str | Policy = "greedy_gain",
    by: Literal["label"] | Names | None = None,
    encoder: Callable[[Any], Tensor] | nn.Module | None = None,
    beta: float | Literal["auto"] = "auto",
    similarity: Similarity = "distance",
    pool: int | None = None,
    unique: float | bool = False,
    labels: Names | None = None,
    replay_ratio: float = 0.5,
    size: int | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> SelectionReport:
    r"""Choose the samples to keep of a data set: a replay set, a regularisation set, or any other coreset.

    No model is needed, and nothing is trained. By default those are chosen whose joint replay protects the most energy
    of all samples (see :func:`~hopfield_replay.functional.greedy_replay_gain`): against the new data if it is known,
    else against data that has nothing to do with the old, which makes it coverage weighted by density. The choice is
    nested: its first j are the choice of size j.

    Args:
        old: what to choose from: a tensor (n, *shape), batches (a DataLoader, a list), or a collection of images;
            n >= 4.
        new: what will be trained on, likewise; None: unknown.
        keep: how many, from 1 to the number of candidates.
        policy: a name (see ``hopfield_replay.policies.POLICIES``) or an object with ``select(candidates, k)``.
        by: equal shares, taken in turns, for each ``"label"``, or for each of the groups named here, (n,) names or
            numbers; None: all compete.
        encoder: maps a batch to vectors; None: its samples, flattened, by the rules of :class:`Columns`.
        beta: inverse temperature, or ``"auto"``: a median leave-one-out n_eff of 5 on the old samples.
        similarity: ``"distance"`` or ``"dot"``.
        pool: choose among so many drawn at random; what is protected is then counted of up to 16384 samples, spread
            evenly. None: choose among all, and count all.
        unique: keep one of several near-duplicates, and report them: the share of the usual distance to
            the 10th nearest sample up to which two are near-duplicates; True: 0.1.
        labels: (n,) class of each old sample, for the table; None: those of the collection, or the integers (n,) in the
            batches, if any.
        replay_ratio: share of each batch that would be replayed, in (0, 1): what one kept sample weighs.
        size: side to which the images of a collection are scaled and cropped for their vectors; None: as they are, or
            64 if they have several sizes.
        seed: of the random policies and of the pool.
        device: where vectors are compared, in parts that fit; None: where the encoder's weights are, and without such
            where the old data lies; ``"cpu"`` forces the CPU.

    Returns:
        A :class:`SelectionReport`.

    Raises:
        ValueError: fewer than 4 old samples, no new ones, dimensions that differ, NaN, more to keep than there is, a
            policy that needs a model, more groups than places, a device that is not there.
        TypeError: data that cannot be read, a policy without ``select``.

    Warns:
        UserWarning: colour images compared in raw pixels.

    Example:
        >>> import torch
        >>> two = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1]])
        >>> chosen = select(two, keep=2, beta=2.0)
        >>> chosen.indices.tolist(), chosen.weights.tolist()  # one of each cluster, and how many it stands for
        ([1, 3], [3.0, 2.0])

    Source: Nemhauser, Wolsey, Fisher (1978) for the guarantee.
    """
    check_integer(keep, "keep", 1)
    check_ratio(replay_ratio, "replay_ratio")
    given = as_beta(beta)
    chooser = as_policy(policy)
    if requirements(chooser).losses:
        name = type(chooser).__name__
        raise ValueError(f"{name} needs a model's loss on every sample, and select knows no model; choose another.")
    side = _side(old, size, encoder)
    grey = all(data.form[1] for data in (old, new) if isinstance(data, ImageCollection))
    place = check_device(device)
    read = read_vectors(_batches(old, side, grey), encoder, "old")
    vectors = read.rows
    if len(vectors) < 4:
        raise ValueError(f"select needs at least 4 old samples, got {len(vectors)}.")
    other = None if new is None else read_vectors(_batches(new, side, grey), encoder, "new")
    coming = None if other is None else other.rows
    if other is not None and other.rows.shape[1] != vectors.shape[1]:
        raise ValueError(f"old vectors have dimension {vectors.shape[1]}, new ones {other.rows.shape[1]}.")
    if other is not None:
        check_forms(read.form, other.form, "old and new")
    if labels is None:
        labels = old.labels if isinstance(old, ImageCollection) else read.labels
    if isinstance(by, str) and labels is None:
        raise ValueError(f"by={by!r} needs labels, and the old samples have none.")
    groups = Groups.of(labels if isinstance(by, str) else by, len(vectors))
    copies = None if unique is False else near_duplicates(vectors, _NEAR if unique is True else unique)
    compared = Compared(vectors, read.device if place is None else place)
    value = (
        compared.worked_out(lambda x: calibrate_beta(x, n_eff=default_n_eff(len(x)), similarity=similarity))
        if given is None
        else given
    )
    described = {"beta": value, "similarity": similarity, "places": keep, "replay_ratio": replay_ratio}
    known = _known(vectors, groups, seed, **described, device=compared.device)
    among = _candidates(known, groups, copies, pool, seed)
    _check_places(keep, groups, among)
    most = len(known) if pool is None else _COUNTED
    known = _with_energies(known, among, most, coming, compared.near)

    def chosen(chooser: Policy, keys_of: int) -> Tensor:
        """Positions of what a policy chooses, in equal shares where there are groups."""
        offered = replace(known, keys=sample_keys(known.ids, keys_of)).pick(among)
        picks = (balanced(chooser, by="task") if len(groups) > 1 else chooser).select(offered, keep)
        if len(picks) != keep or len(picks.unique()) != keep:
            raise ValueError(f"{chooser!r} must select {keep} distinct candidates, got {picks.tolist()}.")
        return among[picks]

    indices = chosen(chooser, seed)
    plan = ReplayPlan(known, replay_ratio, among=among, most=most, near=compared.near)
    kept, everything = plan.protected(indices), plan.everything()
    bound = plan.certified([plan.greedy(keep)])[0].upper_bound
    shortfall = everything - kept
    worst = shortfall.argsort(descending=True, stable=True)[:_SHOWN]
    table = groups if len(groups) > 1 else Groups.of(labels, len(vectors))
    return SelectionReport(
        indices=indices,
        weights=_weights(known, groups, indices, stand_for=requirements(chooser).weights),
        kept=Protection.of([kept], plan.tail),
        random=Protection.of([plan.protected(chosen(Random(), seed + draw)) for draw in range(_DRAWS)], plan.tail),
        everything=Protection.of([everything], plan.tail),
        certificate=min(1.0, float(kept.sum()) / bound) if bound > 0 else 1.0,
        classes=table.counted(indices) if len(table) > 1 else {},
        uncovered=plan.targets[worst],
        shortfall=shortfall[worst],
        copies=copies,
        names=tuple(item.name for item in old) if isinstance(old, ImageCollection) else (),
        policy=policy if isinstance(policy, str) else type(policy).__name__,
        candidates=len(among),
        samples=len(known),
        beta=value,
        diagnosis=compared.worked_out(lambda x: diagnose(x, value, similarity=similarity, calibrated=given is None)),
    )


def _side(
    old: Data | ImageCollection, size: int | None, encoder: Callable[[Any], Tensor] | nn.Module | None
) -> int | None:
    """The side to which images are brought; None: they stay as they are."""
    if not isinstance(old, ImageCollection):
        return None
    if size is not None:
        return check_integer(size, "size", 1)
    common, grey = old.form
    if encoder is None and not grey and (common is None or min(common) >= _PHOTOGRAPH):
        warnings.warn(
            "Colour images are compared pixel by pixel, which says little of photographs: shift one by a pixel and it "
            "is another. Pass an encoder (a VAE, DINOv2, CLIP).",
            stacklevel=3,
        )
    if encoder is not None and common is None:
        raise ValueError("The images have several sizes; give the size that the encoder takes.")
    return _SIDE if common is None else None


def _batches(data: Data | ImageCollection, side: int | None, grey: bool) -> Data:
    return data.batches(side, grey=grey) if isinstance(data, ImageCollection) else data


def _known(vectors: Tensor, groups: Groups, seed: int, **described: Any) -> Candidates:
    """All old samples, whose energies are not known yet; groups stand where tasks do."""
    ids = torch.arange(len(vectors))
    unknown = torch.full((len(vectors),), torch.nan, dtype=torch.float64)
    return Candidates(ids, groups.index, unknown, vectors, sample_keys(ids, seed), **described)


def _candidates(known: Candidates, groups: Groups, copies: Tensor | None, pool: int | None, seed: int) -> Tensor:
    """Positions of the samples that may be chosen."""
    among = torch.arange(len(known)) if copies is None else (copies < 0).nonzero().flatten()
    if pool is None:
        return among
    check_integer(pool, "pool", 1)
    if pool > len(among):
        raise ValueError(f"pool={pool} is more than the {len(among)} samples that may be chosen.")
    offered = replace(known, keys=sample_keys(known.ids, -1 - seed)).pick(among)
    drawn = (balanced(Random(), by="task") if len(groups) > 1 else Random()).select(offered, pool)
    return among[drawn].sort().values


def _check_places(keep: int, groups: Groups, among: Tensor) -> None:
    if keep > len(among):
        raise ValueError(f"keep={keep} is more than the {len(among)} samples that may be chosen.")
    if keep < len(groups):
        raise ValueError(f"{len(groups)} groups cannot share keep={keep} places; keep at least one of each.")


def _with_energies(known: Candidates, among: Tensor, most: int, coming: Tensor | None, near: Matrix) -> Candidates:
    """The samples with the energies of those that may be chosen or are counted."""
    n = len(known)
    asked = torch.cat([among, spread_indices(n, most)]).unique()

    def of(patterns: Matrix, exclude: Tensor | None) -> Tensor:
        energies, tiles = torch.full((n,), torch.nan, dtype=torch.float64), PatternTiles.of_rows(patterns)
        energies[asked] = energies_of(
            known.vectors[asked], tiles, known.beta, similarity=known.similarity, exclude=exclude
        )
        return energies

    after = None if coming is None else of(placed(coming, near.device), None)
    return replace(known, energies=of(near, asked), next_energies=after)


def _weights(known: Candidates, groups: Groups, indices: Tensor, *, stand_for: bool) -> Tensor:
    """How many of the old samples each kept one stands for."""
    if not stand_for:
        return torch.full((len(indices),), len(known) / len(indices), dtype=torch.float64)
    weights = weigh(known, indices, "task" if len(groups) > 1 else None).weights
    assert weights is not None
    return weights[indices]
