import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hopfield_replay.denoisers.mixing import Mixture
from hopfield_replay.denoisers.timetable import Clock, Timetable, read_timetable, sequences

LINEAR = np.linspace(1e-4, 0.02, 400)
BARS = np.cumprod(1 - LINEAR)


def amounts_of(signal, noise, scale=1.0, shift=0.0):
    signal, noise = (torch.as_tensor(np.asarray(value), dtype=torch.float64) for value in (signal, noise))
    zero = torch.zeros_like(signal)
    return Mixture(scale * signal, shift * signal, noise, zero, zero == 0, 1e-3)


def holder(**values):
    module = nn.Module()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            module.register_buffer(name, value)
        else:
            setattr(module, name, value)
    return module


T = np.array([3, 50, 200, 390])
TIMES = {"t": T, "t + 1": T + 1, "t / 400": T / 400, "(t + 1) / 400": (T + 1) / 400, "t / 399": T / 399}
HELD = {
    "products": {"a": torch.tensor(BARS, dtype=torch.float32)},
    "roots": {"a": torch.tensor(np.sqrt(BARS), dtype=torch.float32)},
    "betas": {"a": torch.tensor(LINEAR, dtype=torch.float64)},
    "alphas": {"a": torch.tensor(1 - LINEAR, dtype=torch.float64)},
    "sigmas": {"a": torch.tensor(np.sqrt(1 / BARS - 1), dtype=torch.float32)},
    "sigmas backwards": {"a": torch.tensor(np.sqrt(1 / BARS - 1)[::-1].copy(), dtype=torch.float32)},
    "an array of a plain object": {"diffusion": SimpleNamespace(schedule=BARS)},
    "an object of an object": {"pipe": SimpleNamespace(scheduler=SimpleNamespace(bars=torch.tensor(BARS)))},
}


@pytest.mark.parametrize("clock", TIMES)
@pytest.mark.parametrize("held", HELD)
def test_sequences_that_a_module_holds_with_every_clock(held, clock):
    found = amounts_of(np.sqrt(BARS[T]), np.sqrt(1 - BARS[T]))
    reading = read_timetable(holder(**HELD[held]), found, torch.tensor(TIMES[clock]))
    assert reading is not None
    assert reading.timetable.num_timesteps == 400
    for step in (0, 7, 399):
        np.testing.assert_allclose(
            reading.timetable.amounts(step), [np.sqrt(BARS[step]), np.sqrt(1 - BARS[step])], rtol=1e-4
        )
        shown = {"t": step, "t + 1": step + 1, "t / 400": step / 400, "(t + 1) / 400": (step + 1) / 400,
                 "t / 399": step / 399}[clock]  # fmt: skip
        assert reading.timetable.clock.time(step) == pytest.approx(shown)
    torch.testing.assert_close(reading.signal, torch.tensor(np.sqrt(BARS[T])), rtol=1e-4, atol=1e-6)


U = np.array([0.07, 0.3, 0.77])
FORMULAS = {
    "straight": (1 - U, U, lambda t: (1 - t, t)),
    "cosine": (
        np.cos(U * np.pi / 2),
        np.sin(U * np.pi / 2),
        lambda t: (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2)),
    ),
    "vp": (np.exp(-0.25 * U**2 * 19.9 - 0.05 * U), np.sqrt(1 - np.exp(-0.5 * U**2 * 19.9 - 0.1 * U)), None),
    "improved": (np.cos((U + 0.008) / 1.008 * np.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2), None, None),
}


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (1000, 0), (-1, 1), (-1000, 1000), (999, 0)])
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("count", [1, 3])
def test_formulas_with_every_clock_also_of_one_sample(name, scale, offset, count):
    signal, noise, formula = FORMULAS[name]
    noise = np.sqrt(1 - signal**2) if noise is None else noise
    found = amounts_of(signal[:count], noise[:count])
    reading = read_timetable(nn.Module(), found, torch.tensor(scale * U + offset)[:count])
    assert reading is not None
    assert reading.timetable.clock.time(0.25) == pytest.approx(0.25 * scale + offset)
    if formula is not None:
        assert reading.timetable.amounts(0.25) == pytest.approx(formula(0.25))


S = np.array([0.02, 0.4, 1.7, 12.0])
LEVELS = {
    "exploding": (np.ones(4), S),
    "unit variance": (1 / np.hypot(1, S), S / np.hypot(1, S)),
    "EDM": (1 / np.hypot(0.5, S), S / np.hypot(0.5, S)),
}
CLOCKS = {"sigma": S, "log sigma": np.log(S), "log(sigma) / 4": np.log(S) / 4, "log SNR": -2 * np.log(S)}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_noise_levels(name, clock, scale):
    found = amounts_of(*LEVELS[name], scale=scale, shift=-0.5 * scale)
    reading = read_timetable(nn.Module(), found, torch.tensor(CLOCKS[clock]))
    assert reading is not None
    assert reading.timetable.clock.words == clock
    assert reading.timetable.num_timesteps is None
    assert (reading.scale, reading.shift) == (pytest.approx(scale), pytest.approx(-0.5 * scale))
    a, s = reading.timetable.amounts(0.8)
    assert s / a == pytest.approx(0.8)


def test_what_is_scaled_and_shifted_before_it_is_noised():
    found = amounts_of(np.sqrt(BARS[T]), np.sqrt(1 - BARS[T]), 2.0, -1.0)
    reading = read_timetable(holder(**HELD["betas"]), found, torch.tensor(T))
    assert (reading.scale, reading.shift) == (pytest.approx(2), pytest.approx(-1))


@pytest.mark.parametrize("wrong", [
    (np.sqrt(BARS[T]), np.sqrt(1 - BARS[T + 5])),
    (np.sqrt(BARS[T]) ** 0.9, np.sqrt(1 - BARS[T])),
    (np.sqrt(BARS[T]), 1.02 * np.sqrt(1 - BARS[T])),
    (np.array([0.9, 0.8, 0.3, 0.2]), np.array([0.1, 0.33, 0.6, 0.9])),
])  # fmt: skip
def test_what_nothing_explains_is_explained_by_nothing(wrong):
    assert read_timetable(holder(**HELD["betas"]), amounts_of(*wrong), torch.tensor(T)) is None


def test_times_of_another_sample_are_told():
    found = amounts_of(np.sqrt(BARS[T]), np.sqrt(1 - BARS[T]))
    assert read_timetable(holder(**HELD["betas"]), found, torch.tensor(T).roll(1)) is None


def test_bad_timesteps():
    table = Timetable("a table", Clock("t"), 4, lambda t: (1.0, t), whole=True)
    with pytest.raises(ValueError, match=r"whole timesteps 0 <= t < 4, got 0\.5"):
        table.amounts(0.5)
    with pytest.raises(ValueError, match="timestep 4 is out of range: 0 <= t < 4"):
        table.amounts(4)
    with pytest.raises(ValueError, match=r"time 1.3 is no whole timestep"):
        table.shown(1.3)
    with pytest.raises(ValueError, match="out of range"):
        Timetable("flow", Clock("t"), 1, lambda t: (1 - t, t)).amounts(-0.1)


def test_sequences_are_those_that_rise_or_fall():
    module = holder(
        up=torch.linspace(0, 1, 9), short=torch.linspace(0, 1, 5), flat=torch.ones(9), noise=torch.randn(50),
        whole=torch.arange(9), square=torch.ones(9, 9), array=np.linspace(1, 0, 9), words=["a"] * 9,
    )  # fmt: skip
    assert [path for path, _ in sequences(module)] == ["up", "array"]
