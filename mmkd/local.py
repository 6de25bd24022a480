"""The user's own file as plugin `local`: `mmkd distill recipe.yaml --plugin ./mine.py`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from mmkd.discovery import Plugin
from mmkd.errors import PluginError
from mmkd.plugins import host


def add(path: str | Path) -> Plugin:
    """Import a Python file and take in what it registers as `local.*`; its sha256 is the plugin's version.

    The file is imported under its own name with its folder at the end of the path, so that its classes can be
    sent to data-loading processes.

    Raises:
        PluginError: there is no such file, its name is taken, it raises, or two files register one name.
    """
    file = Path(path).resolve()
    if not file.is_file() or file.suffix != ".py":
        raise PluginError("is not a Python file", where=str(path), next="--plugin ./mine.py")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return host().add(lambda: _import(file), "local", file.name, f"sha256:{digest}")


def _import(file: Path) -> ModuleType:
    name = file.stem
    if "." in name:
        raise PluginError("the name of the file has a dot in it", next="rename the file")
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != file:
        raise PluginError(f"another module is called '{name}'", next="rename the file")
    return importlib.import_module(name)
