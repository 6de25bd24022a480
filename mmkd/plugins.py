"""The host: the plugins of this process, their components and their hooks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from mmkd.discovery import Importer, Plugin, discover, load, manager
from mmkd.errors import MmkdError, PluginError
from mmkd.registry import Catalogue


class Host:
    """The plugins of this process: their components (`catalogue`) and hooks."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self.catalogue = _catalogue(plugins)
        self._manager = manager()
        for plugin in plugins:
            if plugin.module is not None and not plugin.error:
                self._manager.register(plugin.module, name=plugin.title)

    def implementations(self, hook: str) -> Iterator[tuple[str, Callable[..., None]]]:
        """Each plugin's own implementation of a hook, with the plugin's id; its exceptions name the plugin."""
        for found in getattr(self._manager.hook, hook).get_hookimpls():
            yield found.plugin_name.partition(" ")[0], functools.partial(_call, hook, found)

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


def _call(hook: str, implementation: Any, **arguments: Any) -> None:
    name = implementation.plugin_name
    try:
        implementation.function(**{argument: arguments[argument] for argument in implementation.argnames})
    except MmkdError as error:
        raise error.at(f"plugin {name}") from error.__cause__
    except Exception as error:
        raise PluginError(
            f"hook {hook} raised {type(error).__name__}: {error}",
            where=f"plugin {name}",
            next=f"MMKD_DISABLE_PLUGINS={name.partition(' ')[0]} runs without it",
        ) from error


@functools.cache
def host() -> Host:
    """The host of this process; plugins are discovered on the first call."""
    return Host(discover())


def _catalogue(plugins: list[Plugin]) -> Catalogue:
    healthy = {plugin.id for plugin in plugins if not plugin.error}
    broken = {plugin.id: plugin.error for plugin in plugins if plugin.error and plugin.id not in healthy}
    return Catalogue((entry for plugin in plugins for entry in plugin.entries), broken)
