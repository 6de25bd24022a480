"""Caches of teachers' outputs: filled, listed, verified, removed."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import mmkd
from mmkd.commands.console import Json, Local, Overrides, RecipeName, changes_of, leads, load, print_json
from mmkd.report.table import print_table

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
SPANS = {"h": 3600, "d": 86400, "w": 7 * 86400}


class _RecipeFirst(TyperGroup):
    """`mmkd cache RECIPE` is `mmkd cache fill RECIPE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["fill", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RecipeFirst, no_args_is_help=True, subcommand_metavar="RECIPE [KEY=VALUE]... | COMMAND [ARGS]...",
    help="Keep the outputs of teachers on disk: those of a recipe, or manage what is kept.",
)  # fmt: skip


@app.command()
def fill(recipe: RecipeName, overrides: Overrides = None, local: Local = None, json: Json = False) -> None:
    """Run the networks of a recipe that have `cache: disk` over its data (`mmkd cache RECIPE` does)."""
    changes = changes_of(overrides)
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        found = mmkd.cache(recipe, overrides=changes)
    if not leads():
        return
    if json:
        print_json(found)
    else:
        rows = [
            [name, f"{one['rows']:,}", f"{one['written']:,}", _size(one["bytes"]), one["folder"]]
            for name, one in found.items()
        ]
        print_table(["network", "outputs", "written now", "size", "folder"], rows)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the caches, the last used first."""
    from mmkd.engine.cache import Store

    store = Store()
    entries = store.list()
    if json:
        print_json([_entry(entry) for entry in entries])
    elif not entries:
        print(f"there is no cache in {store.root}")
    else:
        rows = [
            [e.name, e.network, f"{e.done:,}/{e.rows:,}", _size(e.bytes), _ago(e.used), "in use" if e.locked else ""]
            for e in entries
        ]
        print_table(["cache", "network", "outputs", "size", "last used", ""], rows)
        print(f"{_size(sum(entry.bytes for entry in entries))} in {store.root}")


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="CACHE", help="The beginning of a name, or a folder; all by default.")
    ] = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="Drop damaged outputs, so that the next run computes them again.")
    ] = False,
) -> None:
    """Read every byte of caches and check it. Exits 1 where something is damaged."""
    from mmkd.engine.cache import Store

    store, bad = Store(), 0
    for name in names or [entry.name for entry in store.list()]:
        damages = store.verify(name, mend=mend)
        bad += len(damages)
        for damage in damages:
            print(f"{name}: {damage}")
        print(f"{name}: {f'{len(damages)} damages' if damages else 'whole'}{', dropped' * (mend and bool(damages))}")
    if bad and not mend:
        raise typer.Exit(1)


@app.command()
def gc(
    older_than: Annotated[
        str | None, typer.Option(metavar="30d", help="Also those not used for so long: 12h, 30d, 4w.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="50GB", help="Also the longest unused, until all others take no more.")
    ] = None,
    incomplete: Annotated[bool, typer.Option(help="Those that were not written to the end.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove caches that nobody has open: those that are incomplete, and those that the options name."""
    from mmkd.engine.cache import Store

    age = _number(older_than, SPANS, "--older-than", "30d")
    size = _number(keep, UNITS, "--keep", "50GB")
    removed = Store().gc(
        incomplete=incomplete, older_than=age, beyond=None if size is None else int(size), dry_run=dry_run
    )
    for entry, reason in removed:
        print(f"{entry.name}  {_size(entry.bytes)}  {reason}")
    verb = "would be removed" if dry_run else "removed"
    print(f"{len(removed)} caches, {_size(sum(entry.bytes for entry, _ in removed))} {verb}")


def _entry(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name, "folder": str(entry.folder), "network": entry.network, "done": entry.done,
        "rows": entry.rows, "bytes": entry.bytes, "created": entry.created, "used": entry.used,
        "locked": entry.locked,
    }  # fmt: skip


def _number(text: str | None, units: dict[str, int], option: str, example: str) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text.strip().lower())
    if not match or match[2] not in units:
        raise typer.BadParameter(
            f"'{text}' is none; write a number and one of {', '.join(units)}, as in {example}", param_hint=option
        )
    return float(match[1]) * units[match[2]]


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for span, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * span:
            return f"{seconds / span:.0f} {unit} ago"
    return "just now"
