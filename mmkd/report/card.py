"""The model card that stands beside exported weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd.recipe import Node, Recipe
from mmkd.report.scores import columns, rows


def card(recipe: Recipe, results: Mapping[str, Any], arm: str) -> str:
    """Markdown: what was distilled from what, with which losses; scores of teacher, student and baseline."""
    lines = [f"# {recipe.name or 'student'}", ""]
    if recipe.description:
        lines += [recipe.description, ""]
    lines += ["| node | role | component | options |", "|---|---|---|---|"]
    for role, nodes in (("teacher", recipe.teacher_nodes()), ("student", recipe.student_nodes())):
        lines += [f"| {name} | {role} | {_component(node)} | {_options(node)} |" for name, node in nodes.items()]
    lines += ["", "| loss | component | weight |", "|---|---|---|"]
    lines += [f"| {name} | `{loss.use}` | {loss.weight} |" for name, loss in recipe.losses.items()]
    scores = columns(results)
    if any(scores.values()):
        lines += [
            "",
            "## Scores",
            "",
            f"| dataset | metric | {' | '.join(scores)} |",
            "|---|---|" + "---|" * len(scores),
        ]
        lines += [f"| {' | '.join(row)} |" for row in rows(scores)]
        lines += [
            "",
            f"One run, seed {recipe.train.seed}, {recipe.train.steps or '?'} steps of {recipe.data.batch_size}.",
        ]
    lines += ["", "## Use", "", "```python", "import mmkd", "", 'model = mmkd.from_pretrained("<this folder>")']
    lines += ["batch = model.collate([sample])", f'values = model.values(batch, ["{_value(recipe)}"])', "```", ""]
    return "\n".join(lines)


def _component(node: Node) -> str:
    return f"average of {node.average.of}" if node.average else f"`{node.use or 'handed in'}`"


def _options(node: Node) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in node.arguments.items()).replace("|", "\\|")


def _value(recipe: Recipe) -> str:
    """A value worth reading: the exported projector, or the embedding of the first exported network."""
    names = recipe.exported()
    return next((n for n in names if n in recipe.projectors), f"{names[0]}.embedding")
