"""A whole plugin: what it declares, what importing it costs, and every component."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmkd import Curator, yaml
from mmkd.discovery import Plugin
from mmkd.errors import MmkdError, PluginError
from mmkd.plugins import host
from mmkd.registry import Entry
from mmkd.testing.entry import check_entry
from mmkd.testing.kinds import CHECKS, SAMPLED
from mmkd.testing.probe import ConformanceError, Failure, NotApplicable, Probes, ask, require
from mmkd.testing.samples import samples as any_samples
from mmkd.testing.specimen import Specimen

HEAVY = 100
"""Modules of one library that make it heavy: `mmkd list` imports every plugin, and waits for it."""

Cases = Mapping[str, Any]


@dataclass
class Verdict:
    """One component, or the plugin itself: the probes that ran, the failures, or why it was not built."""

    id: str
    kind: str
    ran: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unbuilt: str = ""

    @property
    def status(self) -> str:
        """`ok`, `failed`, or `not built` where nobody said how."""
        return "failed" if self.failures else "not built" if self.unbuilt else "ok"

    def take(self, check: Any, *args: Any, **said: Any) -> bool:
        """Run a check and note what it found; whether it passed."""
        try:
            self.ran += check(*args, **said)
        except ConformanceError as error:
            self.ran += error.ran
            self.failures += error.failures
            return False
        return True


PLUGIN = Probes()


@PLUGIN("mmkd plugins shows the reason", first=True)
def registers(plugin: Plugin) -> None:
    """A plugin that cannot be imported is listed as broken, and its components are not there."""
    if plugin.error:
        raise plugin.error
    require(plugin.entries, "registers nothing")


@PLUGIN("write a docstring at the top of the module that the entry point names")
def documented(plugin: Plugin) -> None:
    """Its first line is what the plugin is about."""
    for name in dict.fromkeys(_modules(plugin)):
        require((sys.modules[name].__doc__ or "").strip(), f"module '{name}' has no docstring")


@PLUGIN("register lazily, registry.loss('name', 'module:Class'), and import heavy libraries in that module")
def light(plugin: Plugin) -> None:
    """Every command of every user imports every plugin: `mmkd list` must not wait for a model library."""
    module = next(_modules(plugin), None)
    if module is None or plugin.id == "local":
        raise NotApplicable
    eager = any(not isinstance(entry.target, str) for entry in plugin.entries)  # needs torch for its classes
    code = f"""
import collections, importlib, json, sys
import mmkd
if {eager}: import mmkd.components
before = set(sys.modules)
importlib.import_module({module!r})
counts = collections.Counter(name.partition(".")[0] for name in set(sys.modules) - before)
print(json.dumps(counts))
"""
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    require(done.returncode == 0, f"cannot be imported alone: {done.stderr.strip()[-400:]}")
    counts = json.loads(done.stdout.splitlines()[-1])
    heavy = [f"{name} ({count} modules)" for name, count in sorted(counts.items()) if count > HEAVY]
    require(not heavy, f"importing it imports {', '.join(heavy)}")


def examine_plugin(
    id: str, cases: Cases | None = None, *, component: str | None = None, samples: Sequence[Any] | None = None
) -> Iterator[Verdict]:
    """Check a plugin, one component after the other.

    Args:
        id: id of an installed plugin.
        cases: by component (`loss.kl`, or `kl` where one kind alone has it): what its check takes, `{"options": ...}`.
            A case that is a list is checked once for each item; one that is text says why it cannot be checked.
        component: check this one alone.
        samples: raw samples for encoders and curators; those of the plugin's own dataset otherwise.

    Raises:
        PluginError: there is no such plugin or component, or a case names none.
    """
    plugin = _plugin(id)
    entries = list(plugin.entries)
    known = {f"{entry.kind}.{entry.name}" for entry in entries} | {entry.name for entry in entries}
    for name in [*(cases or {}), *([component] if component else [])]:
        if name not in known:
            raise PluginError(f"plugin '{id}' has no component '{name}'", name=name, exists=sorted(known))
    if component is None or plugin.error:
        verdict = Verdict(id, "plugin")
        verdict.take(ask, f"plugin {id}", plugin, PLUGIN)
        yield verdict
    if samples is None and any(entry.kind in SAMPLED for entry in entries):
        samples = _samples(entries, cases or {})
    for entry in sorted(entries, key=lambda e: (list(CHECKS).index(e.kind) if e.kind in CHECKS else 99, e.name)):
        if component in (None, entry.name, f"{entry.kind}.{entry.name}"):
            yield _component(entry, _case(entry, cases or {}), samples)


def check_plugin(id: str, cases: Cases | None = None, *, samples: Sequence[Any] | None = None) -> dict[str, list[str]]:
    """Check a plugin and all of its components; returns, by component, the names of the probes that ran.

    Args:
        id: id of an installed plugin.
        cases: by component (`loss.kl`): what its check takes, `{"options": {"model": "tiny"}}`. A case that is a list
            is checked once for each item; one that is text says why it cannot be checked here.
        samples: raw samples for encoders and curators; those of the plugin's own dataset otherwise.

    Raises:
        ConformanceError: probes failed, or a component could not be built and no case says why; it lists them all.
    """
    ran, failures = {}, []
    for verdict in examine_plugin(id, cases, samples=samples):
        ran[verdict.id] = verdict.ran
        failures += [Failure(f"{verdict.kind} {verdict.id}: {f.probe}", f.what, f.why, f.fix) for f in verdict.failures]
        if verdict.unbuilt and not isinstance(_case_of(id, verdict, cases or {}), str):
            failures.append(Failure(f"{verdict.kind} {verdict.id}: not built", verdict.unbuilt, UNBUILT, HOW))
    if failures:
        raise ConformanceError(f"plugin {id}", failures, [f"{i}: {name}" for i, names in ran.items() for name in names])
    return ran


def written(texts: Sequence[str]) -> dict[str, Any]:
    """Options from `key=value`, the values being YAML in flow style."""
    return {key.strip(): yaml.parse(value, text) for text in texts for key, _, value in [text.partition("=")]}


UNBUILT = "What is not built is not checked."
HOW = 'say how, {"<kind>.<name>": {"options": {...}}}, or why not, {"<kind>.<name>": "needs weights of 2 GB"}'


def _component(entry: Entry, case: Any, samples: Sequence[Any] | None) -> Verdict:
    verdict = Verdict(entry.id, entry.kind)
    if not verdict.take(check_entry, entry) and not verdict.ran[1:]:
        return verdict
    check = CHECKS.get(entry.kind)
    if check is None:
        return verdict
    if isinstance(case, str):
        verdict.unbuilt = case
        return verdict
    cls = entry.load()
    own = getattr(cls, "conformance", {})
    for said in ({**own, **each} for each in (case if isinstance(case, list) else [case or {}])):
        why = _unbuilt(Specimen(cls, said.get("options")), bool(said))
        if issubclass(cls, Curator) and cls.of_batches() and "graph" not in said:
            why = "changes batches, for which it needs a graph"
        if why:
            verdict.unbuilt = why
            continue
        given = {"samples": samples} if entry.kind in SAMPLED and samples else {}
        verdict.take(check, cls, **{**given, **said})
    return verdict


def _unbuilt(specimen: Specimen, told: bool) -> str:
    """Why a component cannot be made without being told how."""
    if specimen.lacking:
        return f"options without a default: {', '.join(specimen.lacking)}"
    if not told:
        try:
            specimen.fresh()
        except MmkdError as error:
            return str(error)
    return ""


def _plugin(id: str) -> Plugin:
    found = [plugin for plugin in host().plugins if plugin.id == id]
    if not found:
        exists = [plugin.id for plugin in host().plugins]
        raise PluginError(f"no plugin '{id}' is installed", name=id, exists=exists, next="mmkd plugins")
    return found[0]


def _case(entry: Entry, cases: Cases) -> Any:
    return cases.get(f"{entry.kind}.{entry.name}", cases.get(entry.name))


def _case_of(plugin: str, verdict: Verdict, cases: Cases) -> Any:
    name = verdict.id.removeprefix(f"{plugin}.")
    return cases.get(f"{verdict.kind}.{name}", cases.get(name))


def _modules(plugin: Plugin) -> Iterator[str]:
    """The module that the entry point names."""
    for implementation in plugin.hooks.mmkd_register.get_hookimpls() if plugin.hooks else ():
        yield implementation.plugin.__name__


def _samples(entries: Sequence[Entry], cases: Cases) -> list[dict[str, Any]]:
    """Four samples of the first dataset of the plugin that can be built, completed by what any sample has."""
    plain = any_samples()
    for entry in entries:
        case = _case(entry, cases)
        if entry.kind == "dataset" and not isinstance(case, str):
            said = (case[0] if isinstance(case, list) else case) or {}
            specimen = Specimen(entry.load(), said.get("options"))
            if not specimen.lacking:
                dataset = specimen.fresh()
                return [{**plain[i], **dataset[i % len(dataset)]} for i in range(len(plain))]
    return plain
