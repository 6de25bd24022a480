"""The page of methods and its bench: nothing is left out, nothing runs twice, every kind of arm trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor

from mmkd.plugins import host
from mmkd.registry import Entry
from model_zoo.methods import bench, registry, render, task as setting, teacher as teachers
from model_zoo.methods.arms import ARMS, BASE, GRID, NOT_PROVED, RATES, Arm, merged, recipe

LOSSES = [entry.id for entry in registry.formulas() if entry.kind == "loss"]
SHAPES = {
    "conv": {
        "hidden.1": (4, 16, 16), "hidden.2": (4, 8, 8), "hidden.3": (4, 4, 4), "tokens": (6, 4, 4), "embedding": (6,),
    },
    "vit": {
        **{f"attention.{i}": (3, 17, 17) for i in range(9)}, **{f"hidden.{i}": (17, 6) for i in (3, 6, 9)},
        "qkv": (17, 36), "embedding": (6,),
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> Any:
    return setting.views()


@pytest.fixture
def networks(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Teachers of random values instead of pretrained ones."""

    def tables(kind: str, folder: Path) -> dict[str, Tensor]:
        generator, count = torch.Generator().manual_seed(0), len(pictures)
        few = {name: torch.rand(16, *shape, generator=generator).half() for name, shape in SHAPES[kind].items()}
        return {name: value.repeat(count // 16, *[1] * (value.dim() - 1)) for name, value in few.items()}

    monkeypatch.setattr(teachers, "pictures", lambda folder: pictures)
    monkeypatch.setattr(teachers, "tables", tables)
    teachers.head.cache_clear()
    yield
    teachers.head.cache_clear()


# -- arms ---------------------------------------------------------------------------------------------------------


def test_every_loss_has_an_arm_or_a_reason() -> None:
    proved = {row.partition(" ")[2] for arm in ARMS.values() for row in arm.proves if row.startswith("loss ")}
    assert proved | set(NOT_PROVED) == set(LOSSES)
    assert not proved & set(NOT_PROVED)


def test_every_row_that_an_arm_fills_exists() -> None:
    known = {f"{entry.kind} {entry.id}" for entry in host().catalogue}
    assert {row for arm in ARMS.values() for row in arm.proves} <= known


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_changes_the_method_and_not_the_budget(name: str) -> None:
    made, base = recipe(name), BASE["train"]
    epochs = {"fitnets": 2}.get(name, 1)
    assert made["train"]["steps"] * epochs == base["steps"]
    assert any(term.startswith("label") for term in made["losses"])
    assert bench.grid(name) == (GRID if bench.methods(made) else RATES)


def test_a_component_takes_the_place_of_another() -> None:
    base = {"a": {"use": "core.kl", "temperature": 4.0}, "b": {"c": 1, "d": 2}}
    assert merged(base, {"a": {"use": "core.mse"}, "b": {"c": None}}) == {"a": {"use": "core.mse"}, "b": {"d": 2}}


# -- the task -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", setting.TASKS)
def test_only_labelled_pictures_show_their_label(task: str, pictures: Any) -> None:
    answers = torch.full((len(pictures),), 7)
    pool = setting.Pool(pictures, task, 1, answers)
    chosen, places = set(setting.labelled(task, 1)), setting.places(setting.POOL)
    for row, label, given in pool.samples:
        place = places[row // setting.REPLICAS]
        assert given == (place in chosen)
        assert label == (setting.labels(task)[place] if given else 7)
    assert 0.4 < sum(given for _, _, given in pool.samples) / len(pool) < 0.7
    alone = setting.Pool(pictures, task, 1, None)
    assert {row // setting.REPLICAS for row, _, given in alone.samples if given} == {places.index(p) for p in chosen}
    assert all(given for _, _, given in alone.samples)


def test_pool_validation_and_test_share_no_emoji() -> None:
    parts = [set(setting.places(folds)) for folds in (setting.POOL, setting.VALIDATION, setting.TEST)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1636


def test_a_seed_draws_other_labels_but_as_many() -> None:
    one, other = setting.labelled("category", 0), setting.labelled("category", 1)
    assert one == setting.labelled("category", 0) != other
    counts = [setting.labels("category")[place] for place in one]
    assert {counts.count(label) for label in range(8)} == {setting.TASKS["category"]}


# -- the bench ----------------------------------------------------------------------------------------------------


class Counted(bench.Bench):
    """A bench that counts instead of training; stops, as if killed, before run `stop`."""

    stop = 1000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder)
        self.runs: list[tuple[Any, ...]] = []

    def unit(self, name: str, task: str) -> float:
        return 2.0

    def run(
        self, name: str, task: str, seed: int, factor: float, unit: float, folds: tuple[int, ...]
    ) -> tuple[float, Tensor, float]:
        if len(self.runs) == self.stop:
            raise KeyboardInterrupt
        self.runs.append((task, seed, factor, folds))
        return {GRID[1]: 60.0}.get(factor, 50.0), torch.tensor([True, False, False, True]), 1.0


def test_a_stopped_bench_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, killed, after = Counted(tmp_path / "a"), Counted(tmp_path / "b"), Counted(tmp_path / "b")
    whole.arm("kd", (0, 1))
    killed.stop = 4
    with pytest.raises(KeyboardInterrupt):
        killed.arm("kd", (0, 1))
    after.arm("kd", (0, 1))
    assert killed.runs + after.runs == whole.runs
    assert (tmp_path / "a/kd.json").read_text() == (tmp_path / "b/kd.json").read_text()
    again = Counted(tmp_path / "a")
    again.arm("kd", (0, 1, 2))
    assert [run[1] for run in again.runs] == [2, 2]


def test_weights_are_chosen_on_the_validation_pictures_of_one_seed(tmp_path: Path) -> None:
    counted = Counted(tmp_path)
    counted.arm("kd", (0, 1))
    tuning = [run for run in counted.runs if run[3] == setting.VALIDATION]
    assert [run[1:3] for run in tuning] == [(0, factor) for factor in GRID] * 2
    assert {run[2:] for run in counted.runs if run not in tuning} == {(GRID[1], setting.TEST)}


def test_an_arm_whose_recipe_changes_runs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Counted(tmp_path).arm("kd", (0,))
    before, other = bench.key("kd"), bench.key("dkd")
    changed = merged(ARMS["kd"].patch, {"losses": {"method": {"temperature": 3.0}}})
    monkeypatch.setitem(ARMS, "kd", Arm(changed, ARMS["kd"].proves))
    assert bench.key("kd") != before and bench.key("dkd") == other
    anew = Counted(tmp_path)
    anew.arm("kd", (0,))
    assert len(anew.runs) == 2 * (len(GRID) + 1)
    assert json.loads((tmp_path / "kd.json").read_text())["key"] == bench.key("kd")


@pytest.mark.parametrize("name", ["labels", "kd", "ofd", "wcord_global", "e2kd", "wakd", "dot", "fitnets", "minilm"])
def test_every_kind_of_arm_trains(name: str, networks: None, tmp_path: Path) -> None:
    made = bench.Bench(tmp_path, tmp_path, steps=2)
    unit = made.unit(name, "category")
    assert unit > 0
    score, hits, _ = made.run(name, "category", 0, 1.0, unit, setting.VALIDATION)
    assert len(hits) == len(setting.places(setting.VALIDATION))
    assert score == pytest.approx(100 * hits.double().mean().item(), abs=0.01)


def test_a_unit_makes_method_and_label_equal(networks: None, tmp_path: Path) -> None:
    made = bench.Bench(tmp_path, tmp_path)
    unit = made.unit("rkd_distance", "category")
    assert made.recipe("rkd_distance", "category", 0, 8.0, unit)["losses"]["method"]["weight"] == 8 * unit
    assert made.recipe("labels", "category", 0, 2.0, 1.0)["train"]["lr"] == 2 * BASE["train"]["lr"]


# -- the page -----------------------------------------------------------------------------------------------------


def test_hits_survive_packing() -> None:
    hits = torch.tensor([False, False, True, False, True, True, False, True, False])
    assert render.unpacked(bench.packed(hits), 9).tolist() == hits.double().tolist()


def result(*accuracy: float) -> render.Result:
    count = 400
    rows = [[100.0 * (i < count * a / 100) for i in range(count)] for a in accuracy]
    return render.Result(accuracy, render.np.array(rows), 1.0, 1.0)


def test_a_gain_counts_where_pictures_and_seeds_agree() -> None:
    labels = result(40.0, 44.0, 42.0)
    better, worse = render.gain(result(50.0, 52.0, 51.0), labels), render.gain(result(30.0, 32.0, 31.0), labels)
    assert (better.verdict, worse.verdict) == (1, -1)
    assert better.mean == pytest.approx(9.0) and better.spread == pytest.approx(1.0)
    assert better.low < 9 < better.high
    assert str(worse).endswith("**−**")
    torn = render.gain(result(60.0, 43.0, 50.0), labels)
    assert torn.mean > 0 and torn.verdict == 0


def test_the_page_shows_misses_and_leaves_blanks() -> None:
    tasks = setting.TASKS
    found = {
        "labels": dict.fromkeys(tasks, result(40.0, 44.0, 42.0)),
        "kd": dict.fromkeys(tasks, result(50.0, 52.0, 51.0)),
        "uld": dict.fromkeys(tasks, result(30.0, 32.0, 31.0)),
    }
    page = render.page(found, {"conv": {task: [50.0, 60.0] for task in tasks}})
    losses = page.partition("## Losses")[2].partition("## Mixers")[0]
    rows = {line.split("|")[1].strip(): line for line in losses.splitlines() if line.startswith("| ")}
    assert "| +9.0 (1.0) **+** | +9.0 (1.0) **+** |" in rows["`core.kl`"]
    assert "| -11.0 (1.0) **−** | -11.0 (1.0) **−** |" in rows["`core.uld`"]
    assert rows["`core.dkd`"].endswith("| dkd |  |  |")
    assert "worse than no teacher (1): uld" in page and "55.0 (7.1)% at category" in page
    assert f"{len(registry.formulas())} distinct formulas" in page
    drawn = ElementTree.fromstring(render.plot(found))
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.index("kd") < texts.index("uld") and "labels" not in texts


def test_results_of_another_recipe_are_left_out(tmp_path: Path) -> None:
    Counted(tmp_path).arm("kd", bench.SEEDS)
    assert set(render.results(tmp_path)) == {"kd"}
    held = json.loads((tmp_path / "kd.json").read_text())
    (tmp_path / "kd.json").write_text(json.dumps({**held, "key": "another"}))
    assert not render.results(tmp_path)


def test_the_page_in_the_tree_lists_every_loss() -> None:
    page = (render.HERE / "README.md").read_text(encoding="utf-8")
    missing = [id for id in LOSSES if f"| `{id}` |" not in page]
    assert not missing, "run `make methods`"


def test_there_are_fifty_formulas_without_presets() -> None:
    assert len(registry.formulas()) >= 50
    assert not {entry.kind for entry in registry.formulas()} & {"recipe"}


def test_oracles_and_goldens_are_found_in_the_tests() -> None:
    entries = {entry.id: entry for entry in registry.formulas() if entry.kind == "loss"}
    assert registry.has_oracle(entries["core.dkd"]) and registry.goldens(entries["core.dkd"]) == ["dkd"]
    assert registry.goldens(entries["core.at"]) == ["at"]
    assert "T^2" in registry.formula(entries["core.kl"])
    stranger = Entry("loss", "none", "mmkd.library.losses.kl:NoSuchLoss", "core")
    assert not registry.has_oracle(stranger) and not registry.goldens(stranger)
