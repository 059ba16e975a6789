"""Settings of an export: what the images are for, and the prompt of those without captions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hopfield_replay.analysis.exports.place import Kept

Use = Literal["regularise", "train", "validate"]


@dataclass(frozen=True)
class Settings:
    """What the trainer is to do with the images.

    Attributes:
        use: keep what the model knows of them (regularisation images, prior preservation), train on them like on its
            own images, or only measure the loss on them.
        prompt: for images without captions; None: all have one.
    """

    use: Use
    prompt: str | None

    def refuse(self, use: Use, trainer: str) -> None:
        """Refuse a use that a trainer does not know.

        Raises:
            ValueError: it is this one.
        """
        if self.use == use:
            raise ValueError(f"{trainer} has no setting for use={use!r}; choose another use or another format.")

    def needed_prompt(self, kept: Sequence[Kept], trainer: str) -> str | None:
        """The prompt, which a trainer needs unless all images have captions.

        Raises:
            ValueError: images without captions, and no prompt.
        """
        if self.prompt is None and any(one.caption is None for one in kept):
            raise ValueError(f"{trainer} needs a caption for every image, and these have none; give a prompt for all.")
        return self.prompt


def quoted(text: str) -> str:
    r"""A string as TOML, YAML and JSON all read it.

    Example:
        >>> print(quoted('a "cat"\n'))
        "a \"cat\"\n"
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
