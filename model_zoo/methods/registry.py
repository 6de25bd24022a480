"""What is registered: formulas and presets, what they say of themselves, and what stands beside them in the tests."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mmkd.plugins import host
from mmkd.registry import Entry

ROOT = Path(__file__).parents[2]
PLUGINS = ("core", "vision", "language", "vision_language")
"""Those of this repository; strangers' have pages of their own."""
NO_FORMULA = r"core\.|batch|student|teacher|train\.|\[|\{"
"""How a piece of a recipe begins, or a shape."""


def entries(kind: str) -> list[Entry]:
    """Components of a kind, by id."""
    return host().catalogue.select(lambda entry: entry.kind == kind and entry.plugin in PLUGINS)


def formulas() -> list[Entry]:
    """Everything that is a formula or an algorithm of its own."""
    kinds = ("loss", "mixer", "schedule", "procedure", "metric")
    return [entry for kind in kinds for entry in entries(kind) if entry.counts_as == "distinct formula"]


def presets() -> list[Entry]:
    """Packaged recipes."""
    return entries("recipe")


def formula(entry: Entry) -> str:
    """What the docstring says the loss is, else its first formula; empty where it has none."""
    text = inspect.cleandoc(entry.load().__doc__ or "").partition("\n")[2].partition("Shape:")[0]
    updates = [line.strip() for line in text.splitlines() if line.startswith("    ") and "<-" in line]
    said = re.findall(r"\bloss\s+is\s+`([^`]+)`", text)
    for span in [*(["; ".join(updates)] if updates else []), *said, *re.findall(r"`([^`]+)`", text)]:
        found = " ".join(span.split())
        if re.search(r"[-+*/^(|]", found) and " " in found and not re.match(NO_FORMULA, found):
            return found
    return ""


def has_oracle(entry: Entry) -> bool:
    """Whether a test names its class beside an independent oracle in float64."""
    name = entry.target.partition(":")[2]
    return any(re.search(rf"\b{name}\b", text) for text in _oracle_tests())


@cache
def _oracle_tests() -> tuple[str, ...]:
    texts = [file.read_text(encoding="utf-8") for file in _tests()]
    return tuple(text for text in texts if re.search(r"import .*oracle", text))


def goldens(entry: Entry) -> list[str]:
    """Recorded values of authors' code that a test compares its class with."""
    name = entry.target.partition(":")[2]
    return sorted(golden for golden, classes in _golden_tests().items() if name in classes)


@cache
def _golden_tests() -> dict[str, set[str]]:
    """Golden to the names in the part of a test that reads it."""
    recorded = {file.stem for file in (ROOT / "tests/goldens").glob("*.json")}
    found: dict[str, set[str]] = {golden: set() for golden in recorded}
    for file in _tests():
        text = file.read_text(encoding="utf-8")
        if "goldens" not in text and "agrees(" not in text:
            continue
        tree = ast.parse(text)
        local = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for golden, part in _readers(tree, recorded):
            found[golden] |= _names(part, local)
    return found


def _readers(tree: ast.Module, recorded: set[str]) -> Iterator[tuple[str, ast.AST]]:
    """Where a golden is named: an entry of a dict, a tuple, a call that also names a class, or a function."""
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name in recorded:
            yield statement.name, statement
        for node in ast.walk(statement):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value in recorded:
                        yield str(key.value), value
            elif isinstance(node, ast.Tuple) and node.elts and isinstance(first := node.elts[0], ast.Constant):
                if first.value in recorded:
                    yield str(first.value), node
            elif isinstance(node, ast.Call) and node.args and isinstance(first := node.args[0], ast.Constant):
                whole = len(node.args) == 1 or isinstance(node.args[1], ast.Name)
                if first.value in recorded:
                    yield str(first.value), statement if whole else node


def _names(part: ast.AST, local: dict[str, ast.FunctionDef]) -> set[str]:
    """Names in a part, and in the functions of the file that it names."""
    names: set[str] = set()
    left = [part]
    while left:
        for node in ast.walk(left.pop()):
            if isinstance(node, ast.Name) and node.id not in names:
                names.add(node.id)
                left += [local[node.id]] if node.id in local else []
    return names


@cache
def _tests() -> tuple[Path, ...]:
    return tuple(sorted([*ROOT.glob("tests/library/**/*.py"), *ROOT.glob("plugins/*/tests/**/*.py")]))
