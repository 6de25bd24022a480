"""What is known of the samples that a run could not use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mmkd.engine.stream import BadSample
from mmkd.errors import DataError
from mmkd.graph import ranks


class BadSamples:
    """Lists each bad sample once in a JSONL file; too many of them stop the run.

    Args:
        path: the file; what it lists already, from before a run was resumed, counts.
        sizes: samples of each dataset, by its place in the recipe.
        most: share of a dataset that may be bad.
    """

    def __init__(self, path: Path, sizes: Mapping[str, int], most: float) -> None:
        self.path, self.sizes, self.most = path, sizes, most
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        if len(whole) < len(lines) and ranks.leads():  # a line that was cut short
            path.write_text("".join(lines[: len(whole)]), encoding="utf-8")
        self._seen: set[tuple[str, int]] = ranks.agreed({(bad["dataset"], bad["index"]) for bad in whole})

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, met: Sequence[BadSample]) -> None:
        """Take in what a batch has met, on whichever rank.

        Raises:
            DataError: a dataset has more bad samples than is allowed.
        """
        all_met = ranks.listed(met)
        new = {(bad.dataset, bad.index): bad for bad in all_met if (bad.dataset, bad.index) not in self._seen}
        if not new:
            return
        if ranks.leads():
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(bad), ensure_ascii=False) + "\n" for bad in new.values())
        self._seen.update(new)
        counts = Counter(dataset for dataset, _ in self._seen)
        for bad in new.values():
            count, size = counts[bad.dataset], self.sizes[bad.dataset]
            if count > self.most * size:
                raise DataError(
                    f"{count} of {size} samples are bad, more than a share of {self.most:g}; all are listed in "
                    f"{self.path}, the last is {bad.reason}",
                    where=bad.dataset, next=f"mend them, or data.max_bad_samples={_above(count / size):g}",
                )  # fmt: skip


def _above(share: float) -> float:
    """A round share above this one."""
    return min(1.0, round(2 * share + 0.005, 2))
