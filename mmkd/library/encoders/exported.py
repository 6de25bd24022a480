"""What an earlier run has made, as a network of this one."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import mmkd
from mmkd.errors import RecipeError


class Exported(mmkd.Encoder):
    """The network of an earlier run: a student becomes the teacher of the next one.

    It publishes and reads what the network itself does, and has the same transform.

    Args:
        path: a run, or the folder of an exported model.
        node: which network of it, where it exported several.

    Raises:
        RecipeError: the model has no such network.
    """

    def __init__(self, path: str, node: str | None = None) -> None:
        super().__init__()
        model = mmkd.from_pretrained(path)
        names = list(model.nodes)
        if (node or names[0]) not in names:
            raise RecipeError(f"'{path}' has no network '{node}'", name=node or "", exists=names)
        self.inner: mmkd.Encoder = model.roles[node or names[0]].encoder
        self.inner.requires_grad_(True)
        self.license, self.capabilities = self.inner.license, self.inner.capabilities  # type: ignore[misc]
        folder = Path(path)
        weights = folder if (folder / "model.safetensors").is_file() else folder / "student"
        self._checksum = f"sha256:{hashlib.sha256((weights / 'model.safetensors').read_bytes()).hexdigest()}"

    @property
    def wanted(self) -> frozenset[str] | None:
        """What the graph reads, told to the network itself."""
        return self.inner.wanted

    @wanted.setter
    def wanted(self, names: frozenset[str] | None) -> None:
        object.__setattr__(self.inner, "wanted", names)

    @property
    def network(self) -> nn.Module:
        return self.inner.network

    def values(self) -> Sequence[str]:
        return self.inner.values()

    def locate(self, name: str) -> str | None:
        return self.inner.locate(name)

    def inputs(self) -> Mapping[str, bool]:
        return self.inner.inputs()

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        return self.inner.transform(sample)

    def transform_key(self) -> Hashable | None:
        return self.inner.transform_key()

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return self.inner.collate(rows)

    def lengths(self, **inputs: Any) -> Mapping[str, Tensor]:
        return self.inner.lengths(**inputs)

    def fingerprint(self) -> str | None:
        return self._checksum

    def vocabulary(self) -> Mapping[str, int] | None:
        return self.inner.vocabulary()

    def preprocessing(self) -> Mapping[str, Any] | None:
        return self.inner.preprocessing()

    def formats(self) -> Sequence[str]:
        return self.inner.formats()

    def export(self, folder: Path, format: str) -> str:
        return self.inner.export(folder, format)

    def export_tokenizer(self, folder: Path) -> str | None:
        return self.inner.export_tokenizer(folder)

    def forward(self, **fields: Any) -> Any:
        return self.inner(**fields)

    def __getattr__(self, name: str) -> Any:
        """What the network has beyond what every encoder has: methods by which it writes, its frame rate."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(self.inner, name)
