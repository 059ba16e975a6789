"""What a file asks for is counted before it is taken: of models, of checkpoints, of pipelines and of adapters."""

import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hopfield_replay.checkpoints import load_module, load_pipeline, load_versions
from hopfield_replay.checkpoints.allocation import Allowance
from hopfield_replay.cli.datasets import load_data
from tests.checkpoints.test_checkpoints import Model, pipeline, saved

ROOT = Path(__file__).parents[2]
FREE = 1 << 28


def test_the_width_that_a_checkpoint_asks_for_is_bounded_by_its_weights(tmp_path):
    _, path = saved(tmp_path, hyper_parameters={"width": 22_000})  # 1.9 GB
    with pytest.raises(ValueError, match=r"a.ckpt asks for 19\d+ bytes, more than 268435456, for weights of 24: if .*"):
        load_module(path, Model)
    with pytest.raises(ValueError, match=r"pass its arguments \['width'\] yourself with model_args \(--model-args\)"):
        load_module(path, Model)
    with pytest.raises(ValueError, match="it is of another architecture"):
        load_module(path, Model, model_args={"width": 3})  # the user's own word is taken


@pytest.mark.heavy
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(1 << 27),
        lambda: torch.empty((1 << 14, 1 << 14)),
        lambda: torch.ones(1).new_ones(1 << 27),
        lambda: torch.eye(1 << 14),
        lambda: torch.arange(1 << 27),
        lambda: torch.linspace(0, 1, 1 << 27),
        lambda: torch.ones(1, 1).repeat(1 << 14, 1 << 14),
        lambda: torch.full((1 << 26,), 1.0, dtype=torch.float64),
        lambda: torch.randn(1 << 27),
        lambda: torch.randint(9, (1 << 26,)),
        lambda: [nn.Linear(4000, 4000) for _ in range(5)],
        lambda: nn.Embedding(1 << 20, 100),
        lambda: nn.MultiheadAttention(5000, 5),
    ],
)
def test_whatever_makes_a_tensor_is_counted(make):
    with (
        pytest.raises(ValueError, match=r"x asks for \d+ bytes, more than 268435456, for weights of 0"),
        Allowance(0, "x"),
    ):
        make()


def test_what_takes_nothing_is_not_counted():
    with Allowance(0, "x"):
        nn.Linear(1 << 15, 1 << 15, device="meta")
        torch.ones(1).expand(1 << 30)
        torch.ones(4).view(2, 2)
        with torch.device("meta"):
            nn.Linear(1 << 15, 1 << 15)
        nn.Linear(100, 100)
    with Allowance(1 << 28, "x"):
        torch.empty(1 << 28)  # eight times its weights


def test_an_archive_that_expands_is_no_checkpoint(tmp_path):
    _, path = saved(tmp_path, 2000)
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, bytes(len(data)) if len(data) > 10**6 else data)
    assert packed.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"packed.ckpt cannot be read as a checkpoint .*would expand to 16\d+"):
        load_module(packed, Model)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("hello", "holds str as layer.weight, where a tensor of weights belongs"),
        (None, "holds NoneType as layer.weight"),
        (7, "holds int as layer.weight"),
        (
            torch.zeros(2, 2, device="meta"),
            r"holds a tensor without all its numbers \(torch.strided, meta\) as layer.w",
        ),
        (torch.eye(2).to_sparse(), r"holds a tensor without all its numbers \(torch.sparse_coo, cpu\)"),
        (torch.zeros(1).expand(2, 2), "holds a tensor without all its numbers"),
    ],
)
def test_entries_that_are_no_weights(tmp_path, entry, message):
    model, path = saved(tmp_path)
    state = {**model.state_dict(), "layer.weight": entry}
    torch.save({"state_dict": state, "hyper_parameters": {"width": 2}}, path)
    with pytest.raises(ValueError, match=message):
        load_module(path, Model)


class Extra(Model):
    """Has a state that is no tensor."""

    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        state["a"]


def test_states_that_are_no_tensors_where_they_belong(tmp_path):
    model = Extra(2)
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": {"width": 2}}, path)
    load_module(path, Extra)
    torch.save({"state_dict": {**model.state_dict(), "_extra_state": 3}, "hyper_parameters": {"width": 2}}, path)
    with pytest.raises(ValueError, match="cannot be loaded into Extra"):
        load_module(path, Extra)


def test_a_pipeline_whose_configuration_asks_for_more_than_its_weights(tmp_path):
    folder = pipeline(tmp_path / "a")
    file = folder / "unet" / "config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "block_out_channels": [20_000, 20_000], "norm_num_groups": 2}))
    with pytest.raises(ValueError, match="cannot be loaded as a pipeline"):
        load_pipeline(folder)
    load_versions(pipeline(tmp_path / "b"), pipeline(tmp_path / "c"))


HUGE = {
    "rows without numbers": lambda f: (f / "x.safetensors").write_bytes(
        (84 - 8).to_bytes(8, "little")
        + b'{"x":{"dtype":"F32","shape":[1099511627776,0],"data_offsets":[0,0]}}'.ljust(76)
    ),
    "zeros that compress": lambda f: np.savez_compressed(f / "x.npz", x=np.zeros((250, 1 << 20), np.uint8)),
    "halves": lambda f: np.savez_compressed(f / "x.npz", x=np.zeros((120, 1 << 20), np.float16)),
    "other arrays beside": lambda f: np.savez_compressed(
        f / "x.npz", x=np.zeros((2, 2), np.float32), y=np.zeros((200, 1 << 20), np.uint8)
    ),
    "large pictures": lambda f: pictures(f, 3, (16_000, 16_000)),
    "many pictures": lambda f: pictures(f, 30, (8_000, 8_000)),
}


def pictures(folder, count, size):
    image = pytest.importorskip("PIL.Image")
    for number in range(count):
        image.new("RGB", size).save(folder / f"{number}.png") if not number else (folder / f"{number}.png").write_bytes(
            (folder / "0.png").read_bytes()
        )


READS = """
import resource, sys, time
from hopfield_replay.cli.datasets import load_data
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    load_data(sys.argv[1], max_bytes=int(sys.argv[2]))
    print("taken", end=" ")
except ValueError as error:
    print("refused", end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, time.process_time() - started)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("kind", HUGE)
def test_small_files_take_no_more_than_was_allowed(tmp_path, kind):
    HUGE[kind](tmp_path)
    files = list(tmp_path.iterdir())
    source = tmp_path if files[0].suffix == ".png" else files[0]
    allowed = 1 << 28
    done = subprocess.run(
        [sys.executable, "-c", READS, str(source), str(allowed)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, taken, seconds = done.stdout.split()
    assert said == ("taken" if kind == "other arrays beside" else "refused")
    assert int(taken) < 1.1 * allowed
    assert float(seconds) < 5


def test_an_error_names_the_limit(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((1000, 10), np.uint8))
    assert len(load_data(str(tmp_path / "x.npz"), max_bytes=50_000)) == 1000
    with pytest.raises(
        ValueError, match=r"\(1000, 10\) takes 50000 bytes as float32, more than max_bytes=49999. Allow"
    ):
        load_data(str(tmp_path / "x.npz"), max_bytes=49_999)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="max_bytes must be a whole number"):
            load_data(str(tmp_path / "x.npz"), max_bytes=wrong)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
