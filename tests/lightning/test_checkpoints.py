"""Which checkpoint ``"last"`` is when some are torn, gone or of others; and checkpoints that are written whole."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import fit_tasks
from hopfield_replay.lightning.checkpoints import AtomicCheckpointIO
from tests.lightning.run_tasks import AtTheEnd, run
from tests.lightning.small import Foreign, loader, trainer
from tests.lightning.test_resume import PowerCutError, check_same, cut

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # lightning, at every fit
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
]
TORN = "was never written to its end; training goes on from"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The checkpoints of a run that was cut off at the end of its second task."""
    folder = tmp_path_factory.mktemp("kept") / "run"
    with pytest.raises(PowerCutError):
        run(folder, AtTheEnd(1, cut))
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    """A copy with the same times; its newest files are epoch=1-step=12.ckpt and last.ckpt, in this order."""
    return Path(shutil.copytree(kept, tmp_path / "run"))


def tear(file):
    with file.open("rb+") as torn:
        torn.truncate(file.stat().st_size // 2)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # lightning, of its best scores
class TestTheLast:
    @pytest.mark.heavy
    def test_after_the_folder_was_renamed(self, folder, whole):
        check_same(run(folder.rename(folder.with_name("elsewhere")), ckpt_path="last"), whole, 6)

    @pytest.mark.heavy
    def test_torn(self, folder, whole):
        tear(folder / "last.ckpt")
        with pytest.warns(UserWarning, match=rf"last.ckpt {TORN} .*epoch=1-step=12.ckpt"):
            resumed = run(folder, ckpt_path="last")
        check_same(resumed, whole, 6)

    @pytest.mark.heavy
    def test_empty_and_the_one_before_it_torn(self, folder, whole):
        tear(folder / "epoch=1-step=12.ckpt")
        (folder / "last.ckpt").write_bytes(b"")
        with pytest.warns(UserWarning, match=rf"last.ckpt, .*epoch=1-step=12.ckpt {TORN} .*epoch=0-step=9.ckpt"):
            resumed = run(folder, ckpt_path="last")
        check_same(resumed, whole, 9)

    @pytest.mark.heavy
    @pytest.mark.parametrize("link", [False, True])
    def test_gone(self, folder, whole, link):
        """A run can be killed before there is one, or, under save_last="link", while the link points nowhere."""
        (folder / "last.ckpt").unlink()
        if link:
            (folder / "last.ckpt").symlink_to("epoch=7.ckpt")
        check_same(run(folder, ckpt_path="last"), whole, 6)

    @pytest.mark.heavy
    def test_newer_files_that_are_no_states_of_the_run_are_not_taken(self, folder, whole):
        (folder / "last.ckpt").unlink()
        torch.save({"state_dict": Foreign().state_dict()}, folder / "weights.ckpt")
        (folder / ".last.ckpt.partial").write_bytes(b"half")
        check_same(run(folder, ckpt_path="last"), whole, 6)

    @pytest.mark.heavy
    def test_nothing_but_torn_ones(self, folder):
        for file in folder.glob("*.ckpt"):
            tear(file)
        with pytest.raises(MisconfigurationException, match=r"found only .*last.ckpt.* Remove it to begin anew"):
            run(folder, ckpt_path="last")

    @pytest.mark.heavy
    def test_none_yet(self, tmp_path, whole, caplog):
        """A job that is started again and again may be killed before its first checkpoint."""
        with caplog.at_level("INFO"):  # no warning: these are errors in the tests
            started = run(tmp_path / "run", ckpt_path="last")
        assert f'ckpt_path="last": no checkpoint in {tmp_path / "run"} yet; the first task begins.' in caplog.messages
        check_same(started, whole, 18)
        check_same(run(tmp_path / "run", ckpt_path="last"), whole, 0)  # and again when all is done

    def test_a_trainer_that_does_not_say_where(self, tmp_path):
        numbered = trainer(ModelCheckpoint(save_last=True), enable_checkpointing=True, logger=CSVLogger(tmp_path))
        forgetful = trainer(ModelCheckpoint(dirpath=tmp_path), enable_checkpointing=True)
        for runner in (numbered, forgetful):
            with pytest.raises(
                MisconfigurationException, match=r"give ModelCheckpoint\(dirpath=\.\.\., save_last=True\)"
            ):
                fit_tasks(runner, Foreign(), [loader()], ckpt_path="last")


def halves(monkeypatch, owner, name, path_at):
    """Let a function that writes a file fail when it has written half of it."""
    real = getattr(owner, name)

    def half(*args, **options):
        result = real(*args, **options)
        if isinstance(args[path_at], str | Path):
            tear(Path(args[path_at]))
            raise PowerCutError
        return result

    monkeypatch.setattr(owner, name, half)


class TestWriting:
    def checkpoint(self, path, io):
        io.save_checkpoint({"weights": torch.ones(1000)}, path)
        return path.stat().st_size

    def test_what_was_there_stays_until_all_is_written(self, tmp_path, monkeypatch):
        path = tmp_path / "new folder" / "last.ckpt"
        size = self.checkpoint(path, AtomicCheckpointIO())
        assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(1000))
        halves(monkeypatch, torch, "save", 1)
        with pytest.raises(PowerCutError):
            self.checkpoint(path, AtomicCheckpointIO())
        assert path.stat().st_size == size
        assert os.listdir(path.parent) == ["last.ckpt"]

    @pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no second file system")
    def test_lightnings_own_way_tears_where_the_temporary_folder_is_another_file_system(self, tmp_path, monkeypatch):
        """The reason for ours; if this fails it may go."""
        monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
        if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("one file system")
        path = tmp_path / "last.ckpt"
        size = self.checkpoint(path, TorchCheckpointIO())
        halves(monkeypatch, shutil, "copyfile", 1)
        with pytest.raises(PowerCutError):
            self.checkpoint(path, TorchCheckpointIO())
        assert path.stat().st_size < size

    def test_other_places_and_options_are_lightnings(self):
        with pytest.raises(TypeError, match="storage_options"):
            AtomicCheckpointIO().save_checkpoint({}, "a.ckpt", storage_options={})
        AtomicCheckpointIO().save_checkpoint({"a": 1}, "memory://folder/a.ckpt")
        assert AtomicCheckpointIO().load_checkpoint("memory://folder/a.ckpt") == {"a": 1}

    def test_every_checkpoint_of_fit_tasks_is_written_so(self, tmp_path):
        runner = trainer(ModelCheckpoint(tmp_path), enable_checkpointing=True)
        fit_tasks(runner, Foreign(), [loader()])
        assert type(runner.strategy.checkpoint_io) is AtomicCheckpointIO

    def test_a_way_of_the_users_own_stays(self, tmp_path):
        own = AsyncCheckpointIO()
        runner = trainer(ModelCheckpoint(tmp_path), enable_checkpointing=True, plugins=[own])
        fit_tasks(runner, Foreign(), [loader()])
        assert runner.strategy.checkpoint_io is own
        assert list(tmp_path.glob("*.ckpt"))


class TestResumesOfLightningsOwn:
    def test_a_checkpoint_on_exceptions_would_skip_all_later_tasks(self, tmp_path):
        runner = trainer(OnExceptionCheckpoint(tmp_path), enable_checkpointing=True)
        with pytest.raises(MisconfigurationException, match=r"OnExceptionCheckpoint .*every_n_train_steps"):
            fit_tasks(runner, Foreign(), [loader(), loader(1)])
