"""The declared run: reading, merging, overriding, checking, baseline."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmkd import spec, yaml
from mmkd.errors import MmkdError, RecipeError
from mmkd.merge import merge
from mmkd.recipe import Recipe, json_schema, load_recipe
from mmkd.registry import Catalogue, Entry

MINIMAL: dict[str, Any] = {
    "student": {"use": "vision.timm", "model": "resnet18"},
    "losses": {"ce": {"use": "core.cross_entropy", "student": "student.logits"}},
}
FULL = """\
name: emoji
description: A small student of a large teacher.
teacher: {use: vision_language.open_clip, model: ViT-B-32, pretrained: null, cache: memory}
student:
  use: vision_language.dual_tower
  image: {use: vision.timm, model: mobilenetv4_conv_small}
  inputs: {image: batch.thermal}
projectors:
  up: {use: core.linear, input: student.image.embedding, like: teacher.image.embedding}
  twice: {use: core.linear, input: up, like: detach(teacher.image.embedding)}
  head: {use: core.linear, input: student.image.embedding, like: student.text.embedding}
losses:
  affinity:
    use: vision_language.affinity
    student: [student.image.embedding, student.text.embedding]
    teacher: [teacher.image.embedding, teacher.text.embedding]
    temperature: {use: core.cosine, start: 1.0, end: 0.1}
  feature: {use: core.mse, student: twice, teacher: teacher.image.embedding, weight: {use: core.cosine, start: 1.0}}
data:
  train: {use: vision_language.emoji, fold: 0}
  eval: {seen: {use: vision_language.emoji}, unseen: {use: vision_language.emoji, fold: 1}}
  curators: [{use: vision.crop, size: 0.9}]
train: {steps: 20_000, lr: 1e-3, betas: [0.9, 0.98], precision: bf16}
evaluate:
  - {use: vision_language.retrieval, image: student.image.embedding, text: student.text.embedding, every: 1000}
  - {use: core.agreement, student: up, teacher: teacher.image.embedding}
baseline:
  losses: {contrastive: {use: core.info_nce, student: student.image.embedding, teacher: student.text.embedding}}
  train: {epochs: 3}
export: [student, up, teacher]
"""


def full(**changes: Any) -> dict[str, Any]:
    data = yaml.parse(FULL, "full")
    assert isinstance(data, dict)
    return {**data, **changes}


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """Recipes of two fake plugins, `fake` with a chain of three and `loop` with a cycle."""
    package = tmp_path / "mmkd_recipes_of_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    files = {
        "ground": FULL,
        "middle": "recipe: fake.ground\nprojectors: {head: null}\ntrain: {lr: 0.01, epochs: 2}\n",
        "top": "recipe: fake.middle\nlosses: {feature: {use: core.cosine_distance, student: up}}\n",
        "one": "recipe: loop.two\n",
        "two": "recipe: loop.one\n",
    }
    for name, text in files.items():
        (package / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return Catalogue(
        [
            Entry("recipe", name, f"{package.name}:{name}.yaml", "loop" if name in ("one", "two") else "fake")
            for name in files
        ],
        {},
    )


def test_round_trip_through_dict_yaml_and_file(tmp_path: Path) -> None:
    recipe = load_recipe(full())
    assert load_recipe(recipe.to_dict()) == recipe
    path = tmp_path / "r.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == load_recipe(str(path)) == load_recipe(recipe) == recipe
    assert json.loads(json.dumps(recipe.to_dict())) == recipe.to_dict()


def test_minimal_recipe_has_defaults_and_round_trips_without_a_budget() -> None:
    recipe = load_recipe(MINIMAL)
    assert (recipe.train.steps, recipe.train.lr, recipe.data.batch_size) == (None, 1e-3, 64)
    assert "train" not in recipe.to_dict()
    assert load_recipe(recipe.to_dict()) == recipe
    assert recipe.teacher_nodes() == {}
    assert recipe.baseline_recipe() is None
    assert recipe.exported() == ["student"]


def test_defaults_are_written_out() -> None:
    assert load_recipe({**MINIMAL, "train": {"steps": 1}}).to_dict()["train"]["optimizer"] == "adamw"


def test_what_the_parts_say() -> None:
    recipe = load_recipe(full())
    assert recipe.teacher is not None
    assert recipe.student is not None
    assert recipe.teacher.cache == "memory"
    assert recipe.teacher.arguments == {"model": "ViT-B-32", "pretrained": None}
    assert recipe.student.inputs == {"image": "batch.thermal"}
    assert recipe.student.arguments["image"] == {"use": "vision.timm", "model": "mobilenetv4_conv_small"}
    assert recipe.projectors["up"].arguments == {"input": "student.image.embedding"}
    assert recipe.losses["affinity"].weight == 1.0
    assert isinstance(recipe.losses["feature"].weight, spec.Component)
    assert recipe.losses["feature"].weight.arguments == {"start": 1.0}
    assert list(recipe.data.eval_sets()) == ["seen", "unseen"]
    assert [evaluation.title for evaluation in recipe.evaluate] == ["retrieval", "agreement"]


def test_names_of_nodes() -> None:
    data = {**MINIMAL, "teachers": {"big": {"use": "a.b"}, "small": {}}, "students": {"x": {}}, "student": None}
    recipe = load_recipe(data)
    assert list(recipe.teacher_nodes()) == ["big", "small"]
    assert recipe.teacher_nodes()["small"].use is None
    assert list(recipe.student_nodes()) == recipe.exported() == ["x"]
    assert load_recipe(recipe.to_dict()) == recipe


def test_a_node_handed_in_survives_the_round_trip() -> None:
    recipe = load_recipe({**MINIMAL, "teacher": {}, "student": {}})
    assert list(recipe.teacher_nodes()) == ["teacher"]
    assert load_recipe(yaml.parse(recipe.to_yaml(), "written")) == recipe


def test_one_evaluation_set_is_called_eval() -> None:
    recipe = load_recipe({**MINIMAL, "data": {"eval": {"use": "a.b", "fold": 1}}})
    assert recipe.data.eval_sets()["eval"].arguments == {"fold": 1}


def test_tuples_and_paths_of_python_become_plain_data() -> None:
    losses = {"kd": {"use": "core.mse", "student": ("student.a", "student.b")}}
    recipe = load_recipe({**MINIMAL, "losses": losses, "data": {"train": {"use": "a.b", "path": Path("data/x")}}})
    assert recipe.losses["kd"].arguments == {"student": ["student.a", "student.b"]}
    assert recipe.data.train is not None
    assert recipe.data.train.arguments == {"path": "data/x"}


def test_a_recipe_is_frozen_and_loading_leaves_the_source_alone() -> None:
    data = {**MINIMAL, "train": {"steps": 1}}
    before = copy.deepcopy(data)
    recipe = load_recipe(data, ["train.lr=0.5", "losses.ce=null", "losses.other={use: a.b}"])
    assert data == before
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


# Merging


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": {"use": "p.x", "k": 1}}, {"a": {"k": 2}}, {"a": {"use": "p.x", "k": 2}}),
        ({"a": {"use": "p.x", "k": 1}}, {"a": {"use": "p.x", "l": 2}}, {"a": {"use": "p.x", "k": 1, "l": 2}}),
        ({"a": {"use": "p.x", "k": 1}}, {"a": {"use": "p.y"}}, {"a": {"use": "p.y"}}),
        ({"train": {"steps": 5, "lr": 1}}, {"train": {"epochs": 1}}, {"train": {"epochs": 1, "lr": 1}}),
        ({"teacher": {"use": "p.x"}}, {"teachers": {"a": {}}}, {"teachers": {"a": {}}}),
        ({"losses": {"a": {"teacher": "v"}}}, {"losses": {"a": {"teachers": []}}},
         {"losses": {"a": {"teacher": "v", "teachers": []}}}),
    ],
)  # fmt: skip
def test_merge(base: dict[str, Any], patch: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge(base, patch) == merged


def test_a_recipe_starts_from_registered_ones(registered: Catalogue) -> None:
    recipe = load_recipe({"recipe": "fake.top", "name": "mine", "train": {"seed": 7}}, catalogue=registered)
    assert (recipe.name, recipe.description) == ("mine", "A small student of a large teacher.")
    assert (recipe.train.epochs, recipe.train.steps, recipe.train.lr, recipe.train.seed) == (2, None, 0.01, 7)
    assert list(recipe.projectors) == ["up", "twice"]
    assert recipe.losses["feature"].arguments == {"student": "up"}
    assert recipe.losses["feature"].weight == 1.0
    assert "recipe" not in recipe.to_dict()
    assert load_recipe(recipe.to_dict()) == recipe


def test_a_registered_recipe_by_id(registered: Catalogue) -> None:
    recipe = load_recipe("fake.top", ["train.steps=3"], catalogue=registered)
    assert (recipe.name, recipe.train.steps, recipe.train.epochs) == ("emoji", 3, None)


def test_reading_a_recipe_imports_no_torch() -> None:
    code = f"import sys, mmkd.recipe as r; r.load_recipe({MINIMAL!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Overrides


@pytest.mark.parametrize(
    ("text", "place", "value"),
    [
        ("train.lr=1e-2", "train.lr", 1e-2),
        ("train.epochs=4", "train.epochs", 4),
        ("train.max_grad_norm=1.0", "train.max_grad_norm", 1.0),
        ("losses.feature.weight=0.5", "losses.feature.weight", 0.5),
        ("losses.feature.weight={use: core.linear, start: 0.0}", "losses.feature.weight.start", 0.0),
        ("losses.extra={use: core.mse, student: up}", "losses.extra.student", "up"),
        ("data.train.fold=2", "data.train.fold", 2),
        ("data.train.path=a=b", "data.train.path", "a=b"),
        ("evaluate.0.every=5", "evaluate.0.every", 5),
        ("student.image.model=resnet18", "student.image.model", "resnet18"),
        ("teacher.inputs.image=batch.big", "teacher.inputs.image", "batch.big"),
        ("baseline.train.lr=0.1", "baseline.train.lr", 0.1),
        ("export=[student]", "export.0", "student"),
    ],
)
def test_override(text: str, place: str, value: Any) -> None:
    data: Any = load_recipe(full(), [text]).to_dict()
    for part in place.split("."):
        data = data[int(part)] if isinstance(data, list) else data[part]
    assert data == value


def test_overrides_remove_and_apply_in_order() -> None:
    recipe = load_recipe(full(), ["losses.feature=null", "evaluate.1=null", "train.lr=1", "train.lr=2.0"])
    assert list(recipe.losses) == ["affinity"]
    assert [evaluation.title for evaluation in recipe.evaluate] == ["retrieval"]
    assert recipe.train.lr == 2.0


def test_an_override_may_begin_a_map() -> None:
    assert load_recipe(MINIMAL, ["train.steps=5"]).train.steps == 5


@pytest.mark.parametrize(
    ("text", "where", "nearest"),
    [
        ("train.lrr=1e-3", "override 'train.lrr=1e-3': train.lrr", "lr"),
        ("trian.lr=1e-3", "override 'trian.lr=1e-3': trian", "train"),
        ("losses.featur.weight=1", "override 'losses.featur.weight=1': losses.featur", "feature"),
        ("losses.featur=null", "override 'losses.featur=null': losses.featur", "feature"),
        ("data.trian.fold=1", "override 'data.trian.fold=1': data.trian", "train"),
        ("evaluate.7.every=1", "override 'evaluate.7.every=1': evaluate.7", None),
        ("train.lr.x=1", "override 'train.lr.x=1': train.lr.x", None),
        ("train.lr=fast", "override 'train.lr=fast': train.lr", None),
        ("train.lr=.nan", "override 'train.lr=.nan': train.lr", None),
        ("train.lr=[1", "override 'train.lr=[1':1", None),
        ("train.lr", "override 'train.lr'", None),
        ("train.lr=", "override 'train.lr='", None),
        (".lr=1", "override '.lr=1'", None),
        ("student=null", "override 'student=null': student", None),
        ("losses.feature.use=os:system", "override 'losses.feature.use=os:system': losses.feature.use", None),
        ("train.lr=!!python/name:os.system", "override 'train.lr=!!python/name:os.system':1", None),
    ],
)
def test_bad_override_is_named(text: str, where: str, nearest: str | None) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(full(), ["train.seed=1", text])
    assert (caught.value.where, caught.value.nearest) == (where, nearest)


def test_an_override_is_not_blamed_for_the_file() -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(full(losses={}), ["train.lr=0.1"])
    assert caught.value.where == "recipe: losses"


# Baseline


def test_baseline_is_the_same_run_without_teacher() -> None:
    recipe = load_recipe(full())
    baseline = recipe.baseline_recipe()
    assert baseline is not None
    assert baseline.teacher_nodes() == {}
    assert baseline.student == recipe.student
    assert list(baseline.losses) == ["contrastive"]
    assert list(baseline.projectors) == ["head"]
    assert (baseline.train.epochs, baseline.train.steps, baseline.train.lr) == (3, None, 1e-3)
    assert [evaluation.title for evaluation in baseline.evaluate] == ["retrieval"]
    assert baseline.export == ["student"]
    assert baseline.baseline is None
    assert baseline.data == recipe.data
    assert load_recipe(baseline.to_dict()) == baseline
    assert recipe == load_recipe(full())


def test_baseline_keeps_a_projector_that_its_loss_reads() -> None:
    baseline = load_recipe(full(baseline={"losses": {"x": {"use": "core.mse", "student": "twice"}}})).baseline_recipe()
    assert baseline is not None
    assert list(baseline.projectors) == ["up", "twice", "head"]


def test_baseline_without_named_teachers() -> None:
    teachers = {"big": {"use": "a.b"}, "other": {"use": "a.b"}}
    projectors = {"up": {"use": "core.linear", "input": "student.x", "like": "big/layer4"}}
    baseline = load_recipe(
        {**MINIMAL, "teachers": teachers, "projectors": projectors, "baseline": {"losses": MINIMAL["losses"]}}
    ).baseline_recipe()
    assert baseline is not None
    assert baseline.teachers == {}
    assert baseline.projectors == {}


def test_baseline_may_export_what_the_distilled_student_does_not() -> None:
    baseline = load_recipe(full(baseline={**full()["baseline"], "export": ["student", "head"]})).baseline_recipe()
    assert baseline is not None
    assert baseline.export == ["student", "head"]


# Bad recipes: one error each, naming file and place


LOSSES = "losses: {ce: {use: core.cross_entropy, student: student.logits}}\n"
GOOD = "student: {use: vision.timm}\n" + LOSSES
BAD = {
    "empty": ("", "r.yaml", "is empty", None),
    "only a comment": ("# nothing\n", "r.yaml", "is empty", None),
    "a list": ("- a\n- b\n", "r.yaml", "must be a map of keys, not a list", None),
    "text": ("hello\n", "r.yaml", "must be a map of keys, not a str", None),
    "duplicate key": (GOOD + "train: {lr: 1.0, lr: 2.0}\n", "r.yaml:3", "key 'lr' is given twice", None),
    "unsafe tag": (GOOD + "name: !!python/object/apply:os.system [ls]\n", "r.yaml:3", "cannot run code", None),
    "alias of itself": (GOOD + "data: &d {train: *d}\n", "r.yaml:3", "contains itself", None),
    "too deep": (GOOD + "name: " + "[" * 50 + "]" * 50, "r.yaml:3", "deeper", None),
    "tab": (GOOD + "train:\n\tsteps: 1\n", "r.yaml:4", "a tab cannot indent", None),
    "top key": (GOOD + "lossses: {}\n", "r.yaml: lossses", "unknown key 'lossses'", "losses"),
    "train key": (GOOD + "train: {steps: 1, optimiser: sgd}\n", "r.yaml: train.optimiser", "unknown key", "optimizer"),
    "data key": (GOOD + "data: {batchsize: 1}\n", "r.yaml: data.batchsize", "unknown key", "batch_size"),
    "literal": (GOOD + "train: {steps: 1, precision: bf61}\n", "r.yaml: train.precision", 'cannot be "bf61"', "bf16"),
    "wrong type": (GOOD + "train: {steps: many}\n", "r.yaml: train.steps", 'valid integer, not "many"', None),
    "truth as a number": (GOOD + "train: {steps: true}\n", "r.yaml: train.steps", "valid integer, not true", None),
    "map expected": (GOOD + "train: 5\n", "r.yaml: train", "must be a map, not 5", None),
    "loss is text": ("student: {}\nlosses: {kd: core.mse}\n", "r.yaml: losses.kd", "must be a map", None),
    "loss is null": ("student: {}\nlosses: {kd: null}\n", "r.yaml: losses.kd", "must be a map, not null", None),
    "list expected": (GOOD + "evaluate: {use: a.b}\n", "r.yaml: evaluate", "must be a list", None),
    "eval is a number": (GOOD + "data: {eval: 3}\n", "r.yaml: data.eval", "must be a map, not 3", None),
    "nan lr": (GOOD + "train: {steps: 1, lr: .nan}\n", "r.yaml: train.lr", "finite number, not nan", None),
    "infinite option": ("student: {use: a.b, x: [.inf]}\n" + LOSSES, "r.yaml: student.x.0", "finite number", None),
    "negative lr": (GOOD + "train: {steps: 1, lr: -1e-3}\n", "r.yaml: train.lr", "greater than 0, not -0.001", None),
    "no batch": (GOOD + "data: {batch_size: 0}\n", "r.yaml: data.batch_size", "greater than or equal to 1", None),
    "device": (GOOD + "train: {steps: 1, device: gpu}\n", "r.yaml: train.device", 'not "gpu"', None),
    "three betas": (GOOD + "train: {steps: 1, betas: [0, 0, 0]}\n", "r.yaml: train.betas", "at most 2", None),
    "two budgets": (GOOD + "train: {steps: 1, epochs: 1}\n", "r.yaml: train", "exactly one", None),
    "no budget": (GOOD + "train: {lr: 1.0}\n", "r.yaml: train", "exactly one of 'steps' and 'epochs'", None),
    "no student": (LOSSES, "r.yaml: student", "is required", None),
    "no losses": ("student: {}\n", "r.yaml: losses", "is required", None),
    "empty losses": ("student: {}\nlosses: {}\n", "r.yaml: losses", "at least one loss", None),
    "teacher twice": (GOOD + "teacher: {}\nteachers: {a: {}}\n", "r.yaml: teachers", "not both", None),
    "no use": ("student: {}\nlosses: {kd: {student: x}}\n", "r.yaml: losses.kd.use", "is required", None),
    "import": ("student: {use: os:system}\n" + LOSSES, "r.yaml: student.use", "registered ids only", None),
    "nested import": ("student: {use: a.b, x: {use: 'm.n:C'}}\n" + LOSSES, "r.yaml: student.x.use", "registered", None),
    "dotted import": ("student: {use: os.path.join}\n" + LOSSES, "r.yaml: student.use", "'plugin.name'", None),
    "use is a number": ("student: {use: 3}\n" + LOSSES, "r.yaml: student.use", "text, not 3", None),
    "name clash": (GOOD + "projectors: {student: {use: a.b}}\n", "r.yaml: projectors.student", "already names", None),
    "batch": (GOOD + "teachers: {batch: {}}\n", "r.yaml: teachers.batch", "already names the batch", None),
    "empty export": (GOOD + "export: []\n", "r.yaml: export", "length of at least 1, not []", None),
    "bad name": (GOOD + "projectors: {Up: {use: a.b}}\n", "r.yaml: projectors.Up", "a name is lower-case", None),
    "weight is text": (
        "student: {}\nlosses: {kd: {use: a.b, weight: big}}\n", "r.yaml: losses.kd.weight", 'number, not "big"', None,
    ),
    "weight has no use": (
        "student: {}\nlosses: {kd: {use: a.b, weight: {start: 1}}}\n", "r.yaml: losses.kd.weight.use", "required", None,
    ),
    "host key": (GOOD + "teacher: {use: a.b, weight: 2}\n", "r.yaml: teacher.weight", "unknown key 'weight'", None),
    "export": (GOOD + "export: [studnet]\n", "r.yaml: export.0", "nothing is called 'studnet'", "student"),
    "same scores": (GOOD + "evaluate: [{use: a.b}, {use: c.b}]\n", "r.yaml: evaluate.1", "second evaluation", None),
    "unknown base": ("recipe: fake.topp\n", "r.yaml: recipe", "no recipe 'fake.topp'", "fake.top"),
    "base is a file": ("recipe: ./base.yaml\n", "r.yaml: recipe", "an id is 'plugin.name'", None),
    "base is a map": ("recipe: {}\n", "r.yaml: recipe", "must be the id", None),
    "typo over a base": ("recipe: fake.top\ntrain: {sed: 1}\n", "r.yaml: train.sed", "unknown key", "seed"),
    "baseline without losses": (GOOD + "baseline: {}\n", "r.yaml: baseline.losses", "is required", None),
    "baseline key": (GOOD + "baseline: {teacher: {}}\n", "r.yaml: baseline.teacher", "cannot be changed", None),
    "baseline typo": (
        GOOD + "baseline: {losses: {a: {use: a.b}}, train: {stepz: 1}}\n", "r.yaml: baseline.train.stepz", "unknown",
        "steps",
    ),
    "baseline import": (
        GOOD + "baseline: {losses: {a: {use: 'a:b'}}}\n", "r.yaml: baseline.losses.a.use", "registered", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "where", "what", "nearest"), BAD.values(), ids=BAD.keys())
def test_bad_recipe(
    text: str,
    where: str,
    what: str,
    nearest: str | None,
    registered: Catalogue,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe("r.yaml", catalogue=registered)
    assert (caught.value.where, caught.value.nearest) == (where, nearest)
    assert what in caught.value.what
    assert str(caught.value).startswith(f"{where}: ")


def test_a_base_that_starts_from_itself(registered: Catalogue) -> None:
    with pytest.raises(RecipeError, match=r"loop\.one -> loop\.two -> loop\.one") as caught:
        load_recipe("loop.one", catalogue=registered)
    assert caught.value.where.endswith("two.yaml: recipe")


def test_an_error_of_the_base_names_the_base(registered: Catalogue) -> None:
    path = registered.get("recipe", "fake.ground").source()
    path.write_text(FULL.replace("steps: 20_000", "steps: 0"))
    with pytest.raises(RecipeError) as caught:
        load_recipe({"recipe": "fake.ground"}, catalogue=registered)
    assert caught.value.where == f"{path}: train.steps"


def test_files_that_are_not_there(registered: Catalogue, tmp_path: Path) -> None:
    for source in (tmp_path / "none.yaml", tmp_path, "fake.yaml", "no/such", ""):
        with pytest.raises(RecipeError) as caught:
            load_recipe(source, catalogue=registered)
        assert caught.value.where == str(Path(source))
    with pytest.raises(RecipeError, match=r"did you mean 'fake\.top'"):
        load_recipe("fake.tip", catalogue=registered)


@pytest.mark.parametrize("thing", [object(), {1, 2}, b"x", {1: 2}])
def test_a_recipe_holds_plain_data(thing: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe({**MINIMAL, "teacher": {"use": "a.b", "network": thing}})
    assert caught.value.where == "recipe: teacher.network"


def test_a_map_that_contains_itself() -> None:
    data: dict[str, Any] = {**MINIMAL}
    data["data"] = data
    with pytest.raises(MmkdError, match="nests deeper"):
        load_recipe(data)


# Schema and contract


def test_schema_describes_every_key() -> None:
    schema = json_schema()
    assert schema["properties"].keys() == {"recipe", *Recipe.model_fields}
    parts: list[Mapping[str, Any]] = [schema, *schema["$defs"].values()]
    for part in parts:
        for name, entry in part["properties"].items():
            assert entry.get("description"), name
    json.dumps(schema)
