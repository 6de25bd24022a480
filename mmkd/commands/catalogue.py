"""What is installed: plugins, components, papers."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer

from mmkd.commands.console import Json, Local, changes_of, load, print_json, say
from mmkd.errors import nearest
from mmkd.plugins import host
from mmkd.registry import KINDS, Catalogue, Entry
from mmkd.report.description import as_text, describe, summary
from mmkd.report.table import print_table


def plugins(json: Json = False) -> None:
    """List installed plugins, broken ones with the reason."""
    found = host().plugins
    if json:
        print_json(
            [
                {
                    "id": plugin.id,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "status": plugin.status,
                    "error": str(plugin.error) if plugin.error else None,
                    "components": {kind: [e.id for e in plugin.entries if e.kind == kind] for kind in KINDS},
                    "seconds": round(plugin.seconds, 4),
                }
                for plugin in found
            ]
        )
        return
    rows = []
    for plugin in found:
        counts = Counter(entry.kind for entry in plugin.entries)
        held = ", ".join(_count(counts[kind], kind) for kind in KINDS if counts[kind])
        slow = f" (import took {plugin.seconds:.1f} s)" if plugin.seconds > 0.5 else ""
        rows.append([plugin.id, f"{plugin.distribution} {plugin.version}".strip(), plugin.status, held + slow])
    print_table(["plugin", "distribution", "status", "components"], rows)
    for plugin in found:
        if plugin.error and not plugin.disabled:
            print(f"\n{plugin.error}")


def list_(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.")] = None,
    paper: Annotated[str | None, typer.Option(metavar="NAME", help="Only components of the paper so called.")] = None,
    papers: Annotated[bool, typer.Option("--papers", help="List papers, each with its components.")] = False,
    local: Local = None,
    json: Json = False,
) -> None:
    """List components, or the papers that they are of."""
    if kind is not None and kind not in KINDS:
        guess = nearest(kind, KINDS)
        hint = f"; did you mean '{guess}'?" if guess else f"; there is: {', '.join(KINDS)}"
        raise typer.BadParameter(f"no kind '{kind}'{hint}")
    load(local)
    catalogue = host().catalogue
    entries = [e for e in (catalogue if paper is None else catalogue.of_paper(paper)) if kind in (None, e.kind)]
    if papers:
        _list_papers(catalogue, entries, json)
    elif json:
        print_json([summary(entry) for entry in entries])
    elif entries:
        print_table(["kind", "id", "summary"], [[entry.kind, entry.id, entry.summary] for entry in entries])
    else:
        say("nothing to list; mmkd plugins shows what is installed")
    if broken := [plugin.id for plugin in host().plugins if plugin.status == "error"]:
        say(f"broken plugins: {', '.join(broken)}; mmkd plugins says why")


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of a component: core.kl.")],
    local: Local = None,
    json: Json = False,
) -> None:
    """Show a component: what it is, its ports, options, shapes and paper."""
    load(local)
    found = [describe(entry) for entry in host().catalogue.find(id)]
    if json:
        print_json(found)
    else:
        print("\n\n\n".join(as_text(about) for about in found))


def check(
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN", help="Id of an installed plugin.")],
    component: Annotated[
        str | None, typer.Argument(metavar="COMPONENT", help="One component alone: kl, or loss.kl.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options of that component: model=resnet18.")
    ] = None,
    local: Local = None,
    json: Json = False,
) -> None:
    """Ask every component of a plugin what the contract promises. Exits 1 where something fails."""
    given = changes_of(options)
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.testing.plugin import examine_plugin, written
        from mmkd.testing.sheet import as_data, print_verdicts

        cases = {component: {"options": written(given)}} if component and given else None
        verdicts = list(examine_plugin(plugin, cases, component=component))
    if json:
        print_json(as_data(verdicts))
    else:
        print_verdicts(verdicts)
    if any(verdict.failures for verdict in verdicts):
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from mmkd.recipe import json_schema

    print_json(json_schema())


def _list_papers(catalogue: Catalogue, entries: Sequence[Entry], json: bool) -> None:
    found = {name: [entry for entry in own if entry in entries] for name, own in catalogue.papers().items()}
    held = [(name, own) for name, own in found.items() if own]
    if json:
        facts = ("kind", "id", "counts_as")
        print_json(
            [{"paper": name, "components": [{f: getattr(e, f) for f in facts} for e in own]} for name, own in held]
        )
    else:
        rows = [[name, ", ".join(f"{entry.kind} {entry.id}" for entry in own)] for name, own in held]
        print_table(["paper", "components"], rows)


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}" + ("" if number == 1 else "es" if kind.endswith("s") else "s")
