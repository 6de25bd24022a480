"""Completions that a network of the graph writes itself, in place of the data's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.random import Generator
from pydantic import Field

import mmkd
from mmkd.errors import GraphError, RecipeError

if TYPE_CHECKING:
    from mmkd import TrainingGraph


class Rollout(mmkd.Curator):
    """On-policy training: the completion of some samples is replaced by what a network writes after their prompt.

    Each sample is replaced with probability `fraction`, for all networks that read completions, in their own tokens.
    Nobody's gradient flows through the writing (GKD: Agarwal et al., 2024, where one draw decides for the whole batch).
    What is written depends on seed, step, sample and weights alone, not on the batch around it, up to rounding.

    `batch.written` tells who wrote the completion of a sample: 0 the data, 1 the first of `node`, 2 the second, and so
    on. `student.reference` is the mask of the data's own tokens, for a supervised loss beside.

    A network writes where it has the capability `generate` and the methods `generate(fields, rows, draws, ...)`,
    `rewritten(fields, completions)`, `read(ids)` and `spell(text, ended)`, as `language.causal_lm` has them; those
    without `rewritten` go on reading what the data says. Other streams and views of the batch stay as they are.

    Args:
        node: name of the network that writes; several take turns at random.
        fraction: probability that a sample is replaced.
        temperature: of the writer's softmax; 0 takes the likeliest token.
        max_new_tokens: tokens written at most.
        top_k: likeliest tokens that can be drawn; None for all.
        top_p: share of the probability whose likeliest tokens can be drawn.
        whole_batch: one draw a step decides for all of its samples, as in the paper.

    Raises:
        GraphError: a writer cannot write, or is read by no loss, so that the batch holds nothing for it.
    """

    fields: ClassVar[frozenset[str]] = frozenset({"text", "target"})

    def __init__(
        self,
        node: str | list[str] = "student",
        fraction: Annotated[float, Field(ge=0, le=1)] = 0.5,
        temperature: Annotated[float, Field(ge=0)] = 1.0,
        max_new_tokens: Annotated[int, Field(ge=1)] = 64,
        top_k: Annotated[int, Field(ge=1)] | None = None,
        top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
        whole_batch: bool = False,
    ) -> None:
        self.node, self.fraction, self.temperature, self.max_new_tokens = node, fraction, temperature, max_new_tokens
        self.top_k, self.top_p, self.whole_batch = top_k, top_p, whole_batch

    def curate(
        self, batch: Mapping[str, Any], graph: TrainingGraph, generator_of: Callable[[str], Generator]
    ) -> dict[str, Any]:
        if not 0 <= self.fraction <= 1:
            raise RecipeError(f"fraction must be from 0 to 1, not {self.fraction}", where="language.rollout")
        writers = [self.node] if isinstance(self.node, str) else self.node
        written, draws = self._drawn(batch["key"], len(writers), generator_of)
        completions: dict[int, tuple[Any, list[int]]] = {}
        for number, name in enumerate(writers, 1):
            encoder, fields = _writer(name, batch, graph)
            rows = np.flatnonzero(written == number).tolist()
            made = encoder.generate(
                fields, rows, torch.from_numpy(draws[rows]),
                temperature=self.temperature, top_k=self.top_k, top_p=self.top_p,
            ) if rows else []  # fmt: skip
            completions |= {row: (encoder, ids) for row, ids in zip(rows, made, strict=True) if ids}
        written[[row for row in range(len(written)) if row not in completions]] = 0
        changed = _rewritten(batch, graph, completions) if completions else {}
        return {**batch, **changed, "written": torch.from_numpy(written).to(graph.device)}

    def _drawn(
        self, keys: Sequence[str], writers: int, generator_of: Callable[[str], Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Who writes each sample, 0 being the data, and the numbers that are written by, `[B, max_new_tokens]`."""
        generators = [generator_of(key) for key in keys]
        chances = np.array([generator.random(2) for generator in generators]).reshape(-1, 2)
        if self.whole_batch:
            chances[:, 0] = generator_of("").random()
        writer = 1 + (chances[:, 1] * writers).astype(np.int64)
        draws = [generator.random(self.max_new_tokens, dtype=np.float32) for generator in generators]
        return np.where(chances[:, 0] < self.fraction, writer, 0), np.array(draws).reshape(-1, self.max_new_tokens)


def _writer(name: str, batch: Mapping[str, Any], graph: TrainingGraph) -> tuple[Any, Mapping[str, Any]]:
    if name not in graph.roles:
        raise GraphError("no such network", where="language.rollout.node", name=name, exists=list(graph.roles))
    encoder = graph.roles[name].encoder
    if "generate" not in encoder.capabilities:
        able = [other for other, role in graph.roles.items() if "generate" in role.encoder.capabilities]
        raise GraphError(f"'{name}' cannot write: it is a {type(encoder).__name__}", where="language.rollout.node",
                         exists=able, next="use: language.causal_lm")  # fmt: skip
    if not isinstance(batch.get(name), Mapping):
        raise GraphError(f"the batch holds nothing for '{name}'", where="language.rollout.node",
                         next=f"let a loss read {name}.logits")  # fmt: skip
    return encoder, batch[name]


def _rewritten(
    batch: Mapping[str, Any], graph: TrainingGraph, completions: Mapping[int, tuple[Any, list[int]]]
) -> dict[str, Any]:
    """The fields of all networks that read completions, and the text itself."""
    texts = {row: encoder.read(ids) for row, (encoder, ids) in completions.items()}
    changed: dict[str, Any] = {}
    for name, role in graph.roles.items():
        reader: Any = role.encoder
        if not isinstance(batch.get(name), Mapping) or not hasattr(reader, "rewritten"):
            continue
        alike = {id(writer): writer.vocabulary() == reader.vocabulary() for writer, _ in completions.values()}
        own = {
            row: ids if alike[id(writer)] else reader.spell(*texts[row]) for row, (writer, ids) in completions.items()
        }
        changed[name] = reader.rewritten(batch[name], own)
    field = "target" if "target" in batch else "text"
    if isinstance(batch.get(field), list):
        changed[field] = [texts[row][0] if row in texts else text for row, text in enumerate(batch[field])]
    return changed
