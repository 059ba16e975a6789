"""An evaluator for strategies whose outputs are no class scores."""

from collections.abc import Sequence
from typing import Any

from avalanche.evaluation.metrics import loss_metrics
from avalanche.logging import InteractiveLogger
from avalanche.training.plugins import EvaluationPlugin


def loss_evaluator(*metrics: Any, loggers: Sequence[Any] | None = None) -> Any:
    """An EvaluationPlugin of losses, for generative strategies; upstream's default also measures accuracy.

    Args:
        metrics: further metrics, e.g. IntrinsicForgetting().
        loggers: None: one InteractiveLogger.

    Returns:
        An EvaluationPlugin with the loss of each epoch, experience and stream.

    Example:
        >>> from hopfield_replay.avalanche import IntrinsicForgetting
        >>> str(loss_evaluator(IntrinsicForgetting()).metrics[-1])
        'IntrinsicForgetting'
    """
    return EvaluationPlugin(
        loss_metrics(epoch=True, experience=True, stream=True),
        *metrics,
        loggers=[InteractiveLogger()] if loggers is None else list(loggers),
    )
