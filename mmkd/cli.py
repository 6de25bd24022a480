"""The command line: `mmkd list`, `mmkd show`, `mmkd distill` and the commands that plugins add."""

from __future__ import annotations

import contextlib
import json as json_format
import os
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

import mmkd
from mmkd.errors import MmkdError, nearest
from mmkd.plugin_commands import add_plugin_commands
from mmkd.plugins import host
from mmkd.registry import KINDS, Catalogue, Entry
from mmkd.report.description import as_text, describe, summary
from mmkd.report.scores import columns, rows
from mmkd.report.table import print_table

Json = Annotated[bool, typer.Option("--json", help="Print JSON, alone on stdout.")]
Local = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE.py", help="A Python file of yours, as plugin 'local'. Repeatable."),
]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, or the id of a registered recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the recipe: train.lr=1e-3.")
]


def plugins(json: Json = False) -> None:
    """List installed plugins, broken ones with the reason."""
    found = host().plugins
    if json:
        _print_json(
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
    _add(local)
    catalogue = host().catalogue
    entries = [e for e in (catalogue if paper is None else catalogue.of_paper(paper)) if kind in (None, e.kind)]
    if papers:
        _list_papers(catalogue, entries, json)
    elif json:
        _print_json([summary(entry) for entry in entries])
    elif entries:
        print_table(["kind", "id", "summary"], [[entry.kind, entry.id, entry.summary] for entry in entries])
    else:
        _say("nothing to list; mmkd plugins shows what is installed")
    if broken := [plugin.id for plugin in host().plugins if plugin.status == "error"]:
        _say(f"broken plugins: {', '.join(broken)}; mmkd plugins says why")


def show(
    id: Annotated[str, typer.Argument(metavar="ID", help="Id of a component: core.kl.")],
    local: Local = None,
    json: Json = False,
) -> None:
    """Show a component: what it is, its ports, options, shapes and paper."""
    _add(local)
    found = [describe(entry) for entry in host().catalogue.find(id)]
    if json:
        _print_json(found)
    else:
        print("\n\n\n".join(as_text(about) for about in found))


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
    changes = _overrides(overrides)
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.recipe import blaming

        with blaming(recipe):
            try:
                run = mmkd.load_recipe(recipe, changes)  # before torch is imported: a typo shows at once
            except MmkdError:
                if not _leads():
                    raise typer.Exit(1) from None
                raise
            results = mmkd.distill(
                run, output_dir=output_dir, resume=resume, baseline=baseline, preflight=preflight
            )
    if not _leads():
        return
    if json:
        _print_json(results)
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
    changes = _overrides(overrides)
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.diagnosis.sheet import print_sheet

        diagnosis = mmkd.doctor(recipe, overrides=changes, pictures=pictures)
    if json:
        _print_json(diagnosis.to_dict())
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
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        results = mmkd.evaluate(run)
    if json:
        _print_json(results)
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
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        names = values.split(",") if values else None
        folder = mmkd.export(
            run, format=form, output=output, node=node, values=names, normalize=normalize, force=force
        )
    print(folder)


def explain(
    recipe: RecipeName,
    overrides: Overrides = None,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.svg|png", help="Draw the graph into this file.")] = None,
    local: Local = None,
) -> None:
    """Say what a recipe runs, without training it."""
    changes = _overrides(overrides)
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.recipe import blaming
        from mmkd.report.explain import explain
        from mmkd.staging import Stages

        with blaming(recipe):
            stages = Stages(mmkd.load_recipe(recipe, changes))
            graphs = {stage.name: stages.build(stage) for stage in stages}
        texts = {name: explain(graph) for name, graph in graphs.items()}
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
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        path = mmkd.write_report(runs, output=output, samples=samples)
    print(path)


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
    given = _overrides(options)
    _add(local)
    with contextlib.redirect_stdout(sys.stderr):
        from mmkd.testing.plugin import examine_plugin, written
        from mmkd.testing.sheet import as_data, print_verdicts

        cases = {component: {"options": written(given)}} if component and given else None
        verdicts = list(examine_plugin(plugin, cases, component=component))
    if json:
        _print_json(as_data(verdicts))
    else:
        print_verdicts(verdicts)
    if any(verdict.failures for verdict in verdicts):
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from mmkd.recipe import json_schema

    _print_json(json_schema())


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
    for command in (plugins, list_, show, check, doctor, distill, evaluate, export, report, explain, schema):
        app.command(command.__name__.rstrip("_"))(command)
    add_plugin_commands(app, _say)
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
        _say(f"error: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except SystemExit as end:
        if end.code == 130:  # typer's own answer to Ctrl-C
            _say("interrupted")
        raise
    sys.exit(0)


def _list_papers(catalogue: Catalogue, entries: Sequence[Entry], json: bool) -> None:
    found = {name: [entry for entry in own if entry in entries] for name, own in catalogue.papers().items()}
    held = [(name, own) for name, own in found.items() if own]
    if json:
        facts = ("kind", "id", "counts_as")
        _print_json(
            [{"paper": name, "components": [{f: getattr(e, f) for f in facts} for e in own]} for name, own in held]
        )
    else:
        rows = [[name, ", ".join(f"{entry.kind} {entry.id}" for entry in own)] for name, own in held]
        print_table(["paper", "components"], rows)


def _add(files: Sequence[Path] | None) -> None:
    if files:
        from mmkd.local import add

        for file in files:
            add(file)


def _overrides(given: Sequence[str] | None) -> list[str]:
    for text in given or ():
        if "=" not in text:
            raise typer.BadParameter(f"'{text}' is not a change to the recipe; write key=value, as in train.lr=1e-3")
    return list(given or ())


def _leads() -> bool:
    """Whether this process speaks for those that torchrun has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK", "0") == "0"


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}" + ("" if number == 1 else "es" if kind.endswith("s") else "s")


def _print_scores(results: Mapping[str, Any]) -> None:
    if told := rows(found := columns(results)):
        print_table(["dataset", "metric", *found], told)


def _print_json(data: Any) -> None:
    print(json_format.dumps(data, indent=2))


def _say(text: str) -> None:
    typer.echo(f"mmkd: {text}", err=True)
