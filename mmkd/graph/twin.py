"""A module's buffers twice, so that a pass can be made again without moving them again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


class Twin:
    """Copies of a module's buffers as they are now, which a second run of the same passes moves in their place.

    Batch statistics and power iterations then go through the same states as in the first run, and the module's own
    buffers stay where that has left them.
    """

    def __init__(self, module: nn.Module) -> None:
        owners = [inner._buffers for inner in module.modules() if inner._buffers]
        held = {id(b): b.clone() for owner in owners for b in owner.values() if b is not None}
        self._copies = [(o, {name: b if b is None else held[id(b)] for name, b in o.items()}) for o in owners]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, the module has the copies."""
        own = [dict(owner) for owner, _ in self._copies]
        for owner, copies in self._copies:
            owner.update(copies)
        try:
            yield
        finally:
            for (owner, copies), buffers in zip(self._copies, own, strict=True):
                copies.update(owner)
                owner.update(buffers)
