"""What folders of pipelines and adapters say, read as plain data before any library acts on it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from hopfield_replay.utilities.files import files_below

_CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")
_LARGEST = 1 << 24  # bytes of a configuration


def check_pipeline_folder(folder: Path) -> None:
    """Refuse a pipeline that would bring code of its own, whatever the installed diffusers makes of it.

    Versions of diffusers before 0.38 ran the ``.py`` files of a folder, those before 0.42.1 imported whatever module
    its ``model_index.json`` named.

    Args:
        folder: holds ``model_index.json``.

    Raises:
        ValueError: code files; a class or a component that is no name of diffusers or transformers; a configuration
            that asks for code (``auto_map``), or is no JSON object.
    """
    for file in files_below(folder):
        if file.suffix.lower() in _CODE:
            raise ValueError(f"{file} is code, which is never run: remove it if the pipeline works without it.")
    index = read_object(folder / "model_index.json")
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not kind.isidentifier():
        raise ValueError(f"{folder}/model_index.json names no class of diffusers (_class_name is {_short(kind)}).")
    for name, entry in index.items():
        if isinstance(entry, list) and not name.startswith("_"):
            _check_component(folder, name, entry)
    for file in files_below(folder):
        if file.name.endswith("config.json") and "auto_map" in read_object(file):
            raise ValueError(f"{file} asks for code of its own (auto_map), which is never run.")


def _check_component(folder: Path, name: str, entry: list[Any]) -> None:
    if name.isidentifier() and (entry == [None, None] or _is_known(entry)):
        return
    raise ValueError(
        f"{folder}/model_index.json takes {_short(name)} from {_short(entry)}, which is no class of diffusers or "
        "transformers; nothing else is imported."
    )


def _is_known(entry: list[Any]) -> bool:
    """Whether an entry is ``[library, class]`` of one of the two, or of a pipeline's own part of diffusers."""
    if len(entry) != 2 or not all(isinstance(part, str) and part.isidentifier() for part in entry):
        return False
    if entry[0] in ("diffusers", "transformers"):
        return True
    from diffusers import pipelines

    module = getattr(pipelines, entry[0], None)
    return isinstance(module, ModuleType) and module.__name__.startswith(pipelines.__name__)


def check_adapter(path: Path) -> None:
    """Refuse LoRA weights whose settings name modules to import.

    Args:
        path: a folder with adapter_config.json, or a .safetensors file of LoRA weights.

    Raises:
        ValueError: another kind of adapter, settings that name code, or no JSON object.
    """
    if path.is_dir():
        settings = read_object(path / "adapter_config.json")
        kind = settings.get("peft_type")
        if kind != "LORA":
            raise ValueError(f"{path} is an adapter of the kind {_short(kind)}; only LoRA can be merged into its base.")
        if not any((path / f"adapter_model.{suffix}").is_file() for suffix in ("safetensors", "bin")):
            raise ValueError(f"{path} has no adapter_model.safetensors.")
        _check_settings(settings, path)
    else:
        for text in _metadata(path).values():
            try:
                content = json.loads(text)
            except (ValueError, TypeError, RecursionError):  # plain words such as "pt"
                continue
            _check_settings(content, path)


def _metadata(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as .safetensors ({error}).") from error


def _check_settings(settings: Any, path: Path) -> None:
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            if "megatron_config" in str(name) and value is not None:
                raise ValueError(f"{path} names a module to import ({_short(name)}), which is never done.")


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: no such file, too large for a configuration, or no JSON object.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"{file.stat().st_size} bytes")
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON configuration that can be read ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, not a JSON object.")
    return content


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


__all__ = ["check_adapter", "check_pipeline_folder", "read_object"]
