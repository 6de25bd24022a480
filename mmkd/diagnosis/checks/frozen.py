"""Is each teacher in evaluation mode and frozen: the same answer twice, alone and in company, and no state moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding
from mmkd.graph.node import Node
from mmkd.graph.value import parse


def check(exam: Examination) -> Iterator[Finding]:
    for node in exam.constants():
        where, fix = exam.place(node.name), "put the network in evaluation mode: network.eval()"
        if trained := [name for name, p in node.encoder.named_parameters() if p.requires_grad]:
            what = f"'{node.name}' is a teacher, and {trained[0]} of it still asks for a gradient"
            yield Finding("error", what, where, "network.requires_grad_(False)")
        if active := [name for name, module in node.encoder.named_modules() if module.training and name]:
            yield Finding("error", f"'{node.name}' is a teacher in training mode ({active[0]})", where, fix)
            continue
        before = {name: b.clone() for name, b in node.encoder.named_buffers()}
        whole = {key: value.detach() for key, value in exam.addressed.items() if parse(key).node == node.name}
        parts = _in_halves(exam, node) if exam.size > 1 else exam.answers(node, exam.batch)
        half = node.form.half if node.form and node.form.precision else exam.graph.precision != "fp32"
        tolerance = 5e-2 if half else 1e-3
        if moved := [name for name, b in node.encoder.named_buffers() if not torch.equal(b, before[name])]:
            yield Finding("error", f"'{node.name}' is a teacher, and a pass changes its buffer {moved[0]}", where, fix)
        elif key := _different(whole, parts, tolerance):
            if _different(whole, exam.answers(node, exam.batch), tolerance):
                what = f"{key} differs between two passes over one batch: dropout or other noise is on in a teacher"
            else:
                what = f"{key} of a sample depends on the others of its batch: BatchNorm in training mode in a teacher"
            yield Finding("error", what, where, fix)


def _in_halves(exam: Examination, node: Node) -> dict[str, Tensor]:
    half = exam.size // 2
    parts = [exam.answers(node, _rows(exam.batch, exam.size, rows)) for rows in (slice(half), slice(half, None))]
    return {key: torch.cat([part[key] for part in parts]) for key, value in parts[0].items() if value.dim()}


def _rows(batch: Mapping[str, Any], size: int, rows: slice) -> dict[str, Any]:
    """Some samples of a batch, padded as they were."""
    cut: dict[str, Any] = {}
    for name, value in batch.items():
        if isinstance(value, Mapping):
            cut[name] = _rows(value, size, rows)
        else:
            cut[name] = value[rows] if isinstance(value, Tensor | list) and len(value) == size else value
    return cut


def _different(first: Mapping[str, Tensor], second: Mapping[str, Tensor], tolerance: float) -> str | None:
    common = [key for key in first if key in second and first[key].shape == second[key].shape]
    return next((key for key in common if not _same(first[key], second[key], tolerance)), None)


def _same(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal up to a share of the typical size of the entries; what is not finite is another check's."""
    a, b = (x.float().nan_to_num(posinf=0.0, neginf=0.0) for x in (a, b))
    return not a.numel() or bool((a - b).abs().max() <= tolerance * a.square().mean().sqrt().clamp(min=1e-12))
