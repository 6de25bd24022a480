"""An image network and a text network side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

import mmkd
from mmkd.errors import DataError, GraphError, RecipeError

TOWERS = ("image", "text")


class DualTower(mmkd.Encoder):
    """An image tower and a text tower, each any encoder, with heads into one space (CLIP: Radford et al., 2021).

    Values: `image.embedding` and `text.embedding`, through a linear head to `dim` each where given (not normalised);
    every other value of a tower under its prefix, `image.hidden.3`, `text.tokens`. Batch fields carry the prefix too,
    `image.image`, `text.input_ids`. A tower that nobody reads is not run, nor are its fields asked of a sample;
    where both are read, a sample without `image` (or `text`) goes through the other tower alone.

    Args:
        image: encoder with a value `embedding`.
        text: encoder with a value `embedding`.
        dim: width of both embeddings; None publishes the towers' own. Towers say theirs as `embedding_dim`.

    Shape: the towers' fields -> image.embedding, text.embedding `[B, dim]`.

    Raises:
        RecipeError: a tower publishes no `embedding`, or a head is wanted and the tower does not say its width.
    """

    def __init__(self, image: mmkd.Encoder, text: mmkd.Encoder, dim: Annotated[int, Field(gt=0)] | None = None) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.towers: Mapping[str, mmkd.Encoder] = {"image": image, "text": text}
        self.heads = nn.ModuleDict()
        for name, tower in self.towers.items():
            if "embedding" not in tower.values():
                raise RecipeError("publishes no 'embedding'", where=name, exists=tower.values())
            if dim is not None:
                self.heads[name] = nn.Linear(_width(tower, name), dim)
        paths = {id(module): path for path, module in self.named_modules()}
        self._paths = {name: paths[id(tower.network)] for name, tower in self.towers.items()}

    def values(self) -> list[str]:
        return [f"{name}.{value}" for name, tower in self.towers.items() for value in tower.values()]

    def locate(self, name: str) -> str | None:
        side, _, value = name.partition(".")
        if value == "embedding" and side in self.heads:
            return None
        path = self.towers[side].locate(value)
        return None if path is None else f"{self._paths[side]}.{path}"

    def inputs(self) -> dict[str, bool]:
        """Fields of both towers, with their prefix and (shared fields of the batch) without; each may be absent."""
        own = [(side, field) for side, tower in self.towers.items() for field in tower.inputs()]
        return dict.fromkeys([*(f"{side}.{field}" for side, field in own), *(field for _, field in own)], False)

    def transform(self, sample: mmkd.Sample) -> dict[str, Any]:
        read = self._read()
        made: dict[str, Any] = {}
        for side in [side for side in read if side in sample] or read:
            with self.towers[side].reading(self._wanted(side)):
                made |= {f"{side}.{field}": value for field, value in self.towers[side].transform(sample).items()}
        return made

    def transform_key(self) -> Hashable | None:
        keys: list[tuple[str, Hashable | None]] = []
        for side in self._read():
            with self.towers[side].reading(self._wanted(side)):
                keys.append((side, self.towers[side].transform_key()))
        return None if any(key is None for _, key in keys) else ("dual tower", *keys)

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if any(row.keys() != rows[0].keys() for row in rows):
            raise DataError(
                "some samples of a batch have an image or a text that others lack", where="vision_language.dual_tower"
            )
        batch: dict[str, Any] = {}
        for side, tower in self.towers.items():
            own = [_stripped(row, side) for row in rows]
            if any(own):
                batch |= {f"{side}.{field}": value for field, value in tower.collate(own).items()}
        return batch

    def vocabulary(self) -> Mapping[str, int] | None:
        return self.text.vocabulary()

    def preprocessing(self) -> Mapping[str, Any] | None:
        return self.image.preprocessing()

    def export_tokenizer(self, folder: Path) -> str | None:
        return self.text.export_tokenizer(folder)

    def fingerprint(self) -> str | None:
        prints = [tower.fingerprint() for tower in self.towers.values()]
        if self.heads or None in prints:
            return None
        return f"sha256:{hashlib.sha256(' '.join(map(str, prints)).encode()).hexdigest()}"

    def forward(self, **fields: Any) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for side in self._read():
            values |= {f"{side}.{name}": value for name, value in self._run(side, self.towers[side], fields).items()}
        return values

    def _read(self) -> list[str]:
        """The towers of which something is read."""
        return [side for side in TOWERS if any(map(self.wants, (f"{side}.", f"/{side}", f"/heads.{side}")))]

    def _run(self, side: str, tower: mmkd.Encoder, fields: Mapping[str, Any]) -> dict[str, Tensor]:
        given: dict[str, Any] = {}
        for field, required in tower.inputs().items():
            if (name := f"{side}.{field}") in fields or (name := field) in fields:
                given[field] = fields[name]
            elif required:
                raise GraphError(
                    f"the samples have no {side}, and its tower is wanted", exists=sorted(fields),
                    next="have it made: graph.collate(samples, [value, ...])",
                )  # fmt: skip
        with tower.reading(self._wanted(side)):
            values: dict[str, Tensor] = dict(tower(**given))
        if side in self.heads and "embedding" in values:
            values["embedding"] = self.heads[side](values["embedding"])
        return values

    def _wanted(self, side: str) -> frozenset[str] | None:
        """What the host reads of one tower, in that tower's words."""
        if self.wanted is None:
            return None
        path = f"/{self._paths[side]}."
        names = {name.removeprefix(f"{side}.") for name in self.wanted if name.startswith(f"{side}.")}
        taps = {f"/{name.removeprefix(path)}" for name in self.wanted if name.startswith(path)}
        return frozenset(names | taps | ({"embedding"} if self.wants(f"/heads.{side}") else set()))


def _width(tower: mmkd.Encoder, name: str) -> int:
    width = getattr(tower, "embedding_dim", None)
    if isinstance(width, int):
        return width
    raise RecipeError(
        f"{type(tower).__name__} does not say how wide its embedding is, so 'dim' has no head to build",
        where=name,
        next="leave 'dim' out, or give the encoder an attribute 'embedding_dim'",
    )


def _stripped(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    return {key.removeprefix(f"{side}."): value for key, value in row.items() if key.startswith(f"{side}.")}
