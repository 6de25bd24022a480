"""The loop: data, step, log, evaluate, checkpoint; from any step on, bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mmkd import plugins
from mmkd.engine import checkpoint, group
from mmkd.engine.bad_samples import BadSamples
from mmkd.engine.batch_norm import refresh, refreshed
from mmkd.engine.data import batches
from mmkd.engine.evaluation import Evaluation, Scores, first_number
from mmkd.engine.guard import Guard
from mmkd.engine.optimizer import learning_rate, optimizers, set_learning_rate
from mmkd.engine.progress import Reporter
from mmkd.engine.reading import Reading
from mmkd.engine.remember import remember
from mmkd.engine.stream import Stream
from mmkd.graph import ranks
from mmkd.graph.collate import to_device
from mmkd.graph.gradient_cache import describe
from mmkd.graph.training_graph import TrainingGraph
from mmkd.recipe import Recipe


@dataclass
class Outcome:
    """What a run came to: scores after the last step and the best of the first metric on the way."""

    scores: Scores
    best: dict[str, Any]
    steps: int
    seconds: float
    teachers: dict[str, Scores] = field(default_factory=dict)
    """What each teacher scores itself."""
    caches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each cache was good for, by network."""


def run(
    graph: TrainingGraph,
    recipe: Recipe,
    streams: Sequence[Stream],
    evaluation: Evaluation,
    folder: Path,
    *,
    resume: bool = False,
    title: str = "distil",
    on_best: Callable[[Scores], object] = lambda scores: None,
) -> Outcome:
    """Train the graph as the recipe says; everything it writes goes into `folder`.

    `on_best` is called whenever an evaluation beats all before it. Of several ranks, each trains on its part of every
    batch; the first alone writes, speaks, and calls hooks and `on_best`.
    """
    train, data = recipe.train, recipe.data
    accumulate = train.gradient_accumulation_steps
    main, *_ = parted = [stream.split(accumulate) for stream in streams]
    total = graph.total_steps
    made = optimizers(graph, train)
    group.begin(graph, parted, train.seed)
    state: dict[str, Any] = {"best": None, "seconds": 0.0}
    leads = ranks.leads()
    with Reporter(folder / "log.jsonl" if leads else None, title, silent=not leads) as report:
        kept = remember(graph, recipe, streams, report.progress, report.say)
        if resume and (found := checkpoint.checkpoints(folder)):
            state = checkpoint.restore(found[-1], graph, made)
            report.say(f"resumed from {found[-1]}")
        if graph.attention is not None:
            report.say(f"attention by {graph.decided['attention']}")
        for name in graph.drift:
            report.say(f"{name}: {graph.decided[name]}")
        if said := describe(graph, accumulate, train.kept_graphs):
            report.say(f"gradient cache: {said}")
        report.rewind(graph.steps)
        started = time.monotonic() - state["seconds"]
        if graph.procedure is not None and graph.procedure.fit is not None and graph.steps < total:
            graph.procedure.fit(graph, Reading(graph, main))
            graph.steps = total
            checkpoint.save(folder, graph, made, state)
        begun = graph.steps
        sizes = {stream.where: len(stream.dataset) for stream in streams}
        bad = BadSamples(folder / "bad_samples.jsonl", sizes, data.max_bad_samples)
        loaded = batches(
            parted, graph.collator(remembered=True), graph.steps * accumulate, total * accumulate,
            workers=data.workers, pin=graph.device.type == "cuda", bad=bad if main.skip else None,
            shared=True,
        )  # fmt: skip
        guard = Guard(graph)
        graph.train()
        mark, since = time.monotonic(), graph.steps
        for parts in _groups(loaded, accumulate):
            set_learning_rate(made, rate := learning_rate(graph.steps, total, train))
            moved = [to_device(part, graph.device) for part in parts]
            out = graph.step(moved, made, max_grad_norm=train.max_grad_norm, kept_graphs=train.kept_graphs)
            step = graph.steps
            guard.watch(step, out)
            if leads:
                plugins.host().call("mmkd_step_end", graph=graph, step=step, losses=out)
            if step % train.log_every == 0 or step == total:
                guard.drain()
                speed = data.batch_size * (step - since) / max(1e-9, time.monotonic() - mark)
                mark, since = time.monotonic(), step
                numbers = {k: v.item() for k, v in {"grad_norm": graph.grad_norm(), **out}.items() if k != "finite"}
                report.step(step, total, {**numbers, "lr": rate, "samples_per_second": round(speed, 1)}, speed)
            if evaluation.due(step, total):
                guard.drain()
                with refreshed(graph, streams[0]):
                    scores, _ = evaluation(graph, step, total)
                    report.write({"step": step, "scores": scores})
                    state["best"] = _best(state["best"], scores, step, on_best)
                graph.train()
            if step == total or (train.checkpoint_every and step % train.checkpoint_every == 0):
                guard.drain()
                state["seconds"] = time.monotonic() - started
                path = checkpoint.save(folder, graph, made, state)
                if leads:
                    plugins.host().call("mmkd_checkpoint_saved", path=path, step=step)
        if graph.attention is not None:
            report.say(f"attention: {graph.attention}")
        if bad:
            report.say(f"{len(bad)} bad samples were skipped; {bad.path} lists them")
        refresh(graph, streams[0])
        each = {stream.name: stream.batch // ranks.world() for stream in streams}
        lookups = {one: each[one.stream] * (total - begun) for one in kept}
        for one, count in lookups.items():
            report.say(f"cache: {one.tell(count)}")
        scores, teachers = evaluation(graph, total, total)
        state["best"] = _best(state["best"], scores, total, on_best)
    seconds = time.monotonic() - started
    caches = {one.name: one.to_dict(count) for one, count in lookups.items()}
    return Outcome(scores, state["best"] or {}, graph.steps, seconds, teachers, caches)


def _best(
    before: dict[str, Any] | None, scores: Scores, step: int, on_best: Callable[[Scores], object]
) -> dict[str, Any] | None:
    found = first_number(scores)
    if found is None or (before is not None and found[1] <= before["value"]):
        return before
    if ranks.leads():
        on_best(scores)
    return {"step": step, "score": found[0], "value": found[1]}


def _groups(batches: Iterator[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    while parts := list(islice(batches, size)):
        yield parts
