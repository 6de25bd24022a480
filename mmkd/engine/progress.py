"""What a run shows while it runs: a live line on a terminal, plain lines elsewhere; and its JSONL log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Reporter:
    """Progress on stderr unless `silent`, and one JSON object per logged step in `log.jsonl`."""

    def __init__(self, log: Path | None, title: str, *, silent: bool = False) -> None:
        self._log = log.open("a+", encoding="utf-8") if log else None
        self._silent = silent
        self._console = Console(stderr=True, quiet=silent)
        self._title = title
        name, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        columns = name, BarColumn(12), MofNCompleteColumn(), note
        self._live = Progress(*columns, console=self._console, disable=silent or not self._console.is_terminal)
        self._tasks: dict[str, Any] = {}
        self._last = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._log:
            self._log.close()

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` is done; plain lines come at most every 5 seconds, and the last."""
        if self._silent:
            return
        if not self._live.disable:
            if what not in self._tasks:
                self._tasks[what] = self._live.add_task(what, total=total, note=note)
            self._live.update(self._tasks[what], completed=done, note=note)
        elif done == total or time.monotonic() - self._last > 5:
            self._last = time.monotonic()
            print(f"{what}: {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)

    def step(self, step: int, total: int, numbers: Mapping[str, float], rate: float) -> None:
        """Log one step: losses, learning rate, samples per second."""
        self.write({"step": step, **numbers})
        losses = "  ".join(f"{k.removesuffix('_loss')} {v:.4g}" for k, v in numbers.items() if k.endswith("loss"))
        self.progress(
            self._title, step, total, f"{losses}  {rate:.0f}/s  eta {_clock((total - step) * self._pace(step))}"
        )

    def _pace(self, step: int) -> float:
        self._first = self._first or (step, time.monotonic())
        first, at = self._first
        return (time.monotonic() - at) / (step - first) if step > first else 0.0

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def rewind(self, step: int) -> None:
        """Drop log records of steps after `step`: a resumed run takes them again."""
        if self._log:
            self._log.seek(0)
            kept = [line for line in self._log if line.endswith("\n") and json.loads(line)["step"] <= step]
            self._log.truncate(0)
            self._log.writelines(kept)
            self._log.flush()

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record to the log."""
        if self._log:
            self._log.write(json.dumps(record) + "\n")
            self._log.flush()


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
