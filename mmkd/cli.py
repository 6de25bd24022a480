"""The command line: `mmkd list`, `mmkd show`, `mmkd distill` and the commands that plugins add."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

import mmkd
from mmkd.commands import cache, catalogue, runs
from mmkd.commands.added import add_plugin_commands
from mmkd.commands.console import say
from mmkd.errors import MmkdError

COMMANDS = (
    *(catalogue.plugins, catalogue.list_, catalogue.show, catalogue.check, runs.doctor, runs.distill, runs.evaluate),
    *(runs.export, runs.report, runs.explain, catalogue.schema),
)
"""In the order of `mmkd --help`."""


def _version(asked: bool) -> None:
    if asked:
        print(f"mmkd {mmkd.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error comes from (or MMKD_TRACEBACK=1).")
    ] = False,
) -> None:
    """Distil any multimodal teacher into any student with any method."""


def _app() -> typer.Typer:
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    for command in COMMANDS:
        app.command(command.__name__.rstrip("_"))(command)
    app.add_typer(cache.app, name="cache")
    add_plugin_commands(app, say)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exits 0, 1 on an error that says what to do, 2 on wrong usage, 130 on Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    trace = "--traceback" in given or os.environ.get("MMKD_TRACEBACK", "0") not in ("", "0")
    try:
        _app()(args=[argument for argument in given if argument != "--traceback"], prog_name="mmkd")
    except MmkdError as error:
        if trace:
            traceback.print_exc()
        say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except SystemExit as end:
        if end.code == 130:  # typer's own answer to Ctrl-C
            say("interrupted")
        raise
    sys.exit(0)
