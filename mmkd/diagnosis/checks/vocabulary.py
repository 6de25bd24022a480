"""Do networks that are compared token by token mean the same token by the same id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.graph.node import Node
from mmkd.graph.value import Address


def check(exam: Examination) -> Iterator[Finding]:
    for term in exam.graph.terms:
        compared: dict[str, Address] = {}
        for address, _ in term.binding.readers():
            for name in exam.origins(address):
                compared.setdefault(name, address)
        for a, b in combinations(compared, 2):
            one, other = exam.graph.roles[a], exam.graph.roles[b]
            if not (_by_token(exam, compared[a], one) and _by_token(exam, compared[b], other)):
                continue
            if what := _difference(exam, one, other):
                what += f", and loss '{term.name}' compares them by id"
                fix = "give both the tokenizer of one, or compare embeddings of whole texts"
                yield Finding("error", what, term.binding.where, fix)


def _by_token(exam: Examination, address: Address, node: Node) -> bool:
    """Whether a value is per token, or a distribution over tokens."""
    value, ids = exam.values.get(address.key), _ids(exam.batch, node)
    if value is None or ids is None:
        return False
    vocabulary = node.encoder.vocabulary()
    over_tokens = vocabulary is not None and value.dim() > 1 and abs(value.shape[-1] - len(vocabulary)) <= 1
    return over_tokens or (value.dim() == 3 and value.shape[1] == ids.shape[1])


def _ids(batch: Mapping[str, Any], node: Node) -> Tensor | None:
    """The token ids `[B, L]` that a network takes."""
    own = batch.get(node.name)
    shared = {name: batch.get(node.inputs.get(name, name)) for name in node.encoder.inputs()}
    fields = (own if isinstance(own, Mapping) else shared).values()
    found = [v for v in fields if isinstance(v, Tensor) and v.dim() == 2 and not v.is_floating_point()]
    return found[0] if found else None


def _difference(exam: Examination, one: Node, other: Node) -> str:
    """How the vocabularies differ, or, where one is not told, whether the ids of one text do."""
    first, second = one.encoder.vocabulary(), other.encoder.vocabulary()
    names = f"'{one.name}' and '{other.name}'"
    if first is None or second is None:
        a, b = _ids(exam.batch, one), _ids(exam.batch, other)
        assert a is not None and b is not None
        length = min(a.shape[1], b.shape[1])
        return "" if a[:, :length].equal(b[:, :length]) else f"{names} turn the same text into different ids"
    if dict(first) == dict(second):
        return ""
    if first.keys() == second.keys():
        moved = [token for token in first if first[token] != second[token]]
        shown = f"{moved[0]!r} is {first[moved[0]]} and {second[moved[0]]}"
        return f"{names} give the same {len(first)} tokens other ids ({len(moved)} of them: {shown})"
    extra = sorted(first.keys() ^ second.keys())
    off = ", off by one" if abs(len(first) - len(second)) == 1 else ""
    return f"{names} have vocabularies of {len(first)} and {len(second)} tokens{off} ({extra[0]!r} is in one only)"
