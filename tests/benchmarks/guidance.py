"""What guidance adds to one denoising step of a UNet, as a ratio to the step itself.

Run from the repository root: ``python -m tests.benchmarks.guidance``. The UNet is a diffusers UNet2DModel of (32, 64)
channels on 16x16 images. Rounds alternate between a plain step and a guided one at the same timestep; ratios are
medians over pairs of CPU times, at a late, a middle and an early timestep. The correction of the responsibilities,
computed once for a timestep and kept, is timed by itself.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, UNet2DModel

from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.guidance import MemoryGuidance


def seconds(step: Callable[[], object]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    step()
    return time.process_time() - started


def main() -> None:
    """Print a line for each batch size and timestep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", type=int, default=100_000, help="samples in the memory")
    parser.add_argument("--current", type=int, default=2_000, help="current samples")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 64, 256], help="images denoised together")
    parser.add_argument("--timesteps", type=int, nargs="+", default=[50, 500, 950])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of steps")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()
    memory, current = torch.randn(options.stored, 1, 16, 16), torch.randn(options.current, 1, 16, 16)
    denoiser = DiffusersDenoiser(unet, DDPMScheduler())
    settings = {"memory": memory, "current": current, "strength": 0.5}
    print(f"{options.stored} stored and {options.current} current samples, 256 pixels, {options.threads} thread(s)")
    print(f"{'images':>8}{'timestep':>10}{'step':>10}{'guided':>10}{'ratio':>8}   range")
    guidance = MemoryGuidance(denoiser, **settings, probes=0)
    with torch.no_grad():
        for count in options.batch_sizes:
            noisy = torch.randn(count, 1, 16, 16)
            for timestep in options.timesteps:

                def step(noisy: torch.Tensor = noisy, timestep: int = timestep) -> object:
                    return unet(noisy, timestep).sample

                def guided(step: Callable[[], object] = step) -> object:
                    with guidance.steer():
                        return step()

                seconds(step), seconds(guided)
                pairs = [(seconds(step), seconds(guided)) for _ in range(options.rounds)]
                ratios = sorted(with_guidance / plain for plain, with_guidance in pairs)
                plain, with_guidance = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(
                    f"{count:>8}{timestep:>10}{plain:>9.3f}s{with_guidance:>9.3f}s{statistics.median(ratios):>8.2f}   "
                    f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
                )
        noisy = torch.randn(16, 1, 16, 16)
        corrected = MemoryGuidance(denoiser, **settings)
        first, again = (seconds(lambda: corrected.predict_clean(noisy, 500)) for _ in range(2))
    print(f"correction from 512 probes of each set: {first - again:.2f}s, once for each timestep")


if __name__ == "__main__":
    main()
