"""Is the evaluation data apart from the training data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from mmkd.components import Sample
from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.diagnosis.reading import peek

SHARE = 0.05
"""Copies among the samples looked at that chance alone may make."""


def check(exam: Examination) -> Iterator[Finding]:
    sets = {name: dataset for name, dataset in exam.evaluation.items() if "train" not in name}
    if not sets:
        return
    trained = {_digest(sample) for sample in peek(exam.train, exam.patience)}
    for name, dataset in sets.items():
        looked = [_digest(sample) for sample in peek(dataset, exam.patience)]
        copies = sum(digest in trained for digest in looked)
        if dataset is exam.train or copies > SHARE * len(looked):
            where = "data.eval" if name == "eval" else f"data.eval.{name}"
            fix = "evaluate on samples that are held out; a set called 'train...' may hold training samples"
            what = f"{copies} of {len(looked)} evaluation samples looked at are training samples too"
            yield Finding("warning", what, where, fix)


def _digest(sample: Sample) -> bytes:
    """What a sample holds, its key aside."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(sample, key=str):
        if name != "key":
            digest.update(f"{name}:".encode())
            _feed(digest, sample[name])
    return digest.digest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor | np.ndarray):
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    elif hasattr(value, "tobytes"):
        digest.update(f"{getattr(value, 'size', '')}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            digest.update(f"{name}:".encode())
            _feed(digest, value[name])
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())
