"""Shapes from files and from nothing, whole and broken."""

import json
import math

import numpy as np
import pytest
import trimesh
from mmkd_pointcloud.cloud_file import from_mesh
from mmkd_pointcloud.drop import Drop
from mmkd_pointcloud.families import FAMILIES, PART_NAMES, PARTS
from mmkd_pointcloud.folder import Folder
from mmkd_pointcloud.jitter import JitterScaleRotate
from mmkd_pointcloud.modelnet import ModelNet
from mmkd_pointcloud.shapenet_part import ShapeNetPart
from mmkd_pointcloud.shapes import Shapes
from mmkd_pointcloud.surface import Ball, Box, Ring, Tube

import mmkd
from mmkd.errors import DataError

BOX = trimesh.creation.box((1, 2, 3))


@pytest.mark.parametrize("suffix", ["ply", "obj", "off", "stl"])
def test_a_mesh_becomes_points_on_its_surface(tmp_path, suffix):
    (tmp_path / "box").mkdir()
    BOX.export(tmp_path / "box" / f"1.{suffix}")
    sample = Folder(str(tmp_path), points=500)[0]
    assert sample["key"] == f"box/1.{suffix}" and sample["label"] == 0 and sample["class_name"] == "box"
    off = np.abs(np.abs(sample["points"]) / [0.5, 1, 1.5] - 1).min(1)
    assert sample["points"].shape == (500, 3) and sample["points"].dtype == np.float32 and off.max() < 1e-6
    face = np.abs(sample["points"] / [0.5, 1, 1.5]).argmax(1)
    assert (np.abs(sample["normal"]).argmax(1) == face).mean() > 0.97


def test_points_are_spread_by_area_and_follow_the_key(tmp_path):
    with pytest.raises(DataError, match="names vertex 7 of 3"):
        from_mesh(np.eye(3), [[0, 1, 7]], 9, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    points = from_mesh(BOX.vertices, BOX.faces, 6000, generator)["points"]
    share = np.bincount(np.abs(points / [0.5, 1, 1.5]).argmax(1), minlength=3) / 6000
    np.testing.assert_allclose(share, np.array([12, 6, 4]) / 22, atol=0.025)
    for name in ("a.off", "b.off"):
        BOX.export(tmp_path / name)
    data = Folder(str(tmp_path), labels=False)
    assert np.array_equal(data[0]["points"], Folder(str(tmp_path), labels=False)[0]["points"])
    assert not np.array_equal(data[0]["points"], data[1]["points"])


def test_clouds_keep_what_belongs_to_their_points(tmp_path):
    points, part = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50)
    np.savez(tmp_path / "a.npz", points=points, part=part)
    trimesh.PointCloud(points).export(tmp_path / "b.ply")
    data = Folder(str(tmp_path), points=20, labels=False)
    np.testing.assert_allclose(data[0]["points"], points[data[0]["part"]], atol=1e-6)
    assert len(set(data[0]["part"].tolist())) == 20 and data[1]["points"].shape == (20, 3)
    whole = Folder(str(tmp_path), points=None, labels=False)[0]
    assert np.array_equal(whole["part"], part)


BROKEN = {
    "empty.off": (b"", "is empty"),
    "truncated.off": (BOX.export(file_type="off")[:60].encode(), "is cut short: 4 numbers, and its header declares at"),
    "cut.off": (BOX.export(file_type="off")[:-8].encode(), "is cut short"),
    "cut.ply": (BOX.export(file_type="ply", encoding="ascii")[:-12], "is cut short"),
    "truncated.stl": (BOX.export(file_type="stl")[:200], "holds no vertices"),
    "truncated.ply": (BOX.export(file_type="ply")[:-30], "is no whole PLY file"),
    "noise.ply": (bytes(range(256)), "is no whole PLY file"),
    "noise.npz": (bytes(range(256)), "is no whole NPZ file"),
    "nan.obj": (b"v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n", "not finite"),
    "flat.obj": (b"v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "1 faces have no area"),
    "one.obj": (b"v 0 0 0\n", "has 1 point,"),
    "same.off": (b"OFF\n5 0 0\n" + b"1 1 1\n" * 5, "lie in one place"),
    "stray.off": (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 7\n", "face index outside the range"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(BROKEN[name][0])
    with pytest.raises(DataError, match=BROKEN[name][1]) as error:
        Folder(str(tmp_path), labels=False)[0]
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"points": np.zeros((1, 3))}, "has 1 point,"),
        ({"points": np.full((9, 3), np.inf)}, "9 of 9 points are not finite"),
        ({"points": np.ones((9, 3))}, "lie in one place"),
        ({"points": np.eye(9, 3), "part": np.zeros(8)}, r"'part' has \[8\] for 9 points"),
        ({"cloud": np.eye(9, 3)}, "has no array 'points'"),
        ({"points": np.array([None] * 9)}, "is no whole NPZ file"),
    ],
)
def test_a_broken_archive_is_named(tmp_path, arrays, what):
    np.savez(tmp_path / "a.npz", **arrays, allow_pickle=True)
    with pytest.raises(DataError, match=what) as error:
        Folder(str(tmp_path), labels=False)[0]
    assert "a.npz" in str(error.value)


def test_doubled_points_are_a_cloud(tmp_path):
    np.savez(tmp_path / "a.npz", points=np.repeat(np.eye(3), 4, 0))
    assert Folder(str(tmp_path), labels=False)[0]["points"].shape == (1024, 3)


def test_bad_files_are_skipped_counted_and_stop_above_a_threshold(tmp_path):
    for i in range(8):
        np.savez(tmp_path / f"{i}.npz", points=np.random.default_rng(i).normal(size=(40, 3)), part=np.arange(40) % 3)
    (tmp_path / "8.npz").write_bytes(b"")
    recipe = {
        "student": {
            "use": "pointcloud.pointnet", "points": 40, "widths": [4, 8], "dim": 4, "num_classes": 3, "per_point": True,
        },
        "losses": {"label": {"use": "core.cross_entropy", "student": "student.logits", "label": "batch.part"}},
        "data": {
            "train": {"use": "pointcloud.folder", "path": str(tmp_path), "points": None, "labels": False},
            "batch_size": 3,
        },
        "train": {"epochs": 1},
    }  # fmt: skip
    with pytest.raises(DataError, match=r"8\.npz: is empty"):
        mmkd.distill(recipe, output_dir=tmp_path / "stops")
    recipe["data"] |= {"on_bad_sample": "skip", "max_bad_samples": 0.5}
    mmkd.distill(recipe, output_dir=tmp_path / "skips")
    listed = [json.loads(line) for line in (tmp_path / "skips" / "bad_samples.jsonl").read_text().splitlines()]
    assert [bad["index"] for bad in listed] == [8] and "8.npz: is empty (0 bytes)" in listed[0]["reason"]
    recipe["data"]["max_bad_samples"] = 0
    with pytest.raises(mmkd.MmkdError, match="1 of 9 samples are bad"):
        mmkd.distill(recipe, output_dir=tmp_path / "few")


def test_folders_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Folder(str(tmp_path / "none"))
    with pytest.raises(DataError, match="holds no shapes"):
        Folder(str(tmp_path))
    BOX.export(tmp_path / "a.off")
    with pytest.raises(DataError, match=r"'a\.off' lies in no class folder"):
        Folder(str(tmp_path))
    (tmp_path / "box").mkdir()
    (tmp_path / "a.off").rename(tmp_path / "box" / "a.off")
    with pytest.raises(DataError, match="class 'bx' has no shapes; did you mean 'box'"):
        Folder(str(tmp_path), classes=["bx"])


def test_modelnet_as_it_is_handed_out(tmp_path):
    for name in ("night_stand", "bed"):
        for split, count in (("train", 2), ("test", 1)):
            (tmp_path / name / split).mkdir(parents=True)
            for i in range(count):
                text = BOX.export(file_type="off")
                file = tmp_path / name / split / f"{name}_{i:04}.off"
                file.write_text(text.replace("OFF\n", "OFF", 1) if i else text)  # as half of ModelNet40 has it
    data = ModelNet(str(tmp_path), "train", points=64)
    assert data.classes == ("bed", "night_stand") and data.labels == [0, 0, 1, 1]
    assert data.keys[3] == "night_stand/train/night_stand_0001.off"
    assert data[3]["text"] == "night stand" and data[3]["points"].shape == (64, 3)
    assert len(ModelNet(str(tmp_path), "test", classes=["night_stand"])) == 1


def test_shapenet_parts_as_they_are_handed_out(tmp_path):
    generator = np.random.default_rng(0)
    for folder in ("02691156", "03001627"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            table = np.concatenate([generator.normal(size=(30, 6)), (np.arange(30) % 3)[:, None]], 1)
            np.savetxt(tmp_path / folder / f"{i}.txt", table, fmt="%.6f")
    (tmp_path / "synsetoffset2category.txt").write_text("Airplane\t02691156\nChair\t03001627\n")
    (tmp_path / "train_test_split").mkdir()
    listed = tmp_path / "train_test_split" / "shuffled_test_file_list.json"
    listed.write_text(json.dumps(["shape_data/03001627/1"]))
    data = ShapeNetPart(str(tmp_path), points=12)
    assert data.classes == ("airplane", "chair") and len(data) == 4
    sample = data[3]
    assert sample["points"].shape == sample["normal"].shape == (12, 3) and set(sample["part"].tolist()) <= {0, 1, 2}
    assert ShapeNetPart(str(tmp_path), "test").keys == ["03001627/1.txt"]
    with pytest.raises(DataError, match="is no list of a split"):
        ShapeNetPart(str(tmp_path), "val")
    for text, what in (("", "is empty"), ("1 2 3\n", "has 3 columns"), ("a b c d\n", "is no table of numbers")):
        (tmp_path / "02691156" / "0.txt").write_text(text)
        with pytest.raises(DataError, match=what) as error:
            data[0]
        assert "0.txt" in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_all_of_its_parts(family):
    sample = Shapes([family], per_family=1, points=1500)[0]
    assert {PART_NAMES[i] for i in sample["part"]} == set(PARTS[family])
    assert family in sample["text"] and sample["class_name"] == family and np.isfinite(sample["points"]).all()


def test_shapes_differ_in_form_and_size_and_are_the_same_again():
    data = Shapes(["mug", "ice cream"], per_family=5, points=(100, 200), caption="parts")
    sizes = {len(data[i]["points"]) for i in range(10)}
    assert len(sizes) > 5 and min(sizes) >= 100 and max(sizes) <= 200
    assert data[7]["text"].endswith("ice cream with cone and scoop")
    again = Shapes(["ice cream"], per_family=5, points=(100, 200), caption="parts")
    assert np.array_equal(data[7]["points"], again[2]["points"]) and data[7]["label"] == again[2]["label"]
    other = Shapes(["ice cream"], per_family=5, points=(100, 200), seed=1)
    assert other[2]["points"].shape != again[2]["points"].shape or not np.allclose(
        other[2]["points"], again[2]["points"]
    )
    turned = Shapes(["mug"], per_family=5, points=(100, 200), turn=True)[0]["points"]
    np.testing.assert_allclose(turned[:, 2], data[0]["points"][:, 2])
    assert not np.allclose(turned, data[0]["points"])
    with pytest.raises(DataError, match="no family 'mgu'; did you mean 'mug'"):
        Shapes(["mgu"])
    with pytest.raises(DataError, match="points go from 9 to 8"):
        Shapes(points=(9, 8))


@pytest.mark.parametrize(
    ("surface", "area", "half"),
    [
        (Box((0, 0, 0), (1, 2, 3)), 22.0, 0.5),
        (Tube((0, 0, -1), (0, 0, 1), 1.0), 6 * math.pi, 0.5),
        (Tube((0, 0, -1), (0, 0, 1), 2.0, 1.0, open=True), 3 * math.pi * math.sqrt(5), 1.25 / 3),
        (Ball((0, 0, 0), (1, 1, 1)), 4 * math.pi, 0.5),
        (Ring((0, 0, 0), (0, 0, 1), 2.0, 0.5), 4 * math.pi**2, 0.5),
    ],
)
def test_surfaces_have_their_area_and_are_drawn_from_evenly(surface, area, half):
    assert surface.area() == pytest.approx(area)
    points = surface.draw(4000, np.random.default_rng(0))
    assert (points[:, 2] > 0).mean() == pytest.approx(half, abs=0.03)


def test_jitter_turns_and_stretches_as_drawn():
    curator = JitterScaleRotate(jitter=0.0, scale=(0.5, 2.0), rotate=90, axis="z")
    sample = {"key": "a", "points": np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)}
    draw = curator.draw(np.random.default_rng(1))
    c, s = math.cos(draw["angle"]), math.sin(draw["angle"])
    x, y, z = sample["points"].T
    wanted = [draw["scale_x"] * (c * x - s * y), draw["scale_y"] * (s * x + c * y), draw["scale_z"] * z]
    np.testing.assert_allclose(curator.apply(sample, draw)["points"].T, wanted, atol=1e-5)
    any_axis = JitterScaleRotate(jitter=0.0, scale=(1.0, 1.0), rotate=180, axis="any")
    turned = any_axis.apply(sample, any_axis.draw(np.random.default_rng(2)))["points"]
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(sample["points"], axis=1), rtol=1e-5)
    still = JitterScaleRotate(jitter=0.0, scale=(1.0, 1.0))
    np.testing.assert_allclose(still.apply(sample, still.draw(np.random.default_rng(3)))["points"], sample["points"])
    noisy = JitterScaleRotate(jitter=0.05, scale=(1.0, 1.0))
    radius = np.linalg.norm(sample["points"] - sample["points"].mean(0), axis=1).max()
    moved = noisy.apply(sample, noisy.draw(np.random.default_rng(4)))["points"] - sample["points"]
    assert moved.std() == pytest.approx(0.05 * radius, rel=0.3)


def test_drop_takes_labels_along():
    sample = Shapes(["mug"], per_family=1, points=200)[0]
    rows = {tuple(p): q for p, q in zip(sample["points"].tolist(), sample["part"].tolist(), strict=True)}
    for keep in (False, True):
        curator = Drop(0.9, keep)
        draw = {"share": 0.7, "seed": 3}
        made = curator.apply(sample, draw)
        assert len(made["points"]) == len(made["part"]) == (200 if keep else 60)
        assert len(np.unique(made["points"], axis=0)) == 60
        assert all(rows[tuple(p)] == q for p, q in zip(made["points"].tolist(), made["part"].tolist(), strict=True))
    assert len(Drop(1.0).apply(sample, {"share": 1.0, "seed": 3})["points"]) == 4
