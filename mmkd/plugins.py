"""Discovery: one result, plugin or error, for every entry point of group `mmkd`."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pluggy

from mmkd import hookspecs
from mmkd.errors import MmkdError, PluginError
from mmkd.registry import NAME, Catalogue, Entry, Registry

GROUP = "mmkd"


@dataclass(frozen=True)
class Plugin:
    """What discovery found at one entry point: components, or the reason why there are none."""

    id: str
    distribution: str
    version: str
    module: ModuleType | None = None
    entries: tuple[Entry, ...] = ()
    error: PluginError | None = None

    @property
    def status(self) -> str:
        return "error" if self.error else "ok"


class Host:
    """The plugins of this process: their components (`catalogue`) and hooks."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self.catalogue = _catalogue(plugins)
        self._manager = _manager()
        for plugin in plugins:
            if plugin.module is not None and not plugin.error:
                self._manager.register(plugin.module, name=plugin.id)

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook on every plugin; an exception names the plugin it came from."""
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            given = {name: arguments[name] for name in implementation.argnames}
            try:
                implementation.function(**given)
            except MmkdError:
                raise
            except Exception as error:
                raise PluginError(
                    f"hook {hook} raised {type(error).__name__}: {error}",
                    where=f"plugin '{implementation.plugin_name}'",
                    next=f"MMKD_DISABLE_PLUGINS={implementation.plugin_name} runs without it",
                ) from error

    def add(self, module: ModuleType, id: str, distribution: str, version: str = "") -> None:
        """Take in a module that the user names by hand (`--plugin ./mine.py`); its errors are raised."""
        plugin = _load(id, distribution, version, lambda: module)
        if plugin.error:
            raise plugin.error
        self.__init__([p for p in self.plugins if p.id != id] + [plugin])  # type: ignore[misc]


@functools.cache
def host() -> Host:
    """The host of this process; plugins are discovered on the first call."""
    return Host(discover())


def discover() -> list[Plugin]:
    """A `Plugin` for each entry point, broken ones included, sorted by id.

    Raises:
        PluginError: `MMKD_PLUGINS` or `MMKD_DISABLE_PLUGINS` names a plugin that is not installed.
    """
    found = sorted(_entry_points(), key=lambda item: (item[1].name, item[0]))
    ids = [point.name for _, point, _ in found]
    allowed = _names("MMKD_PLUGINS", ids)
    disabled = _names("MMKD_DISABLE_PLUGINS", ids) or set()
    plugins = []
    for distribution, point, version in found:
        if (allowed is not None and point.name not in allowed) or point.name in disabled:
            continue
        owners = sorted(name for name, other, _ in found if other.name == point.name)
        if len(owners) > 1:
            error = PluginError(
                f"two distributions declare plugin '{point.name}': {', '.join(owners)}",
                next=f"pip uninstall {' or '.join(owners)}",
            )
            plugins.append(Plugin(point.name, distribution, version, error=error))
        else:
            plugins.append(_load(point.name, distribution, version, point.load))
    return plugins


def _entry_points() -> Iterator[tuple[str, importlib.metadata.EntryPoint, str]]:
    """(distribution, entry point, version) of group `mmkd`; unreadable distributions are passed over."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        try:
            points = distribution.entry_points.select(group=GROUP)
            if not points:
                continue
            metadata = distribution.metadata
            name = (metadata["Name"] if metadata else None) or _folder_name(distribution)
            version = (metadata["Version"] if metadata else None) or ""
        except Exception:
            continue  # not readable as a distribution at all: it declares no plugin either
        key = name.lower().replace("_", "-")
        if key not in seen:
            seen.add(key)
            for point in points:
                yield name, point, version


def _folder_name(distribution: importlib.metadata.Distribution) -> str:
    path = getattr(distribution, "_path", None)
    return path.name.partition("-")[0] if path is not None else "unknown"


def _names(variable: str, ids: list[str]) -> set[str] | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    names = {name.strip() for name in value.split(",") if name.strip()}
    for name in sorted(names - set(ids)):
        raise PluginError(f"no plugin '{name}' is installed", where=variable, name=name, exists=sorted(set(ids)))
    return names


def _load(id: str, distribution: str, version: str, load: Any) -> Plugin:
    registry = Registry(id, distribution, version)
    module = None
    try:
        if not NAME.match(id):
            raise PluginError(f"plugin id {id!r} must be lower-case letters, digits and underscores")
        with contextlib.redirect_stdout(sys.stderr):
            module = load()
            if not isinstance(module, ModuleType):
                raise PluginError(f"the entry point must name a module, not {type(module).__name__}")
            wanted = getattr(module, "mmkd_api_version", hookspecs.API_VERSION)
            if wanted != hookspecs.API_VERSION:
                raise PluginError(
                    f"written for plugin API {wanted!r}; this host has {hookspecs.API_VERSION}",
                    next=f"pip install --upgrade mmkd {distribution}",
                )
            manager = _manager()
            manager.register(module, name=id)
            manager.check_pending()
            if not manager.get_hookcallers(module):
                raise PluginError("implements no hook", exists=_hooks(), next="decorate mmkd_register with @mmkd.hookimpl")
            manager.hook.mmkd_register(registry=registry)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        return Plugin(id, distribution, version, module, error=_explain(error, id, distribution))
    return Plugin(id, distribution, version, module, tuple(registry.entries))


def _explain(error: BaseException, id: str, distribution: str) -> PluginError:
    where = f"plugin '{id}' ({distribution})"
    match error:
        case PluginError():
            return PluginError(error.what, where=where, exists=error.exists, next=error.next)
        case ModuleNotFoundError(name=str(missing)):
            return PluginError(
                f"needs the module '{missing}', which is not installed", where=where,
                next=f"pip install --force-reinstall {distribution}, or pip uninstall {distribution}",
            )
        case SyntaxError():
            return PluginError(f"has a syntax error, {error}", where=where, next=f"report it to {distribution}")
        case SystemExit():
            return PluginError("calls sys.exit when imported", where=where, next=f"pip uninstall {distribution}")
        case pluggy.PluginValidationError():
            return PluginError(f"misspells a hook: {error}", where=where, exists=_hooks())
    text = f"raises {type(error).__name__}: {error}"
    return PluginError(text, where=where, next=f"report it to {distribution}, or pip uninstall {distribution}")


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    return manager


def _hooks() -> list[str]:
    return sorted(name for name in vars(hookspecs) if name.startswith("mmkd_"))


def _catalogue(plugins: list[Plugin]) -> Catalogue:
    broken = {plugin.id: plugin.error for plugin in plugins if plugin.error}
    return Catalogue((entry for plugin in plugins for entry in plugin.entries), broken)
