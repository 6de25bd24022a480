"""The ways of CLIP-KD: those that are on, and those that its recipe shows."""

from importlib.resources import files

import pytest
import torch
import yaml
from torch import nn

import mmkd

RECIPE = "vision_language.clip_kd"
TERMS = ["contrast", "image_feature", "text_feature", "image_to_text", "text_to_image", "relations"]


class Pair(mmkd.Encoder):
    """Two linear towers."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.towers = nn.ModuleDict({"image": nn.Linear(6, width), "text": nn.Linear(5, width)})

    def values(self):
        return ["image.embedding", "text.embedding"]

    def forward(self, image, text):
        return {"image.embedding": self.towers["image"](image), "text.embedding": self.towers["text"](text)}


def batch(step):
    draw = torch.Generator().manual_seed(step)
    image, text = torch.randn(12, 6, generator=draw), torch.randn(12, 5, generator=draw)
    hidden = image * (torch.rand(12, 6, generator=draw) > 0.75)
    return {"image": image, "text": text, "@masked": {"image": hidden, "text": text}}


def trained(changes=None, steps=3):
    document = {"recipe": RECIPE, **(changes or {}), "train": {"steps": steps, "lr": 0.01, "device": "cpu"}}
    torch.manual_seed(0)
    graph = mmkd.build(document, nodes={"teacher": Pair(8, 1), "student": Pair(4, 2)}, example=batch(0))
    optimizers = mmkd.optimizers(graph, mmkd.load_recipe(document).train)
    for step in range(steps):
        out = graph.step(batch(step), optimizers)
        assert out["finite"] and all(value.isfinite() for value in out.values())
    return graph


def shown():
    """What the recipe's comment says in YAML."""
    text = files("mmkd_vision_language").joinpath("recipes/clip_kd.yaml").read_text()
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    return yaml.safe_load("\n".join(lines))


def test_the_three_that_are_on_run_with_a_student_of_another_width():
    assert list(trained().losses) == TERMS


def test_the_three_that_are_shown_run_as_they_are_written():
    assert set(shown()["losses"]) == {"gradient", "augmented", "masked"}
    graph = trained(shown())
    assert list(graph.losses) == [*TERMS, "gradient", "augmented", "masked"]
    assert not torch.equal(*(g.nodes["student"].towers["image"].weight for g in (graph, trained())))


@pytest.mark.parametrize("term", TERMS[1:])
def test_a_term_that_is_on_is_learnt(term):
    ends = []
    for weight in ({}, {"losses": {term: {"weight": 0.0}}}):
        graph = trained(weight, steps=40).eval()
        with torch.no_grad():
            ends.append(graph(batch(99))[f"{term}_loss"].item())
    assert ends[0] < ends[1]


def test_the_learnt_scales_leave_with_training():
    graph = trained()
    scales = [name for name, _ in graph.named_parameters() if "log_scale" in name]
    assert len(scales) == 3 and {graph.owner(name) for name in scales} == {"auxiliary"}
    assert graph.exported == ("student",)
