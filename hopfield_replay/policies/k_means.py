"""KMeans: keep the samples nearest to the centres of k-means, each for its cluster."""

from torch import Tensor

from hopfield_replay.functional import k_means_medoids
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.utilities.showing import ShownSettings

_MANY = 1 << 25  # numbers of which one pass takes as long as three of fewer


class KMeans(ShownSettings):
    """Keep the sample nearest to each centre of weighted k-means, largest cluster first; it knows of no energies.

    The baseline for every choice that covers the old samples: what it keeps is replayed as often as its cluster is
    large. A choice of fewer is not that of fewer clusters, but the largest of these. The best of three runs; of more
    than 32 million numbers there is one.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]])
        >>> n = torch.zeros(5, dtype=torch.int64)
        >>> KMeans().select(Candidates(torch.arange(5), n, n.double(), x, torch.rand(5)), 2)
        tensor([1, 3])

    Source: Lloyd (1982); see :func:`~hopfield_replay.functional.k_means_medoids`.
    """

    is_random = True
    needs_energies = False
    needs_weights = True
    reads_in_pieces = True

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The medoids of k clusters."""
        by_id = candidates.ids.argsort()  # every arrival gives one choice
        ordered = candidates if bool((by_id.diff() == 1).all()) else candidates.pick(by_id)
        starts = 3 if ordered.rows.shape.numel() <= _MANY else 1
        return by_id[k_means_medoids(ordered.rows, k, ordered.keys, masses=ordered.weights, starts=starts)]
