"""kohya-ss/sd-scripts: a TOML file for --dataset_config."""

from collections.abc import Sequence

from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings, quoted

_HEAD = """\
# for --dataset_config of kohya-ss/sd-scripts, beside the subsets of your own images; images are numbered best first
"""
_NOTE = """\
# sd-scripts shows at most as many regularisation images as training images times their repeats; without is_reg
# they are training images, and none is left out
"""


def write_kohya(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """Subsets by number of repeats, since all images of one share it; captions in ``.txt`` files beside the images."""
    settings.refuse("validate", "kohya")
    prompt = settings.needed_prompt(kept, "kohya")
    lines = [_HEAD + (_NOTE if settings.use == "regularise" else "") + "[[datasets]]"]
    for name, count in place.by_repeats(kept):
        lines += ["", "  [[datasets.subsets]]", f"  image_dir = {quoted(place.at(name))}"]
        lines += ['  caption_extension = ".txt"', f"  num_repeats = {count}"]
        if prompt is not None:
            lines.append(f"  class_tokens = {quoted(prompt)}")
        if settings.use == "regularise":
            lines.append("  is_reg = true")
    place.text("dataset.toml", "\n".join(lines) + "\n")
