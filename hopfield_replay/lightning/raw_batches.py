"""RawBatches: the training batch at hand as its loader yielded it."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer


class RawBatches:
    """Sees every training batch before its precision, its device and the transfer hooks change it.

    Hooks get a batch that is ready for the model, and loaders are read ahead of the training. The first thing that a
    Trainer does with the batch whose turn has come is to ask its precision plugin to convert it; that method is
    wrapped while a fit lasts.

    Attributes:
        latest: the batch at hand; None between batches.
    """

    def __init__(self) -> None:
        self.latest: Any = None
        self._plugin: Any = None

    def attach(self, trainer: Trainer, take: Callable[[Any], Any]) -> None:
        """Begin to see batches; ``take`` says what is kept of one, before anything can change it in place."""
        self.detach()
        plugin: Any = trainer.precision_plugin
        convert: Callable[[Any], Any] = plugin.convert_input

        def convert_input(data: Any) -> Any:
            if trainer.training:
                self.latest = take(data)
            return convert(data)

        plugin.convert_input = convert_input
        self._plugin = plugin

    def detach(self) -> None:
        """See no more."""
        if self._plugin is not None:
            vars(self._plugin).pop("convert_input", None)  # the class's own method is there again
        self._plugin = self.latest = None


__all__ = ["RawBatches"]
