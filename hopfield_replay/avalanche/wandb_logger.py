"""WandBLogger: avalanche's logger for Weights & Biases, for the releases of wandb that came after it."""

from types import ModuleType, SimpleNamespace
from typing import Any

from avalanche.logging import WandBLogger as UpstreamLogger


class WandBLogger(UpstreamLogger):  # type: ignore[misc]  # avalanche is untyped here
    """Avalanche's WandBLogger, working with current wandb.

    Upstream's fails with an AttributeError at ``wandb.util.generate_id`` and at ``wandb.viz``, which wandb 0.31 no
    longer has. Takes upstream's arguments; ``params={"mode": "offline"}`` logs without a connection.

    Example:
        >>> from avalanche.logging import WandBLogger as Upstream
        >>> issubclass(WandBLogger, Upstream)
        True
    """

    def import_wandb(self) -> None:
        """Import wandb, with the two names that upstream looks for."""
        super().import_wandb()
        self.wandb: Any = _Renamed(vars(self)["wandb"])


class _Renamed:
    """The module wandb, with two names where they were."""

    def __init__(self, wandb: ModuleType) -> None:
        self._wandb = wandb
        if not hasattr(wandb, "viz"):
            self.viz = SimpleNamespace(CustomChart=wandb.plot.CustomChart)
        if not hasattr(wandb.util, "generate_id"):
            from wandb.sdk.lib.runid import generate_id

            self.util = SimpleNamespace(generate_id=generate_id)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wandb, name)
