"""The scores that attention layers hand on to one another during one forward of a model."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Key = tuple[int, int, int]  # batch, heads, tokens


class CarriedScores:
    """Scores of the last attention layer of each (batch, heads, tokens), from the begin of a forward to its end.

    Two of a model's resolutions never meet in one entry, and when a UNet comes back to a resolution it goes on with the
    scores that it left there.

    Args:
        root: the model whose forward begins and ends them; its hooks are :meth:`begin` and :meth:`end`.
    """

    def __init__(self, root: nn.Module) -> None:
        self.scores: dict[Key, Tensor] | None = None  # None outside a forward
        self._root = type(root).__name__
        self._checkpointed: list[Any] = [part for part in root.modules() if hasattr(part, "gradient_checkpointing")]

    def begin(self, module: nn.Module, args: Any) -> None:
        """Forget everything: a forward of the model begins."""
        if getattr(module, "_is_replica", False):
            raise RuntimeError(
                "Hopfield attention does not work in torch.nn.DataParallel, whose threads would share one state; use "
                "DistributedDataParallel."
            )
        for part in self._checkpointed:  # here and not before: checkpointing is switched on and off at any time
            if part.gradient_checkpointing and not isinstance(part._gradient_checkpointing_func, Checkpoint):
                part._gradient_checkpointing_func = Checkpoint(part._gradient_checkpointing_func, self)
        self.scores = {}

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forget everything: the forward has ended, or failed."""
        self.scores = None

    def open(self) -> dict[Key, Tensor]:
        """The scores of the forward that is under way.

        Raises:
            RuntimeError: there is none.
        """
        if self.scores is None:
            raise RuntimeError(
                f"A layer with Hopfield attention ran outside a forward of the {self._root} it was installed on, so "
                "there are no scores to carry on. Call that model itself: not its .forward, nor a part of it. To "
                "recompute activations use its enable_gradient_checkpointing(), not torch.utils.checkpoint around a "
                "part of it."
            )
        return self.scores

    def release(self) -> None:
        """Give back the checkpoint functions that were found."""
        for part in self._checkpointed:
            if isinstance(getattr(part, "_gradient_checkpointing_func", None), Checkpoint):
                part._gradient_checkpointing_func = part._gradient_checkpointing_func.function


class Checkpoint:
    """A checkpoint function under which the scores enter and leave every region as its inputs and outputs.

    So a recomputation sees the scores that came in at first, also when other forwards ran in between, and gradients
    flow through them, reentrant or not. What is recomputed does not touch the forward that is under way.

    Args:
        function: the checkpoint function of diffusers, called with a callable and its arguments.
        carried: the scores.
    """

    def __init__(self, function: Callable[..., Any], carried: CarriedScores) -> None:
        self.function = function
        self._carried = carried

    def __call__(self, module: Callable[..., Any], *args: Any) -> Any:
        """What the module returns."""
        region = _Region(module, self._carried)
        outputs = self.function(region, *self._carried.open().values(), *args)
        results = outputs[: len(outputs) - len(region.left)]
        self._carried.scores = dict(zip(region.left, outputs[len(results) :], strict=True))
        return results if region.several else results[0]


class _Region:
    """A checkpointed module as a function of the incoming scores and its own inputs."""

    def __init__(self, module: Callable[..., Any], carried: CarriedScores) -> None:
        self.several = False
        self.left: list[Key] = []
        self._module = module
        self._carried = carried
        self._entered = list(carried.open())

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        count = len(self._entered)
        outer, given = self._carried.scores, dict(zip(self._entered, inputs[:count], strict=True))
        self._carried.scores = given
        try:
            result = self._module(*inputs[count:])
        finally:  # a recomputation is stopped by an exception as soon as everything needed is there
            self._carried.scores = outer
        self.several, self.left = isinstance(result, tuple), list(given)
        return (*result, *given.values()) if isinstance(result, tuple) else (result, *given.values())


__all__ = ["CarriedScores", "Checkpoint"]
