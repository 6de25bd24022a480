"""What the plugin declares."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmkd import Registry, library
from mmkd.registry import Entry
from mmkd.signature import options, ports

registry = Registry("core")
library.mmkd_register(registry)


COMPONENTS = [entry for entry in registry.entries if entry.kind != "recipe"]


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.kind} {entry.id}")
def test_every_component_loads_and_says_what_it_is(entry: Entry) -> None:
    cls = entry.load()
    assert ports(cls) or entry.kind in ("encoder", "schedule", "procedure", "dataset")
    assert entry.summary.endswith((".", ")."))
    for option in options(cls).values():
        assert not option.required or entry.kind in ("encoder", "schedule", "procedure", "dataset")


def test_registering_imports_no_torch() -> None:
    code = (
        "import sys, mmkd, mmkd.library as core\n"
        "core.mmkd_register(mmkd.Registry('core'))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
