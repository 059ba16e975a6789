"""The house is in order: imports point downwards, public names say what they need, tests mirror the package."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import hopfield_replay

PACKAGE = Path(hopfield_replay.__file__).parent
TESTS = Path(__file__).parent

LAYERS = [  # a room may import only rooms of the lines above its own
    "__about__",
    "utilities",
    "functional",
    "denoisers encoders attention",
    "memory pipelines",
    "policies",
    "buffer",
    "tracker",
    "metrics guidance checkpoints figures",
    "theory analysis lightning avalanche",
    "cli",
]
LEVELS = {unit: level for level, line in enumerate(LAYERS) for unit in line.split()}
NAMESPACES = [
    "hopfield_replay",
    *(
        f"hopfield_replay.{n}"
        for n in (
            "functional",
            "denoisers",
            "metrics",
            "theory",
            "lightning",
            "avalanche",
            "policies",
            "guidance",
            "attention",
            "analysis",
            "buffer",
            "memory",
            "pipelines",
            "tracker",
            "figures",
        )
    ),
]


def unit_of(name):
    """The part of the package that a dotted name belongs to; None for the package itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


def imported_units(path):
    """The units that a file imports, wherever in the file it does so."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] == "hopfield_replay" and unit_of(name) in LEVELS:
                yield unit_of(name)


def module_name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("hopfield_replay", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def imported_modules(path, names):
    """The modules of the package that a file imports when it is loaded or later; a package stands for its own file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in names else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_imports_go_round_in_a_circle():
    names = {module_name(path): path for path in files()}
    graph = {name: set(imported_modules(path, names)) & set(names) - {name} for name, path in names.items()}
    while free := [name for name, imported in graph.items() if not imported & set(graph)]:
        for name in free:
            del graph[name]
    assert not graph, f"these import each other: {sorted(graph)}"


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def unit_of_file(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_unit_has_a_layer():
    assert {unit_of_file(path) for path in files()} == set(LEVELS)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = unit_of_file(path)
    upward = {unit for unit in imported_units(path) if unit != own and LEVELS[unit] >= LEVELS[own]}
    assert not upward, f"{own} must not import {sorted(upward)}"


def test_functional_needs_only_torch():
    allowed = {"torch", "hopfield_replay", "triton", "faiss", *__import__("sys").stdlib_module_names}
    for path in (PACKAGE / "functional").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] in allowed, path


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_public_docstrings_are_complete(namespace):
    """Each public name has an example that runs, and says what each of its parameters is."""
    if namespace.endswith("avalanche"):
        pytest.importorskip("avalanche")
    module, missing = import_module(namespace), []
    own = [name for name, found in vars(module).items() if getattr(found, "__module__", "") == namespace]
    for name in getattr(module, "__all__", None) or getattr(module, "_HOMES", None) or own:
        found = getattr(module, name)
        if name.startswith("_") or not (inspect.isclass(found) or inspect.isfunction(found)):
            continue
        text = inspect.getdoc(found)
        made_by_functions = inspect.isclass(found) and found.__name__.endswith(("Result", "Report"))
        if ">>> " not in text and not made_by_functions:
            missing.append(f"{name}: no example")
        missing += [
            f"{name}: {p}"
            for p in parameters(found)
            if not re.search(rf"^\s*([*\w]+, )*\*{{0,2}}{p}(, \w+)*: ", text, re.M)
        ]
    assert not missing, "\n".join(missing)


def parameters(found):
    if inspect.isclass(found) and getattr(found, "_is_protocol", False):
        return []
    if inspect.isclass(found) and "__init__" not in vars(found):
        return [n for n in getattr(found, "__dataclass_fields__", {}) if not n.startswith("_")]
    return [name for name in inspect.signature(found).parameters if name != "self"]


EXAMPLES = sorted((TESTS.parent / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_import_public_names_of_documented_rooms_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hopfield_replay":
            assert node.module in (*NAMESPACES, "hopfield_replay.encoders", "hopfield_replay.checkpoints"), node.module
            module = import_module(node.module)
            public = getattr(module, "__all__", None) or module._HOMES
            assert {alias.name for alias in node.names} <= set(public)


def test_the_tests_mirror_the_package():
    for folder in (path for path in TESTS.iterdir() if path.is_dir() and any(path.glob("test_*.py"))):
        assert (PACKAGE / folder.name).is_dir() or folder.name in ("examples", "foreign", "reliability"), folder
    tested = {path.stem.removeprefix("test_") for path in TESTS.rglob("test_*.py")} | {
        path.name for path in TESTS.iterdir() if path.is_dir()
    }
    for unit in set(LEVELS) - {"__about__"}:
        assert unit in tested, f"no tests/test_{unit}.py and no folder tests/{unit}"
