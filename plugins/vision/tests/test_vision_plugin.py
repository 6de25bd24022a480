import subprocess
import sys

import mmkd_vision
import pytest

import mmkd


def registered():
    registry = mmkd.Registry("vision")
    mmkd_vision.mmkd_register(registry=registry)
    return registry.entries


def test_everything_registered_loads():
    entries = registered()
    names = (
        "timm", "torchvision", "convnet", "augment", "crop", "patch_mask", "mixup", "cutmix", "image_folder",
        "mobilenet_v2", "efficientnet_lite", "patient",
    )  # fmt: skip
    assert {entry.id for entry in entries} == {f"vision.{name}" for name in names}
    for entry in entries:
        assert entry.source().is_file() if entry.kind == "recipe" else entry.load()
        assert entry.summary.endswith(".")


@pytest.mark.parametrize("heavy", ["torch", "timm", "torchvision", "PIL"])
def test_registering_imports_nothing_heavy(heavy):
    code = (
        "import sys, mmkd, mmkd_vision; r = mmkd.Registry('vision'); mmkd_vision.mmkd_register(registry=r);"
        f"[e.summary for e in r.entries]; sys.exit({heavy!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
