"""Improved precision and recall as a torchmetrics class."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional.neighbours import precision_recall
from hopfield_replay.metrics._extractor import FrozenExtractor
from hopfield_replay.metrics._rows import RowMetric


class KNNPrecisionRecall(RowMetric):
    """Precision and recall of generated samples by nearest neighbours in the space of a frozen extractor.

    Args:
        extractor: maps samples (n, *shape) to features (n, d): a module, which stays where it is and as it is, or a
            function.
        k: the neighbour that gives a sample its radius, >= 1.
        name: how the extractor is called in the results; its class or function name if None.
        **settings: settings of torchmetrics.Metric.

    Raises:
        TypeError, ValueError: on update: an extractor that returns no vectors; on compute: k or fewer samples on a
            side.

    Example:
        >>> metric = KNNPrecisionRecall(torch.nn.Flatten(), k=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0], [11.0]]), real=True)
        >>> metric.update(torch.tensor([[0.5], [1.5], [2.5]]), real=False)
        >>> {name: float(value) for name, value in metric.compute().items()}
        {'precision-Flatten': 1.0, 'recall-Flatten': 0.5}

    Source: Kynkaanniemi et al., arXiv:1904.06991.
    """

    higher_is_better = True

    def __init__(
        self, extractor: Callable[[Tensor], Tensor], *, k: int = 3, name: str | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self._extractor = FrozenExtractor(extractor, name)
        self.k = k
        self.add_rows("real", torch.float32)
        self.add_rows("generated", torch.float32)

    def update(self, samples: Tensor, real: bool) -> None:
        """Add real or generated samples (n, *shape)."""
        self.append("real" if real else "generated", self._extractor(samples))

    def compute(self) -> dict[str, Tensor]:
        """``precision-<extractor>`` and ``recall-<extractor>``, in [0, 1], float64."""
        precision, recall = precision_recall(self.rows("real"), self.rows("generated"), self.k)
        name = self._extractor.name
        return {f"precision-{name}": self.number(precision), f"recall-{name}": self.number(recall)}


__all__ = ["KNNPrecisionRecall"]
