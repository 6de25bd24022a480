"""The bench without measuring: its protocol, its results as JSON, its table, card and picture."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from model_zoo.bench import __main__ as command, anchors, measure, picture, results, table
from model_zoo.bench.measure import Row, Spread
from model_zoo.bench.results import Entry

FACTS = {
    "torch": "2.14.1", "python": "3.11.7", "processor": "A processor", "cores": 2, "memory_gib": 24, "threads": 1,
    "load": 0.5, "device": "cpu",
}  # fmt: skip


def entries() -> list[Entry]:
    """Made up: one goal met, one missed, one row without a number, one with memory."""
    first = [
        Row("g", "step, 1 loss", Spread(70.0, 60.0, 80.0), 60.0, unit="us"),
        Row("g", "graph, 1 loss", Spread(50.0, 40.0, 60.0), 60.0, unit="us"),
        Row("g", "import mmkd", Spread(20.0, 19.0, 21.0), unit="ms"),
    ]
    other = [
        Row("g", "a|b", Spread(0.5, 0.4, 0.6), 1.0, 0.2, 0.1, {"mib": 3.0}),
        Row("g", "trl", note="No module named 'trl'"),
    ]
    return [
        Entry("peers", "cpu", "k", 2.0, FACTS, other),
        Entry("overhead", "cpu", "k", 1.0, FACTS, first),
        Entry("overhead", "cuda", "k", 1.0, {**FACTS, "device": "A card"}, first[1:2]),
    ]


@pytest.mark.parametrize("name", results.groups())
def test_groups_follow_the_protocol(name: str) -> None:
    group = results.groups()[name]
    module = importlib.import_module(f"model_zoo.bench.{name}")

    assert group.title == module.GROUP and group.about
    assert list(inspect.signature(module.rows).parameters) == ["short"]
    assert inspect.isgeneratorfunction(module.rows)
    assert set(group.devices) <= {"cpu", "cuda"} and "cpu" in group.devices


def test_every_group_named_in_the_order_and_the_anchors_is_there() -> None:
    known = set(results.groups())

    assert set(anchors.ANCHORS) | set(anchors.WHY) <= known
    assert set(results.ORDER) <= known


def test_a_row_is_met_only_if_every_goal_is() -> None:
    both = Row("g", "n", Spread(0.5, 0.4, 0.6), 1.0, 0.2, 0.1)

    assert both.met is False
    assert Row("g", "n", Spread(0.5, 0.4, 0.6), 1.0, 0.1, 0.1).met is True
    assert Row("g", "n", Spread(0.5, 0.4, 0.6)).met is None
    assert Row("g", "n", None, 1.0).met is None


def test_results_come_back_from_json(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    results.write(file, entries())
    found = results.read(file)

    assert found == results.ordered(entries())
    assert [(entry.group, entry.device) for entry in found] == [
        ("overhead", "cpu"), ("overhead", "cuda"), ("peers", "cpu"),
    ]  # fmt: skip
    assert results.read(tmp_path / "none.json") == []


def test_the_card_says_what_the_results_say() -> None:
    said = table.card(entries())

    assert "2 of 5" not in said and "2 of 4 rows with a goal meet it; 1 could not be measured" in said
    assert "| step, 1 loss | 70 us [60, 80] | 122 us torchdistill | ≤ 60 us |  |  | missed |" in said
    assert "| graph, 1 loss | 50 us [40, 60] | 122 us torchdistill | ≤ 60 us |  |  | met |" in said
    assert "| a\\|b | 0.500 [0.400, 0.600] |  | ≤ 1.000 | 0.200 | ≤ 0.100 | missed |" in said
    assert "- trl: No module named 'trl'" in said
    assert "Host work per step, A card" in said


def test_why_a_goal_is_missed_is_said_only_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {"overhead": {"step, 1 loss": "the guard", "graph, 1 loss": "nothing"}}
    monkeypatch.setattr(anchors, "WHY", reasons)
    said = table.card(entries())

    assert "- step, 1 loss: the guard" in said and "nothing" not in said


def test_the_shipped_card_is_made_from_the_shipped_results() -> None:
    if not results.FILE.exists():
        pytest.skip("no results are shipped")
    held = results.read(results.FILE)

    assert (results.HERE / "README.md").read_text(encoding="utf-8") == table.card(held)
    assert (results.HERE / "results.svg").read_bytes() == picture.drawn(held)


def test_the_picture_has_every_row_with_a_goal() -> None:
    drawn = picture.drawn(entries()).decode()

    assert drawn.count("step, 1 loss") == 1 and drawn.count("graph, 1 loss") == 2
    assert "import mmkd" not in drawn
    assert picture.BAD in drawn and picture.GOOD in drawn
    assert picture.across(0.5) < picture.across(1.0) < picture.across(3.0) <= picture.across(99.0)


def test_turns_alternate_and_keep_rounds_apart() -> None:
    order: list[str] = []
    spent = iter([1.0, 2.0, 4.0, 3.0, 10.0, 20.0, 40.0, 30.0])

    def clock(call: Any) -> tuple[float, float]:
        call()
        return next(spent), 1.0

    contestants = {name: lambda name=name: order.append(name) for name in "ab"}
    taken = measure.turns(contestants, 2, warmup=0, clock=clock)

    assert "".join(order) == "abbaabba"
    assert taken.seconds == {"a": [2.0, 20.0], "b": [3.0, 30.0]}
    assert taken.ratio("b", "a").median == pytest.approx(1.5)
    assert taken.extra("b", "a") == pytest.approx((5.5e6, 3.25e6, 7.75e6))


def test_a_spread_of_one_number_is_that_number() -> None:
    assert Spread.of([2.0]) == (2.0, 2.0, 2.0)


def test_a_failing_group_is_told_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(group: results.Group, device: str, short: bool) -> Any:
        yield dict(FACTS)
        if group.name == "growth":
            raise RuntimeError("no such file")
        yield Row(group.title, "r", Spread(0.5, 0.4, 0.6), 1.0)

    monkeypatch.setattr(command, "measured", measured)
    file = tmp_path / "r.json"
    order = ["--only", "overhead", "--only", "growth", "--device", "cpu", "--json", str(file)]

    assert command.main(order) == 1
    assert "no such file" in capsys.readouterr().out
    assert [entry["group"] for entry in json.loads(file.read_text())] == ["overhead"]
    assert command.main([*order, "--resume"]) == 1
    assert "[1/1]" in capsys.readouterr().out
