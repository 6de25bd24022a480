"""The HTML report: what it holds, that it is one harmless file, and what it says of broken runs."""

from __future__ import annotations

import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import mmkd
from mmkd.cli import main
from mmkd.errors import RecipeError, TrainingError
from mmkd.report.chart import Series, labels, line_chart, log_ticks, ticks
from mmkd.report.comparison import groups, spread
from mmkd.report.curves import smoothed
from mmkd.report.document import Sight, document
from mmkd.report.fidelity import calibrated
from mmkd.report.markup import Html, tag
from mmkd.report.observation import CKA, observe
from mmkd.report.record import Record, records
from report.runs import RECIPE, data, make, nodes, written
from report.toys import Tower

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Elements of a page, its headings, its text, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in ("img", "meta", "link", "br"):
            self._open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self._open.pop() == name

    def handle_data(self, text: str) -> None:
        self.words += text
        if self._open and self._open[-1] in ("h1", "h2", "h3"):
            self.headings.append(text)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == name]


@pytest.fixture(scope="module")
def run(tmp_path_factory: Any) -> Path:
    return make(tmp_path_factory.mktemp("runs") / "toys")


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return mmkd.write_report(run, nodes=nodes(), data=data()).read_text()


def test_a_run_has_every_section(text: str) -> None:
    sections = ["Scores", "Curves", "Retrieval", "Predictions", "Calibration", "Representations", "Graph", "Recipe"]
    assert Page(text).headings == ["toys", *sections, "Provenance"]


def test_the_file_needs_nothing_besides_itself(text: str) -> None:
    page = Page(text)
    assert len(text) < 3e6
    assert {attributes["src"][:16] for attributes in page.all("img")} == {"data:image/webp;"}
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert all((link["href"] or "").startswith("#") for link in page.all("a"))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    targets = {attributes.get("id") for _, attributes in page.elements}
    assert all((link["href"] or "")[1:] in targets for link in page.all("a"))


def test_every_number_that_is_logged_has_a_curve(text: str) -> None:
    for title in ("Loss, weighted sum", "kd", "hint", "ce", "Learning rate", "Gradient norm", "Samples per second"):
        assert f"<figcaption>{title}<" in text
    for title in ("losses.kd.weight", "losses.kd.temperature", "top.top_1_accuracy", "retrieval.recall_at_1"):
        assert f"<figcaption>{title}<" in text


def test_provenance_names_versions_plugins_machine_and_weights(text: str) -> None:
    said = Page(text).words.rpartition("Provenance")[2]
    for part in ("torch", "core (mmkd", "threads", "time, baseline", "seed", "sha256:"):
        assert part in said


def test_pictures_and_figures_say_what_they_show(text: str) -> None:
    page = Page(text)
    assert all(attributes.get("alt") for attributes in page.all("img"))
    pictures = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert all(a.get("role") == "img" for a in pictures)
    assert all(a.get("aria-label") for a in pictures if "chart" in (a.get("class") or ""))
    assert "student: " in re.findall(r"<desc>(.*?)</desc>", text)[0]


def test_the_baseline_stands_beside_the_student(text: str) -> None:
    for title in ("Confusion, teacher", "Confusion, student", "Confusion, baseline", "Agreement of student with"):
        assert title in text


def test_hostile_text_is_only_text(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>run"
    shutil.copytree(run, folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: toys", f"name: '{HOSTILE.replace(chr(39), chr(39) * 2)}'"))
    log = folder / "log.jsonl"
    log.write_text(log.read_text().replace('"kd_loss"', '"<script>alert(3)</script>_loss"'))
    (folder / "results.json").write_text(
        '{"student": {"scores": {"<script>": {"</style><script>": {"<b>": 0.5}}}}, "steps": 30}'
    )
    (folder / "provenance.json").write_text('{"</table><script>": "<script>", "plugins": [{"id": "<script>"}]}')
    page = Page(mmkd.write_report(folder, nodes=nodes(), data=data(HOSTILE)).read_text())
    assert len(page.all("script")) == 1
    assert not [attributes for _, attributes in page.elements if any(key.startswith("on") for key in attributes)]
    assert HOSTILE in page.words
    assert not page.all("i") and not page.all("b")


def test_logits_of_every_token_are_neither_kept_nor_confused(tmp_path: Path) -> None:
    class PerToken(Tower):
        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            values = super().forward(image)
            return {**values, "logits": values["logits"][:, None]}

    hint = {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"}
    own = {"teacher": PerToken(16), "student": PerToken(12)}
    graph = mmkd.build({**RECIPE, "losses": {"hint": hint}}, nodes=own, data=data())
    seen = observe(graph, evaluation({**RECIPE, "evaluate": RECIPE["evaluate"][1:]}), 11)
    assert (seen.size, seen.logits, seen.extent) == (11, {}, "the first 11 of 40")
    assert seen.rows.keys() == {"up", "teacher.embedding", "batch.label"}
    assert seen.rows["up"].shape == (11, 16)


def evaluation(recipe: dict[str, Any]) -> Any:
    from mmkd.datasets import evaluation

    return evaluation(mmkd.load_recipe(recipe), data())


def test_only_our_script_may_run(text: str) -> None:
    import base64
    import hashlib

    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for a in Page(text).all("meta") if a.get("http-equiv"))
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_markup_escapes_what_is_not_markup() -> None:
    made = tag("p", "<b>", [Html("<i></i>"), 1 < 2, None], title='"')
    assert made == '<p title="&quot;">&lt;b&gt;<i></i>True</p>'


# -- what is missing ------------------------------------------------------------------------------------------


def test_a_run_without_its_data_says_why_it_was_not_looked_at(run: Path, tmp_path: Path) -> None:
    page = Page(mmkd.write_report(run, nodes=nodes(), output=tmp_path / "page.html").read_text())
    assert "Retrieval" not in page.headings and "Curves" in page.headings
    assert "data.train" in page.words


def test_a_killed_run_shows_how_far_it_came(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    shutil.copytree(run, folder)
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "baseline")
    log = folder / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:15])[:-20])
    page = Page(mmkd.write_report(folder, samples=0).read_text())
    for said in ("results.json is missing", "1 of 15 lines cannot be read", "last logged step is 13", "not ended"):
        assert said in page.words
    assert "Scores" in page.headings  # of the evaluation at step 10


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no step"),
        ([{"step": 1, "loss": math.nan}, {"step": 2, "loss": math.inf}], "not finite"),
        (["[]", "{}", '{"step": "x"}', '{"step": 1e999}', "null", '{"step": 1, "loss": "a"}'], "5 of 6 lines"),
        ([{"step": 1, "scores": 3}, {"step": 2, "scores": {"a": {"b": {"c": "d", "e": True}}}}], "holds no step"),
    ],
)
def test_odd_logs_give_a_page(tmp_path: Path, lines: list[Any], said: str) -> None:
    folder = written(tmp_path / "run", lines, results="[1, 2", provenance={"versions": {"torch": [1]}})
    page = Page(mmkd.write_report(folder).read_text())
    assert said in page.words and "recipe.yaml is missing" in page.words and "results.json cannot be read" in page.words


@pytest.mark.parametrize(
    "results", [{"student": 3}, {"student": {"scores": [1]}}, {"student": {"scores": {"a": {"b": {"c": math.nan}}}}}]
)
def test_odd_results_give_a_page(tmp_path: Path, results: dict[str, Any]) -> None:
    folder = written(tmp_path / "run", [{"step": 1, "loss": 1.0}], results={**results, "steps": "many"})
    Page(mmkd.write_report(folder).read_text())


def test_a_recipe_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", [{"step": 1, "loss": 1.0}])
    (folder / "recipe.yaml").write_text("losses: [")
    page = Page(mmkd.write_report(folder).read_text())
    assert "recipe.yaml cannot be read" in page.words and "Recipe" in page.headings


def test_what_is_no_run_is_one_error(tmp_path: Path, capsys: Any) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(TrainingError, match="is not a run"):
            mmkd.write_report(place)
        with pytest.raises(SystemExit) as end:
            main(["report", str(place)])
        assert end.value.code == 1
        assert capsys.readouterr().err.startswith("mmkd: error: ")


def test_the_command_prints_where_the_page_is(run: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main(["report", str(run), "--output", str(tmp_path / "a" / "b.html"), "--samples", "0"])
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "b.html")


# -- several runs ---------------------------------------------------------------------------------------------


def test_runs_that_differ_by_seed_are_one_column(run: Path, tmp_path: Path) -> None:
    copies = {"toys": "seed: 0", "again": "seed: 1", "longer": "seed: 2"}
    for name, seed in copies.items():
        shutil.copytree(run, tmp_path / name)
        recipe = tmp_path / name / "recipe.yaml"
        changed = recipe.read_text().replace("seed: 0", seed)
        recipe.write_text(changed.replace("lr: 0.01", "lr: 0.02") if name == "longer" else changed)
    folders = [tmp_path / name for name in copies]
    found = [Record(folder) for folder in folders]
    assert [(title, len(members)) for title, members in groups(found)] == [("toys, seeds 0, 1", 2), ("longer", 1)]
    path = mmkd.write_report(folders, output=tmp_path / "all.html", samples=0)
    page = Page(path.read_text())
    assert page.headings[:4] == ["3 runs", "Scores", "Curves of the students", "Differences of the recipes"]
    compared = [cell for cell in re.findall(r"<code>([^<]*)</code>", path.read_text()) if "." in cell]
    assert compared == ["train.lr", "train.seed"]
    assert [details.get("id") for details in page.all("details")] == ["run0", "run1", "run2"]
    with pytest.raises(RecipeError, match="--output"):
        mmkd.write_report(folders)


def test_labels_tell_runs_apart(tmp_path: Path) -> None:
    folders = [written(tmp_path / side / "run", [{"step": 1, "loss": 1.0}]) for side in ("a", "b")]
    found = records(folders)
    assert [record.label for record in found] == ["a/run", "b/run"]
    Page(document([(record, Sight()) for record in found]))


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread([0.5]) == "0.5"
    assert spread([1.0, 2.0, 3.0]) == "2 ± 1 (3)"


# -- charts and numbers ---------------------------------------------------------------------------------------


def test_calibration_error_by_hand() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]]).log()
    bins, error = calibrated(logits, torch.tensor([0, 1, 1, 1]))
    assert sum(count for count, _, _ in bins) == 4
    assert error == pytest.approx(0.5 * abs(0.9 - 0.5) + 0.5 * abs(0.7 - 1.0))


def test_cka_agrees_with_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 5, generator=generator)
    y = torch.cat([x[:, :2], torch.randn(24, 3, generator=generator)], 1)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    seen = CKA(["x", "y"], ["x", "turned", "y"])
    seen.add({"x": x, "turned": 3 * x @ turn + 1, "y": y})
    value = seen.value()
    assert value[0, :2].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)  # a turned, scaled and shifted copy
    assert value[0, 2].item() == pytest.approx(_hsic(x, y) / math.sqrt(_hsic(x, x) * _hsic(y, y)), abs=1e-5)
    seen.add({"x": x[:3], "turned": x[:3], "y": y[:3]})
    assert seen.batches == 1


def _hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """The unbiased estimator as a sum over tuples of distinct samples, in its U-centred form."""
    n = len(x)
    centred = []
    for value in (x.double(), y.double()):
        k = value @ value.T
        k.fill_diagonal_(0)
        rows = k.sum(1, keepdim=True) / (n - 2)
        k = k - rows - rows.T + k.sum() / ((n - 1) * (n - 2))
        centred.append(k.fill_diagonal_(0))
    return float((centred[0] * centred[1]).sum() / (n * (n - 3)))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7), (0, 1e-6), (999, 1001), (0, 123456)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 8
    assert all(low - 1e-9 * abs(high) <= t <= high * (1 + 1e-9) for t in found)
    assert len(set(labels(found))) == len(found)


def test_log_ticks_are_inside() -> None:
    assert log_ticks(0.01, 100) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert all(1.5 <= t <= 40 for t in log_ticks(1.5, 40))


def test_gaps_stay_gaps() -> None:
    chart = line_chart("t", [Series("a", [1, 2, 3, 4, 5], [1.0, 2.0, math.nan, 3.0, 2.0])])
    assert chart.count("<path") == 2
    assert math.isnan(smoothed([1.0, math.nan, 3.0])[1])
    assert "nan" not in chart.lower()


def test_long_curves_keep_their_spikes() -> None:
    values = [1.0] * 20_000
    values[7_777] = 9.0
    chart = line_chart("t", [Series("a", range(20_000), values)])
    assert len(chart) < 20_000
    top = min(float(y) for y in re.findall(r"L[\d.]+ ([\d.]+)", chart))
    assert top < 25


def test_wide_ranges_get_a_logarithmic_scale(tmp_path: Path) -> None:
    rows = [{"step": step, "loss": 10.0 ** (3 - step / 10), "flat_loss": 1.0} for step in range(1, 60)]
    text = mmkd.write_report(written(tmp_path / "run", rows)).read_text()
    assert "<figcaption>Loss, weighted sum<small>log scale</small>" in text
    assert "<figcaption>flat<small>before its weight</small>" in text
