"""Discovery: one result, plugin or error, for every entry point of group `mmkd`."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pluggy

from mmkd import hookspecs
from mmkd.errors import PluginError
from mmkd.isolation import isolated
from mmkd.registry import NAME, Entry, Registry

Importer = Callable[[], Any]
GROUP = "mmkd"
OWNERS = {"core": "mmkd", "local": ""}
"""Ids that one distribution alone may use: `core` is the host's own library, `local` the user's own file."""


@dataclass(frozen=True)
class Plugin:
    """What discovery found at one entry point: components and hooks, or the reason why there are none."""

    id: str
    distribution: str
    version: str
    entries: tuple[Entry, ...] = ()
    hooks: Any = None
    error: PluginError | None = None
    disabled: bool = False
    seconds: float = 0.0

    @property
    def status(self) -> str:
        """`ok`, `error`, or `disabled` where an environment variable keeps it from being imported."""
        return "disabled" if self.disabled else "error" if self.error else "ok"

    @property
    def title(self) -> str:
        return f"{self.id} ({self.distribution})"


def discover() -> list[Plugin]:
    """A `Plugin` for each entry point, broken and disabled ones included, sorted by id.

    Raises:
        PluginError: `MMKD_PLUGINS` or `MMKD_DISABLE_PLUGINS` names a plugin that is not installed.
    """
    declared = sorted(_declared(), key=lambda item: (item[0].id, item[0].distribution))
    ids = [plugin.id for plugin, _ in declared]
    allowed = _names("MMKD_PLUGINS", ids)
    disabled = _names("MMKD_DISABLE_PLUGINS", ids) or set()
    plugins = []
    for plugin, importer in declared:
        owners = [other.distribution for other, _ in declared if other.id == plugin.id]
        owner = OWNERS.get(plugin.id)
        if plugin.error:
            plugins.append(plugin)
        elif (allowed is not None and plugin.id not in allowed) or plugin.id in disabled:
            variable = "MMKD_DISABLE_PLUGINS" if plugin.id in disabled else "MMKD_PLUGINS"
            off = _refused(plugin, f"is disabled by {variable}", next=f"unset {variable}")
            plugins.append(replace(off, disabled=True))
        elif owner is not None and plugin.distribution != owner:
            plugins.append(_refused(plugin, f"the plugin id '{plugin.id}' is reserved"))
        elif owner is None and len(owners) > 1:
            plugins.append(_refused(plugin, f"has the same id as another: {' and '.join(owners)} declare it"))
        else:
            plugins.append(load(plugin.id, plugin.distribution, plugin.version, importer))
    return plugins


def _refused(plugin: Plugin, what: str, next: str = "") -> Plugin:
    next = next or f"pip uninstall {plugin.distribution}"
    return replace(plugin, error=PluginError(what, where=f"plugin {plugin.title}", next=next))


def _declared() -> Iterator[tuple[Plugin, Importer]]:
    """What each entry point of group `mmkd` declares, with the function that imports it."""
    seen = set()
    for distribution in importlib.metadata.distributions():
        folder, _, version = getattr(getattr(distribution, "_path", None), "stem", "").partition("-")
        key = re.sub(r"[-_.]+", "-", folder or distribution.metadata["Name"]).lower()
        if key in seen:
            continue  # one further down the path, which pip and import ignore too
        seen.add(key)
        try:
            points = distribution.entry_points.select(group=GROUP)
        except Exception as error:
            if re.search(rf"^\[{GROUP}\]", distribution.read_text("entry_points.txt") or "", re.M):
                yield _refused(Plugin(key, folder, version), f"its entry_points.txt cannot be read: {error}"), _nothing
            continue
        for point in points:
            metadata: Any = distribution.metadata or {}  # pip may have removed METADATA and left the rest
            name = metadata.get("Name") or folder
            yield Plugin(point.name, name, metadata.get("Version") or version), functools.partial(_import, point)


def _import(point: importlib.metadata.EntryPoint) -> Any:
    if ":" in point.value:
        raise PluginError(f"the entry point must name a module, not '{point.value}'")
    return point.load()


def _nothing() -> None:
    return None


def _names(variable: str, ids: list[str]) -> set[str] | None:
    value = os.environ.get(variable)
    if value is None:
        return None
    names = {name.strip() for name in value.split(",") if name.strip()}
    for name in sorted(names - set(ids)):
        raise PluginError(f"no plugin '{name}' is installed", where=variable, name=name, exists=sorted(set(ids)))
    return names


def load(id: str, distribution: str, version: str, importer: Importer) -> Plugin:
    """Import a plugin and collect what it registers; whatever goes wrong becomes its error."""
    registry = Registry(id, distribution, version)
    began = time.perf_counter()
    try:
        if not NAME.match(id):
            raise PluginError(f"plugin id {id!r} must be lower-case letters, digits and underscores")
        with isolated():
            module = importer()
            _check_module(module, id, distribution)
            own = _manager()
            own.register(module, name=id)
            own.hook.mmkd_register(registry=registry)
    except KeyboardInterrupt:
        raise  # the user's own Ctrl-C, as far as anyone can tell
    except BaseException as error:  # a plugin may raise anything, SystemExit included
        explained = _explain(error, id, distribution)
        explained.__cause__ = error
        return Plugin(id, distribution, version, error=explained, seconds=time.perf_counter() - began)
    entries, seconds = tuple(registry.entries), time.perf_counter() - began
    return Plugin(id, distribution, version, entries, own.hook, seconds=seconds)


def _check_module(module: Any, id: str, distribution: str) -> None:
    wanted = getattr(module, "mmkd_api_version", hookspecs.API_VERSION)
    if wanted != hookspecs.API_VERSION:
        raise PluginError(
            f"is written for plugin API {wanted!r}; this host has {hookspecs.API_VERSION}",
            next=f"pip install --upgrade mmkd {distribution}",
        )
    probe, hooks = _manager(), _hooks()
    found = {name: probe.parse_hookimpl_opts(module, name) for name in dir(module)}
    for name, options in found.items():
        if options is None:
            if name in hooks:
                raise PluginError(f"'{name}' is not decorated", next=f"write @mmkd.hookimpl above {name}")
        elif (hook := options["specname"] or name) not in hooks:
            raise PluginError(f"implements '{hook}', which is no hook", name=hook, exists=hooks)
        elif options["wrapper"] or options["hookwrapper"]:
            raise PluginError(f"wraps the hook {hook}; hooks are only implemented here")
    if not any(found.values()):
        raise PluginError("implements no hook", exists=hooks, next="define mmkd_register and decorate it")


def _explain(error: BaseException, id: str, distribution: str) -> PluginError:
    where = f"plugin {id} ({distribution})"
    remove = f"pip uninstall {distribution}" if id != "local" else ""
    report = f"report it to the authors of {distribution}, or {remove}" if remove else ""
    match error:
        case PluginError():
            name = error.nearest or ""
            return PluginError(error.what, where=where, name=name, exists=error.exists, next=error.next or report)
        case ModuleNotFoundError(name=str(missing)):
            what = f"needs the module '{missing}', which is not installed"
            return PluginError(
                what, where=where, next=f"pip install {missing.partition('.')[0]}{remove and f', or {remove}'}"
            )
        case SyntaxError():
            return PluginError(f"has a syntax error: {error}", where=where, next=report)
        case SystemExit():
            return PluginError("calls sys.exit when imported", where=where, next=report)
        case pluggy.PluginValidationError():
            return PluginError(f"has a hook that does not fit: {str(error).splitlines()[-1]}", where=where, next=report)
    return PluginError(f"raises {type(error).__name__}: {error}", where=where, next=report)


def _manager() -> pluggy.PluginManager:
    empty = pluggy.PluginManager(GROUP)
    empty.add_hookspecs(hookspecs)
    return empty


def _hooks() -> list[str]:
    return sorted(name for name in vars(hookspecs) if name.startswith("mmkd_"))
