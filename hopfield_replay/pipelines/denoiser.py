"""Denoiser of a text-to-image pipeline's network, called as the pipeline calls it."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers import Prediction, Schedule
from hopfield_replay.denoisers.scheduled import ScheduledDenoiser
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.pipelines.convention import Convention
from hopfield_replay.pipelines.rows import Row, joined
from hopfield_replay.utilities.nested import map_leaves

RECEIVED = "received"


class PipelineDenoiser(ScheduledDenoiser):
    """A network, given what its pipeline would give it.

    Samples are what the pipeline's scheduler steps from: latents, packed where the network takes them so. The condition
    is a list with a :class:`Row` for each sample, or a mapping that holds it as ``"received"``, as
    :meth:`PipelineModel.conditions` makes it.

    Args:
        network: of the pipeline.
        convention: how it is called.
        schedule: of the pipeline's scheduler.
        prediction_type: what the scheduler takes the output for.
        received: name of the rows in a condition that is a mapping.

    Raises:
        ValueError: on use: a condition without these rows.

    Example:
        >>> from hopfield_replay.denoisers import FlowSchedule
        >>> class Halves(nn.Module):  # a network without text, that is told 1 - t / 1000 and predicts x_0 - noise
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.factor = nn.Parameter(torch.tensor(0.5))
        ...     def forward(self, x, t): return self.factor * x
        >>> told = Convention("transformer", "x", False, None, "t", -0.001, 1.0, None, -1, False, frozenset())
        >>> denoiser = PipelineDenoiser(Halves(), told, FlowSchedule(1000), "flow_prediction")
        >>> denoiser.predict_clean(torch.ones(1, 4), 500, [Row({}, {})]).tolist()  # 1 + 0.5 * 0.5
        [[1.25, 1.25, 1.25, 1.25]]
    """

    def __init__(
        self,
        network: nn.Module,
        convention: Convention,
        schedule: Schedule,
        prediction_type: Prediction,
        *,
        received: str = RECEIVED,
    ) -> None:
        super().__init__(schedule, prediction_type)
        self.model = network
        self.convention = convention
        self.received = received

    def predict(self, noisy: Tensor, timestep: float, condition: Any) -> Tensor:
        """What the scheduler would get for the noisy samples; gradients reach the network if they are enabled."""
        with evaluating(self.model):
            return self.predictions(noisy, timestep, rows_in(condition, len(noisy), self.received))

    def predictions(self, noisy: Tensor, timestep: float | Tensor, rows: Sequence[Row]) -> Tensor:
        """The same in whatever mode the network is, as training needs it: rows of one form go through it together.

        Args:
            noisy: (n, *shape)
            timestep: one for all, or (n,), as the scheduler counts.
            rows: what the network is given of each sample.
        """
        weight = next(self.model.parameters())
        groups: dict[Any, list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(row.form, []).append(number)
        predicted: list[Tensor] = []
        for members in groups.values():
            inputs = noisy[members].to(weight.device, weight.dtype)
            times = timestep[members] if isinstance(timestep, Tensor) else timestep
            predicted.append(self.call(inputs, times, [rows[number] for number in members]))
        order = torch.tensor([number for members in groups.values() for number in members]).argsort()
        return torch.cat(predicted)[order.to(weight.device)]

    def call(self, noisy: Tensor, timestep: float | Tensor, rows: Sequence[Row]) -> Tensor:
        """The prediction for samples whose rows are of one form, on the network's device and in its precision.

        Args:
            noisy: (n, *shape)
            timestep: one for all, or (n,), as the scheduler counts.
            rows: what the network is given of each sample.
        """

        def moved(_: str, item: Any) -> Any:
            if not isinstance(item, Tensor):
                return item
            return item.to(noisy.device, noisy.dtype if item.is_floating_point() and item.ndim > 1 else None)

        held = self.convention
        arguments = map_leaves(moved, joined(rows))
        if isinstance(timestep, Tensor):
            times = held.offset + held.slope * timestep.to(noisy.device, torch.float64)
            arguments[held.time] = times.to(held.time_dtype or noisy.dtype)
        else:
            arguments[held.time] = held.times(timestep, noisy)
        shown = held.shown(noisy)
        if held.sample == next(iter(inspect.signature(self.model.forward).parameters)):
            return held.prediction(self.model(shown, **arguments))  # as networks are called elsewhere
        return held.prediction(self.model(**{held.sample: shown}, **arguments))


def rows_in(condition: Any, count: int, name: str = RECEIVED) -> list[Row]:
    """The rows in a condition.

    Raises:
        ValueError: there are none, or not one for each sample.
    """
    rows = condition.get(name) if isinstance(condition, Mapping) else condition
    if not isinstance(rows, list | tuple) or len(rows) != count or not all(isinstance(row, Row) for row in rows):
        raise ValueError(
            f"a pipeline's network needs what the pipeline makes of the captions of these {count} samples: a condition "
            f"{{{RECEIVED!r}: model.conditions(captions, size)}} of hopfield_replay.pipelines.PipelineModel."
        )
    return list(rows)


__all__ = ["RECEIVED", "PipelineDenoiser", "rows_in"]
