"""The command hopfield-replay."""

import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from hopfield_replay.files import replacing, write_json

_EXPERIMENTS = ("rise", "replay_gain", "falsify", "boltzmann", "selection", "all")


def _write(result: Any, output_dir: Path | None, name: str) -> None:
    if output_dir is None:
        return
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / f"{name}.json", result.to_dict())
    with replacing(output_dir / f"{name}.png") as partial:
        result.figure().savefig(partial, dpi=120)
    print(f"Wrote {output_dir}/{name}.json and {name}.png")


def forecast(
    old: str,
    new: str,
    capacities: list[int] | None = None,
    beta: float | None = None,
    replay_ratio: float = 0.5,
    seed: int = 0,
    output_dir: Path | None = None,
) -> None:
    """Predict from two data sets what training on the second will make a model of the first forget.

    Args:
        old: what the model knows: a folder of images, a .npz or .safetensors file, or module:DataModule.
        new: what it will be trained on, likewise.
        capacities: buffer sizes to compare.
        beta: inverse temperature; calibrated if not given.
        replay_ratio: share of each batch that would be replayed.
        seed: of the random policy.
        output_dir: where forecast.json and forecast.png are written; nowhere if not given.
    """
    from hopfield_replay.datasets import load_data
    from hopfield_replay.forecasting import forecast as compute

    known, coming = load_data(old), load_data(new)
    labels = None
    if isinstance(known, tuple):
        known, labels = known
    if isinstance(coming, tuple):
        coming = coming[0]
    result = compute(
        known,
        coming,
        labels=labels,
        beta="auto" if beta is None else beta,
        capacities=capacities or (20, 50, 100, 200, 500),
        replay_ratio=replay_ratio,
        seed=seed,
    )
    print(result.table())
    _write(result, output_dir, "forecast")


def audit(
    old: str,
    new: str,
    data: str,
    timesteps: list[int] | None = None,
    draws: int = 1,
    seed: int = 0,
    output_dir: Path | None = None,
) -> None:
    """Compare two checkpoints of an unconditional diffusion model, sample by sample, with the same noise.

    Args:
        old: the first checkpoint: a folder written by a diffusers pipeline's save_pretrained.
        new: the second one, likewise.
        data: images: a folder, a .npz or .safetensors file, or module:DataModule. Bytes are scaled to [-1, 1].
        timesteps: where errors are measured; 10 to 50 % of the range if not given.
        draws: noise draws at each timestep.
        seed: of the noise.
        output_dir: where audit.json and audit.png are written; nowhere if not given.
    """
    from hopfield_replay.auditing import audit as compute
    from hopfield_replay.datasets import channels_first, load_data
    from hopfield_replay.denoisers.pipeline import load_pipeline

    samples, labels = load_data(data), None
    if isinstance(samples, tuple):
        samples, labels = samples
    if isinstance(samples, Tensor):
        samples = channels_first(samples)
    result = compute(
        load_pipeline(old), load_pipeline(new), samples, labels=labels, timesteps=timesteps, draws=draws, seed=seed
    )
    print(result.table())
    _write(result, output_dir, "audit")


def main(arguments: list[str] | None = None) -> None:
    """Run ``hopfield-replay forecast``, ``audit`` or ``reproduce``."""
    try:
        from jsonargparse import auto_cli
    except ImportError as error:
        raise SystemExit('The command line needs jsonargparse: pip install "hopfield-replay[cli]".') from error
    from hopfield_replay import theory

    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look for module:DataModule in the present folder
    experiments = {name.replace("_", "-"): getattr(theory, f"reproduce_{name}") for name in _EXPERIMENTS}
    experiments["_help"] = "Reproduce the theory's claims on networks whose energies are exact."
    commands: Any = {"forecast": forecast, "audit": audit, "reproduce": experiments}
    try:
        result = auto_cli(commands, args=arguments, prog="hopfield-replay")
    except (ValueError, ImportError, OSError) as error:
        print(f"hopfield-replay: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    if isinstance(result, theory.Report):
        print(f"Wrote {result.page}")
    elif result is not None:
        print(result.table())
        print("\n".join(result.findings()))


if __name__ == "__main__":
    main()
