"""Is the batch large enough for the losses that compare its samples, and the data large enough for a batch."""

from __future__ import annotations

from collections.abc import Iterator

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.errors import GraphError
from mmkd.graph import gradient_cache

FEW = 8
"""Below it a sample has too few others to be told from."""


def check(exam: Examination) -> Iterator[Finding]:
    size, samples = exam.recipe.data.batch_size, len(exam.train)
    parts = exam.recipe.train.gradient_accumulation_steps
    if samples < size:
        what = f"the training data has {samples} samples, fewer than a batch of {size}"
        yield Finding("error", what, "data.batch_size", f"data.batch_size={samples}")
    whole = {term.name for term in gradient_cache.whole_terms(exam.graph)}
    for term in exam.graph.terms:
        least, name = term.loss.min_batch, type(term.loss).__name__
        if size < least:
            what = f"loss '{term.name}' ({name}) needs at least {least} samples, a batch has {size}"
            yield Finding("error", what, "data.batch_size", f"data.batch_size={max(least, FEW)}")
        elif term.loss.coupled and size < FEW:
            what = f"loss '{term.name}' ({name}) compares the samples of a batch, and a batch has {size}"
            yield Finding("warning", what, "data.batch_size", "data.batch_size=64, or what fits")
        if parts > 1 and term.name not in whole and size // parts < least:
            what = f"loss '{term.name}' ({name}) needs at least {least} samples, a micro-batch has {size // parts}"
            yield Finding("error", what, "train.gradient_accumulation_steps", "train.gradient_accumulation_steps=1")
    if parts > 1:
        try:
            gradient_cache.check(exam.graph, parts)
        except GraphError as error:
            what = f"{error.where}: {error.what}"
            yield Finding("error", what, "train.gradient_accumulation_steps", "train.gradient_accumulation_steps=1")
