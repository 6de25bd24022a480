"""The command line, from outside."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmkd.cli import main

HEAVY = ("torch", "torchvision", "timm", "open_clip", "transformers", "numpy", "sklearn")

MINE = '''
import mmkd

class MyLoss:
    """Mine alone."""

@mmkd.hookimpl
def mmkd_register(registry):
    registry.loss("{name}", "{module}:MyLoss")
'''


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins"], ["list"], ["list", "loss", "--json"]])
def test_the_catalogue_imports_nothing_heavy(site: Any, arguments: list[str]) -> None:
    code = f"""
import sys
from mmkd.cli import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert not heavy, heavy
"""
    done = site.install("healthy").python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_json_is_alone_on_stdout(site: Any) -> None:
    site.install("prints")
    assert "prints.gap" in [row["id"] for row in site.json("list")]
    assert "prints" in [plugin["id"] for plugin in site.json("plugins")]


def test_list_by_kind_and_paper(site: Any) -> None:
    site.install("healthy")
    assert {row["kind"] for row in site.json("list", "metric")} == {"metric"}
    (row,) = site.json("list", "--paper", "gap PAPER")
    assert (row["kind"], row["id"], row["paper"]) == ("loss", "healthy.gap", "Gap Paper")
    done = site.mmkd("list", "mixer", "--paper", "gap paper")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to list" in done.stderr


@pytest.mark.parametrize(("asked", "meant"), [("nd2", "ND"), ("understanding", "Understanding-KD"), ("wcrod", "WCoRD")])
def test_a_paper_is_called_by_its_whole_name(asked: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("list", "--paper", asked) == 1
    said = capsys.readouterr().err
    assert f"no component is of a paper '{asked}'; did you mean '{meant}'?" in said
    assert "next: mmkd list --papers" in said


def test_papers_are_listed_with_what_is_a_formula_and_what_a_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("list", "--papers", "--json") == 0
    papers = {row["paper"]: row["components"] for row in json.loads(capsys.readouterr().out)}
    assert {"kind": "loss", "id": "core.nd", "counts_as": "distinct formula"} in papers["ND"]
    assert {"kind": "recipe", "id": "core.dml", "counts_as": "preset"} in papers["DML"]
    assert {"kind": "projector", "id": "core.branch", "counts_as": None} in papers["OFA-KD"]
    assert list(papers) == sorted(papers, key=str.casefold)
    assert _main("list", "recipe", "--papers") == 0
    shown = capsys.readouterr().out
    assert "recipe core.dml" in shown and "core.nd," not in shown


def test_list_points_at_broken_plugins(site: Any) -> None:
    done = site.install("raises_at_import").mmkd("list")
    assert done.returncode == 0
    assert done.stderr == "mmkd: broken plugins: raises_at_import; mmkd plugins says why\n"


def test_show_tells_all(site: Any) -> None:
    (about,) = site.install("healthy").install("prints").json("show", "healthy.gap")
    assert about == {
        "id": "healthy.gap",
        "kind": "loss",
        "plugin": "healthy",
        "distribution": "mmkd-healthy",
        "version": "1.0",
        "paper": "Gap Paper",
        "counts_as": "distinct formula",
        "summary": "Absolute gap between student and teacher.",
        "url": "https://example.org/gap",
        "needs": [],
        "coupled": False,
        "min_batch": 1,
        "docstring": about["docstring"],
        "shapes": "student, teacher: `[B, D]`\nreturns: `[B]`",
        "ports": [
            {"name": "student", "type": "Any", "required": True},
            {"name": "teacher", "type": "Any", "required": True},
        ],
        "options": [{"name": "power", "type": "float", "required": False, "default": 1.0}],
    }
    assert about["docstring"].startswith("Absolute gap")


def test_show_prints_every_match(capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("show", "core.linear") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("projector core.linear (mmkd ")
    assert "\nschedule core.linear (mmkd " in shown
    assert "options:\n  bias  bool = True\n" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["lst"], 2, "Did you mean 'list'?"),
        (["list", "los"], 2, "no kind 'los'; did you mean 'loss'?"),
        (["list", "--jsn"], 2, "--json"),
        (["distill"], 2, "RECIPE"),
        (["distill", "run.yaml", "train.lr"], 2, "write key=value"),
        (["show", "core.kll"], 1, "error: no component 'core.kll'; did you mean 'core.kl'?"),
        (["show", "barlow.loss"], 1, "next: mmkd list"),
        (["list", "--plugin", "absent.py"], 1, "error: absent.py: is not a Python file"),
        (["distill", "absent.yaml"], 1, "error: absent.yaml"),
    ],
)
def test_errors_go_to_stderr_in_plain_words(site: Any, arguments: list[str], code: int, message: str) -> None:
    done = site.mmkd(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["evaluate", "absent"], ["explain", "absent.yaml"]])
def test_errors_of_runs(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert _main(*arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("mmkd: error: absent")


def _main(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def test_traceback_on_request(site: Any) -> None:
    site.install("raises_at_import")
    for arguments, environment in (
        (["show", "raises_at_import.thing", "--traceback"], {}),
        (["--traceback", "show", "raises_at_import.thing"], {}),
        (["show", "raises_at_import.thing"], {"MMKD_TRACEBACK": "1"}),
    ):
        done = site.mmkd(*arguments, **environment)
        assert done.returncode == 1
        assert "the moon is in the wrong phase" in done.stderr
        assert 'raises_at_import.py", line 1' in done.stderr  # where it really comes from


def test_plugins_add_commands(site: Any) -> None:
    site.install("commands").install("more_commands").install("failing_commands").install("odd_commands")
    done = site.mmkd("greet", "--name", "Ada")
    assert (done.returncode, done.stdout) == (0, "hello Ada\n")
    assert "command 'list' of plugin 'commands' is left out: the host has one of this name" in done.stderr
    assert "command 'contested' is left out: plugins 'commands' and 'more_commands' both offer it" in done.stderr
    assert "the commands of plugin 'failing_commands' are left out" in done.stderr
    assert "no commands today" in done.stderr
    assert "the commands of plugin 'odd_commands' are left out" in done.stderr
    assert site.mmkd("contested").returncode == 2
    assert "failing_commands.gap" in [row["id"] for row in site.json("list")]
    assert "Greet somebody." in site.mmkd("--help").stdout


def test_ctrl_c_says_one_line(site: Any) -> None:
    done = site.install("commands").mmkd("wait-for-it", MMKD_PLUGINS="commands")
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "mmkd: interrupted"
    assert "Traceback" not in done.stderr


def test_your_own_file_is_plugin_local(site: Any) -> None:
    (site.folder / "my-losses.py").write_text(MINE.format(name="squared", module="mine"))
    (site.folder / "mine.py").write_text(MINE.format(name="other", module="mine"))
    rows = site.json("list", "--plugin", "my-losses.py", "--plugin", "mine.py")
    own = {row["id"]: row for row in rows if row["plugin"] == "local"}
    assert own.keys() == {"local.squared", "local.other"}
    assert own["local.other"]["summary"] == "Mine alone."
    assert own["local.other"]["distribution"] == "mine.py"
    assert own["local.other"]["version"].startswith("sha256:")


def test_your_own_files_may_not_conflict(site: Any) -> None:
    for name in ("one", "two"):
        (site.folder / f"{name}.py").write_text(MINE.format(name="squared", module=name))
    done = site.mmkd("list", "--plugin", "one.py", "--plugin", "two.py")
    assert done.returncode == 1
    assert "local (two.py): loss 'local.squared' is also registered by one.py" in done.stderr


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("mine.py", "import mmkd\n1 / 0\n", "plugin local (mine.py): raises ZeroDivisionError: division by zero"),
        ("mine.py", "def broken(:\n", "plugin local (mine.py): has a syntax error"),
        ("mine.py", "", "implements no hook"),
        ("json.py", "", "another module is called 'json'"),
        ("my.file.py", "", "has a dot in it"),
    ],
)
def test_your_own_file_may_not_work(site: Any, tmp_path: Path, name: str, source: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(source)
    done = site.mmkd("list", "--plugin", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert "pip uninstall" not in done.stderr
    assert "Traceback" not in done.stderr


def test_piped_tables_keep_one_line_a_component(site: Any) -> None:
    done = site.install("healthy").mmkd("list", "loss")
    head, *rows = done.stdout.splitlines()
    assert head.split() == ["kind", "id", "summary"]
    assert all(row.startswith("loss  ") and row == row.rstrip() for row in rows)
    assert "\x1b" not in done.stdout
    assert len(rows) == len(site.json("list", "loss"))


def test_tables_fit_a_terminal_of_80_columns() -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    process = subprocess.Popen([sys.executable, "-m", "mmkd", "list"], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # how Linux says that the other side has closed
            break
        if not chunk:
            break
        shown += chunk
    os.close(master)
    assert process.wait() == 0
    lines = shown.decode().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("core.similarity_kl" in line for line in lines)


def test_a_closed_pipe_is_no_crash(site: Any) -> None:
    code = "import subprocess, sys; subprocess.run(f'{sys.executable} -m mmkd list | true', shell=True)"
    done = site.python("-c", code)
    assert done.stderr == ""


def test_schema_is_json(site: Any) -> None:
    done = site.mmkd("schema")
    assert done.returncode == 0
    assert "losses" in json.loads(done.stdout)["properties"]
