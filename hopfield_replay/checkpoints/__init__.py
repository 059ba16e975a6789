"""Two versions of a model as they lie on disk: checkpoints, folders of pipelines, adapters and their base."""

from hopfield_replay.checkpoints.buffer_file import BufferFile
from hopfield_replay.checkpoints.encoder import LoadedEncoder, load_encoder
from hopfield_replay.checkpoints.module import load_module
from hopfield_replay.checkpoints.pipeline import load_adapter, load_pipeline, open_pipeline
from hopfield_replay.checkpoints.version import Version
from hopfield_replay.checkpoints.versions import load_version, load_versions

__all__ = [
    "BufferFile",
    "LoadedEncoder",
    "Version",
    "load_adapter",
    "load_encoder",
    "load_module",
    "load_pipeline",
    "load_version",
    "load_versions",
    "open_pipeline",
]
