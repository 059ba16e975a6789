"""Noise that belongs to a sample: the same before and after, whatever the batch, the order, the device or the rank."""

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def _mix(state: int, value: int) -> int:
    """One round of splitmix64: neighbouring inputs give unrelated outputs."""
    state = (state ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & _MASK
    return state ^ (state >> 31)


def seed_of(noise_seed: int, sample_id: int, timestep: float, draw: int = 0) -> int:
    """Seed of one draw of one sample at one timestep; 1 and 1.0 are the same timestep."""
    (bits,) = struct.unpack("<Q", struct.pack("<d", float(timestep)))
    state = 0
    for value in (noise_seed, sample_id, bits, draw):
        state = _mix(state, value)
    return state >> 1  # torch takes signed 64-bit seeds


def paired_noise(like: Tensor, ids: Sequence[int], timestep: float, noise_seed: int, draw: int = 0) -> Tensor:
    """Standard normal noise (n, *shape) for the samples ``like``, drawn one by one on the CPU in float32."""
    noise = torch.empty(like.shape, dtype=torch.float32)
    for row, sample_id in zip(noise, ids, strict=True):
        generator = torch.Generator().manual_seed(seed_of(noise_seed, sample_id, timestep, draw))
        torch.randn(row.shape, generator=generator, out=row)
    return noise.to(like.device, like.dtype)
