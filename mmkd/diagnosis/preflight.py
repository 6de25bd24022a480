"""The examination before a run: quick, silent where all is well, and a stop where it is not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from mmkd.diagnosis.doctor import diagnose
from mmkd.diagnosis.sheet import print_findings
from mmkd.errors import TrainingError
from mmkd.recipe import Recipe


def clear(recipe: Recipe, nodes: Mapping[str, nn.Module], data: Mapping[str, Any] | None) -> None:
    """Make the checks on one small batch and say on stderr what is doubtful.

    What cannot be built at all is left to the run itself, which says so in its own words.

    Raises:
        TrainingError: something is wrong that cannot be meant.
    """
    diagnosis = diagnose(recipe, nodes, data, thorough=False)
    errors = [finding for finding in diagnosis.errors if finding.check != "build"]
    print_findings([*errors[1:], *diagnosis.warnings], sys.stderr)
    if errors:
        first = errors[0]
        hint = f"{first.fix}; mmkd doctor RECIPE says more, --no-preflight trains anyway"
        raise TrainingError(first.what, where=first.where, next=hint)
