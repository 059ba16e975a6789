"""What is measured of a run of the benchmark beside the monitor: generated images, losses, and what was foreseen."""

import math
import time
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from helpers.benchmark_presets import Preset
from helpers.ddpm import DDPM
from helpers.digit_classifier import DigitClassifier
from helpers.noise_levels import loss_by_level
from helpers.regularisers import noised
from helpers.splits import Split
from hopfield_replay import ForgettingMonitor
from hopfield_replay.functional import energy, predicted_rises, replay_gain, rise_weights
from hopfield_replay.metrics import GenerativeTaskMatrix

LOSS_DRAWS = 8  # noises and timesteps of each held-out image in the loss


class Judge(Callback):
    """After every task: images of every class so far, the loss on held-out images, and what was to be expected.

    Args:
        tasks: the sequence.
        preset: of the run.
        classifier: that judges.
        ratio: share of each batch that is replayed.
    """

    def __init__(self, tasks: Sequence[Split], preset: Preset, classifier: DigitClassifier, ratio: float) -> None:
        self.tasks, self.preset, self.classifier, self.ratio = tasks, preset, classifier, ratio
        self.learned = 0
        self.seconds = 0.0  # of training alone
        self.fid = GenerativeTaskMatrix(len(tasks), classifier.features, distance="fid", name="classifier")
        self.kid = GenerativeTaskMatrix(len(tasks), classifier.features, distance="kid", name="classifier")
        for number, split in enumerate(tasks):
            for metric in (self.fid, self.kid):
                metric.update(split.held_out.tensors[0], task=number)
        self.right = torch.full((len(tasks), len(tasks)), math.nan)
        self.losses: list[list[Tensor]] = []
        self.by_level: list[Tensor] = []
        self.expected: list[dict[str, float]] = []
        self.last: list[Tensor] = []
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.learned:
            (monitor,) = (one for one in trainer.callbacks if isinstance(one, ForgettingMonitor))  # type: ignore[attr-defined]
            self.expected.append(self.expect(monitor))
        self._started = time.process_time()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += time.process_time() - self._started
        assert isinstance(pl_module, DDPM)
        was = pl_module.training
        pl_module.eval()
        with torch.random.fork_rng(devices=[pl_module.device] if pl_module.device.type == "cuda" else []):
            self.last = []
            for number, split in enumerate(self.tasks[: self.learned + 1]):
                labels = torch.tensor(split.classes).repeat_interleave(self.preset.generated)
                images = pl_module.sample(len(labels), labels, steps=self.preset.steps, seed=number).cpu()
                self.right[self.learned, number] = float((self.classifier.classify(images) == labels).float().mean())
                for metric in (self.fid, self.kid):
                    metric.update(images, task=number, after=self.learned)
                self.last.append(images)
            so_far = self.tasks[: self.learned + 1]
            self.losses.append([held_out_loss(pl_module, split) for split in so_far])
            self.by_level.append(torch.stack([loss_by_level(pl_module, split) for split in so_far]))
        pl_module.train(was)
        self.learned += 1

    def expect(self, monitor: ForgettingMonitor) -> dict[str, float]:
        """What is known before a task of how the earlier tasks' held-out images will fare; means over them.

        "alone": rise of their energies under the next task's data. "replayed": under what is trained on, a mixture of
        that and the kept samples, as often as they are drawn. "protected": the replay gain of the kept samples, all
        with the same mass, which the certificate is about. "drawn": the same, with masses as they are drawn.
        "weighted": the latter weighted by :func:`rise_weights`.
        """
        own, buffer, beta = vectors_of(self.tasks[self.learned]), monitor.buffer, monitor.history[-1].beta
        found: dict[str, list[Tensor]] = {"alone": [], "replayed": [], "protected": [], "drawn": [], "weighted": []}
        for split in self.tasks[: self.learned]:
            x, old = split.held_out.tensors[0].flatten(1), vectors_of(split)
            before, after = energy(x, old, beta), energy(x, own, beta)
            found["alone"].append(after - before)
            if buffer is None or not len(buffer):
                continue
            kept, shares = buffer.vectors.to(own), buffer.draw_shares
            masses = torch.full((len(own),), (1 - self.ratio) / len(own), dtype=torch.float64)
            both, masses = torch.cat([own, kept]), torch.cat([masses, self.ratio * shares])
            found["replayed"].append(energy(x, both, beta, masses=masses) - before)
            total = len(own) * self.ratio / (1 - self.ratio)  # of what is replayed, in samples of the next task
            even = torch.full((len(kept),), total / len(kept), dtype=torch.float64)
            found["protected"].append(replay_gain(x, old, own, kept, beta, replay_masses=even))
            gain = replay_gain(x, old, own, kept, beta, replay_masses=total * shares)
            found["drawn"].append(gain)
            found["weighted"].append(gain * rise_weights(predicted_rises(before, after)))
        return {name: float(torch.cat(parts).mean()) for name, parts in found.items() if parts}


def vectors_of(split: Split) -> Tensor:
    """The training images of a task as vectors."""
    vectors: Tensor = split.train.tensors[0].flatten(1)
    return vectors


@torch.no_grad()
def held_out_loss(model: DDPM, split: Split) -> Tensor:
    """The training loss of each held-out image (n,), with the same noise for every model."""
    images, labels = (column.to(model.device) for column in split.held_out.tensors)
    torch.manual_seed(11)
    found = []
    for _ in range(LOSS_DRAWS):
        noisy, times, noise = noised(model, images)
        found.append((model(noisy, times, labels) - noise).square().flatten(1).mean(1).cpu())
    return torch.stack(found).mean(0)
