"""The plugin: everything it registers exists, and its recipe stands with and without the teacher."""

import subprocess
import sys

import mmkd
from mmkd.plugins import host


def test_everything_registered_loads() -> None:
    entries = [entry for entry in host().catalogue if entry.plugin == "vision_language"]
    assert {(e.kind, e.name) for e in entries} == {
        ("encoder", "open_clip"), ("encoder", "dual_tower"), ("dataset", "emoji"), ("dataset", "image_text"),
        ("encoder", "transformers"), ("dataset", "webdataset"),
        ("dataset", "class_prompts"), ("metric", "zero_shot"), ("recipe", "emoji"),
            ("recipe", "emoji_two_teachers"), ("recipe", "emoji_composed"), ("recipe", "clip_kd"),
    }  # fmt: skip
    for entry in entries:
        assert entry.summary
        if entry.kind != "recipe":
            entry.load()


def test_import_is_light() -> None:
    heavy = "{'torch', 'open_clip', 'PIL', 'numpy'} & set(sys.modules)"
    code = f"import sys, typer, mmkd_vision_language as m; m.mmkd_cli(app=typer.Typer()); sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_recipe_and_its_baseline() -> None:
    recipe = mmkd.load_recipe("vision_language.emoji")
    assert recipe.exported() == ["student", "up", "sentence", "words", "target"]
    words, train = recipe.teachers["words"].arguments["corpus"], recipe.data.train
    assert train is not None and words == {"use": train.use, **train.arguments}  # no other caption leaks in
    plain = recipe.baseline_recipe()
    assert plain is not None and not plain.teacher_nodes() and not plain.projectors
    assert plain.train == recipe.train and plain.data == recipe.data
    assert recipe.student is not None and plain.student is not None
    tower = plain.student.arguments["image"]
    assert tower == {"use": recipe.student.use, **recipe.student.arguments}
    assert [e.title for e in plain.evaluate] == [e.title for e in recipe.evaluate] == ["retrieval"]
    assert {e.arguments["direction"] for e in (*plain.evaluate, *recipe.evaluate)} == {"b_to_a"}
