"""Networks taken apart into blocks, which are trained alone and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

import mmkd
from mmkd.errors import RecipeError

Block = str | Annotated[list[str], Field(min_length=1)]


class Blocks(mmkd.Procedure):
    """Pairs of blocks are distilled alone, then neighbours merge until one is left (StableKD: Kao et al., 2023).

        procedure:
          use: core.blocks
          student: [layer1, layer2, [layer3.0, layer3.1], layer4]
          counts: [4, 2, 1]

    A block is a module, or modules that follow each other, and ends where the next one begins; what stands before the
    first belongs to it, what stands after the last to that one. While there are `k` blocks, every one but the first is
    given what the teacher's block before it gives, and every one but the last is to give what the teacher's does
    (`loss`); the last one has the losses of the recipe. No gradient crosses from block to block. At the next stage
    optimisers begin anew and those neighbours that are smallest together have merged; the last stage is the recipe
    as it would be without blocks. Evaluation and export always take the student as a whole.

    Where teacher and student differ in width, a `connector` stands at each boundary (`{use: core.conv}`). It maps the
    teacher's features to what the student's next block takes, is trained by that block, and is the target of the block
    before, which it does not follow; so a block that merges finds what it is used to. Connectors are train-only.

    Written from accounts of the paper, which has no published code: connectors, `core.mse`, the order of merging and
    equal parts of the budget are ours.

    Args:
        student: the student's blocks in order, by module path.
        teacher: the teacher's; of the same names unless given.
        counts: number of blocks at each stage, falling to 1; one less each time unless given.
        budget: steps (epochs, where the recipe counts those) of each stage; equal parts of the recipe's unless given.
        connector: projector at each boundary, with its options.
        loss: loss of all blocks but the last, with its options and weight; it has ports `student` and `teacher`.

    Raises:
        RecipeError: blocks, counts or budget do not fit each other or the recipe.
    """

    def __init__(
        self,
        student: Annotated[list[Block], Field(min_length=1)],
        teacher: list[Block] | None = None,
        counts: list[int] | None = None,
        budget: list[Annotated[int, Field(ge=1)]] | None = None,
        connector: dict[str, Any] | None = None,
        loss: dict[str, Any] | None = None,
    ) -> None:
        self.student, self.teacher = _listed(student), _listed(teacher or student)
        units = len(self.student)
        self.counts = list(range(units, 0, -1)) if counts is None else counts
        self.budget, self.connector, self.loss = budget, connector, loss or {"use": "core.mse"}
        if len(self.teacher) != units:
            what = f"{units} blocks of the student and {len(self.teacher)} of the teacher do not pair"
            raise RecipeError(what, where="core.blocks.teacher")
        falling = all(a > b for a, b in zip(self.counts, self.counts[1:], strict=False))
        if not self.counts or self.counts[0] > units or self.counts[-1] != 1 or not falling:
            raise RecipeError(f"{self.counts} does not fall from at most {units} to 1", where="core.blocks.counts")
        if budget is not None and len(budget) != len(self.counts):
            raise RecipeError(f"{len(budget)} for {len(self.counts)} stages", where="core.blocks.budget")

    def stages(self, recipe: mmkd.Recipe) -> list[mmkd.Stage]:
        made: list[mmkd.Stage] = []
        for count, budget in zip(self.counts, self._budgets(recipe), strict=True):
            before = made[-1].name if made else None
            patch = {**self._apart(recipe, self._ends(count)), **({"train": budget} if budget else {})}
            made.append(mmkd.Stage(f"blocks_{count}", recipe.patched(patch), before))
        return made

    def _ends(self, count: int) -> list[int]:
        """Where the blocks but the last end, as numbers of the given blocks, when so many are left."""
        groups = [1] * len(self.student)
        while len(groups) > count:
            at = min(range(len(groups) - 1), key=lambda i: groups[i] + groups[i + 1])
            groups[at : at + 2] = [groups[at] + groups[at + 1]]
        return [sum(groups[: i + 1]) - 1 for i in range(count - 1)]

    def _apart(self, recipe: mmkd.Recipe, ends: Sequence[int]) -> dict[str, Any]:
        """Changes that cut the student at these ends."""
        if not ends:
            return {}
        student, teacher = (_only(recipe, nodes, side) for nodes, side in
                            ((recipe.student_nodes(), "student"), (recipe.teacher_nodes(), "teacher")))  # fmt: skip
        inputs: dict[str, str] = {}
        projectors: dict[str, Any] = {}
        losses: dict[str, Any] = recipe.to_dict()["losses"]
        for end in ends:
            given, target = (f"{teacher}/{self.teacher[end][-1]}",) * 2
            entrance = self.student[end + 1][0]
            if self.connector is not None:
                given = f"connector_{end + 1}"
                target = f"detach({given})"
                like = f"{student}/{entrance}.input"
                projectors[given] = {**self.connector, "input": f"{teacher}/{self.teacher[end][-1]}", "like": like}
            inputs[f"/{entrance}"] = given
            own = f"{student}/{self.student[end][-1]}"
            losses[f"block_{end + 1}"] = {**self.loss, "student": own, "teacher": target}
        kind, _, name = recipe.place(student).partition(".")
        node = {"inputs": inputs}
        return {kind: {name: node} if name else node, "projectors": projectors, "losses": losses}

    def _budgets(self, recipe: mmkd.Recipe) -> list[dict[str, int]]:
        """What each stage has under `train`; nothing for a loop of one's own."""
        count, unit = len(self.counts), "steps" if recipe.train.epochs is None else "epochs"
        total: int | None = getattr(recipe.train, unit)
        if self.budget is not None:
            return [{unit: part} for part in self.budget]
        if total is None:
            return [{}] * count
        part, rest = divmod(total, count)
        if not part:
            raise RecipeError(
                f"train.{unit}={total} is less than one for each of {count} stages", where="core.blocks.budget",
                next=f"budget: {[1] * count}",
            )  # fmt: skip
        return [*({unit: part} for _ in range(count - 1)), {unit: part + rest}]


def _listed(blocks: Sequence[Block]) -> list[list[str]]:
    return [[block] if isinstance(block, str) else block for block in blocks]


def _only(recipe: mmkd.Recipe, nodes: dict[str, Any], side: str) -> str:
    """The name of the one network of a side."""
    if len(nodes) != 1:
        raise RecipeError(f"takes one {side} apart, not {len(nodes)}", where="core.blocks", exists=list(nodes))
    return next(iter(nodes))
