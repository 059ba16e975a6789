"""ErrorMeter: what a denoiser's errors on given samples are, the same on every rank."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from hopfield_replay.denoisers import Denoiser
from hopfield_replay.encoders import split_batch
from hopfield_replay.functional import elbo_weights, reconstruction_error
from hopfield_replay.functional._diffusion_arguments import check_samples, windows
from hopfield_replay.functional._diffusion_arguments import take as part_of
from hopfield_replay.functional._paired_noise import paired_noise
from hopfield_replay.functional.denoiser import evaluating
from hopfield_replay.utilities.distributed import gather_rows, raise_on_all_ranks, world
from hopfield_replay.utilities.nested import take

_CHUNK = 256  # samples that are prepared (moved to the device) at a time
_Result = TypeVar("_Result")


def in_chunks_that_fit(measure: Callable[[int], _Result], chunk_size: int) -> tuple[_Result, int]:
    """Call ``measure(chunk_size)``, and with half as many samples at a time whenever the device has no memory left.

    Returns:
        What it measured, and the chunk size that fitted.

    Raises:
        MemoryError: not even one sample at a time fits.

    Example:
        >>> def measure(chunk_size):
        ...     if chunk_size > 3:
        ...         raise torch.OutOfMemoryError("no memory")
        ...     return "measured"
        >>> in_chunks_that_fit(measure, 16)
        ('measured', 2)
    """
    while True:
        try:
            return measure(chunk_size), chunk_size
        except torch.OutOfMemoryError as error:
            said = str(error).splitlines()[0]
        # past the handler, so that the traceback no longer holds the tensors that are in the way
        if chunk_size == 1:
            raise MemoryError(
                f"The model does not fit into the device's memory, not even with one sample at a time ({said}). Free "
                "memory on the device, or measure on another one (the CPU: slower, but it fits)."
            )
        chunk_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class ErrorMeter:
    """Measures paired-noise reconstruction errors of one model as it is now.

    Args:
        denoiser: the model.
        timesteps: where it is measured; None: 10, 20, 30, 40 and 50 % of the denoiser's range.
        noise_seed: the same before and after.
        prepare: what happens to a batch on its way to the model.
        samples: maps a prepared batch to what the model denoises; None: the batch's first floating tensor.
        draws: noise draws at each timestep, >= 1.

    Raises:
        ValueError: no timesteps are given and the denoiser has no number of them.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        timesteps: Sequence[float] | None,
        noise_seed: int,
        prepare: Callable[[Any], Any],
        samples: Callable[[Any], Tensor] | None = None,
        draws: int = 1,
    ) -> None:
        if timesteps is None:
            if denoiser.num_timesteps is None:
                raise ValueError("This denoiser has no number of timesteps; pass timesteps=(...).")
            timesteps = [round(share * denoiser.num_timesteps) for share in (0.1, 0.2, 0.3, 0.4, 0.5)]
        self.denoiser = denoiser
        self.timesteps = list(timesteps)
        self.noise_seed = noise_seed
        self.draws = draws
        self.chunk_size = 128  # samples that go through the model at a time; halved where the device has no memory
        self._prepare = prepare
        self._samples = samples

    def of_batch(self, batch: Any, ids: Tensor) -> tuple[Tensor, int]:
        """Errors (n, timesteps) float64 on the CPU, and the number of elements of a sample."""
        x, condition = self._ready(batch)

        def measure(chunk_size: int) -> Tensor:
            return reconstruction_error(
                self.denoiser,
                x,
                self.timesteps,
                self.noise_seed,
                draws=self.draws,
                ids=ids,
                condition=condition,
                chunk_size=chunk_size,
            )

        errors, self.chunk_size = in_chunks_that_fit(measure, self.chunk_size)
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
            found = [
                self.denoiser.predict_clean(noisy[window], timestep, part_of(condition, window, len(clean)))
                for window in windows(len(clean), chunk_size)
            ]
            return torch.cat(found).to(clean.device)

        with evaluating(self.denoiser):
            found, self.chunk_size = in_chunks_that_fit(measure, self.chunk_size)
        return noisy, found

    def _ready(self, batch: Any) -> tuple[Tensor, Any]:
        """What the model denoises of a batch, on its device, and the condition."""
        ready = self._prepare(batch)
        x, condition = split_batch(ready)
        if self._samples is not None:
            with torch.no_grad():
                x = self._samples(ready)
        return x, condition

    def of_probes(self, batch: Any, ids: Tensor) -> tuple[Tensor, int]:
        """As :meth:`of_batch`, of samples that every rank holds; each measures its share of them."""
        rank, size = world()
        share = torch.arange(rank, len(ids), size)
        split = torch.split(share, _CHUNK) if len(share) else ()
        with raise_on_all_ranks("measuring reconstruction errors"):
            parts = [self.of_batch(take(batch, part), ids[part]) for part in split]
        none = torch.empty(0, len(self.timesteps), dtype=torch.float64)
        errors = gather_rows(torch.cat([none, *(part for part, _ in parts)]))
        elements = int(gather_rows(torch.tensor([parts[0][1] if parts else 0])).max())
        return errors[gather_rows(share).argsort()], elements

    def losses(self, batches: Iterable[tuple[Tensor, Any, Tensor]]) -> Tensor:
        """Mean error (N,) of every sample in batches of (positions, batch, ids), in the order of their positions."""
        positions, losses = [torch.arange(0)], [torch.empty(0, dtype=torch.float64)]
        with raise_on_all_ranks("measuring losses"):
            for at, batch, ids in batches:
                positions.append(at)
                losses.append(self.of_batch(batch, ids)[0].mean(1))
        order = gather_rows(torch.cat(positions)).argsort()
        return gather_rows(torch.cat(losses))[order]

    def model_energy(self, errors: Tensor, elements: int) -> Tensor:
        """Energy (n,) of the samples under the model, in nats, from their errors; see functional.model_energy."""
        return 0.5 * elements * errors @ elbo_weights(self.denoiser, self.timesteps)
