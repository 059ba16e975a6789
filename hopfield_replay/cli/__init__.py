"""The command hopfield-replay."""

from hopfield_replay.cli.main import main

__all__ = ["main"]
