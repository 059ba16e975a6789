"""Bad input: each is a clear error that names what was given."""

import pytest
import torch

from hopfield_replay import functional
from hopfield_replay.functional import effective_patterns, energy, energy_and_retrieval, energy_rise

X, PATTERNS = torch.randn(4, 3), torch.randn(6, 3)


def call(**changes):
    given = {"x": X, "patterns": PATTERNS, "beta": 1.0} | changes
    return functional.energy(given.pop("x"), given.pop("patterns"), given.pop("beta"), **given)


@pytest.mark.parametrize("beta", [0, 0.0, -1.0, float("inf"), float("nan")])
def test_beta_out_of_range(beta):
    with pytest.raises(ValueError, match="positive and finite"):
        call(beta=beta)


@pytest.mark.parametrize("beta", ["auto", True, None, 1j])
def test_beta_of_a_wrong_type(beta):
    with pytest.raises(TypeError, match="beta"):
        call(beta=beta)


def test_beta_as_a_tensor():
    torch.testing.assert_close(call(beta=torch.tensor(2.0)), call(beta=2.0))
    torch.testing.assert_close(call(beta=2), call(beta=2.0))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        call(beta=torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("name", ["x", "patterns"])
def test_tensors_that_are_not_real_floating(name, dtype):
    with pytest.raises(TypeError, match=f"{name} must be a real floating tensor"):
        call(**{name: torch.ones(4, 3).to(dtype)})


@pytest.mark.parametrize("name", ["x", "patterns"])
def test_values_that_are_no_tensor(name):
    with pytest.raises(TypeError, match=name):
        call(**{name: [[1.0, 2.0, 3.0]]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["x", "patterns"])
def test_values_that_are_not_finite_name_their_rows(name, bad):
    values = torch.randn(4, 3)
    values[2, 1] = bad
    with pytest.raises(ValueError, match=rf"{name} holds NaN or infinite values in 1 of 4 rows \(first rows: \[2\]\)"):
        call(**{name: values})


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
@pytest.mark.parametrize("precision", ["fast", "float32", "float64"])
@pytest.mark.parametrize("similarity", ["distance", "dot"])
@pytest.mark.parametrize(("row", "d"), [(0, 600), (2099, 600), (2099, 3)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_patterns_that_are_not_finite_are_refused_in_every_arithmetic_and_tile(
    bad, precision, similarity, row, d, offset
):
    patterns = torch.randn(2100, d, generator=torch.Generator().manual_seed(0)) + offset
    patterns[row, d - 1] = bad
    calls = [
        lambda **options: energy(patterns[1:3], patterns, 1e-3, **options),
        lambda **options: energy_and_retrieval(patterns[1:3], patterns, 1.0, **options),
        lambda **options: effective_patterns(patterns[1:3], patterns, 1.0, **options),
        lambda **options: energy_rise(patterns[1:3], patterns[3:50], patterns, 1.0, **options),
    ]
    for call_it in calls:
        with pytest.raises(ValueError, match=rf"patterns holds NaN or infinite values in 1 of 2100 .*\[{row}\]"):
            call_it(similarity=similarity, precision=precision)


def test_squares_of_both_that_overflow_say_so():
    large = torch.tensor([[3e19, 0.0], [3e19, 1.0], [-3e19, 0.0]])
    with pytest.raises(ValueError, match=r"beyond torch.float32: the largest number of x is 3e\+19"):
        energy(large[:1], large, 1.0, precision="float32")


def test_half_precision_overflow_is_seen_before_it_spreads():
    large = torch.full((2, 3), 6e4, dtype=torch.float16)  # the square overflows float16; the energy must not
    assert call(x=large, patterns=large, beta=1.0).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="NaN or infinite"):
        call(x=large * 2, patterns=large)


def test_different_dimensions():
    with pytest.raises(ValueError, match=r"d = 3.*d = 5"):
        call(patterns=torch.randn(6, 5))
    with pytest.raises(ValueError, match=r"shape \(n, d\)"):
        call(x=torch.randn(3))


@pytest.mark.parametrize("name", ["x", "patterns"])
def test_different_devices(name):
    with pytest.raises(ValueError, match="move them to one device"):
        call(**{name: torch.empty(4, 3, device="meta")})


@pytest.mark.parametrize(
    ("masses", "error", "match"),
    [
        (torch.tensor([1, 1, 1, 1, 1, -1.0]), ValueError, "from -1.0 to 1.0"),
        (torch.tensor([1, 1, 1, 1, 1, torch.nan]), ValueError, "finite and not negative"),
        (torch.tensor([1, 1, 1, 1, 1, torch.inf]), ValueError, "finite and not negative"),
        (torch.ones(5), ValueError, r"shape \(6,\).*got \(5,\)"),
        (torch.ones(6, 1), ValueError, r"shape \(6,\)"),
        (torch.ones(6, dtype=torch.complex64), TypeError, "real"),
        (torch.ones(6, dtype=torch.bool), TypeError, "real"),
        ([1.0] * 6, TypeError, "torch.Tensor"),
    ],
)
def test_masses(masses, error, match):
    with pytest.raises(error, match=match):
        call(masses=masses)


def test_whole_numbers_are_masses():
    torch.testing.assert_close(call(masses=torch.full((6,), 3)), call())


@pytest.mark.parametrize(
    ("exclude", "error", "match"),
    [
        (torch.tensor([0, 1, 2, 6]), ValueError, r"\[-1, 6\).*from 0 to 6"),
        (torch.tensor([0, 1, 2, -2]), ValueError, "from -2 to 2"),
        (torch.tensor([0, 1]), ValueError, r"shape \(4,\)"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), TypeError, "integer"),
        (torch.tensor([True] * 4), TypeError, "integer"),
        ([0, 1, 2, 3], TypeError, "LongTensor"),
    ],
)
def test_exclude(exclude, error, match):
    with pytest.raises(error, match=match):
        call(exclude=exclude)


def test_unknown_similarity_and_steps():
    with pytest.raises(ValueError, match="'cosine'"):
        call(similarity="cosine")
    for steps in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="steps"):
            functional.retrieve(X, PATTERNS, 1.0, steps=steps)
    with pytest.raises(ValueError, match="tol"):
        functional.fixed_points(X, PATTERNS, 1.0, tol=0.0)
    with pytest.raises(ValueError, match="max_iter"):
        functional.fixed_points(X, PATTERNS, 1.0, max_iter=0)


def test_energy_rise_names_the_masses_it_refuses():
    with pytest.raises(ValueError, match="old_masses"):
        functional.energy_rise(X, PATTERNS, PATTERNS, 1.0, old_masses=torch.ones(2))
    with pytest.raises(ValueError, match="new_masses"):
        functional.energy_rise(X, PATTERNS, PATTERNS, 1.0, new_masses=torch.ones(2))
