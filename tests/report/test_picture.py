from __future__ import annotations

import itertools
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from mmkd.errors import GraphError
from mmkd.graph.training_graph import TrainingGraph
from mmkd.report.canvas import SCALE
from mmkd.report.picture import draw

from .toys import CE, HINT, KD, adversarial, graph

SVG = "{http://www.w3.org/2000/svg}"
DETACHED = {"use": "core.mse", "student": "student.embedding", "teacher": "detach(student/blocks.0)"}


@pytest.fixture(scope="module")
def large() -> TrainingGraph:
    teachers = {"teacher": {}, "second": {}, "spare": {}}
    second = {**KD, "teacher": "second.logits", "weight": {"use": "core.linear", "start": 1.0, "end": 0.5}}
    nce = {"use": "core.info_nce", "student": "student.embedding", "teacher": "student.hidden.1"}
    losses = {"hint": HINT, "kd": KD, "kd_second": second, "ce": CE, "self": DETACHED, "nce": nce}
    return graph(losses, teacher=None, teachers=teachers)


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.parse(path).iter(f"{SVG}text")]


def test_svg_names_every_part(large: TrainingGraph, tmp_path: Path) -> None:
    found = texts(draw(large, tmp_path / "new" / "graph.svg"))
    names = [*large.roles, *large.bound, *(term.name for term in large.terms), "batch", "loss"]
    assert set(names) <= set(found)
    for fact in (
        "trained",
        "frozen",
        "not run",
        "train-only",
        "coupled",
        "[B, 16]",
        "/blocks.1",
        "x 1 -> 0.5",
        "B = 6",
    ):
        assert fact in found
    assert "756 parameters" in found


def test_svg_follows_the_graph(tmp_path: Path) -> None:
    plain = draw(graph({"kd": KD}), tmp_path / "plain.svg")
    assert "stroke-dasharray" not in plain.read_text()
    assert "pass stops early" not in texts(plain)
    assert "no loss reads it" in texts(plain)
    detached = draw(graph({"self": DETACHED, "hint": HINT}), tmp_path / "detached.svg")
    assert "stroke-dasharray" in detached.read_text()
    assert {"detached", "pass stops early"} <= set(texts(detached))
    critic = texts(draw(adversarial(), tmp_path / "critic.svg"))
    assert {"critic: 13 parameters", "critic ascends, 5 updates per step", "x 0 -> 1"} <= set(critic)


def sorted_rows() -> TrainingGraph:
    """The layout moves the longer row of each network up, beside its input."""
    feature = {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"}
    up = {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}
    return graph({"kd": KD, "feature": feature}, projectors={"up": up})


@pytest.mark.parametrize("which", ["large", "sorted_rows"])
def test_no_text_lies_on_another(large: TrainingGraph, tmp_path: Path, which: str) -> None:
    drawn = large if which == "large" else sorted_rows()
    boxes = []
    for element in ElementTree.parse(draw(drawn, tmp_path / "graph.svg")).iter(f"{SVG}text"):
        x, y, width, size = (float(element.get(key, 0)) for key in ("x", "y", "textLength", "font-size"))
        left = x - width if element.get("text-anchor") == "end" else x
        boxes.append((left, y - 0.8 * size, left + width, y + 0.2 * size, element.text))
    for a, b in itertools.combinations(boxes, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{a[4]!r} and {b[4]!r}"


def test_cards_lie_apart_and_inside(large: TrainingGraph, tmp_path: Path) -> None:
    root = ElementTree.parse(draw(large, tmp_path / "graph.svg")).getroot()
    cards = [r for r in root.iter(f"{SVG}rect") if r.get("rx") == "7"]
    places = [tuple(float(card.get(key, 0)) for key in ("x", "y", "width", "height")) for card in cards]
    assert len(places) == 1 + 4 + 1 + 6 + 1  # batch, networks, projector, losses, sum
    for x, y, w, h in places:
        assert x >= 0
        assert y >= 0
        assert x + w <= float(root.get("width", 0))
        assert y + h <= float(root.get("height", 0))
    for (x, y, w, h), (u, v, r, s) in itertools.combinations(places, 2):
        assert x + w <= u or u + r <= x or y + h <= v or v + s <= y


def test_png_is_the_same_picture(large: TrainingGraph, tmp_path: Path) -> None:
    root = ElementTree.parse(draw(large, tmp_path / "graph.svg")).getroot()
    with Image.open(draw(large, tmp_path / "graph.PNG")) as image:
        assert image.format == "PNG"
        assert image.size == tuple(SCALE * int(root.get(side, 0)) for side in ("width", "height"))
        colours = {colour for _, colour in image.getcolors(2**24) or []}
    assert {(44, 122, 75), (84, 112, 140), (191, 101, 22), (109, 74, 163)} <= colours


def test_equal_graphs_give_equal_files(tmp_path: Path) -> None:
    one, two = (draw(graph({"hint": HINT, "kd": KD}), tmp_path / f"{i}.svg").read_bytes() for i in range(2))
    assert one == two


@pytest.mark.parametrize("name", ["graph.pdf", "graph", "graph.sgv"])
def test_other_suffixes_are_refused(large: TrainingGraph, tmp_path: Path, name: str) -> None:
    with pytest.raises(GraphError, match=r"(?s)there is: \.svg, \.png.*graph\.svg"):
        draw(large, tmp_path / name)
    assert not list(tmp_path.iterdir())
