"""What trainers make of a folder that was handed to them: parsers by their documentation's rules, not by ours.

Each returns what one epoch shows: ``(file, caption, times)`` for every image, with how it is used.
"""

import json
import shlex
import tomllib
from pathlib import Path

import yaml

KOHYA = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
KOHYA_OPTIONS = {"image_dir": str, "num_repeats": int, "class_tokens": str, "is_reg": bool, "caption_extension": str}
TOOLKIT = (".jpg", ".jpeg", ".png", ".webp")


def kohya(folder):
    """sd-scripts: general < datasets < subsets; images directly in image_dir; the caption is the file's first line."""
    with open(folder / "dataset.toml", "rb") as file:
        config = tomllib.load(file)
    assert set(config) <= {"general", "datasets"}
    shown, seen = [], set()
    for dataset in config["datasets"]:
        for subset in dataset["subsets"]:
            known = {
                "image_dir": str,
                "num_repeats": int,
                "class_tokens": str,
                "is_reg": bool,
                "caption_extension": str,
            }
            assert all(type(value) is known[name] for name, value in subset.items())
            place = Path(subset["image_dir"])
            assert place.is_absolute()
            assert place not in seen, "sd-scripts ignores a second subset of the same folder"
            seen.add(place)
            for image in sorted(p for p in place.iterdir() if p.suffix.lower() in KOHYA):
                text = image.with_suffix(subset.get("caption_extension", ".caption"))
                # an error in sd-scripts where there is neither
                caption = text.read_text("utf-8").splitlines()[0] if text.is_file() else subset["class_tokens"]
                shown.append((image, caption, subset.get("num_repeats", 1), subset.get("is_reg", False)))
    return shown


def simpletuner(folder):
    """SimpleTuner: repeats count from 0; text files are split into one caption a line."""
    backends = json.loads((folder / "multidatabackend.json").read_text(encoding="utf-8"))
    assert len({backend["id"] for backend in backends}) == len(backends)
    shown = []
    for backend in backends:
        assert backend["type"] == "local"
        assert backend["dataset_type"] in ("image", "eval")
        assert backend["metadata_backend"] in ("discovery", "parquet", "huggingface")
        for image in sorted(p for p in Path(backend["instance_data_dir"]).rglob("*") if p.suffix.lower() in KOHYA):
            if backend["caption_strategy"] == "textfile":
                captions = image.with_suffix(".txt").read_text(encoding="utf-8").split("\n")
                assert len(captions) == 1
                caption = captions[0]
            else:
                assert backend["caption_strategy"] == "instanceprompt"
                caption = backend["instance_prompt"]
            regular = backend.get("is_regularisation_data", False)
            shown.append((image, caption, backend.get("repeats", 0) + 1, regular))
    return shown


def ai_toolkit(folder):
    """ai-toolkit: images directly in folder_path, captions beside them, default_caption where there is none."""
    config = yaml.safe_load((folder / "datasets.yaml").read_text(encoding="utf-8"))
    shown = []
    for dataset in config["datasets"]:
        files = sorted(p for p in Path(dataset["folder_path"]).iterdir() if p.suffix.lower() in TOOLKIT)
        for image in files:
            text = image.with_suffix("." + dataset["caption_ext"].lstrip("."))
            caption = text.read_text(encoding="utf-8") if text.is_file() else dataset["default_caption"]
            shown.append((image, caption, int(dataset.get("num_repeats", 1)), dataset.get("is_reg", False)))
    return shown


def onetrainer(folder):
    """OneTrainer: version 2 of its concepts; unknown entries are left out, a file for each sample, or one for all."""
    concepts = json.loads((folder / "concepts.json").read_text(encoding="utf-8"))
    shown = []
    for concept in concepts:
        assert concept["__version"] == 2  # no migration renames its entries
        assert concept["enabled"] is True
        assert concept["type"] in ("STANDARD", "VALIDATION", "PRIOR_PREDICTION")
        assert concept["balancing_strategy"] == "REPEATS"
        places = Path(concept["path"])
        for image in sorted(p for p in places.iterdir() if p.suffix.lower() in KOHYA):
            if concept["text"]["prompt_source"] == "sample":
                captions = image.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
            else:
                assert concept["text"]["prompt_source"] == "concept"
                captions = Path(concept["text"]["prompt_path"]).read_text(encoding="utf-8").splitlines()
            assert len(captions) == 1
            times = float(concept["balancing"])
            assert times == int(times)
            shown.append((image, captions[0], int(times), concept["type"] == "PRIOR_PREDICTION"))
    return shown


def dreambooth(folder):
    """diffusers' DreamBooth: everything in class_data_dir is an image, shown with one prompt."""
    script = (folder / "prior_preservation.sh").read_text(encoding="utf-8")
    arguments = dict(
        part.partition("=")[::2] for part in shlex.split(script, comments=True) if part.startswith("--") and "=" in part
    )
    images = sorted(Path(arguments["--class_data_dir"]).iterdir())
    assert len(images) >= int(arguments["--num_class_images"])  # or it would generate more
    assert "--with_prior_preservation" in script
    return [(image, arguments["--class_prompt"], 1, True) for image in images]


def json_list(folder):
    rows = json.loads((folder / "replay.json").read_text(encoding="utf-8"))
    return [(Path(row["path"]), row["caption"], row["repeats"], True) for row in rows]
