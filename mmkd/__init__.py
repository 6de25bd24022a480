"""mmkd: distil any multimodal teacher into any student, each from a pip-installed plugin.

Names are imported on first use, so that `import mmkd` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmkd.hookspecs import hookimpl
from mmkd.registry import Registry

if TYPE_CHECKING:
    from mmkd.caching import cache as cache
    from mmkd.components import (
        Critic as Critic,
        Curator as Curator,
        Dataset as Dataset,
        Encoder as Encoder,
        Loss as Loss,
        Metric as Metric,
        Mixer as Mixer,
        Projector as Projector,
        Sample as Sample,
        Schedule as Schedule,
        critic as critic,
    )
    from mmkd.compose import build as build
    from mmkd.diagnosis.doctor import doctor as doctor
    from mmkd.engine.fields import Fields as Fields
    from mmkd.engine.gradients import gradient_cosine as gradient_cosine, gradient_norms as gradient_norms
    from mmkd.engine.optimizer import optimizers as optimizers
    from mmkd.errors import MmkdError as MmkdError
    from mmkd.exported import from_pretrained as from_pretrained
    from mmkd.formats.export import export as export
    from mmkd.graph.training_graph import TrainingGraph as TrainingGraph
    from mmkd.graph.wrap import wrap as wrap
    from mmkd.procedure import Procedure as Procedure, Stage as Stage
    from mmkd.recipe import Recipe as Recipe, Train as Train, load_recipe as load_recipe
    from mmkd.reporting import write_report as write_report
    from mmkd.rows import Rows as Rows
    from mmkd.run import distill as distill, evaluate as evaluate
    from mmkd.staging import stages as stages

__version__ = "0.1.0"

_HOMES = {
    "build": "mmkd.compose",
    "cache": "mmkd.caching",
    "distill": "mmkd.run",
    "doctor": "mmkd.diagnosis.doctor",
    "evaluate": "mmkd.run",
    "Fields": "mmkd.engine.fields",
    "export": "mmkd.formats.export",
    "from_pretrained": "mmkd.exported",
    "TrainingGraph": "mmkd.graph.training_graph",
    "wrap": "mmkd.graph.wrap",
    "Recipe": "mmkd.recipe",
    "Train": "mmkd.recipe",
    "load_recipe": "mmkd.recipe",
    "MmkdError": "mmkd.errors",
    "optimizers": "mmkd.engine.optimizer",
    "write_report": "mmkd.reporting",
    **dict.fromkeys(["gradient_cosine", "gradient_norms"], "mmkd.engine.gradients"),
    "Rows": "mmkd.rows",
    "stages": "mmkd.staging",
    **dict.fromkeys(["Procedure", "Stage"], "mmkd.procedure"),
    **dict.fromkeys(
        (
            *("Critic", "Curator", "Dataset", "Encoder", "Loss", "Metric", "Mixer", "Projector"),
            *("Sample", "Schedule", "critic"),
        ),
        "mmkd.components",
    ),
}

__all__ = ["Registry", "__version__", "hookimpl", *sorted(_HOMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmkd' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
