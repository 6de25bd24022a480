"""Discovery: whatever is installed, one result per entry point, and nothing goes down with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

BROKEN = {
    "missing_dependency": "needs the module 'surely_not_installed', which is not installed",
    "raises_at_import": "raises ValueError: the moon is in the wrong phase",
    "raises_in_hook": "raises KeyError: 'weights'",
    "syntax_error": "has a syntax error",
    "exits": "calls sys.exit when imported",
    "raises_base": "raises Stop: everything",
    "misspelt_hook": "implements 'mmkd_registr', which is no hook; did you mean 'mmkd_register'?",
    "undecorated_hook": "'mmkd_register' is not decorated",
    "no_hook": "implements no hook",
    "wrapper_hook": "wraps the hook mmkd_register",
    "wrong_argument": "has a hook that does not fit",
    "wrong_type": "loss 'wrong_type.thing' must be a subclass of mmkd.Loss, not the class dict",
    "wrong_kind": "no kind 'los'; there is: encoder, projector, mixer, loss",
    "twice": "loss 'twice.thing' is registered twice",
    "bad_name": "loss name 'My-Loss' must be lower-case",
    "missing_file": "points at 'nowhere_at_all:Thing', which does not exist",
    "missing_class": "points at 'healthy_parts:TypoLoss', but that file has no 'TypoLoss'",
    "missing_recipe": "points at 'missing_recipe:recipes/thing.yaml', which does not exist",
    "no_target": "is not of the form 'module:Class'",
    "wrong_api": "is written for plugin API 99; this host has 1",
    "gone": "needs the module 'gone', which is not installed",
    "attribute": "the entry point must name a module, not 'healthy:mmkd_register'",
    "nonsense": "raises",
    "Bad-Id": "plugin id 'Bad-Id' must be lower-case",
    "local": "the plugin id 'local' is reserved",
    "mmkd-unreadable": "its entry_points.txt cannot be read",
}


@pytest.fixture(scope="module")
def everything(shared_site: Any) -> Any:
    """All of them installed at once."""
    for source in BROKEN:
        if source in ("gone", "attribute", "nonsense", "Bad-Id", "local", "mmkd-unreadable"):
            continue
        shared_site.install(source)
    shared_site.install("gone", module=False)
    shared_site.install("healthy", id="attribute", distribution="mmkd-attribute", value="healthy:mmkd_register")
    shared_site.install("healthy", id="nonsense", distribution="mmkd-nonsense", value="not a module !")
    shared_site.install("healthy", id="Bad-Id", distribution="mmkd-bad-id")
    shared_site.install("healthy", id="local", distribution="mmkd-local")
    shared_site.install("healthy", distribution="mmkd-unreadable", entry_points="[mmkd]\nno equals sign\n")
    shared_site.install("healthy")
    shared_site.install("prints")
    shared_site.install("slow")
    shared_site.install("healthy", id="no_metadata", distribution="mmkd-no-metadata", metadata=False)
    shared_site.install("healthy", id="claimed", distribution="mmkd-claimed-a")
    shared_site.install("healthy", id="claimed", distribution="mmkd-claimed-b")
    shared_site.install("healthy", id="core", distribution="mmkd-impostor")
    return shared_site


@pytest.fixture(scope="module")
def found(everything: Any) -> dict[str, dict[str, Any]]:
    return {f"{plugin['id']} {plugin['distribution']}": plugin for plugin in everything.json("plugins")}


@pytest.mark.parametrize("id", BROKEN)
def test_broken_plugin_is_listed_with_its_reason(found: Any, id: str) -> None:
    (plugin,) = [plugin for plugin in found.values() if plugin["id"] == id]
    assert plugin["status"] == "error"
    assert BROKEN[id] in plugin["error"]
    assert plugin["distribution"] in plugin["error"]
    assert not any(plugin["components"].values())


def test_healthy_plugins_are_unaffected(found: Any) -> None:
    for name in ("healthy mmkd-healthy", "prints mmkd-prints", "slow mmkd-slow"):
        assert found[name]["status"] == "ok"
        assert found[name]["version"] == "1.0"
        assert found[name]["error"] is None
    assert found["healthy mmkd-healthy"]["components"]["loss"] == ["healthy.gap"]
    assert found["slow mmkd-slow"]["seconds"] > 0.5


def test_distribution_without_metadata_is_named_after_its_folder(found: Any) -> None:
    plugin = found["no_metadata mmkd_no_metadata"]
    assert (plugin["status"], plugin["version"]) == ("ok", "1.0")


def test_two_distributions_with_one_id_are_both_named(found: Any) -> None:
    for name in ("mmkd-claimed-a", "mmkd-claimed-b"):
        plugin = found[f"claimed {name}"]
        assert plugin["status"] == "error"
        assert "mmkd-claimed-a and mmkd-claimed-b" in plugin["error"]


def test_nobody_takes_the_id_of_the_host_s_library(found: Any) -> None:
    assert "reserved" in found["core mmkd-impostor"]["error"]
    assert found["core mmkd"]["status"] == "ok"


def test_people_see_the_reasons_too(everything: Any) -> None:
    done = everything.mmkd("plugins")
    assert done.returncode == 0
    for reason in BROKEN.values():
        assert reason in done.stdout
    assert "import took 0." in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_asking_for_a_component_of_a_broken_plugin_gives_its_error(everything: Any) -> None:
    code = """
import json, sys
from mmkd.errors import PluginError
from mmkd.plugins import host
said = {}
for id in json.loads(sys.argv[1]):
    name = f"{id}.thing"
    for ask in (lambda: host().catalogue.get("loss", name, where="losses.kd.use"), lambda: host().catalogue.find(name)):
        try:
            ask()
        except PluginError as error:
            said.setdefault(id, []).append(str(error))
print(json.dumps(said))
assert "torch" not in sys.modules
"""
    done = everything.python("-c", code, json.dumps(list(BROKEN)))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for id, reason in BROKEN.items():
        got, found = said[id]
        assert reason in got
        assert got.startswith("losses.kd.use: plugin ")
        assert reason in found


def test_show_of_a_broken_plugin_s_component(everything: Any) -> None:
    done = everything.mmkd("show", "missing_dependency.thing")
    assert done.returncode == 1
    assert "plugin missing_dependency (mmkd-missing_dependency): needs the module" in done.stderr
    assert "next: pip install surely_not_installed" in done.stderr


def test_components_of_healthy_plugins_are_listed(everything: Any) -> None:
    listed = {row["id"]: row for row in everything.json("list", "loss")}
    assert {"core.kl", "healthy.gap", "prints.gap", "no_metadata.gap"} <= listed.keys()
    assert not any(id.startswith(tuple(f"{broken}." for broken in BROKEN)) for id in listed)
    assert listed["healthy.gap"] == {
        "id": "healthy.gap",
        "kind": "loss",
        "plugin": "healthy",
        "distribution": "mmkd-healthy",
        "version": "1.0",
        "paper": "Gap Paper",
        "counts_as": "distinct formula",
        "summary": "Absolute gap between student and teacher.",
    }


def test_disabled_plugin_is_not_imported(site: Any, tmp_path: Any) -> None:
    site.install("marker").install("healthy")
    marker = tmp_path / "marker"
    for environment in ({"MMKD_DISABLE_PLUGINS": "marker"}, {"MMKD_PLUGINS": "core, healthy"}):
        found = {plugin["id"]: plugin for plugin in site.json("plugins", MARKER=str(marker), **environment)}
        assert found["marker"]["status"] == "disabled"
        assert found["healthy"]["status"] == "ok"
        assert not marker.exists()
        done = site.mmkd("show", "marker.gap", MARKER=str(marker), **environment)
        assert done.returncode == 1
        assert f"is disabled by {next(iter(environment))}" in done.stderr
    assert site.mmkd("plugins", MARKER=str(marker)).returncode == 0
    assert marker.exists()


@pytest.mark.parametrize("variable", ["MMKD_PLUGINS", "MMKD_DISABLE_PLUGINS"])
def test_unknown_names_in_the_environment_are_errors(site: Any, variable: str) -> None:
    done = site.install("healthy").mmkd("plugins", **{variable: "healty"})
    assert done.returncode == 1
    assert f"{variable}: no plugin 'healty' is installed; did you mean 'healthy'?" in done.stderr
    assert done.stdout == ""


def test_a_distribution_further_down_the_path_is_ignored(site: Any, tmp_path: Any) -> None:
    site.install("healthy")
    below = type(site)(tmp_path / "below").install("raises_at_import", id="healthy", distribution="MMKD.healthy")
    found = [p for p in site.json("plugins", PYTHONPATH=f"{site.folder}:{below.folder}") if p["id"] == "healthy"]
    assert [(p["distribution"], p["status"]) for p in found] == [("mmkd-healthy", "ok")]


def test_ctrl_c_while_plugins_are_imported(site: Any) -> None:
    done = site.install("interrupted").mmkd("plugins")
    assert done.returncode == 130
    assert done.stderr == "mmkd: interrupted\n"


def test_a_failing_hook_names_its_plugin(site: Any) -> None:
    code = """
import types, mmkd
from mmkd.plugins import Host
from mmkd.errors import PluginError
module = types.ModuleType("mine")
@mmkd.hookimpl
def mmkd_step_end(step):
    raise RuntimeError(f"step {step}")
module.mmkd_step_end = mmkd_step_end
host = Host([])
host.add(module, "mine", "mmkd-mine")
try:
    host.call("mmkd_step_end", graph=None, step=3, losses={})
except PluginError as error:
    print(error)
"""
    done = site.python("-c", code)
    assert "plugin mine (mmkd-mine): hook mmkd_step_end raised RuntimeError: step 3" in done.stdout, done.stderr
    assert "MMKD_DISABLE_PLUGINS=mine" in done.stdout
