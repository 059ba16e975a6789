import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")

from helpers.caption_gallery import save_grid


def test_a_grid_has_a_row_for_each_task(tmp_path):
    rows = [[Image.new("RGB", (2, 2), (value + x, 0, 0)) for x in range(3)] for value in (10, 20)]
    save_grid(tmp_path / "new" / "grid.png", rows)
    pixels = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    assert pixels[::2, ::2, 0].tolist() == [[10, 11, 12], [20, 21, 22]]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["grid.png"]
