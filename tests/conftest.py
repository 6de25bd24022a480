"""A folder of installed plugins, as pip lays them out, and a process that sees them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

CACHES = tempfile.TemporaryDirectory(prefix="mmkd-tests-")  # the user's own are left alone
os.environ["MMKD_CACHE"] = CACHES.name
SOURCES = Path(__file__).parent / "fixtures" / "plugins"


class Site:
    """Distributions in one folder; a subprocess with that folder on its path discovers them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCES / "healthy_parts.py", folder)

    def install(
        self,
        source: str,
        *,
        id: str = "",
        distribution: str = "",
        value: str = "",
        module: bool = True,
        metadata: bool = True,
        entry_points: str = "",
    ) -> Site:
        """Lay out a distribution around one source file of `fixtures/plugins`; the rest says what is odd about it."""
        name = distribution or f"mmkd-{source}"
        info = self.folder / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(entry_points or f"[mmkd]\n{id or source} = {value or source}\n")
        if metadata:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        if module:
            shutil.copy(SOURCES / f"{source}.py", self.folder)
        return self

    def python(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python with the folder on its path."""
        path = os.pathsep.join([str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MMKD_") and k != "COLUMNS"}
        return subprocess.run(
            [sys.executable, *arguments],
            env={**clean, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", **environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def mmkd(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.python("-m", "mmkd", *arguments, **environment)

    def json(self, *arguments: str, **environment: str) -> Any:
        """What a command prints with `--json`."""
        done = self.mmkd(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("shared") / "site")
