"""Students that teach their successors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

import mmkd


class Generations(mmkd.Procedure):
    """Each student teaches the next one, which begins anew (born-again networks: Furlanello et al., 2018).

    The first generation learns from the recipe's own teacher, or as `first` says; generation k from generation k - 1,
    which stands in for `teacher`. Every generation has its own random numbers, `train.seed + k - 1`.

    With `ensemble`, the last generation's evaluations of `student.logits` are made of all generations' mean
    distribution too, under the name `<metric>_ensemble`.

    Args:
        generations: how many students are trained, one after the other.
        first: changes to the recipe for the first one, as those of a stage: `{teacher: null, losses: {...}}`.
        teacher: name of the node that the student before stands in for.
        student: name of the student.
        ensemble: whether the generations are evaluated together.
    """

    def __init__(
        self,
        generations: Annotated[int, Field(ge=2)] = 3,
        first: dict[str, Any] | None = None,
        teacher: str = "teacher",
        student: str = "student",
        ensemble: bool = True,
    ) -> None:
        self.generations, self.first, self.teacher, self.student = generations, first or {}, teacher, student
        self.ensemble = ensemble

    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        made = [mmkd.Stage("generation_1", recipe.patched(self.first, "procedure.first"))]
        for k in range(2, self.generations + 1):
            before = self._as_teacher(recipe, {self.teacher: {"stage": f"generation_{k - 1}.{self.student}"}})
            patch = {**before, "train": {"seed": recipe.train.seed + k - 1}}
            if self.ensemble and k == self.generations:
                patch |= self._together(recipe, patch)
            made.append(mmkd.Stage(f"generation_{k}", recipe.patched(patch)))
        return made

    def _as_teacher(self, recipe: mmkd.Recipe, nodes: dict[str, Any]) -> dict[str, Any]:
        """These nodes as a change to the teachers of the recipe."""
        return nodes if recipe.teacher is not None and list(nodes) == ["teacher"] else {"teachers": nodes}

    def _together(self, recipe: mmkd.Recipe, patch: dict[str, Any]) -> dict[str, Any]:
        """All generations beside each other, where there is something to evaluate them by."""
        logits = f"{self.student}.logits"
        scored = recipe.to_dict().get("evaluate", [])
        titles = [evaluation.title for evaluation in recipe.evaluate]
        again = [
            {**{key: "ensemble" if value == logits else value for key, value in spec.items()},
             "name": f"{title}_ensemble", "teacher_score": False}
            for spec, title in zip(scored, titles, strict=True) if logits in spec.values()
        ]  # fmt: skip
        if not again:
            return {}
        elder = {f"generation_{k}": {"stage": f"generation_{k}.{self.student}"} for k in range(1, self.generations)}
        teachers = {**patch.get("teachers", {self.teacher: patch.get("teacher")}), **elder}
        mean = {"use": "core.mean", "teachers": [*(f"{name}.logits" for name in elder), logits]}
        return {"teacher": None, "teachers": teachers, "mixers": {"ensemble": mean}, "evaluate": [*scored, *again]}
