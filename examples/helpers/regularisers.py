"""What people use in place of replay: callbacks that hold a DDPM's weights, or its answers, where they were.

Each adds the gradient of its penalty after the loss's backward pass, from the second task on, so the module and its
training step stay as they are. List them after the average of the weights: what a task ends with is then the average.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import mse_loss

from helpers.ddpm import DDPM
from helpers.splits import Split

FISHER_SAMPLES = 512  # per-sample gradients of one task, at one timestep each
CHUNK = 32


class Regulariser(Callback):
    """Remembers what each task ends with, and pulls towards it while the next ones are learned.

    Args:
        tasks: the sequence, in order.
        strength: factor of the penalty, >= 0.
        seed: of what is drawn.
    """

    def __init__(self, tasks: Sequence[Split], strength: float, seed: int = 0) -> None:
        if not (strength >= 0 and math.isfinite(strength)):
            raise ValueError(f"strength must be finite and at least 0, got {strength}.")
        self.tasks, self.strength, self.seed = tasks, strength, seed
        self.learned = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DDPM)
        self.remember(pl_module, self.tasks[self.learned])
        self.learned += 1

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.learned:
            assert isinstance(pl_module, DDPM)
            self.pull(pl_module)

    def remember(self, model: DDPM, task: Split) -> None:
        """Take what is needed from the model that has just learned a task."""
        raise NotImplementedError

    def pull(self, model: DDPM) -> None:
        """Add the penalty's gradient to that of the loss."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes that are kept from one task to the next."""
        raise NotImplementedError


class Quadratic(Regulariser):
    """strength / 2 * sum of c (w - w*)^2 over the weights; c is what :meth:`importance` adds up, task after task."""

    def __init__(self, tasks: Sequence[Split], strength: float, seed: int = 0) -> None:
        super().__init__(tasks, strength, seed)
        self.anchor: dict[str, Tensor] = {}
        self.weight: dict[str, Tensor] = {}

    def importance(self, model: DDPM, task: Split) -> dict[str, Tensor]:
        """How much each weight matters to a task."""
        raise NotImplementedError

    def remember(self, model: DDPM, task: Split) -> None:
        self.anchor = weights(model.network)
        for name, value in self.importance(model, task).items():
            self.weight[name] = value + self.weight.get(name, 0.0)

    def pull(self, model: DDPM) -> None:
        for name, parameter in model.network.named_parameters():
            if parameter.grad is not None:
                parameter.grad += self.strength * self.weight[name] * (parameter.detach() - self.anchor[name])

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (*self.anchor.values(), *self.weight.values()))


class L2(Quadratic):
    """All weights matter alike, however many tasks were learned."""

    def importance(self, model: DDPM, task: Split) -> dict[str, Tensor]:
        self.weight.clear()
        return {name: torch.ones_like(w) for name, w in self.anchor.items()}


class DiagonalEWC(Quadratic):
    """Elastic weight consolidation: the diagonal of the empirical Fisher matrix, scaled to a mean of one.

    Source: Kirkpatrick et al., arXiv:1612.00796; summed over tasks at the newest weights: Schwarz et al.,
        arXiv:1805.06370.
    """

    def importance(self, model: DDPM, task: Split) -> dict[str, Tensor]:
        squares = {name: torch.zeros_like(w) for name, w in self.anchor.items()}
        for part in sample_gradients(model, task, self.seed):
            for name, value in part.items():
                squares[name] += value.square().sum(0)
        mean = sum(float(s.sum()) for s in squares.values()) / sum(s.numel() for s in squares.values())
        return {name: square / mean for name, square in squares.items()}


class RankOneEWC(Regulariser):
    """strength / 2 * p * sum over tasks of (g . (w - w*))^2, with g the unit mean gradient of p weights.

    At low signal-to-noise ratios the gradients of a diffusion model's samples align with their mean, so the Fisher
    matrix is nearly of rank one. Scaled like :class:`DiagonalEWC`: the trace of each task's matrix is p.

    Source: of the idea, "Avoid catastrophic forgetting with rank-1 Fisher from diffusion models" (ICLR 2026); the scale
        is that of this benchmark.
    """

    def __init__(self, tasks: Sequence[Split], strength: float, seed: int = 0) -> None:
        super().__init__(tasks, strength, seed)
        self.directions: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []  # unit mean gradient, anchor

    def remember(self, model: DDPM, task: Split) -> None:
        anchor = weights(model.network)
        sums = {name: torch.zeros_like(w) for name, w in anchor.items()}
        for part in sample_gradients(model, task, self.seed):
            for name, value in part.items():
                sums[name] += value.sum(0)
        norm = math.sqrt(sum(float(s.square().sum()) for s in sums.values()))
        self.directions.append(({name: s / norm for name, s in sums.items()}, anchor))

    def pull(self, model: DDPM) -> None:
        parameters = {name: p for name, p in model.network.named_parameters() if p.grad is not None}
        scale = self.strength * sum(p.numel() for p in parameters.values())
        for direction, anchor in self.directions:
            along = sum(float((direction[name] * (p.detach() - anchor[name])).sum()) for name, p in parameters.items())
            for name, parameter in parameters.items():
                assert parameter.grad is not None
                parameter.grad += scale * along * direction[name]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for pair in self.directions for part in pair for t in part.values())


class Distillation(Regulariser):
    """Generative distillation: on images that the last model draws, the new one is to answer as the last one did.

    strength * mean |network(x_t, t, y) - teacher(x_t, t, y)|^2, x drawn by the teacher for classes y learned so far,
    as many in each step as the batch has.

    Args:
        tasks, strength, seed: as of :class:`Regulariser`.
        count: images that the teacher draws at the end of each task.
        batch_size: images of each step.

    Source: Masip, Rodriguez, Tuytelaars, van de Ven, arXiv:2311.14028.
    """

    def __init__(self, tasks: Sequence[Split], strength: float, seed: int = 0, *, count: int, batch_size: int) -> None:
        super().__init__(tasks, strength, seed)
        self.count, self.batch_size = count, batch_size
        self.teacher: nn.Module | None = None
        self.images, self.labels = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def remember(self, model: DDPM, task: Split) -> None:
        self.teacher = copy.deepcopy(model.network).eval().requires_grad_(False)
        classes = torch.tensor([one for split in self.tasks[: self.learned + 1] for one in split.classes])
        self.labels = classes[torch.arange(self.count) % len(classes)].to(model.device)
        was = model.training
        self.images = model.eval().sample(self.count, self.labels, seed=self.seed + self.learned)
        model.train(was)

    def pull(self, model: DDPM) -> None:
        assert self.teacher is not None
        drawn = torch.randint(self.count, (self.batch_size,), device=self.images.device)
        noisy, times, _ = noised(model, self.images[drawn])
        labels = {"class_labels": self.labels[drawn] if model.conditional else None}
        with torch.no_grad():
            wanted = self.teacher(noisy, times, **labels).sample
        (self.strength * mse_loss(model.network(noisy, times, **labels).sample, wanted)).backward()

    @property
    def nbytes(self) -> int:
        teacher = 0 if self.teacher is None else sum(p.nbytes for p in self.teacher.parameters())
        return teacher + self.images.nbytes + self.labels.nbytes


class LoRA(Callback):
    """Low-rank adapters of all linear layers learn every task after the first, and are merged at its end.

    Embeddings of classes are trained as they are: a new class has no other. List it first: the average of the weights
    must know the adapters.

    Args:
        rank: of each adapter, >= 1.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.learned = 0
        self._peft: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit" or not self.learned:
            return
        from peft import LoraConfig, get_peft_model

        assert isinstance(pl_module, DDPM)
        linear = [name for name, layer in pl_module.network.named_modules() if isinstance(layer, nn.Linear)]
        config = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules=linear)
        self._peft = get_peft_model(pl_module.network, config)
        for layer in pl_module.network.modules():
            if isinstance(layer, nn.Embedding):
                layer.requires_grad_(True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        assert isinstance(pl_module, DDPM)
        if self._peft is not None:
            pl_module.network = self._peft.merge_and_unload()
            self._peft = None
        pl_module.network.requires_grad_(True)
        self.learned += 1


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters, by name."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def noised(model: DDPM, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images, their timesteps and the noise, drawn as the training loss draws them."""
    noise = torch.randn_like(images)
    times = torch.randint(0, model.scheduler.config.num_train_timesteps, (len(images),), device=images.device)
    return model.scheduler.add_noise(images, noise, times), times, noise


def sample_gradients(model: DDPM, task: Split, seed: int) -> Any:
    """Yield the gradients of the loss of single training images, by parameter, each (chunk, *shape)."""
    images, labels = task.train.tensors
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:FISHER_SAMPLES]
    parameters = {name: p.detach() for name, p in model.network.named_parameters()}

    def loss(values: dict[str, Tensor], noisy: Tensor, time: Tensor, label: Tensor, noise: Tensor) -> Tensor:
        inputs = {"class_labels": label[None]} if model.conditional else {}
        predicted = functional_call(model.network, values, (noisy[None], time[None]), inputs).sample
        return mse_loss(predicted, noise[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))
    was = model.training
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for part in chosen.split(CHUNK):
            noisy, times, noise = noised(model, images[part].to(model.device))
            yield each(parameters, noisy, times, labels[part].to(model.device), noise)
    model.train(was)
