"""Peers and a loop by hand beside the host: the same networks, losses and fused optimiser on all sides, in turns.

A row of the host is its time over that of the loop by hand (or what it adds, in microseconds); the row of the peer
below it says the same of the peer. Where a peer is not installed its rows say so; `make .venv-bench/.ready` installs
all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

from model_zoo.bench.measure import Row

GROUP = "Peers"
PEERS = {
    "torchdistill": "torchdistill", "trainer": "transformers", "gkd": "trl", "open_clip_peer": "open_clip_train",
}  # fmt: skip
"""File of each peer under `peer/`, and the package without which it cannot run."""


def rows(short: bool) -> Iterator[Row]:
    for name, package in PEERS.items():
        if find_spec(package) is None:
            yield Row(GROUP, package, note="not installed; make .venv-bench/.ready installs the peers")
            continue
        try:
            for row in import_module(f"model_zoo.bench.peer.{name}").rows(short):
                yield replace(row, group=GROUP)
        except Exception as error:  # one peer that fails leaves the others theirs
            yield Row(GROUP, package, note=f"{type(error).__name__}: {error}")
