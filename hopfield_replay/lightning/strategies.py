"""Which of Lightning's strategies can carry a sequence of tasks, and its boundaries."""

from collections.abc import Iterable

from lightning.pytorch import Callback
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay.lightning.namespaces import is_a, kinds
from hopfield_replay.lightning.renewal import averaging


def check_launcher(strategy: Strategy) -> None:
    """Refuse strategies whose processes end with every fit (ddp_spawn, ddp_fork, ddp_notebook, XLA).

    Raises:
        MisconfigurationException: such a strategy.
    """
    # only plain subprocesses live on between fits
    launcher = getattr(strategy, "_start_method", "popen") if is_a(strategy, DDPStrategy) else "popen"
    if launcher != "popen":
        given = f'strategy="ddp_{launcher}"' if type(strategy) in kinds(DDPStrategy) else type(strategy).__name__
        raise MisconfigurationException(
            f"{given} starts its processes by {launcher}, ends them with every fit and loses what callbacks know; use "
            'strategy="ddp" in a script (in a notebook: one device).'
        )


def check_whole_model(strategy: Strategy) -> None:
    """Refuse strategies under which the model cannot be measured: FSDP1, stage 3 of DeepSpeed, tensor parallel.

    Raises:
        MisconfigurationException: such a strategy.
    """
    if is_a(strategy, FSDPStrategy):
        raise MisconfigurationException(
            f"{type(strategy).__name__} cannot run the model outside of a training step (Lightning issue 20255), "
            "so probes cannot be measured, and wraps it anew in every fit, where it finds weights that it has split "
            "before; use ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1) "
            "with fully_shard, or a strategy that keeps whole models, such as ddp."
        )
    if is_a(strategy, ModelParallelStrategy) and (size := _tensor_parallel_size(strategy)) != 1:
        raise MisconfigurationException(
            f"{type(strategy).__name__} splits the computation itself over {size} processes, which must then call the "
            "model together, while at a boundary each measures samples of its own; set tensor_parallel_size=1 (and "
            "data_parallel_size to the number of processes), or use a strategy that keeps whole models, such as ddp."
        )
    if is_a(strategy, DeepSpeedStrategy) and strategy.zero_stage_3:
        raise MisconfigurationException(
            f"{type(strategy).__name__} at stage 3 splits the weights, which are whole only where all processes "
            "call the model together, while at a boundary each measures samples of its own; use stage 1 or 2, which "
            "keep whole weights, ModelParallelStrategy(data_parallel_size=..., tensor_parallel_size=1) with "
            "fully_shard, or a strategy that keeps whole models, such as ddp."
        )


def check_averaging(strategy: Strategy, callbacks: Iterable[Callback]) -> None:
    """Refuse callbacks that copy a module whose weights are spread over processes.

    Raises:
        MisconfigurationException: such a callback.
    """
    copying = averaging(callbacks) if is_a(strategy, ModelParallelStrategy) else []
    if copying:
        raise MisconfigurationException(
            f"{type(copying[0]).__name__} copies the module, which torch does not do where fully_shard has spread it "
            f"over processes, as under {type(strategy).__name__}. Leave it out, and let the module itself keep the "
            "average, such as a dict of its parameters called ema, which is measured; or use ddp."
        )


def writes_folders(strategy: Strategy) -> bool:
    """Whether checkpoints are folders that several processes write into."""
    if is_a(strategy, ModelParallelStrategy):
        return bool(strategy._save_distributed_checkpoint)
    return is_a(strategy, DeepSpeedStrategy)


def _tensor_parallel_size(strategy: ModelParallelStrategy) -> int | str:
    """Over how many processes the computation is split."""
    try:
        return int(strategy.device_mesh["tensor_parallel"].size())
    except RuntimeError:  # there are no processes yet
        return strategy._tensor_parallel_size
