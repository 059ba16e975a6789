"""What watching the first step costs, and what each level of trust costs at a boundary.

    python -m tests.benchmarks.witness

For modules of each level, on 8x8 images, with the probes of one task: milliseconds of the decision (once), of the
probes at a boundary, and both as a share of an epoch over 2,000 samples; and the time of a step after the first, with
and without the monitor (1.00: nothing).
"""

import statistics
import time
import warnings

import torch
from lightning.pytorch import Callback, Trainer

from hopfield_replay import ForgettingMonitor
from hopfield_replay.lightning.first_step import FirstStep
from tests.lightning.styles import Labelled, SelfConditioning, TextToImage, Tutorial, loader

LEVELS = {
    "inferred": Tutorial,
    "inferred, conditional": Labelled,
    "own step": TextToImage,
    "paired loss": SelfConditioning,
}
SAMPLES, PROBES, REPEATS = 2000, 256, 3


class Larger(torch.utils.data.Dataset):
    """The data of a style, repeated."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return self.data[index % len(self.data)]


class Clock(Callback):
    """Seconds of each step."""

    def __init__(self):
        self.steps, self._began = [], 0.0

    def on_train_batch_start(self, *_):
        self._began = time.perf_counter()

    def on_train_batch_end(self, *_):
        self.steps.append(time.perf_counter() - self._began)


def train(style, *callbacks):
    torch.manual_seed(0)
    clock = Clock()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks, clock],
    )  # fmt: skip
    data = torch.utils.data.DataLoader(Larger(loader(0, style).dataset), batch_size=32)
    trainer.fit(style(), data)
    return clock.steps


def measure(style):
    """Seconds of the decision, of the boundary's probes, of an epoch, and the ratio of later steps."""
    took = {}
    decide = FirstStep._decide

    def timed(self, *args):
        began = time.perf_counter()
        found = decide(self, *args)
        took["decision"] = time.perf_counter() - began
        return found

    FirstStep._decide = timed
    monitor = ForgettingMonitor(probe_size=PROBES)
    tracker = monitor.tracker
    end = tracker.end_task

    def end_task(source, **settings):
        began = time.perf_counter()
        record = end(source, **settings)
        took["boundary"] = time.perf_counter() - began
        return record

    tracker.end_task = end_task
    try:
        with_it = train(style, monitor)
    finally:
        FirstStep._decide = decide
    without = train(style)
    return (
        took["decision"],
        took["boundary"],
        sum(without),
        statistics.median(with_it[5:]) / statistics.median(without[5:]),
    )


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
