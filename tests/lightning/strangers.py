"""LightningModules that do what a reader of their training step does not expect, each with its errors by hand."""

import random
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.lightning.styles import LABELS, SIDE, Manual, Net, SelfConditioning, Tutorial


class CriticFirst(Manual):
    """Manual optimization: another network takes its optimizer's step before the diffusion network is called."""

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.toggle_optimizer(second)
        second.zero_grad()
        self.manual_backward(self.critic(batch[0].flatten(1)[:, :4]).square().mean())
        second.step()
        self.untoggle_optimizer(second)
        first.zero_grad()
        self.manual_backward(Tutorial.training_step(self, batch, batch_idx))
        self.clip_gradients(first, gradient_clip_val=10.0)
        first.step()


class CriticFirstInLatents(CriticFirst):
    """As above, on what the step makes of the samples."""

    level = "own step"

    def samples(self, x):
        return 0.5 * x.flip(-1).tanh()


class Closure(Manual):
    """Manual optimization whose optimizer calls the step's loss; the batch is changed on its way."""

    level = "own step"

    def samples(self, x):
        return x.tanh()

    def training_step(self, batch, batch_idx):
        optimizer, _ = self.optimizers()

        def closure():
            optimizer.zero_grad()
            loss = Tutorial.training_step(self, batch, batch_idx)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure=closure)


class SkipsBatches(Tutorial):
    """The first batches are left out: the step returns None."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx < 2 else super().training_step(batch, batch_idx)


class Recomputed(Manual):
    """Manual optimization with activation checkpointing: the backward pass calls the network once more."""

    def training_step(self, batch, batch_idx):
        first, _ = self.optimizers()
        first.zero_grad()
        Tutorial.training_step(self, batch, batch_idx).backward()
        first.step()

    def ask(self, noisy, t, y):
        with torch.utils.checkpoint.set_checkpoint_early_stop(False):  # to its end
            return torch.utils.checkpoint.checkpoint(self.net, noisy, t, use_reentrant=False)


class Traced(Tutorial):
    """A traced autoencoder, which takes no hooks with keywords."""

    level = "own step"

    def __init__(self):
        super().__init__()
        with warnings.catch_warnings():  # torch advises against it, and published encoders are of this kind
            warnings.simplefilter("ignore")
            encoder = nn.Conv2d(1, 1, 3, padding=1).requires_grad_(False)
            self.encoder = torch.jit.trace(encoder, torch.zeros(1, 1, SIDE, SIDE))

    def samples(self, x):
        return self.encoder(x)


class EmptyCalls(Tutorial):
    """A submodule is called with no samples at all."""

    class Gate(nn.Module):
        def forward(self, x, t):
            return x

    def __init__(self):
        super().__init__()
        self.gate = self.Gate()

    def ask(self, noisy, t, y):
        self.gate(noisy[:0], t[:0])
        self.gate(noisy[:0], 3)
        return self.net(noisy, t)


class AnyArguments(Tutorial):
    """The step takes whatever comes."""

    level = "own step"

    def samples(self, x):
        return x.tanh()

    def training_step(self, *args):
        return super().training_step(*args)


class TimesByLoss(Tutorial):
    """Times are drawn by how large their loss was."""

    level = "own step"

    def __init__(self):
        super().__init__()
        self.hist = torch.ones(self.steps)

    def samples(self, x):
        return x.tanh()

    def training_step(self, batch, batch_idx):
        x = self.samples(batch[0])
        t, noise = torch.multinomial(self.hist, len(x), replacement=True), torch.randn_like(x)
        a, s = self.amounts(t, x)
        losses = (self.net(a * x + s * noise, t) - noise).square().flatten(1).mean(1)
        self.hist[t] = losses.detach()
        return losses.mean()


class Words(Tutorial):
    """The network reads texts itself."""

    level = "own step"

    class Net(Net):
        def forward(self, x, t, words):
            return super().forward(x, t, torch.tensor([int(word) for word in words]))

    def __init__(self):
        super().__init__()
        self.net = self.Net(labels=LABELS)

    def ask(self, noisy, t, y):
        return self.net(noisy, t, [str(int(label)) for label in y])


class LazyAttribute(Tutorial):
    """Attributes that cannot be had."""

    @property
    def num_timesteps(self):
        raise RuntimeError("set in setup")

    @property
    def shadow_params(self):
        raise RuntimeError("set in setup")


# where there are no reconstruction errors -----------------------------------------------------------------------------


class SeveralLevels(Tutorial):
    """Every sample at four noise levels."""

    level, warns = "paired loss", "the network is shown 8 samples where the batch holds 2"

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x.repeat_interleave(4, 0), y.repeat_interleave(4, 0)), batch_idx)


class Frames(Tutorial):
    """A batch of clips, a network of frames."""

    level, warns = "paired loss", "the network is shown 4 samples where the batch holds 2"

    def __init__(self):
        super().__init__()
        self.net = Net((1, SIDE // 2, SIDE))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return super().training_step((x.view(-1, 1, SIDE // 2, SIDE), y), batch_idx)


class ScaledByTheBatch(Tutorial):
    """Mean and deviation are those of the batch."""

    level, warns = "paired loss", "of a sample depends on the others of its batch"

    def samples(self, x):
        return (x - x.mean()) / x.std()


class LatentsOfTheBatch(ScaledByTheBatch):
    """So do latents."""

    def samples(self, x):
        return super().samples(x).tanh()


class Shuffled(Tutorial):
    """Python shuffles the batch: which row is which sample cannot be known."""

    level, warns = "paired loss", "no network was shown a mixture"

    def samples(self, x):
        order = list(range(len(x)))
        random.shuffle(order)
        return x[order]


class LeavesOut(Tutorial):
    """Samples of a batch are left out."""

    level, warns = "energies only", "the network is shown 1 samples where the batch holds 2"

    def samples(self, x):
        return x[x.flatten(1).mean(1) > x.mean()]


class OwnGenerators(SelfConditioning):
    """All draws come from generators of the module's own."""

    def __init__(self):
        super().__init__()
        self.torch, self.python = torch.Generator().manual_seed(3), random.Random(5)
        self.numpy, self.older = np.random.default_rng(0), np.random.RandomState(1)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        t = torch.randint(0, self.steps, (len(x),), generator=self.torch)
        noise = torch.from_numpy(self.numpy.standard_normal(x.shape)).float()
        noise = noise * self.python.uniform(0.9, 1.1) + 0.1 * float(self.older.rand())
        a, s = self.amounts(t, x)
        return F.mse_loss(self.ask(a * x + s * noise, t, None), noise)


class WarmUp(SelfConditioning):
    """The loss is weighted by how far the training is."""

    def training_step(self, batch, batch_idx):
        weight = (1 + self.global_step) * (1 + self.current_epoch)
        return weight / 10 * super().training_step(batch, batch_idx)


class Asserts(Tutorial):
    """The step wants to be in training, and to make its own samples."""

    level, warns = "energies only", "its own loss cannot be measured .AssertionError: only in training"

    def samples(self, x):
        return x.tanh()

    def training_step(self, batch, batch_idx):
        assert self.training, "only in training"
        return super().training_step(batch, batch_idx)


MEASURED = [
    CriticFirst, CriticFirstInLatents, Closure, SkipsBatches, Recomputed, Traced, EmptyCalls, AnyArguments, TimesByLoss,
    Words, LazyAttribute,
]  # fmt: skip
UNMEASURED = [
    SeveralLevels, Frames, ScaledByTheBatch, LatentsOfTheBatch, Shuffled, LeavesOut, OwnGenerators, WarmUp, Asserts,
]  # fmt: skip
