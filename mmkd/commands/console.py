"""What the commands have in common: their parameters, and how they speak."""

from __future__ import annotations

import json as json_format
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")]
Local = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A Python file of yours, as plugin 'local'. Repeatable."),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the id of a registered recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe: train.lr=1e-3.")
]


def load(files: Sequence[Path] | None) -> None:
    """Register the files that `--plugin` names."""
    if files:
        from mmkd.local import add

        for file in files:
            add(file)


def changes_of(given: Sequence[str] | None) -> list[str]:
    """Changes to a recipe, each checked to be one."""
    for text in given or ():
        if "=" not in text:
            raise typer.BadParameter(f"'{text}' is not a change to the recipe; write key=value, as in train.lr=1e-3")
    return list(given or ())


def leads() -> bool:
    """Whether this process speaks for those that torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


def print_json(data: Any) -> None:
    """Print data as JSON."""
    print(json_format.dumps(data, indent=2))


def say(text: str) -> None:
    """Say something on stderr."""
    typer.echo(f"mmkd: {text}", err=True)
