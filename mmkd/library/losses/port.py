"""What the losses ask of their ports: precision, equal shapes, labels that fit, a temperature above zero."""

from __future__ import annotations

import torch
from torch import Tensor

from mmkd.errors import GraphError, RecipeError


def widen(value: Tensor) -> Tensor:
    """Half precision to float32; anything wider stays as it is."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def same_shape(component: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both values, widened.

    Raises:
        GraphError: their shapes differ; they are never broadcast.
    """
    if student.shape != teacher.shape:
        raise GraphError(
            f"student {list(student.shape)} and teacher {list(teacher.shape)} must have the same shape",
            where=component,
            next="put a projector between them: {use: core.linear, input: <student value>, like: <teacher value>}",
        )
    return widen(student), widen(teacher)


def class_labels(component: str, student: Tensor, label: Tensor) -> Tensor:
    """The label as integers.

    Raises:
        GraphError: it does not have the student's shape without its last dimension.
    """
    if label.shape != student.shape[:-1]:
        raise GraphError(
            f"student {list(student.shape)} needs a label {list(student.shape[:-1])}, not {list(label.shape)}",
            where=component,
        )
    return label.long()


def positive(component: str, option: str, value: float) -> float:
    """The option's value, where it is greater than zero.

    Raises:
        RecipeError: it is not.
    """
    if not value > 0:
        raise RecipeError(f"{option} must be greater than 0, not {value}", where=component)
    return value
