"""The examples are plain scripts whose folder comes first on the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of a text-to-image pipeline, and those of two tasks of twelve captioned images."""
    pytest.importorskip("transformers", reason="text-to-image pipelines need transformers")
    from helpers.tiny_pipeline import build_tiny

    return build_tiny(tmp_path_factory.mktemp("latent") / "tiny", images=12, vae_steps=2)
