"""Does each image network see pictures as it was trained to: scale, normalisation, channel order, size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from mmkd.diagnosis.examination import Examination
from mmkd.diagnosis.finding import Finding, Severity
from mmkd.diagnosis.probe import Response, declared, pictures, responses
from mmkd.graph.node import Node

CLOSE, OVERSHOOT = 0.01, 0.15
"""Largest difference of a mean or standard deviation that rounding makes; of a pixel, that resizing makes."""
UNSCALED = 20.0
"""No usual normalisation gives a number as large; pixels of 0 to 255 do."""


def check(exam: Examination) -> Iterator[Finding]:
    for node in exam.graph.roles.values():
        said = declared(node.encoder)
        probed = responses(node, exam.samples[0])
        for name, picture in pictures(exam.batch, node).items():
            look = _Look(exam.place(node.name), node, name, said)
            if not picture.is_floating_point():
                yield look.found(f"are {picture.dtype}, not floating point".replace("torch.", ""), "scale to [0, 1]")
            elif name in probed:
                yield from look.probed(probed[name])
            else:
                yield from look.read(picture)


class _Look:
    """One picture input of one network, with what its network was trained on (None where nobody says)."""

    def __init__(self, place: str, node: Node, name: str, said: Mapping[str, Any] | None) -> None:
        self.place, self.node, self.name = place, node, name
        self.mean = _triple(said, "mean")
        self.std = _triple(said, "std")
        self.channels = str((said or {}).get("channels") or "RGB").upper()
        size = (said or {}).get("size")
        self.size = (size, size) if isinstance(size, int) else tuple(size[-2:]) if size else None

    def found(self, what: str, fix: str) -> Finding:
        """A finding about this input; an error where the network cannot learn its way out of it."""
        severity: Severity = "error" if self.node.constant else "warning"
        return Finding(severity, f"the pictures that '{self.node.name}' gets as '{self.name}' {what}", self.place, fix)

    def probed(self, response: Response) -> Iterator[Finding]:
        """Judge by what preprocessing made of plain white, black and red."""
        if max(1 / abs(s) for s in response.std) > UNSCALED:
            yield self.found("span 0 to 255 and are not scaled", "divide by 255" + self._normalise())
            return
        order = self._order(response.red)
        if order and order != self.channels:
            yield self.found(f"are {order}, red in the wrong channel", f"give {self.channels}: reverse the channels")
        if self.mean and self.std and not self._normalised(response):
            yield self.found(
                f"are normalised by {_shown(response.mean, response.std)}{self._guess(response)}, "
                f"and the network was trained with {_shown(self.mean, self.std)}",
                "use the network's own transform" + self._normalise(", which is "),
            )
        if self.size and tuple(self.size) != response.size and not self.node.trained:
            given, wanted = ("x".join(map(str, side)) for side in (response.size, self.size))
            yield Finding("note", f"'{self.node.name}' gets pictures of {given}, its weights know {wanted}", self.place)

    def read(self, picture: Tensor) -> Iterator[Finding]:
        """Judge by the pictures of the batch, where nothing can be sent through a transform."""
        channels = picture.float().cpu().transpose(0, 1).flatten(1)
        low, high = (getattr(channels, end)(1).values for end in ("min", "max"))
        if high.max() > UNSCALED:
            yield self.found(f"go up to {high.max():.0f} and are not scaled", "divide by 255" + self._normalise())
        elif self.mean and self.std:
            mean, std = (picture.new_tensor(n).float().cpu() for n in (self.mean, self.std))
            least, most = low * std + mean, high * std + mean
            if (least < -OVERSHOOT).any() or (most > 1 + OVERSHOOT).any() or (low.min() >= 0 and high.max() <= 1):
                yield self.found(
                    f"lie in [{low.min():.2f}, {high.max():.2f}], and the network was trained with pixels in "
                    f"[{((0 - mean) / std).min():.2f}, {((1 - mean) / std).max():.2f}]",
                    "use the network's own transform" + self._normalise(", which is "),
                )

    def _normalised(self, response: Response) -> bool:
        assert self.mean and self.std
        pairs = [*zip(response.mean, self.mean, strict=True), *zip(response.std, self.std, strict=True)]
        return all(abs(a - b) < CLOSE for a, b in pairs)

    def _guess(self, response: Response) -> str:
        """What has happened, where it can be told."""
        assert self.mean and self.std
        twice = [*(m * (1 + s) for m, s in zip(self.mean, self.std, strict=True)), *(s * s for s in self.std)]
        if all(abs(a - b) < CLOSE for a, b in zip((*response.mean, *response.std), twice, strict=True)):
            return " (twice)"
        if all(abs(m) < 1e-3 for m in response.mean) and all(abs(s - 1) < 1e-2 for s in response.std):
            return " (not at all)"
        return ""

    def _normalise(self, lead: str = ", then normalise: ") -> str:
        return f"{lead}{_shown(self.mean, self.std)}" if self.mean and self.std else ""

    @staticmethod
    def _order(red: Sequence[float]) -> str:
        """RGB or BGR; empty where red goes to no single channel, as in a picture made grey."""
        if red[0] > 0.8 and red[2] < 0.2:
            return "RGB"
        return "BGR" if red[2] > 0.8 and red[0] < 0.2 else ""


def _triple(said: Mapping[str, Any] | None, name: str) -> tuple[float, float, float] | None:
    value = (said or {}).get(name)
    if isinstance(value, int | float):
        return (float(value),) * 3
    return tuple(float(v) for v in value) if value is not None and len(value) == 3 else None  # type: ignore[return-value]


def _shown(mean: Sequence[float], std: Sequence[float]) -> str:
    return " ".join(f"{n}=({', '.join(f'{v:.3g}' for v in each)})" for n, each in (("mean", mean), ("std", std)))
