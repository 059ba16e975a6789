"""ostris/ai-toolkit: the datasets of a process, in YAML."""

from collections.abc import Sequence

from hopfield_replay.analysis.exports.place import Kept, Place
from hopfield_replay.analysis.exports.settings import Settings, quoted


def write_ai_toolkit(place: Place, kept: Sequence[Kept], settings: Settings) -> None:
    """``datasets.yaml``: entries for the ``datasets`` of a process, one for each number of repeats."""
    settings.refuse("validate", "ai-toolkit")
    prompt = settings.needed_prompt(kept, "ai-toolkit")
    lines = ["# for the datasets of a process of ostris/ai-toolkit; images are numbered best first", "datasets:"]
    for name, count in place.by_repeats(kept):
        lines += [f"  - folder_path: {quoted(place.at(name))}", '    caption_ext: "txt"', f"    num_repeats: {count}"]
        if prompt is not None:
            lines.append(f"    default_caption: {quoted(prompt)}")
        if settings.use == "regularise":
            lines.append("    is_reg: true")
    place.text("datasets.yaml", "\n".join(lines) + "\n")
