"""Commands that plugins add to the command line; a plugin that fails at it loses its commands and nothing else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import typer
import typer.main

from mmkd.plugins import host

Offer = tuple[str, str, Any]
"""Plugin, the list of a `typer.Typer` that the command belongs into, and the command."""


def add_plugin_commands(app: typer.Typer, warn: Callable[[str], None]) -> None:
    """Call every plugin's `mmkd_cli` hook and add its commands, none of which may take a name that is taken."""
    built_in = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    offers: dict[str, list[Offer]] = {}
    for owner, hook in host().implementations("mmkd_cli"):
        plugin = owner.id
        try:
            with contextlib.redirect_stdout(sys.stderr):
                offered = _offered(plugin, hook)
        except (Exception, SystemExit) as error:
            warn(f"the commands of plugin '{plugin}' are left out: {error}")
            continue
        for name, offer in offered.items():
            offers.setdefault(name, []).append(offer)
    for name, competing in offers.items():
        owners = " and ".join(f"'{plugin}'" for plugin, _, _ in competing)
        if name in built_in:
            warn(f"command '{name}' of plugin {owners} is left out: the host has one of this name")
        elif len(competing) > 1:
            warn(f"command '{name}' is left out: plugins {owners} both offer it")
        else:
            plugin, kept, info = competing[0]
            info.rich_help_panel = f"Commands of plugin {plugin}"
            getattr(app, kept).append(info)


def _offered(plugin: str, hook: Callable[..., None]) -> dict[str, Offer]:
    """Commands and groups that the hook adds, by name; each is built once, so that a broken one shows here."""
    own = typer.Typer()
    hook(app=own)
    offered = {}
    for kept in ("registered_commands", "registered_groups"):
        for info in getattr(own, kept):
            alone = typer.Typer()
            getattr(alone, kept).append(info)
            for name in typer.main.get_group(alone).commands:
                offered[name] = (plugin, kept, info)
    return offered
