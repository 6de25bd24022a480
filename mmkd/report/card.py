"""The model card that stands beside exported weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmkd.recipe import Node, Recipe


def card(recipe: Recipe, results: Mapping[str, Any], arm: str) -> str:
    """Markdown: what was distilled from what, with which losses, and the scores beside the baseline's."""
    lines = [f"# {recipe.name or 'student'}", ""]
    if recipe.description:
        lines += [recipe.description, ""]
    lines += ["| node | role | component | options |", "|---|---|---|---|"]
    for role, nodes in (("teacher", recipe.teacher_nodes()), ("student", recipe.student_nodes())):
        lines += [
            f"| {name} | {role} | `{node.use or 'handed in'}` | {_options(node)} |" for name, node in nodes.items()
        ]
    lines += ["", "| loss | component | weight |", "|---|---|---|"]
    lines += [f"| {name} | `{loss.use}` | {loss.weight} |" for name, loss in recipe.losses.items()]
    scores = {name: results[name]["scores"] for name in ("student", "baseline") if name in results}
    if any(scores.values()):
        lines += [
            "",
            "## Scores",
            "",
            f"| dataset | metric | {' | '.join(scores)} |",
            "|---|---|" + "---|" * len(scores),
        ]
        for place in dict.fromkeys(key for each in scores.values() for key in _flat(each)):
            numbers = " | ".join(
                f"{_flat(each)[place]:.4g}" if place in _flat(each) else "-" for each in scores.values()
            )
            lines.append(f"| {place[0]} | {place[1]} | {numbers} |")
        lines += [
            "",
            f"One run, seed {recipe.train.seed}, {recipe.train.steps or '?'} steps of {recipe.data.batch_size}.",
        ]
    lines += ["", "## Use", "", "```python", "import mmkd", "", 'model = mmkd.from_pretrained("<this folder>")']
    lines += ["batch = model.collate([sample])", f'values = model.values(batch, ["{_value(recipe)}"])', "```", ""]
    return "\n".join(lines)


def _options(node: Node) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in node.arguments.items()).replace("|", "\\|")


def _flat(scores: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    return {
        (dataset, f"{metric}.{name}"): number
        for dataset, metrics in scores.items()
        for metric, numbers in metrics.items()
        for name, number in numbers.items()
    }


def _value(recipe: Recipe) -> str:
    """A value worth reading: the exported projector, or the student's embedding."""
    return next(
        (n for n in recipe.exported() if n in recipe.projectors), f"{next(iter(recipe.student_nodes()))}.embedding"
    )
