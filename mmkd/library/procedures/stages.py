"""One training after the other, each a change to the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import mmkd


class Stages(mmkd.Procedure):
    """One training after the other, each with losses, budget and optimiser of its own (FitNets: Romero et al., 2015).

        procedure:
          use: core.stages
          stages:
            hint: {losses: {hint: {use: core.mse, student: up, teacher: teacher.hidden.4}}, train: {steps: 500}}
            main: {}

    A stage is the recipe with changes: `losses` replace the losses, everything else merges and `null` removes. It goes
    on from the stage before it, wherever the name of a network, projector, mixer or loss is the same; `start: NAME`
    goes on from another one, `start: scratch` from the beginning. `student: {frozen: true}` trains projectors alone.
    `teacher: {stage: NAME}` is the network that an earlier stage exported. The last stage makes the student.

    Args:
        stages: changes to the recipe by name of the stage, in order.
    """

    conformance: ClassVar[dict[str, Any]] = {
        "options": {"stages": {"short": {"train": {"steps": 2}}, "anew": {"start": "scratch"}}}
    }

    def __init__(self, stages: dict[str, dict[str, Any]]) -> None:
        self.changes = stages

    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        made: list[mmkd.Stage] = []
        for name, changes in self.changes.items():
            patch: Mapping[str, Any] = {key: value for key, value in changes.items() if key != "start"}
            before = made[-1].name if made else "scratch"
            start = changes.get("start", before)
            where = f"procedure.stages.{name}"
            made.append(mmkd.Stage(name, recipe.patched(patch, where), None if start == "scratch" else start))
        return made
