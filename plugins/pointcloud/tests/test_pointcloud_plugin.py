import subprocess
import sys

import mmkd_pointcloud
import pytest

import mmkd


def registered():
    registry = mmkd.Registry("pointcloud")
    mmkd_pointcloud.mmkd_register(registry=registry)
    return registry.entries


def test_everything_registered_loads():
    entries = registered()
    encoders = ("pointnet", "pointnet2", "dgcnn", "transformer", "projection", "view_net")
    losses = ("orthogonality", "local_graph", "part_distill", "view_cross_entropy")
    others = ("jitter_scale_rotate", "drop", "part_iou", "shapes", "folder", "modelnet", "shapenet_part")
    recipes = ("named_shapes", "ulip", "view_teacher", "part_distill", "point_distiller")
    assert sorted(entry.id for entry in entries) == sorted(
        f"pointcloud.{name}" for name in (*encoders, *losses, *others, *recipes)
    )
    for entry in entries:
        assert entry.source().is_file() if entry.kind == "recipe" else entry.load()
        assert entry.summary.endswith(".")


@pytest.mark.parametrize("paper", ["PartDistill", "PointDistiller"])
def test_a_claimed_paper_has_a_formula_and_a_recipe(paper):
    assert {entry.kind for entry in registered() if entry.paper == paper} == {"loss", "recipe"}


@pytest.mark.parametrize("heavy", ["torch", "trimesh", "scipy", "PIL"])
def test_registering_imports_nothing_heavy(heavy):
    code = (
        "import sys, mmkd, mmkd_pointcloud; r = mmkd.Registry('pointcloud'); mmkd_pointcloud.mmkd_register(registry=r);"
        f"[e.summary for e in r.entries]; sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
