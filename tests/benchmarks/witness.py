"""What watching the first step costs, and what each level of trust costs at a boundary.

    python -m tests.benchmarks.witness

For modules of each level, on 8x8 images, with the 256 probes of one task: milliseconds of CPU time of the decision
(once), of the boundary, and both as a share of an epoch over 2,000 samples in batches of 32; and the time of a step
after the first, with a monitor that has watched the first one and with one that has not (1.00: watching costs nothing
later).

On one of two busy cores (Intel Xeon, torch 2.14; the median of 3 runs; the UNet is of diffusers, 10,709 weights, all
others are perceptrons whose epoch takes a tenth of a second):

    level                     decision ms  boundary ms  of an epoch  later steps
    found, verified (UNet)            342          331         0.27         1.02
    inferred                           50           66         1.49         0.92
    inferred, conditional              20           76         0.81         1.07
    own step                          244          107         2.13         1.04
    paired loss                        13          835         5.90         0.98

A paired loss takes ``probe_size * loss_draws`` samples through the step, here 8 epochs' worth of them, forward only.
"""

import statistics
import time
import warnings

import torch
from lightning.pytorch import Callback, Trainer

from hopfield_replay import ForgettingMonitor
from hopfield_replay.lightning.first_step import FirstStep
from hopfield_replay.utilities.nested import map_leaves
from tests.denoisers.networks import unet
from tests.lightning.styles import Labelled, SelfConditioning, TextToImage, Tutorial, loader


class Found(Tutorial):
    """A small UNet of diffusers, with its scheduler."""

    def __init__(self):
        super().__init__()
        from diffusers import DDPMScheduler

        self.net, self.scheduler = unet(), DDPMScheduler(self.steps, beta_start=1e-4, beta_end=0.02)

    def ask(self, noisy, t, y):
        return self.net(noisy, t).sample


LEVELS = {
    "found, verified (UNet)": Found,
    "inferred": Tutorial,
    "inferred, conditional": Labelled,
    "own step": TextToImage,
    "paired loss": SelfConditioning,
}
SAMPLES, PROBES, REPEATS = 2000, 256, 3


def larger(data):
    """The data of a style, again and again, each time with other noise: equal samples would have no temperature."""
    generator = torch.Generator().manual_seed(0)

    def other(value):
        return value + 0.1 * torch.randn(value.shape, generator=generator) if value.is_floating_point() else value

    return [map_leaves(lambda _, value: other(value), data[index % len(data)]) for index in range(SAMPLES)]


class Clock(Callback):
    """Seconds of CPU time of each step."""

    def __init__(self):
        self.steps, self._began = [], 0.0

    def on_train_batch_start(self, *_):
        self._began = time.process_time()

    def on_train_batch_end(self, *_):
        self.steps.append(time.process_time() - self._began)


def train(style, *callbacks):
    torch.manual_seed(0)
    clock = Clock()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, clock],
    )  # fmt: skip
    data = torch.utils.data.DataLoader(larger(loader(0, style).dataset), batch_size=32)
    trainer.fit(style(), data)
    return clock.steps


def measure(style):
    """Seconds of the decision, of the boundary's probes, of an epoch, and the ratio of later steps."""
    took = {}
    decide = FirstStep._decide

    def timed(self, *args):
        began = time.process_time()
        found = decide(self, *args)
        took["decision"] = time.process_time() - began
        return found

    FirstStep._decide = timed
    monitor = ForgettingMonitor(probe_size=PROBES)
    tracker = monitor.tracker
    end = tracker.end_task

    def end_task(source, **settings):
        began = time.process_time()
        record = end(source, **settings)
        took["boundary"] = time.process_time() - began
        return record

    tracker.end_task = end_task
    try:
        with_it = train(style, monitor)
    finally:
        FirstStep._decide = decide
    watch = FirstStep.watch
    FirstStep.watch = lambda *_: None  # the monitor without the witness
    try:
        without = train(style, ForgettingMonitor(probe_size=PROBES))
    finally:
        FirstStep.watch = watch
    ratio = statistics.median(with_it[5:]) / statistics.median(without[5:])
    return took["decision"], took["boundary"], sum(train(style)), ratio


def main():
    """Print a row for each level."""
    warnings.simplefilter("ignore")
    print(f"{'level':24} {'decision ms':>12} {'boundary ms':>12} {'of an epoch':>12} {'later steps':>12}")
    for name, style in LEVELS.items():
        runs = [measure(style) for _ in range(REPEATS)]
        decision, boundary, epoch, ratio = (statistics.median(values) for values in zip(*runs, strict=True))
        share = (decision + boundary) / epoch
        print(f"{name:24} {1e3 * decision:12.0f} {1e3 * boundary:12.0f} {share:12.2f} {ratio:12.2f}")


if __name__ == "__main__":
    main()
