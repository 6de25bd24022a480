"""Samples and batches of any structure, read through declared paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from torch import Tensor

from mmkd.components import Dataset
from mmkd.errors import DataError


class Fields:
    """Makes a sample, or a collated batch, from what a dataset or loader of any other convention yields.

        mmkd.Fields({"image": 0, "label": 1})((picture, 3))               # {"image": picture, "label": 3}
        mmkd.Fields({"image": "inputs.pixels", "text": "meta.caption"})(item)

    A path is made of keys, indices and attributes, joined by dots. What is not declared stays out, but for `key`.

    Args:
        paths: where each field is.
    """

    def __init__(self, paths: Mapping[str, str | int]) -> None:
        self.paths = {field: str(path) for field, path in paths.items()}

    def __call__(self, given: Any) -> dict[str, Any]:
        """The declared fields.

        Raises:
            DataError: a path leads nowhere; says how far it goes and what there is.
        """
        made = {field: _follow(given, path, field) for field, path in self.paths.items()}
        if "key" in made:
            made["key"] = made["key"] if isinstance(made["key"], list) else str(made["key"])
        elif isinstance(given, Mapping) and "key" in given:
            made["key"] = given["key"]
        return made


class Mapped(Dataset):
    """A dataset whose samples are read through `Fields`."""

    def __init__(self, dataset: Any, fields: Fields) -> None:
        self.dataset, self.fields = dataset, fields
        self.license = getattr(dataset, "license", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.fields(self.dataset[index])

    def manifest(self) -> Sequence[tuple[str, Any]] | None:
        own = getattr(self.dataset, "manifest", None)
        entries = own() if callable(own) and "key" not in self.fields.paths else None
        return None if entries is None else [(key, [content, self.fields.paths]) for key, content in entries]

    def order(self, generator: Generator) -> np.ndarray:
        own = getattr(self.dataset, "order", None)
        return own(generator) if callable(own) else super().order(generator)


def suggestion(sample: Any) -> str:
    """The mapping that would make a sample of this one, as a recipe writes it."""
    named: dict[str, str] = {}
    for path, value in _inside(sample).items():
        field = path if not path.isdigit() else _guess(value)
        named.setdefault(field if field not in named else f"{field}_{path}", path)
    shown = ", ".join(f'{field}: "{path}"' for field, path in named.items())
    return f"data.fields: {{{shown or 'image: <path>, label: <path>'}}}"


def _follow(value: Any, path: str, field: str) -> Any:
    done, rest = "", path
    while rest:
        step, _, after = rest.partition(".")
        if isinstance(value, Mapping) and rest in value:
            return value[rest]
        try:
            value = _one(value, step)
        except Exception:
            exists = list(_inside(value))
            raise DataError(
                f"field '{field}' is read from '{path}', and {f'its {done!r}' if done else 'the sample'}, "
                f"a {type(value).__name__}, has no '{step}'",
                where="data.fields", name=step, exists=exists,
            ) from None  # fmt: skip
        done, rest = f"{done}.{step}".lstrip("."), after
    return value


def _one(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value[step] if step in value else value[int(step)]
    if step.removeprefix("-").isdigit():
        return value[int(step)]
    return getattr(value, step)


def _inside(value: Any) -> dict[str, Any]:
    """What the next step of a path may be, with its value."""
    if isinstance(value, Mapping):
        return {str(key): inner for key, inner in value.items()}
    if hasattr(value, "_asdict"):
        return dict(value._asdict())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return {str(i): inner for i, inner in enumerate(value)}
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return {name: inner for name, inner in vars(value).items() if not name.startswith("_")}
    return {}


def _guess(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    number = isinstance(value, int | np.integer) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0)
    return "label" if number else "image"


def usable(dataset: Any, where: str) -> Any:
    """A dataset that was handed in, as it is.

    Raises:
        DataError: it cannot be read by index; the host makes order and batches itself.
    """
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        return dataset
    inner = getattr(dataset, "dataset", None)
    raise DataError(
        f"a {type(dataset).__name__} cannot be read by index; a dataset has __len__ and __getitem__", where=where,
        next="hand in its `.dataset`: order and batches are made here" if inner is not None
        else "collate in a loop of your own: graph(mmkd.Fields({...})(batch))",
    )  # fmt: skip
