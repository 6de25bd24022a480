"""The rooms of the project: who may import whom, and what no file may be called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

LAYERS = (
    {
        "mmkd.errors", "mmkd.hookspecs", "mmkd.isolation", "mmkd.registry", "mmkd.discovery", "mmkd.plugins",
        "mmkd.components", "mmkd.procedure", "mmkd.rows", "mmkd.signature", "mmkd.yaml", "mmkd.merge",
        "mmkd.validation", "mmkd.spec", "mmkd.recipe", "mmkd.files",
    },
    {"mmkd.graph"},
    {"mmkd.engine", "mmkd.report"},
    {
        "mmkd", "mmkd.maker", "mmkd.datasets", "mmkd.compose", "mmkd.staging", "mmkd.run", "mmkd.caching",
        "mmkd.exported", "mmkd.formats", "mmkd.local", "mmkd.reporting", "mmkd.diagnosis",
    },
    {"mmkd.library", "mmkd.testing", "mmkd.cli", "mmkd.commands", "mmkd.__main__"},
)  # fmt: skip
"""From the contract to the outside; a module imports its own layer and those before it."""

PUBLIC = {"mmkd", "mmkd.errors", "mmkd.files", "mmkd.testing"}
"""What a plugin may import of the host."""

DOORS = {"plugins/vision_language/mmkd_vision_language/search.py": {"mmkd.datasets", "mmkd.report.table"}}
"""Files that need more than the public face offers: the evaluation datasets of a run, and a table."""

MODEL_LIBRARIES = re.compile(
    r"\b(timm|open_clip|transformers|torchvision|diffusers|sentence_transformers|peft|torchaudio|trimesh|soundfile)\b"
)


def _files(*folders: str) -> list[Path]:
    """Python files, tests and tools aside."""
    found = [file for folder in folders for file in sorted(ROOT.glob(f"{folder}/**/*.py"))]
    return [file for file in found if not {"tests", "tools", "build"} & set(file.relative_to(ROOT).parts)]


HOST = _files("mmkd")
PLUGINS = _files("plugins") + _files("mmkd/library")


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(file) for file in HOST}


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions included and those for the type checker only left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else str(node.module)


def _layer(module: str) -> int:
    parts = module.split(".")
    for depth in range(len(parts), 0, -1):
        for level, members in enumerate(LAYERS):
            if ".".join(parts[:depth]) in members and (depth > 1 or len(parts) == 1):
                return level
    raise AssertionError(f"{module} stands in no layer; give it one in {Path(__file__).name}")


@pytest.mark.parametrize("file", HOST, ids=_module)
def test_imports_run_one_way(file: Path) -> None:
    own = _layer(_module(file))
    wrong = [
        f"line {line}: {module}"
        for line, module in _imports(file)
        if module.partition(".")[0] == "mmkd" and _layer(module) > own
    ]
    assert not wrong


@pytest.mark.parametrize("file", HOST, ids=_module)
def test_the_host_imports_no_plugin(file: Path) -> None:
    assert not [module for _, module in _imports(file) if module.startswith("mmkd_")]
    if "library" not in file.parts:
        assert not [module for _, module in _imports(file) if module.startswith("mmkd.library")]


@pytest.mark.parametrize("file", [file for file in HOST if "library" not in file.parts], ids=_module)
def test_the_host_knows_no_model_library(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if MODEL_LIBRARIES.search(line)]


@pytest.mark.parametrize("file", PLUGINS, ids=lambda file: str(file.relative_to(ROOT)))
def test_plugins_have_no_private_door(file: Path) -> None:
    own = "mmkd.library" if "library" in file.parts else "no host module"
    used = {module for _, module in _imports(file) if module.partition(".")[0] == "mmkd"}
    private = {module for module in used - PUBLIC if not module.startswith(own)}
    assert private == DOORS.get(str(file.relative_to(ROOT)), set())


@pytest.mark.parametrize("file", [*HOST, *_files("plugins")], ids=lambda file: str(file.relative_to(ROOT)))
def test_house_rules(file: Path) -> None:
    assert file.stem not in ("utils", "util", "helpers", "misc", "common", "base", "manager")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert not [name for name in names if name.startswith("Base") or name.endswith(("Manager", "Base"))]
    assert ast.get_docstring(tree), "a file begins by saying what it holds"


def test_layers_name_what_exists() -> None:
    absent = {module for layer in LAYERS for module in layer} - MODULES - {"mmkd.testing"}
    assert not absent
