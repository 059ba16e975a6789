"""Versions of a model as they lie on disk: what is loaded, and what is refused and why."""

import argparse
import logging
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from hopfield_replay.checkpoints import load_module, load_versions
from hopfield_replay.denoisers import CallableDenoiser

SCHEDULE = torch.linspace(0.99, 0.01, 20)
HERE = "tests.checkpoints.test_checkpoints"


class Model(LightningModule):
    """Predicts noise with one linear layer; keeps its arguments in its checkpoints."""

    def __init__(self, width, shift=0.0):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, width)
        self.shift = shift
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), SCHEDULE)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return batch + self.shift

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Forgetful(nn.Module):
    """Needs an argument that its checkpoints do not hold."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), SCHEDULE)


class Blind(nn.Module):
    """Holds no denoiser."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Whole(nn.Module):
    """Takes its hyperparameters as one argument."""

    def __init__(self, hparams):
        super().__init__()
        self.layer = nn.Linear(hparams["width"], hparams["width"])
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), SCHEDULE)


def failing():
    raise KeyError("no such size")


def not_a_module():
    return 3


number = 7


def saved(folder, width=2, name="a.ckpt", **more):
    torch.manual_seed(0)
    model = Model(width)
    path = folder / name
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": {"width": width}, **more}, path)
    return model, path


def test_arguments_come_from_the_checkpoint_and_weights_too(tmp_path):
    model, path = saved(tmp_path, 3)
    found = load_module(path, f"{HERE}:Model")
    assert torch.equal(found.module.layer.weight, model.layer.weight)
    assert found.denoiser is found.module.denoiser
    assert (found.source, found.weights) == (str(path), "weights")


def test_given_arguments_override_those_of_the_checkpoint_and_hooks_prepare(tmp_path):
    _, path = saved(tmp_path, hyper_parameters={"width": 2, "shift": 1.0})
    assert torch.equal(load_module(path, Model).prepare(torch.zeros(1, 2)), torch.ones(1, 2))
    found = load_module(path, Model, model_args={"shift": 2.0})
    assert torch.equal(found.prepare(torch.zeros(1, 2)), torch.full((1, 2), 2.0))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_bare_state_dict(tmp_path, suffix):
    model = Forgetful(2)
    (save_file if suffix == ".safetensors" else torch.save)(model.state_dict(), tmp_path / f"a{suffix}")
    found = load_module(tmp_path / f"a{suffix}", Forgetful, model_args={"width": 2})
    assert torch.equal(found.module.layer.weight, model.layer.weight)
    assert torch.equal(found.prepare(torch.ones(1)), torch.ones(1))


def test_hyperparameters_that_are_one_argument(tmp_path):
    model = Whole({"width": 4})
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": {"width": 4}, "hparams_name": "hparams"},
        tmp_path / "a.ckpt",
    )
    assert load_module(tmp_path / "a.ckpt", Whole).module.layer.weight.shape == (4, 4)


def test_a_checkpoint_under_weight_averaging_gives_the_average(tmp_path):
    model = Model(2)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[EMAWeightAveraging(decay=0.9), Saving(tmp_path / "a.ckpt")],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(model, DataLoader(torch.randn(8, 2), batch_size=2))
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    average, current = checkpoint["state_dict"]["layer.weight"], checkpoint["current_model_state"]["layer.weight"]
    assert not torch.equal(average, current)
    found = load_module(tmp_path / "a.ckpt", Model)
    assert torch.equal(found.module.layer.weight, average)
    assert found.weights == "averaged weights"


class Saving(EMAWeightAveraging.__mro__[2]):
    """Writes a checkpoint while the average and the current weights differ."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path, weights_only=False)


class Bomb:
    """Says so if it is unpickled."""

    def __reduce__(self):
        return (print, ("it ran",))


def test_pickles_that_need_more_are_refused_unless_the_user_insists(tmp_path, capsys):
    _, path = saved(tmp_path, extra=Bomb())
    with pytest.raises(ValueError, match=r"needs more than tensors and plain Python \(\S*print\).*--unsafe-pickle"):
        load_module(path, Model)
    assert capsys.readouterr().out == ""
    load_module(path, Model, unsafe_pickle=True)
    assert capsys.readouterr().out == "it ran\n"
    _, path = saved(tmp_path, hyper_parameters=argparse.Namespace(width=2))
    with pytest.raises(ValueError, match=r"plain Python \(argparse.Namespace\) and was not opened"):
        load_module(path, Model)
    assert load_module(path, Model, unsafe_pickle=True).module.layer.weight.shape == (2, 2)


def broken(folder, kind):
    _, path = saved(folder)
    data = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        path.write_bytes(data)
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"hello, this is no checkpoint"}[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"a.ckpt does not exist"),
        ("folder", r"a.ckpt is a folder; give a checkpoint file"),
        ("empty", r"a.ckpt cannot be read as a checkpoint \(EOFError\)"),
        ("cut", r"a.ckpt cannot be read as a checkpoint \(RuntimeError: PytorchStreamReader failed"),
        ("text", r"a.ckpt cannot be read as a checkpoint"),
        ("safetensors", r"a.safetensors cannot be read as .safetensors"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, kind, message):
    with pytest.raises(ValueError, match=message):
        load_module(broken(tmp_path, kind), Model)


def changed(folder, change):
    model, path = saved(folder)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": {"width": 2}}
    change(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("state_dict"), r"has no key 'state_dict' and is no state_dict itself; it holds \['hyper_"),
        (lambda c: c.update(state_dict=[1]), "The state_dict of .* is list, not a dict of tensors"),
        (lambda c: c["state_dict"].pop("layer.bias"), r"of another architecture: 1 missing \(first: layer.bias\)"),
        (lambda c: c["state_dict"].update(b=torch.zeros(1)), r"another architecture: 1 unknown \(first: b\)"),
        (
            lambda c: c["state_dict"].update({"layer.bias": torch.zeros(5)}),
            r"1 of another shape \(first: layer.bias \(5,\) instead of \(2,\)\)",
        ),
        (
            lambda c: c["state_dict"]["layer.weight"].fill_(torch.nan),
            r"NaN or infinite weights in 1 tensors \(first: layer.weight\)",
        ),
        (
            lambda c: c.update(hyper_parameters=torch.ones(2)),
            r"hyper_parameters of .*a.ckpt are Tensor, not a dict of arg",
        ),
        (lambda c: c.update(hyper_parameters=7), r"hyper_parameters of .*a.ckpt are int, not a dict of arguments by n"),
        (
            lambda c: c.update(hyper_parameters={7: 1}),
            r"hyper_parameters of .*a.ckpt are dict, not a dict of arguments",
        ),
        (lambda c: c.pop("hyper_parameters"), r"Model needs the constructor arguments \['width'\], which .* does not"),
    ],
)
def test_checkpoints_that_do_not_fit(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_module(changed(tmp_path, change), Model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nowhere.at.all:Model", "'nowhere.at.all:Model' cannot be imported"),
        ("nowhere", "'nowhere' cannot be imported"),
        (f"{HERE}:Nothing", "cannot be imported .*Give package.module:Class"),
        (f"{HERE}:number", "is int, not a class or a function that makes one"),
        (f"{HERE}:failing", r"failing cannot be made with the arguments \[\] \(KeyError: 'no such size'\)"),
        (f"{HERE}:not_a_module", "not_a_module returned int, not a torch module"),
        (f"{HERE}:Blind", "No denoiser was found on Blind"),
    ],
)
def test_models_that_cannot_be_made(tmp_path, model, message):
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_module(path, model)


def test_arguments_that_the_class_does_not_take(tmp_path):
    _, path = saved(tmp_path)
    with pytest.raises(ValueError, match=r"Model has no constructor arguments \['size'\]; it takes \['width', 'shift'"):
        load_module(path, Model, model_args={"size": 1})


def test_two_architectures(tmp_path):
    paths = [saved(tmp_path, width, f"{width}.ckpt")[1] for width in (2, 3)]
    message = (
        r"different architectures: 2 weights differ in shape, the first is layer.bias: \(2,\) before, \(3,\) after"
    )
    with pytest.raises(ValueError, match=message):
        load_versions(*paths, Model)


class Fourier(nn.Module):
    """Random features of the time, as score networks have them."""

    def __init__(self, how, place):
        super().__init__()
        drawn = torch.randn(3)
        if how == "buffer":
            self.register_buffer("frequencies", drawn, persistent=place == "saved")
        elif how == "attribute":
            self.frequencies = drawn
        else:
            self.frequencies = nn.Parameter(drawn, requires_grad=False)


class Random(nn.Module):
    """Draws what its checkpoint holds or not."""

    strict_loading = False

    def __init__(self, how="buffer", place="inside"):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.features = Fourier(how, place)
        if place == "outside":
            self.features = None
            self.shown = torch.randn(4, 2)
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), SCHEDULE)


@pytest.mark.parametrize("how", ["buffer", "attribute", "weight"])
def test_what_a_constructor_draws_and_no_checkpoint_holds_is_refused(tmp_path, how):
    """A checkpoint audited against itself seemed to have forgotten."""
    state = {name: weight for name, weight in Random(how).state_dict().items() if name.startswith("layer")}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"differ in what their checkpoints do not hold: features.frequencies\. .*seed"
    ):
        load_versions(tmp_path / "a.pt", tmp_path / "a.pt", Random, model_args={"how": how}, device="cpu")


def test_what_a_checkpoint_holds_or_pictures_need_is_no_fault(tmp_path):
    for place in ("saved", "outside"):
        torch.save(Random("buffer", place).state_dict(), tmp_path / "a.pt")
        settings = {"model_args": {"place": place}, "device": "cpu"}
        paths = (tmp_path / "a.pt", tmp_path / "a.pt", Random)
        if place == "outside":
            with pytest.warns(UserWarning, match="do not hold: shown.*if the network reads it"):
                load_versions(*paths, **settings)
        else:
            before, after = load_versions(*paths, **settings)
            assert torch.equal(before.module.features.frequencies, after.module.features.frequencies)


def test_weights_of_other_names_are_not_passed_over_where_loading_is_not_strict(tmp_path):
    torch.save(
        {name.replace("layer", "linear"): value for name, value in Random().state_dict().items()}, tmp_path / "a"
    )
    with pytest.raises(ValueError, match=r"2 missing \(first: layer.bias\); 2 unknown \(first: linear.bias\)"):
        load_module(tmp_path / "a", Random)


def loop_checkpoints(model, average):
    """What loops without Lightning write: how the file looks, and the weights that are asked for."""
    own, other = model.state_dict(), average.state_dict()
    shadow = {f"ema_model.{name}": value for name, value in other.items()}
    shadow |= {f"online_model.{name}": value for name, value in own.items()} | {"step": torch.tensor(3)}
    moments = {"state": {0: {"exp_avg": own["layer.bias"]}}, "param_groups": [{"lr": 0.1}]}
    return {
        "alone": ({"model": own, "optimizer": moments, "step": 3}, None, own, "weights of model"),
        "optical": ({"optical_net": own, "opt_d": {"v": own["layer.bias"]}}, None, own, "weights of optical_net"),
        "ema": ({"model": own, "ema": other, "opt": moments}, "ema", other, r"weights of ema; not .* in model"),
        "model": ({"model": own, "ema": other, "opt": moments}, "model", own, r"weights of model; not .* in ema"),
        "inner": ({"step": 1, "model": own, "ema": shadow}, "ema.ema_model", other, r"weights of ema.ema_model; .*"),
        "deep": ({"nets": {"unet.main": own, "vae": other}}, "nets.unet.main", own, r"weights of nets.unet.main; .*"),
        "wrapped": ({f"module.{name}": value for name, value in own.items()}, None, own, "weights of module"),
        "compiled": ({f"_orig_mod.{name}": value for name, value in own.items()}, None, own, "weights"),
        "inside": ({"layer._orig_mod.weight": own["layer.weight"], "layer._orig_mod.bias": own["layer.bias"]}, None,
                   own, "weights"),
        "both": ({"model": {f"module._orig_mod.{name}": value for name, value in own.items()}}, None, own,
                 "weights of model.module"),
        "module": ({"state_dict": {f"net.{name}": value for name, value in own.items()} | {"loss.w": torch.ones(1)}},
                   "state_dict.net", own, "weights of state_dict.net"),
        "averaging": ({"state_dict": other, "current_model_state": own}, "current_model_state", own,
                      r"weights of current_model_state; not .* in state_dict"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(loop_checkpoints(Forgetful(2), Forgetful(2))))
def test_the_weights_of_other_peoples_loops(tmp_path, kind):
    model, average = Forgetful(2), Forgetful(2)
    content, asked, expected, told = loop_checkpoints(model, average)[kind]
    torch.save(content, tmp_path / "a.pt")
    found = load_module(tmp_path / "a.pt", Forgetful, model_args={"width": 2}, weights=asked)
    assert torch.equal(found.module.layer.weight, expected["layer.weight"])
    assert re.fullmatch(told, found.weights), found.weights
    again, _ = load_versions(
        tmp_path / "a.pt", tmp_path / "a.pt", Forgetful, model_args={"width": 2}, weights=asked, device="cpu"
    )
    assert torch.equal(again.module.layer.weight, expected["layer.weight"])


@pytest.mark.parametrize(
    ("content", "asked", "message"),
    [
        ("ema", None, r"a.pt holds weights as 'model' and 'ema': say which are meant with weights \(--weights ema\)"),
        (
            "inner",
            "ema",
            r"another architecture: .* fit in ema.ema_model and ema.online_model: .*--weights ema.ema",
        ),
        (
            "module",
            None,
            r"another architecture: .* fit in state_dict.net: say so with weights \(--weights state_dict",
        ),
        ("ema", "emma", r"a.pt holds no weights as 'emma'; there are \['model', 'ema'\]"),
        ("ema", "opt", r"a.pt holds no weights as 'opt'; there are \['model', 'ema'\]"),
        ("ema", "", r"a.pt holds no weights as ''; there are \['model', 'ema'\]"),
        ("wrapped", "modul", r"a.pt holds no weights as 'modul'; there are \['module.layer.weight'"),
    ],
)
def test_weights_that_nobody_named(tmp_path, content, asked, message):
    torch.save(loop_checkpoints(Forgetful(2), Forgetful(2))[content][0], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        load_module(tmp_path / "a.pt", Forgetful, model_args={"width": 2}, weights=asked)


def test_a_compiled_module_takes_weights_that_were_saved_without(tmp_path):
    plain, compiled = Forgetful(2), Forgetful(2)
    torch.save(plain.state_dict(), tmp_path / "a.pt")
    compiled.layer = torch.compile(compiled.layer)
    assert "layer._orig_mod.weight" in compiled.state_dict()
    found = load_module(tmp_path / "a.pt", lambda: compiled)
    assert torch.equal(found.module.layer.weight, plain.layer.weight)


def test_a_pipeline_has_no_names_of_weights(tmp_path):
    with pytest.raises(ValueError, match=r"go with a model \(--model\); of a pipeline's there is variant"):
        load_versions(tmp_path, tmp_path, weights="ema", device="cpu")


SHARED = torch.ones(2)


class Constant(nn.Module):
    """Registers one tensor of its file as the buffer of every module."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("levels", SHARED)
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), SCHEDULE)


def test_a_tensor_that_the_second_checkpoint_would_change_in_the_first_is_refused(tmp_path):
    for name, level in (("a", 1.0), ("b", 1.0), ("c", 2.0)):
        torch.save(Constant().state_dict() | {"levels": torch.full((2,), level)}, tmp_path / f"{name}.pt")
    load_versions(tmp_path / "a.pt", tmp_path / "b.pt", Constant, device="cpu")
    with pytest.raises(
        ValueError, match=r"share 1 tensors that differ between them \(first: levels\): loading the sec"
    ):
        load_versions(tmp_path / "a.pt", tmp_path / "c.pt", Constant, device="cpu")


class Shadow:
    """An average that no checkpoint holds by itself, as diffusers' EMAModel."""

    def __init__(self, weights):
        self.shadow_params = [weight.detach().clone() for weight in weights]


class Keeping(nn.Module):
    def __init__(self, how="copy"):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if how == "copy":
            self.ema = AveragedModel(self.layer)
        elif how == "two":
            self.ema, self.slow_ema = AveragedModel(self.layer), AveragedModel(self.layer)
        else:
            self.shadow = Shadow(self.layer.parameters())
        self.denoiser = CallableDenoiser(lambda x, t: self.layer(x), SCHEDULE)


@pytest.mark.parametrize(
    ("how", "told", "kept"),
    [
        ("copy", r"averaged weights in ema.module", 7.0),
        ("two", r"weights; not the averages in ema.module, slow_ema.module", 1.0),
        ("shadow", r"weights; the average in shadow is not in the file", 1.0),
    ],
)
def test_averages_that_a_module_keeps(tmp_path, how, told, kept):
    model = Keeping(how)
    for name, weight in model.named_parameters():
        nn.init.constant_(weight, 7.0 if "ema" in name else 1.0)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    found = load_module(tmp_path / "a.pt", Keeping, model_args={"how": how})
    assert (found.weights, found.module.layer.weight[0, 0].item()) == (told, kept)
    assert found.denoiser.predict(torch.ones(1, 2), 3, None)[0, 0].item() == pytest.approx(3 * kept)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "a.pt")
    last = load_module(tmp_path / "a.pt", Keeping, model_args={"how": how}, weights="state_dict")
    assert (last.weights, last.module.layer.weight[0, 0].item()) == ("weights", 1.0)


def test_a_function_that_returns_the_same_weights_twice_is_refused(tmp_path):
    """The second checkpoint was loaded over the first, and nothing seemed to be forgotten."""
    paths = [saved(tmp_path, 2, f"{name}.ckpt")[1] for name in "ab"]
    one = Model(2)
    with pytest.raises(
        ValueError, match=r"share 2 weights \(first: layer.weight\): .* loads the second .* over the first"
    ):
        load_versions(*paths, lambda: one, device="cpu")


def test_averages_that_a_callback_of_ones_own_keeps_are_named(tmp_path):
    model, path = saved(tmp_path, callbacks={"EMA": {"weights": {"layer.weight": torch.ones(2, 2)}, "decay": 0.9}})
    assert load_module(path, Model).weights == "weights"
    torch.save(
        {"state_dict": model.state_dict(), "hyper_parameters": {"width": 2}, "callbacks": {"EMA": {"average": {
            f"net.{name}": weight for name, weight in model.state_dict().items()}}}}, path,
    )  # fmt: skip
    assert load_module(path, Model).weights == "weights; not those of the same shapes in callbacks.EMA.average"


def test_versions_come_in_eval_mode_on_the_device(tmp_path):
    _, path = saved(tmp_path)
    before, after = load_versions(path, path, Model, device="cpu")
    assert not before.module.training
    assert before.module is not after.module
    with pytest.raises(ValueError, match="cannot be put on nowhere"):
        load_versions(path, path, Model, device="nowhere")
    with pytest.raises(ValueError, match=r"model_args .* go with a model"):
        load_versions(path, path, model_args={"width": 2})


def pipeline(folder, seed=0, channels=(4, 8), steps=20):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    unet = diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=channels, norm_num_groups=2, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(steps)).save_pretrained(folder)
    return folder


@pytest.mark.heavy
def test_pipelines(tmp_path, capsys):
    paths = [pipeline(tmp_path / str(seed), seed) for seed in range(2)]
    before, after = load_versions(*paths)
    assert before.expects_images
    assert before.denoiser.num_timesteps == 20
    weights = [next(version.module.parameters()) for version in (before, after)]
    assert not torch.equal(*weights)
    assert capsys.readouterr() == ("", "")  # no progress bars of other libraries
    other = pipeline(tmp_path / "wide", channels=(8, 8))
    with pytest.raises(ValueError, match="of different architectures"):
        load_versions(paths[0], other)


def test_folders_that_are_no_pipelines(tmp_path):
    pipeline(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no model_index.json"):
        load_versions(tmp_path / "empty", tmp_path / "a")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="file is a file: a checkpoint needs the class of its model"):
        load_versions(tmp_path / "file", tmp_path / "a")
    weights = next((tmp_path / "a" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be loaded as a pipeline"):
        load_versions(tmp_path / "a", tmp_path / "a")


def test_a_pipeline_whose_inputs_are_unknown(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    vqvae = diffusers.VQModel(block_out_channels=(4,), norm_num_groups=2, latent_channels=1)
    unet = diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=(8,), norm_num_groups=2, layers_per_block=1, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )  # fmt: skip
    diffusers.LDMPipeline(vqvae, unet, diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"LDMPipeline with \['vqvae'\], whose inputs are unknown here"):
        load_versions(tmp_path, tmp_path)


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    """The tiny Stable Diffusion of the examples, untrained, and LoRA weights for it."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("stable")
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    from helpers.tiny_pipeline import build_tiny

    return build_tiny(folder / "tiny", images=6, vae_steps=2)[0]


def lora(source, folder, kind):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    parts = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    live = StableDiffusionPipeline.from_pretrained(source, **parts)
    settings = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"])  # a LoRA file of diffusers keeps no alpha
    if kind == "peft":
        wrapped = get_peft_model(live.unet, settings)
    else:
        live.unet.add_adapter(settings)
    for name, weight in live.unet.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    if kind == "peft":
        wrapped.save_pretrained(folder)
    else:
        live.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(live.unet))
    return live.unet.eval()


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["diffusers", "peft"])
def test_lora_weights_are_merged_into_their_base(stable_diffusion, tmp_path, kind):
    live = lora(stable_diffusion, tmp_path / "lora", kind)
    before, after = load_versions(stable_diffusion, tmp_path / "lora", device="cpu")
    assert after.weights == f"LoRA weights on {stable_diffusion}"
    noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 8, 32)
    with torch.no_grad():
        wanted = live(noisy, 7, encoder_hidden_states=text).sample
        found = after.module.unet(noisy, 7, encoder_hidden_states=text).sample
        base = before.module.unet(noisy, 7, encoder_hidden_states=text).sample
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert (base - wanted).abs().max() > 0.01
    with pytest.raises(ValueError, match="holds LoRA weights: give their base first"):
        load_versions(tmp_path / "lora", stable_diffusion)


@pytest.mark.heavy
def test_latents_and_captions_of_a_pipeline(stable_diffusion):
    version, _ = load_versions(stable_diffusion, stable_diffusion, device="cpu")
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    bare = version.prepare((images, torch.arange(2)))
    assert bare["samples"].shape == (2, 4, 8, 8)
    said = version.prepare({"samples": images, "captions": ["a handwritten one", ""]})
    texts = [[row.own["encoder_hidden_states",] for row in batch["received"]] for batch in (said, bare)]
    assert torch.equal(texts[0][1], texts[1][1])
    assert not torch.equal(texts[0][0], texts[1][0])
    vae = version.module.vae
    with torch.no_grad():
        wanted = vae.decode(vae.encode(images.expand(-1, 3, -1, -1)).latent_dist.mode()).sample
    np.testing.assert_allclose(version.decode(bare["samples"]), wanted, atol=1e-5)


@pytest.mark.heavy
def test_lora_weights_that_do_not_fit(stable_diffusion, tmp_path):
    lora(stable_diffusion, tmp_path / "lora", "diffusers")
    path = next((tmp_path / "lora").iterdir())
    from safetensors.torch import load_file

    weights = load_file(path)
    save_file({name.replace("unet", "other"): weight for name, weight in weights.items()}, path)
    with pytest.raises(ValueError, match=r"do not fit .*none of them is for a layer that the pipeline has"):
        load_versions(stable_diffusion, path)
