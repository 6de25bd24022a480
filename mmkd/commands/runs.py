"""A recipe examined, explained and trained; a run evaluated, reported and exported."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import mmkd
from mmkd.commands.console import Json, Local, Overrides, RecipeName, changes_of, leads, load, print_json
from mmkd.errors import MmkdError
from mmkd.report.scores import columns, rows
from mmkd.report.table import print_table


def distill(
    recipe: RecipeName,
    overrides: Overrides = None,
    output_dir: Annotated[Path | None, typer.Option(help="Where the run goes; runs/<name> unless given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    baseline: Annotated[bool, typer.Option(help="Also train the recipe's baseline.")] = True,
    preflight: Annotated[bool, typer.Option(help="Examine the recipe first; errors stop the run.")] = True,
    local: Local = None,
    json: Json = False,
) -> None:
    """Train the students of a recipe, evaluate, export."""
    changes = changes_of(overrides)
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.recipe import blaming

        with blaming(recipe):
            try:
                run = mmkd.load_recipe(recipe, changes)  # before torch is imported: a typo shows at once
            except MmkdError:
                if not leads():
                    raise typer.Exit(1) from None
                raise
            results = mmkd.distill(run, output_dir=output_dir, resume=resume, baseline=baseline, preflight=preflight)
    if not leads():
        return
    if json:
        print_json(results)
    else:
        _print_scores(results)


def doctor(
    recipe: RecipeName,
    overrides: Overrides = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Draw what each image network really sees into this folder.")
    ] = None,
    local: Local = None,
    json: Json = False,
) -> None:
    """Examine a recipe on real samples before training: what is wrong, where, and what helps. Exits 1 on errors."""
    changes = changes_of(overrides)
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.diagnosis.sheet import print_sheet

        diagnosis = mmkd.doctor(recipe, overrides=changes, pictures=pictures)
    if json:
        print_json(diagnosis.to_dict())
    else:
        print_sheet(diagnosis, sys.stdout)
    if not diagnosis.ok:
        raise typer.Exit(1)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    local: Local = None,
    json: Json = False,
) -> None:
    """Compute the scores of a run's last checkpoint anew."""
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        results = mmkd.evaluate(run)
    if json:
        print_json(results)
    else:
        _print_scores(results)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run or of an exported model.")],
    form: Annotated[
        str,
        typer.Option("--format", help="mmkd, safetensors, torch, onnx, or a form of the network's own library."),
    ],
    output: Annotated[Path | None, typer.Option(help="Folder to make; RUN/export/FORMAT unless given.")] = None,
    node: Annotated[str | None, typer.Option(help="Which network, where there are several students.")] = None,
    values: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="What a program returns; embedding and logits by default.")
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Programs take images in [0, 1]; mean and deviation are inside.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
    local: Local = None,
) -> None:
    """Write a trained network in a form that others load without mmkd."""
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        names = values.split(",") if values else None
        folder = mmkd.export(run, format=form, output=output, node=node, values=names, normalize=normalize, force=force)
    print(folder)


def explain(
    recipe: RecipeName,
    overrides: Overrides = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.svg|png", help="Draw the graph into this file.")] = None,
    local: Local = None,
) -> None:
    """Say what a recipe runs, without training it."""
    changes = changes_of(overrides)
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.compose import example_of
        from mmkd.recipe import blaming
        from mmkd.report.explain import explain
        from mmkd.staging import Stages

        with blaming(recipe):
            stages = Stages(mmkd.load_recipe(recipe, changes))
            graphs = {stage.name: stages.build(stage) for stage in stages}
        texts = {
            stage.name: explain(graph, example_of(stage.recipe, graph))
            for stage, graph in zip(stages, graphs.values(), strict=True)
        }
        if picture is not None:
            from mmkd.report.picture import draw

            draw(graphs[stages.last.name], picture)
    print("\n\n\n".join(f"Stage {n}\n\n{text}" if len(texts) > 1 else text for n, text in texts.items()))


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folder of a run; several are compared.")],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The file; report.html in the run unless given.")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=0, help="Evaluation samples to run the models on; 0 leaves the models alone.")
    ] = 512,
    local: Local = None,
) -> None:
    """Write an HTML report of a run, or of several beside each other."""
    load(local)
    with contextlib.redirect_stdout(sys.stderr):
        path = mmkd.write_report(runs, output=output, samples=samples)
    print(path)


def _print_scores(results: Mapping[str, Any]) -> None:
    if told := rows(found := columns(results)):
        print_table(["dataset", "metric", *found], told)
