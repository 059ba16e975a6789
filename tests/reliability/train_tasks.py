"""Tasks from a YAML file, as the README shows it: ``python -m tests.reliability.train_tasks --config FILE``."""

from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from hopfield_replay import fit_tasks


class TasksCLI(LightningCLI):
    """Trainer, model, and a list of tasks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--tasks", type=list[LightningDataModule])
        parser.add_argument("--ckpt_path", type=str | None)


def main():
    # with load_from_checkpoint_support Lightning gives every datamodule in the file one set of hyperparameters
    cli = TasksCLI(run=False, load_from_checkpoint_support=False, save_config_kwargs={"overwrite": True})
    fit_tasks(cli.trainer, cli.model, cli.config_init.tasks, ckpt_path=cli.config_init.ckpt_path)
    return cli


if __name__ == "__main__":
    main()
