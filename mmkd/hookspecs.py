"""Every hook a plugin may implement, on one page. All are keyword-only and additive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer
    from torch import Tensor

    from mmkd.graph.training_graph import TrainingGraph
    from mmkd.registry import Registry

API_VERSION = 1
"""Version of this contract. A plugin may pin it with a module attribute `mmkd_api_version = 1`."""

hookspec = pluggy.HookspecMarker("mmkd")
hookimpl = pluggy.HookimplMarker("mmkd")


@hookspec
def mmkd_register(registry: Registry) -> None:
    """Declare components: `registry.loss("name", Class)` or, lazily, `registry.loss("name", "module:Class")`."""


@hookspec
def mmkd_cli(app: typer.Typer) -> None:
    """Add commands to the `mmkd` command line. Keep imports of heavy packages inside the commands."""


@hookspec
def mmkd_graph_built(graph: TrainingGraph) -> None:
    """A training graph has been bound and its parameters exist; no optimiser does yet."""


@hookspec
def mmkd_step_end(graph: TrainingGraph, step: int, losses: Mapping[str, Tensor]) -> None:
    """Optimiser step `step` (from 1) has been applied; reading a tensor here waits for the device. Of several ranks,
    the first one alone calls this and the next."""


@hookspec
def mmkd_checkpoint_saved(path: Path, step: int) -> None:
    """A checkpoint folder is complete on disk."""
