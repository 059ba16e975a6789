"""Which of Lightning's strategies can carry a sequence of tasks, and its boundaries."""

from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException


def check_launcher(strategy: Strategy) -> None:
    """Refuse strategies whose processes end with every fit."""
    # only plain subprocesses live on between fits
    launcher = getattr(strategy, "_start_method", "popen") if isinstance(strategy, DDPStrategy) else "popen"
    if launcher != "popen":
        raise MisconfigurationException(
            f'strategy="ddp_{launcher}" ends its processes with every fit and loses what callbacks know; use '
            'strategy="ddp".'
        )


def check_whole_model(strategy: Strategy) -> None:
    """Refuse strategies under which the model cannot be measured at a boundary."""
    sharded: tuple[type, ...] = (FSDPStrategy, ModelParallelStrategy)
    if isinstance(strategy, sharded) or type(strategy).__name__ == "DeepSpeedStrategy":
        raise MisconfigurationException(
            f"{type(strategy).__name__} cannot run the model outside of a training step (Lightning issue 20255), "
            "so probes cannot be measured; use a strategy that keeps whole models, such as ddp."
        )
