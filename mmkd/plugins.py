"""The host: the plugins of this process, their components and their hooks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from mmkd.discovery import Importer, Plugin, discover, load
from mmkd.errors import MmkdError, PluginError
from mmkd.registry import Catalogue


class Host:
    """The plugins of this process: their components (`catalogue`) and hooks."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self.catalogue = _catalogue(plugins)

    def implementations(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., None]]]:
        """Each plugin's implementation of a hook, in the order of their ids; its exceptions name the plugin."""
        for plugin in self.plugins:
            if plugin.hooks is not None and not plugin.error:
                for found in getattr(plugin.hooks, hook).get_hookimpls():
                    yield plugin, functools.partial(_call, hook, plugin, found)

    def call(self, hook: str, **arguments: Any) -> None:
        """Call a hook on every plugin; an exception names the plugin it came from."""
        for _, implementation in self.implementations(hook):
            implementation(**arguments)

    def add(self, module: ModuleType | Importer, id: str, distribution: str, version: str = "") -> Plugin:
        """Take in a module, or a function that imports it, that the user names by hand; its errors are raised."""
        plugin = load(id, distribution, version, (lambda: module) if isinstance(module, ModuleType) else module)
        if plugin.error:
            raise plugin.error
        others = [p for p in self.plugins if (p.id, p.distribution) != (id, distribution)]
        names = {(e.kind, e.id): e.distribution for other in others for e in other.entries}
        for entry in plugin.entries:
            if other := names.get((entry.kind, entry.id)):
                raise PluginError(f"{entry.kind} '{entry.id}' is also registered by {other}", where=plugin.title)
        self.__init__([*others, plugin])  # type: ignore[misc]
        return plugin


def _call(hook: str, plugin: Plugin, implementation: Any, **arguments: Any) -> None:
    where = f"plugin {plugin.title}"
    try:
        implementation.function(**{argument: arguments[argument] for argument in implementation.argnames})
    except MmkdError as error:
        raise error.at(where) from error.__cause__
    except Exception as error:
        what, off = f"hook {hook} raised {type(error).__name__}: {error}", f"MMKD_DISABLE_PLUGINS={plugin.id}"
        raise PluginError(what, where=where, next=f"{off} runs without it" if plugin.id != "local" else "") from error


@functools.cache
def host() -> Host:
    """The host of this process; plugins are discovered on the first call."""
    return Host(discover())


def _catalogue(plugins: list[Plugin]) -> Catalogue:
    healthy = {plugin.id for plugin in plugins if not plugin.error}
    broken = {plugin.id: plugin.error for plugin in plugins if plugin.error and plugin.id not in healthy}
    return Catalogue((entry for plugin in plugins for entry in plugin.entries), broken)
