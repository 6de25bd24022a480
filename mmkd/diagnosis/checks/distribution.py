"""Do losses that apply a softmax get logits, not what a softmax has been applied to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.graph.term import Term
from mmkd.graph.value import Address


def check(exam: Examination) -> Iterator[Finding]:
    for term in exam.graph.terms:
        if term.name not in exam.losses:
            continue
        given = term.binding.arguments(exam.values, float32=True, detached=True)
        for port, value in given.items():
            address = term.binding.ports[port]
            if not isinstance(value, Tensor) or not isinstance(address, Address) or not _rows(value):
                continue
            where = f"{term.binding.where}.{port}"
            if _probabilities(value) and _takes_softmax(term, given, port):
                what = f"{address} are probabilities already, and loss '{term.name}' applies a softmax to them"
                yield Finding("error", what, where, "give the logits: take the softmax off the network's output")
            elif _log_probabilities(value) and _takes_softmax(term, given, port):
                what = f"{address} are log-probabilities; a softmax leaves them as they are"
                yield Finding("note", what, where)


def _rows(value: Tensor) -> bool:
    return value.is_floating_point() and value.dim() >= 2 and value.shape[-1] >= 2 and value.numel() > 0


def _probabilities(value: Tensor) -> bool:
    return bool((value >= 0).all() and ((value.sum(-1) - 1).abs() < 1e-2).all())


def _log_probabilities(value: Tensor) -> bool:
    return bool((value <= 0).all() and (value.logsumexp(-1).abs() < 1e-2).all())


def _takes_softmax(term: Term, given: dict[str, Any], port: str) -> bool:
    """Whether adding a number to all logits of a row, another for each row, leaves the loss as it is."""
    value: Tensor = given[port]
    moves = torch.linspace(-3, 5, value[..., :1].numel(), device=value.device).reshape(value[..., :1].shape)
    with torch.no_grad():
        before, after = term.loss(**given), term.loss(**{**given, port: value + moves})
    return torch.allclose(before, after, rtol=1e-3, atol=1e-5)
