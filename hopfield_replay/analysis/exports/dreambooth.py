"""diffusers' DreamBooth scripts: a folder of class images, and the arguments that name it."""

import shlex
from collections.abc import Sequence

from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings, Use


def write_dreambooth(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """``class_images`` and a shell script that starts a DreamBooth script with them.

    The scripts know one prompt for all class images, show each of them equally often, and generate more where there are
    fewer than asked for: their number is passed, so that none is generated.

    Raises:
        ValueError: no prompt, and captions that differ; another use than to regularise.
    """
    uses: tuple[Use, ...] = ("train", "validate")
    for use in uses:
        settings.refuse(use, "diffusers' prior preservation")
    captions = {one.caption for one in kept}
    prompt = settings.prompt if settings.prompt is not None else captions.pop() if len(captions) == 1 else None
    if prompt is None:
        raise ValueError("diffusers' prior preservation has one prompt for all class images; give a prompt.")
    for one in kept:
        place.image(one, "class_images")
    arguments = {
        "--class_data_dir": place.at("class_images"),
        "--class_prompt": prompt,
        "--num_class_images": str(len(kept)),
    }
    lines = [
        "#!/bin/sh",
        "# sh prior_preservation.sh train_dreambooth_lora.py --pretrained_model_name_or_path=... --instance_prompt=...",
        'exec accelerate launch "$@" --with_prior_preservation \\',
        " \\\n".join(f"  {name}={shlex.quote(value)}" for name, value in arguments.items()),
    ]
    place.text("prior_preservation.sh", "\n".join(lines) + "\n")
