"""A network as a program that runs without its Python: `torch.export` and ONNX, each checked once it is written."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd.errors import TrainingError
from mmkd.formats.portable import Portable, difference

TOLERANCE = 1e-4


def write_torch(portable: Portable, folder: Path) -> None:
    """`model.pt2`, for `torch.export.load`; batch and lengths may vary.

    Raises:
        TrainingError: the network cannot be traced, or the program gives other values than the network.
    """
    with _traced("torch"):
        program = torch.export.export(portable, portable.example, dynamic_shapes=(_dynamic(portable),))
        torch.export.save(program, folder / "model.pt2")
    loaded = torch.export.load(folder / "model.pt2").module()
    for inputs in _trials(portable):
        _check("torch", difference(loaded(*inputs), portable(*inputs)))


def write_onnx(portable: Portable, folder: Path) -> None:
    """`model.onnx`, inputs and outputs by name; batch and lengths may vary. Checked where onnxruntime is installed.

    Raises:
        TrainingError: onnx or onnxscript is missing, an operator has no ONNX form, or the values differ.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(f"needs {' and '.join(missing)}", where="format onnx", next="pip install 'mmkd[onnx]'")
    with _traced("onnx"):
        program: Any = torch.onnx.export(
            portable, portable.example, input_names=portable.fields, output_names=list(portable.values),
            dynamic_shapes=(_dynamic(portable),), dynamo=True, verbose=False,
        )  # fmt: skip
        _free(program.model.graph, {*portable.fields, *portable.values})
        program.save(folder / "model.onnx")
    if importlib.util.find_spec("onnxruntime") is None:
        warnings.warn("model.onnx was not checked: onnxruntime is not installed", stacklevel=2)
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for inputs in _trials(portable):
        given = {name: x.numpy() for name, x in zip(portable.fields, inputs, strict=True)}
        found = dict(zip(portable.values, session.run(list(portable.values), given), strict=True))
        _check("onnx", difference(found, portable(*inputs)))


def _free(graph: Any, names: set[str]) -> None:
    """Rename tensors inside that bear the name of an input or output, as an operator `embedding` gives its own."""
    outside = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph:
        for value in node.outputs:
            if value.name in names and id(value) not in outside:
                value.name = f"{value.name}.inside"


def _dynamic(portable: Portable) -> tuple[dict[int, Any], ...]:
    return tuple(dict.fromkeys(dimensions, torch.export.Dim.DYNAMIC) for dimensions in portable.varying)


def _trials(portable: Portable) -> Iterator[tuple[Tensor, ...]]:
    """Batches of 1 and of 5, from the example's two samples."""
    for rows in ([0], [1, 0, 1, 1, 0]):
        yield tuple(x[rows] for x in portable.example)


def _check(form: str, error: float) -> None:
    if not error <= TOLERANCE:
        raise TrainingError(
            f"the exported program's values differ from the network's by {error:.1e}", where=f"format {form}",
            next="--format safetensors",
        )  # fmt: skip


@contextlib.contextmanager
def _traced(form: str) -> Iterator[None]:
    """Say in one line why a network cannot be traced; the exporters' own progress and advice stay out of sight."""
    level = logging.root.manager.disable
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
            yield
    except Exception as error:
        raise TrainingError(
            f"the network cannot be traced: {_reason(error)}", where=f"format {form}", next="--format safetensors"
        ) from error
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """What set off an error, in one line without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return said.splitlines()[0] if said else type(error).__name__
