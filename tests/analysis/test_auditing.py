"""An audit is the difference of two literal measurements, and what it says of classes is what was done to them."""

import json
import math
import re
import shutil
import subprocess
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import audit
from hopfield_replay.analysis.drift import drift
from hopfield_replay.denoisers import CallableDenoiser, VarianceSchedule
from hopfield_replay.encoders import split_batch
from hopfield_replay.functional import model_energy, reconstruction_error
from hopfield_replay.functional._paired_noise import paired_noise

SCHEDULE = VarianceSchedule(torch.linspace(0.99, 0.01, 20))
IMAGES = torch.rand(11, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.arange(11) % 3


def shrink(factor):
    return CallableDenoiser(lambda x, t: factor * x, SCHEDULE, prediction_type="sample")


def test_rises_are_paired_differences():
    report = audit(shrink(0.9), shrink(0.3), IMAGES, labels=LABELS, timesteps=[2, 9], seed=4)
    errors = [reconstruction_error(shrink(f), IMAGES, [2, 9], 4).numpy() for f in (0.9, 0.3)]
    np.testing.assert_allclose(report.errors_old, errors[0])
    np.testing.assert_allclose(report.errors_new, errors[1])
    rises = (errors[1] - errors[0]).mean(1)
    np.testing.assert_allclose(report.rises, rises)
    assert report.worst.tolist() == np.argsort(-rises, kind="stable").tolist()
    assert report.mean == pytest.approx(rises.mean())
    assert report.overall.relative == pytest.approx(rises.mean() / errors[0].mean())
    assert report.worse == pytest.approx((rises > 0).mean())
    assert report.low < report.mean < report.high
    for label in range(3):
        mine = LABELS.numpy() == label
        found = report.classes[label]
        expected = {
            "samples": mine.sum(),
            "mean_rise": rises[mine].mean(),
            "worse": (rises[mine] > 0).mean(),
            "error_old": errors[0][mine].mean(),
            "error_new": errors[1][mine].mean(),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected)
    for energies, factor in ((report.model_energy_old, 0.9), (report.model_energy_new, 0.3)):
        np.testing.assert_allclose(energies, model_energy(shrink(factor), IMAGES, [2, 9], 4))


def test_batches_and_their_labels_give_the_same():
    whole = audit(shrink(0.9), shrink(0.3), IMAGES, labels=LABELS)
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4, shuffle=True)
    parts = audit(shrink(0.9), shrink(0.3), loader)
    assert torch.equal(whole.rises, parts.rises)
    assert whole.classes == parts.classes
    assert whole.timesteps == (2, 4, 6, 8, 10)
    assert torch.equal(whole.examples.clean, parts.examples.clean)
    json.dumps(whole.to_dict(), allow_nan=False)
    assert f"{len(IMAGES)} samples" in whole.table()


def test_tasks_and_names():
    data = {"first": IMAGES[:4], "second": [(IMAGES[4:9], LABELS[4:9]), (IMAGES[9:], LABELS[9:])]}
    whole = audit(shrink(0.9), shrink(0.3), IMAGES, labels=list("ababcabcabc"), names=[f"{i}.png" for i in range(11)])
    parts = audit(shrink(0.9), shrink(0.3), data)
    assert torch.equal(whole.rises, parts.rises)
    assert torch.equal(whole.examples.after, parts.examples.after)
    assert parts.tasks["first"]["samples"] == 4
    assert parts.tasks["second"]["mean_rise"] == pytest.approx(float(whole.rises[4:].mean()))
    assert parts.classes == {}  # one of the tasks has no labels
    assert list(whole.classes) == sorted("abc", key=lambda name: -whole.classes[name]["mean_rise"])
    assert f"most forgotten: {whole.worst[0]}.png" in whole.table()
    assert whole.to_dict()["most_forgotten"][0] == f"{whole.worst[0]}.png"


def test_examples_are_reconstructions_from_the_same_noise():
    found = audit(shrink(0.9), shrink(0.3), IMAGES, timesteps=[3, 7, 11], seed=2, examples=2).examples
    assert found.timestep == 7
    chosen = [*found.worst, *found.best]
    assert (len(found.worst), len(found.best)) == (2, 2)
    clean = IMAGES[chosen]
    assert torch.equal(found.clean, clean)
    signal, amount = SCHEDULE.amounts(7)
    noisy = signal * clean + amount * paired_noise(clean, chosen, 7, 2)
    np.testing.assert_allclose(found.before, 0.9 * noisy, rtol=1e-6)
    np.testing.assert_allclose(found.after, 0.3 * noisy, rtol=1e-6)
    assert audit(shrink(0.9), shrink(0.3), IMAGES, examples=0).examples is None


def test_a_version_against_itself_lost_nothing():
    report = audit(shrink(0.5), shrink(0.5), IMAGES, old_data=IMAGES, new_data=IMAGES + 1.0, labels=LABELS)
    assert not report.rises.any()
    assert torch.equal(report.model_energy_old, report.model_energy_new)
    assert (report.mean, report.low, report.high, report.worse) == (0.0, 0.0, 0.0, 0.0)
    assert (report.overall.relative, report.overall.relative_low) == (0.0, 0.0)
    assert report.exceeding(0.0) == {}
    assert math.isnan(report.correlations["energy rise"].estimate)
    assert report.to_dict()["correlations"]["energy rise"]["estimate"] is None
    assert "undefined" in report.table()


def test_intervals_are_those_of_a_literal_bootstrap():
    rng = np.random.default_rng(0)
    old = rng.uniform(0.1, 3, 300)
    rises = 0.5 * old + rng.normal(0.2, 0.1, 300)  # the rise of the ratio is known better than that of the mean
    found = drift(torch.from_numpy(old), torch.from_numpy(old + rises), seed=0)
    drawn = rng.integers(300, size=(4000, 300))
    for ends, values in (
        ((found.low, found.high), rises[drawn].mean(1)),
        ((found.relative_low, found.relative_high), rises[drawn].mean(1) / old[drawn].mean(1)),
    ):
        np.testing.assert_allclose(ends, np.quantile(values, [0.025, 0.975]), rtol=0.01)


def student(values):
    """The interval of Student's t around a mean."""
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - reach, values.mean() + reach


@pytest.mark.parametrize("n", [2, 3, 5, 12])
def test_intervals_of_few_samples_are_as_wide_as_students(n):
    """Resamples of few samples vary too little: of 2 the bootstrap's 95 % interval held the mean 48 % of the time."""
    rng = np.random.default_rng(n)
    held, held_relative, runs = 0, 0, 400
    for seed in range(runs):
        old, rises = rng.uniform(0.9, 1.1, n), rng.normal(0.1, 0.2, n)
        found = drift(torch.from_numpy(old), torch.from_numpy(old + rises), seed)
        low, high = student(rises)
        assert found.low <= low + 1e-9
        assert found.high >= high - 1e-9
        low, high = student(rises.mean() / old.mean() + (rises - rises.mean() / old.mean() * old) / old.mean())
        assert found.relative_low <= low + 1e-9
        assert found.relative_high >= high - 1e-9
        held += found.low <= 0.1 <= found.high
        held_relative += found.relative_low <= 0.1 <= found.relative_high
    assert held > 0.91 * runs  # nearly four standard errors below 95 %
    assert held_relative > 0.91 * runs


def test_relative_rises_where_there_was_no_error():
    none, some = torch.zeros(5, dtype=torch.float64), torch.tensor([0.0, 1, 1, 1, 1], dtype=torch.float64)
    assert drift(none, none, 0).relative_high == 0.0
    assert drift(none, some, 0).relative == math.inf
    assert drift(none, some, 0).relative_low == math.inf  # resamples without any rise are rarer than one in forty


@pytest.mark.heavy
def test_energies_leave_the_sample_itself_out():
    old, new = IMAGES.repeat(2, 1, 1, 1)[:18] + torch.arange(18).view(-1, 1, 1, 1) / 18, IMAGES + 3.0
    audited = torch.cat([old[[3, 5]], IMAGES[:6] + 0.01])
    report = audit(shrink(0.9), shrink(0.3), audited, old_data=[old], new_data=DataLoader(new, 4), beta=0.7)
    flat = [x.flatten(1).double().numpy() for x in (audited, old, new)]
    density = []
    for row, x in enumerate(flat[0]):
        others = np.delete(flat[1], {0: 3, 1: 5}[row], 0) if row < 2 else flat[1]
        density.append(np.sort(np.linalg.norm(others - x, axis=1))[9])
        energies = [-np.log(np.exp(-0.35 * ((x - y) ** 2).sum(1)).mean()) / 0.7 for y in (others, flat[2])]
        assert float(report.energies[row]) == pytest.approx(energies[0])
        assert float(report.energy_rises[row]) == pytest.approx(energies[1] - energies[0])
    for name, values in (("energy", report.energies), ("energy rise", report.energy_rises)):
        assert report.correlations[name].estimate == pytest.approx(spearmanr(values, report.rises).statistic)
        xy, xz, yz = (spearmanr(*pair).statistic for pair in combinations((values, report.rises, density), 2))
        partial = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
        assert report.correlations[f"{name} at equal density"].estimate == pytest.approx(partial)
    assert report.correlations.keys() == {
        "energy", "energy at equal density", "energy rise", "energy rise at equal density",
    }  # fmt: skip
    assert report.beta == 0.7
    assert audit(shrink(0.9), shrink(0.3), audited, old_data=old).energy_rises is None


def test_a_sample_is_left_out_although_it_is_encoded_among_others():
    images, picked = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)), slice(7, 17)
    audited = {"image": images[picked], "label": torch.arange(10)}
    report = audit(
        shrink(0.9),
        shrink(0.3),
        [audited],
        old_data=images,
        encoder=lambda batch: split_batch(batch)[0].flatten(1) * (1 + 1e-6 * len(split_batch(batch)[0])),  # rounding
        beta=1.0,
        examples=0,
    )
    flat = images.flatten(1).double().numpy()
    for row, energy in enumerate(report.energies.tolist(), start=picked.start):
        squares = ((np.delete(flat, row, 0) - flat[row]) ** 2).sum(1)
        assert energy == pytest.approx(-np.log(np.exp(-0.5 * squares).mean()), rel=1e-3)


def test_one_sample_has_no_interval():
    report = audit(shrink(0.9), shrink(0.3), IMAGES[:1])
    assert math.isnan(report.low)
    assert report.to_dict()["low"] is None
    assert report.warnings == ("One sample: intervals are undefined.",)
    assert "[undefined]" in report.table()
    with pytest.raises(ValueError, match=r"one sample \(all samples\) has none"):
        report.exceeding(0.1)


def test_a_task_that_is_learned_does_not_hide_what_another_lost():
    factor = torch.tensor([0.9] * 5 + [0.1] * 5).view(-1, 1, 1, 1)
    models = [Chosen(factor), Chosen(factor.flip(0))]
    data = {"old": 2.0 + IMAGES[:5], "new": 2.0 + IMAGES[5:10]}
    report = audit(*models, data)
    assert report.overall.relative_low < 0.1
    assert report.exceeding(0.1).keys() == {"task old"}
    assert report.exceeding(100.0) == {}
    with pytest.raises(ValueError, match="threshold must be a number"):
        report.exceeding(math.nan)


class Chosen:
    """Shrinks each of ten samples, in batches of five, by a factor of its own."""

    num_timesteps = 20

    def __init__(self, factors):
        self.parts, self.calls = factors.split(5), 0

    def noise(self, clean, timestep, noise):
        return clean.clone()

    def snr(self, timestep):
        return 1.0 / (1 + timestep)

    def predict_clean(self, noisy, timestep, condition=None):
        part = self.parts[0] if bool(torch.equal(noisy, 2.0 + IMAGES[:5])) else self.parts[-1]
        return part[: len(noisy)] * noisy


class Cramped:
    """Has room for so many samples at a time, and remembers how many it was shown."""

    num_timesteps = 20
    noise = staticmethod(lambda clean, timestep, noise: clean + noise)
    snr = staticmethod(lambda timestep: 1.0 / (1 + timestep))

    def __init__(self, room):
        self.room, self.shown = room, []

    def predict_clean(self, noisy, timestep, condition=None):
        self.shown.append(len(noisy))
        if len(noisy) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nmore")
        return noisy * noisy.sum() if len(noisy) > 20 else noisy / 2  # a rounding that depends on the chunk, enlarged


@pytest.mark.heavy
def test_out_of_memory_measures_fewer_samples_at_a_time():
    many = IMAGES.repeat(8, 1, 1, 1)
    first, second = Cramped(20), Cramped(5)
    report = audit(first, second, many)
    assert second.shown[-1] <= 5
    assert max(first.shown[-3:]) <= 5
    assert not report.rises.any()  # both are measured again in chunks of one size
    with pytest.raises(MemoryError, match=r"not even with one sample at a time .*3 GiB.*on another one"):
        audit(Cramped(50), Cramped(0), many)


def test_what_prepares_batches_and_decodes_examples():
    report = audit(
        shrink(0.9), shrink(0.3), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4), old_data=IMAGES,
        prepare=lambda batch: 0.5 * (batch if isinstance(batch, torch.Tensor) else batch[0]), decode=lambda x: 2.0 * x,
        beta=1.0,
    )  # fmt: skip
    np.testing.assert_allclose(report.errors_old, reconstruction_error(shrink(0.9), 0.5 * IMAGES, [2, 4, 6, 8, 10], 0))
    np.testing.assert_allclose(report.examples.clean, IMAGES[[*report.examples.worst, *report.examples.best]])
    assert report.classes.keys() == {0, 1, 2}  # of the batch as it came
    assert (report.energies < 6).all()


NAN = CallableDenoiser(lambda x, t: x * torch.nan, SCHEDULE, prediction_type="sample")
OTHER = CallableDenoiser(lambda x, t: x, torch.linspace(0.9, 0.01, 20), prediction_type="sample")
CONV = nn.Conv2d(3, 3, 1)
CONVOLUTION = CallableDenoiser(lambda x, t: CONV(x), SCHEDULE)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, shrink(1.0), IMAGES), {}, TypeError, "old must be a Denoiser or a torch module .* got int"),
        ((shrink(1.0), nn.Linear(1, 1), IMAGES), {}, ValueError, "new: no denoiser was found on Linear"),
        ((shrink(1.0), shrink(1.0), []), {}, ValueError, "data holds no samples"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"labels": LABELS[:3]}, ValueError, r"labels must have shape \(11,\)"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"labels": ["a"]}, ValueError, "one label for each of the 11 samples"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"names": ["a"]}, ValueError, "one name for each of the 11 samples"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"timesteps": [20]}, ValueError, "timestep 20 is out of range"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"new_data": IMAGES}, ValueError, "new_data needs old_data"),
        (
            (shrink(1.0), shrink(1.0), IMAGES),
            {"old_data": IMAGES[:, :, 1:]},
            ValueError,
            "vectors of 12 numbers, .* 16",
        ),
        ((shrink(1.0), shrink(1.0), IMAGES), {"old_data": []}, ValueError, "old_data holds no samples"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"examples": -1}, ValueError, "examples must be a whole number >= 0"),
        ((shrink(1.0), NAN, IMAGES), {}, ValueError, r"new: the errors of 11 of 11 samples are not finite .*\[0, 1"),
        ((shrink(1.0), OTHER, IMAGES), {}, ValueError, "noise differently: the signal-to-noise ratio at timestep 2"),
        ((CONVOLUTION, CONVOLUTION, IMAGES), {}, ValueError, r"do not take samples of shape \(1, 4, 4\) .*channels"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message):
        audit(*arguments, **options)


def report_of_digits():
    draws = torch.Generator().manual_seed(1)
    x = torch.rand(60, 1, 6, 6, generator=draws) * 2 - 1
    return audit(shrink(0.9), shrink(0.3), {"<old>": x[:30], "new": x[30:]}, labels=["<b>cat</b>", "dog"] * 30,
                 old_data=x[:30], new_data=x[30:] + 0.5)  # fmt: skip


def test_the_worst_group_comes_first():
    pytest.importorskip("matplotlib")
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    x[30:] += 3.0  # a quarter of the samples, which the second model, shrinking everything, loses most of
    report = audit(shrink(0.9), shrink(0.3), {"most": x[:30], "few": x[30:]})
    few = report.tasks["few"]
    lead = f"task: few, reconstruction error {few['error_old']:.4g} -> {few['error_new']:.4g}, {few['relative']:+.1%}"
    assert report.table().splitlines()[0].startswith(f"worst {lead}")
    body = report.html().partition("</h1>")[2]
    assert body.lstrip().startswith(f'<p class="lead">Worst {lead.replace(">", "&gt;")}')
    assert body.index("By task") < body.index("All samples") < body.index("Most and least forgotten")


@pytest.mark.heavy
def test_the_page_is_whole_and_needs_nothing_from_elsewhere():
    pytest.importorskip("matplotlib")
    report = report_of_digits()
    page = report.html("A & B", {"before": "<a>.ckpt"})
    assert page.count("<img") == 5
    assert set(re.findall(r'src="([^,]*),', page)) == {"data:image/png;base64"}
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    assert "<b>" not in page
    assert "&lt;b&gt;cat&lt;/b&gt;" in page
    assert "A &amp; B" in page
    assert "&lt;a&gt;.ckpt" in page
    for name in (
        "By class",
        "By task",
        "By timestep",
        "Hopfield energies",
        "60 samples",
        "energy rise at equal density",
    ):
        assert name in page


def test_the_page_opens_in_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    pytest.importorskip("matplotlib")
    pillow = pytest.importorskip("PIL.Image")
    page, shot = tmp_path / "audit.html", tmp_path / "shot.png"
    page.write_text(report_of_digits().html(), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
               "--hide-scrollbars", "--window-size=800,3200"]  # fmt: skip
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=60, check=True)
    with pillow.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(3200, -1, 3)
    assert pixels.shape[1] == 800
    blue = np.abs(pixels.astype(int) - [0x00, 0x72, 0xB2]).sum(2) < 30  # of the histogram, inside the page
    assert blue.sum() > 500
    assert (pixels[:, -8:] == 255).all()  # nothing runs over the right edge


@pytest.mark.heavy
def test_correlations_over_several_tasks_say_so():
    alone, pooled = (
        audit(shrink(0.9), shrink(0.3), data, old_data=IMAGES, beta=1.0).warnings
        for data in (IMAGES, {"a": IMAGES[:5], "b": IMAGES[5:]})
    )
    assert not any("over all tasks together" in warning for warning in alone)
    assert any("over all tasks together" in warning for warning in pooled)
