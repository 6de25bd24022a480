"""Class folders: labels, splits, order, links."""

import os
from pathlib import Path

import pytest
from mmkd_vision.image_folder import ImageFolder
from PIL import Image

import mmkd
from mmkd.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train/dog/1.png", "train/cat/b.jpg", "train/cat/a/c.webp", "train/owl/d.gif", "test/cat/e.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(tmp_path / name)
    (tmp_path / "train/cat/notes.txt").write_text("no picture")
    (tmp_path / "train/cat/._b.jpg").write_text("what a Mac leaves behind")
    (tmp_path / "train/.cache").mkdir()
    return tmp_path


def facts(dataset: ImageFolder) -> list[tuple[object, ...]]:
    return [
        tuple(v for k, v in sorted(sample.items()) if k != "image")
        for sample in map(dataset.__getitem__, range(len(dataset)))
    ]


def test_classes_are_sorted_and_keys_are_paths(root: Path) -> None:
    dataset = ImageFolder(str(root), split="train")
    assert dataset.classes == ("cat", "dog", "owl")
    assert facts(dataset) == [
        ("cat", "train/cat/a/c.webp", 0), ("cat", "train/cat/b.jpg", 0),
        ("dog", "train/dog/1.png", 1), ("owl", "train/owl/d.gif", 2),
    ]  # fmt: skip
    assert dataset[0]["image"].mode == "RGB"
    assert ImageFolder(str(root / "train"))[0]["key"] == "cat/a/c.webp"


def test_given_classes_fix_order_and_choice(root: Path) -> None:
    dataset = ImageFolder(str(root), split="train", classes=["owl", "cat"])
    assert [(name, label) for name, _, label in facts(dataset)] == [("cat", 1), ("cat", 1), ("owl", 0)]


def test_without_labels(root: Path) -> None:
    dataset = ImageFolder(str(root), labels=False)
    assert len(dataset) == 5 and set(dataset[0]) == {"key", "image"}
    assert ImageFolder(str(root / "test/cat"), labels=False)[0]["key"] == "e.bmp"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, r"trian: is no folder; did you mean 'train'"),
        ({"split": "../x"}, "is no folder"),
        ({"split": ".."}, r"lies outside"),
        ({"split": "train", "classes": ["cat", "dgo"]}, r"class 'dgo' has no pictures; did you mean 'dog'"),
        ({"split": "train", "classes": ["cat", "cat"]}, "named twice"),
        ({"split": "test/cat"}, r"'e.bmp' lies in no class folder"),
        ({"classes": ["cat"], "labels": False}, "of no use"),
    ],
)
def test_errors(root: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageFolder(str(root), **options)


def test_empty_and_absent_roots(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        ImageFolder(str(tmp_path))
    with pytest.raises(DataError, match="nowhere: is no folder"):
        ImageFolder(str(tmp_path / "nowhere"))


def test_links(root: Path) -> None:
    (root / "test/dog").symlink_to(root / "train/dog")
    assert [sample[1] for sample in facts(ImageFolder(str(root), split="test"))] == ["test/cat/e.bmp", "test/dog/1.png"]
    (root / "test/cat/loop").symlink_to(root / "test")
    with pytest.raises(DataError, match=r"loop: is a link to a folder that it lies in"):
        ImageFolder(str(root), split="test")
    (root / "train/cat/gone.png").symlink_to(root / "gone.png")
    with pytest.raises(DataError, match=r"gone.png: is a link to nothing"):
        ImageFolder(str(root), split="train")


def test_from_a_recipe(root: Path) -> None:
    recipe = {
        "teacher": {"use": "vision.convnet", "num_classes": 3, "widths": [4], "blocks": [0]},
        "student": {"use": "vision.convnet", "num_classes": 3, "widths": [4], "blocks": [0]},
        "losses": {
            "kd": {"use": "core.kl", "student": "student.logits", "teacher": "teacher.logits"},
            "task": {"use": "core.cross_entropy", "student": "student.logits"},
        },
        "data": {"train": {"use": "vision.image_folder", "path": str(root), "split": "train"}, "batch_size": 2},
        "train": {"steps": 1, "device": "cpu"},
    }
    graph, dataset = mmkd.build(recipe), ImageFolder(str(root), split="train")
    assert graph(graph.collate([dataset[0], dataset[3]]))["loss"].isfinite()


def test_a_moved_folder_with_new_times_has_the_same_manifest(root: Path) -> None:
    before = ImageFolder(str(root), split="train").manifest()
    assert [key for key, _ in before] == ImageFolder(str(root), split="train").keys
    moved = root.rename(root.with_name("elsewhere"))
    for file in moved.rglob("*.*"):
        os.utime(file, (1, 1))
    assert ImageFolder(str(moved), split="train").manifest() == before
    content = bytearray((moved / "train/dog/1.png").read_bytes())
    content[-20] ^= 1
    (moved / "train/dog/1.png").write_bytes(content)
    changed = ImageFolder(str(moved), split="train").manifest()
    assert [a == b for a, b in zip(before, changed, strict=True)] == [True, True, False, True]
