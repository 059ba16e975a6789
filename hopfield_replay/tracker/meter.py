"""ErrorMeter: what a denoiser's errors on given samples are, the same on every rank."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.denoisers import Denoiser
from hopfield_replay.encoders import Column, Columns
from hopfield_replay.functional import elbo_weights, reconstruction_errors
from hopfield_replay.functional._diffusion_arguments import check_samples, windows
from hopfield_replay.functional._diffusion_arguments import take as part_of
from hopfield_replay.functional._paired_noise import paired_noise
from hopfield_replay.functional.denoiser import undisturbed
from hopfield_replay.functional.noise_levels import default_timesteps
from hopfield_replay.utilities.device import in_chunks_that_fit
from hopfield_replay.utilities.distributed import SharedError, gather_rows, raise_on_all_ranks, world
from hopfield_replay.utilities.nested import rows, take

_CHUNK = 256  # samples that are prepared (moved to the device) at a time


class ModelDoesNotFit(SharedError, MemoryError):
    """A model and one sample do not fit into the device's memory."""


def _shares(count: int) -> tuple[Tensor, Sequence[Tensor]]:
    """Which of the samples that every rank holds this one measures; the same in parts that are prepared together."""
    rank, size = world()
    share = torch.arange(rank, count, size)
    return share, torch.split(share, _CHUNK) if len(share) else ()


def _of_all(batches: Iterable[tuple[Tensor, Any, Tensor]], measure: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """What is measured of each sample (N,) in batches of (positions, batch, ids), in the order of their positions."""
    positions, measured = [torch.arange(0)], [torch.empty(0, dtype=torch.float64)]
    with raise_on_all_ranks("measuring losses"):
        for at, batch, ids in batches:
            positions.append(at)
            measured.append(measure(batch, ids))
    order = gather_rows(torch.cat(positions)).argsort()
    return gather_rows(torch.cat(measured))[order]


class LossMeter:
    """Measures paired losses of one model as it is now.

    Args:
        loss: a prepared batch to the loss (n,) of each of its samples.
        prepare: what happens to a batch on its way to the model.
    """

    def __init__(self, loss: Callable[[Any], Tensor], prepare: Callable[[Any], Any]) -> None:
        self._loss = loss
        self._prepare = prepare

    def of_probes(self, batch: Any) -> Tensor:
        """Losses (n,) float64 of samples that every rank holds; each measures its share of them."""
        share, split = _shares(rows(batch))
        with raise_on_all_ranks("measuring losses"):
            parts = [self._loss(self._prepare(take(batch, part))) for part in split]
        losses = gather_rows(torch.cat([torch.empty(0, dtype=torch.float64), *parts]))
        return losses[gather_rows(share).argsort()]

    def losses(self, batches: Iterable[tuple[Tensor, Any, Tensor]]) -> Tensor:
        """Loss (N,) of every sample in batches of (positions, batch, ids), in the order of their positions."""
        return _of_all(batches, lambda batch, _: self._loss(self._prepare(batch)))


class ErrorMeter:
    """Measures paired-noise reconstruction errors of one model as it is now.

    Args:
        denoiser: the model.
        timesteps: where it is measured; None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        noise_seed: the same before and after.
        prepare: what happens to a batch on its way to the model.
        samples: what in a prepared batch the model denoises, as a name, an index or a function; or where all is in a
            batch (:class:`~hopfield_replay.encoders.Columns`); None: by its rules.
        draws: noise draws at each timestep, >= 1.
        read: maps a prepared batch to what the model denoises and its condition, in place of
            ``samples`` and the rules.

    Raises:
        ValueError: no timesteps are given, and the denoiser has no number of them and none of the usual noise levels.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        timesteps: Sequence[float] | None,
        noise_seed: int,
        prepare: Callable[[Any], Any],
        samples: Column | Columns | None = None,
        draws: int = 1,
        read: Callable[[Any], tuple[Tensor, Any]] | None = None,
    ) -> None:
        self.denoiser = denoiser
        self.timesteps = default_timesteps(denoiser) if timesteps is None else list(timesteps)
        self.noise_seed = noise_seed
        self.draws = draws
        self.chunk_size = 128  # samples that go through the model at a time; halved where the device has no memory
        self._prepare = prepare
        self._columns = samples if isinstance(samples, Columns) else Columns(samples)
        self._read = read

    def of_batch(self, batch: Any, ids: Tensor) -> tuple[Tensor, int]:
        """Errors (n, timesteps) float64 on the CPU, and the number of elements of a sample."""
        errors, elements = self.by_draw(batch, ids)
        return errors.sum(-1) / self.draws, elements

    def by_draw(self, batch: Any, ids: Tensor) -> tuple[Tensor, int]:
        """Errors (n, timesteps, draws) float64 on the CPU, and the number of elements of a sample."""
        x, condition = self._ready(batch)

        def measure(chunk_size: int) -> Tensor:
            return reconstruction_errors(
                self.denoiser,
                x,
                self.timesteps,
                self.noise_seed,
                draws=self.draws,
                ids=ids,
                condition=condition,
                chunk_size=chunk_size,
            )

        errors, self.chunk_size = in_chunks_that_fit(measure, self.chunk_size, error=ModelDoesNotFit)
        return errors.cpu(), math.prod(x.shape[1:])

    @torch.no_grad()
    def reconstruct(self, batch: Any, ids: Tensor, timestep: float) -> tuple[Tensor, Tensor]:
        """Samples (n, *shape) noised to a timestep with the noise of their errors, and what the model makes of them.

        Both in float32 or better, and on the samples' device.
        """
        x, condition = self._ready(batch)
        clean = check_samples(x)
        noisy = self.denoiser.noise(clean, timestep, paired_noise(clean, ids.tolist(), timestep, self.noise_seed))

        def measure(chunk_size: int) -> Tensor:
            parts = [
                self.denoiser.predict_clean(noisy[window], timestep, part_of(condition, window, len(clean)))
                for window in windows(len(clean), chunk_size)
            ]
            return torch.cat(parts).to(clean.device)

        with undisturbed(self.denoiser):
            estimates, self.chunk_size = in_chunks_that_fit(measure, self.chunk_size, error=ModelDoesNotFit)
        return noisy, estimates

    def samples(self, batch: Any) -> Tensor:
        """What the model denoises of a batch."""
        return self._ready(batch)[0]

    def _ready(self, batch: Any) -> tuple[Tensor, Any]:
        """What the model denoises of a batch, on its device, and the condition."""
        ready = self._prepare(batch)
        return self._columns.split(ready) if self._read is None else self._read(ready)

    def of_probes(self, batch: Any, ids: Tensor) -> tuple[Tensor, int]:
        """As :meth:`of_batch`, of samples that every rank holds; each measures its share of them."""
        share, split = _shares(len(ids))
        with raise_on_all_ranks("measuring reconstruction errors"):
            parts = [self.of_batch(take(batch, part), ids[part]) for part in split]
        none = torch.empty(0, len(self.timesteps), dtype=torch.float64)
        errors = gather_rows(torch.cat([none, *(part for part, _ in parts)]))
        elements = int(gather_rows(torch.tensor([parts[0][1] if parts else 0])).max())
        return errors[gather_rows(share).argsort()], elements

    def losses(self, batches: Iterable[tuple[Tensor, Any, Tensor]]) -> Tensor:
        """Mean error (N,) of every sample in batches of (positions, batch, ids), in the order of their positions."""
        return _of_all(batches, lambda batch, ids: self.of_batch(batch, ids)[0].mean(1))

    def model_energy(self, errors: Tensor, elements: int) -> Tensor:
        """Energy (n,) of the samples under the model, in nats, from their errors; see functional.model_energy."""
        return 0.5 * elements * errors @ elbo_weights(self.denoiser, self.timesteps)
