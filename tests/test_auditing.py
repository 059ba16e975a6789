"""An audit is the difference of two literal measurements; the command reads two saved pipelines."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import audit
from hopfield_replay.cli import main
from hopfield_replay.denoisers import CallableDenoiser, VarianceSchedule
from hopfield_replay.functional import reconstruction_error

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
    assert report.worse == pytest.approx((rises > 0).mean())
    assert report.low < report.mean < report.high
    for label in range(3):
        mine = rises[LABELS.numpy() == label]
        assert report.classes[label] == pytest.approx(
            {"samples": len(mine), "mean_rise": mine.mean(), "worse": (mine > 0).mean()}
        )


def test_batches_and_their_labels_give_the_same():
    whole = audit(shrink(0.9), shrink(0.3), IMAGES, labels=LABELS)
    parts = audit(shrink(0.9), shrink(0.3), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4))
    assert torch.equal(whole.rises, parts.rises)
    assert whole.classes == parts.classes
    assert whole.timesteps == (2, 4, 6, 8, 10)
    json.dumps(whole.to_dict())
    assert f"{len(IMAGES)} samples" in whole.table()


def test_a_checkpoint_against_itself_lost_nothing():
    report = audit(shrink(0.5), shrink(0.5), IMAGES)
    assert not report.rises.any()
    assert (report.mean, report.low, report.high, report.worse) == (0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((3, shrink(1.0), IMAGES), {}, TypeError, "old must be a Denoiser or a torch module .* got int"),
        ((shrink(1.0), nn.Linear(1, 1), IMAGES), {}, ValueError, "new: no denoiser was found on Linear"),
        ((shrink(1.0), shrink(1.0), []), {}, ValueError, "data holds no samples"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"labels": LABELS[:3]}, ValueError, r"labels must have shape \(11,\)"),
        ((shrink(1.0), shrink(1.0), IMAGES), {"timesteps": [20]}, ValueError, "timestep 20 is out of range"),
    ],
)
def test_bad_input(arguments, options, error, message):
    with pytest.raises(error, match=message):
        audit(*arguments, **options)


def test_command_on_two_saved_pipelines(tmp_path, capsys):
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("jsonargparse")
    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DModel(
            8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / name)
    pictures = (np.random.default_rng(0).uniform(size=(6, 8, 8)) * 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=pictures, labels=np.arange(6) % 2)
    places = [str(tmp_path / name) for name in ("old", "new", "images.npz")]
    main(["audit", *places, "--output_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "6 samples: reconstruction error" in printed
    found = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert len(found["rises"]) == 6
    assert found["mean"] == pytest.approx(np.mean(found["rises"]))
    assert (tmp_path / "out" / "audit.png").stat().st_size > 1000
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path), *places[1:]])
    assert "holds no model_index.json" in capsys.readouterr().err
