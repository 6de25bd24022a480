"""How every number of the bench is taken: contestants in turns, memory and allocators in fresh processes.

A group of measurements is a file beside this one with `GROUP = "a title"`, a docstring that says what is measured and
against what, and `def rows(short: bool) -> Iterator[Row]`. It may set `DEVICES = ("cpu", "cuda")`; it then makes its
tensors on `device()`. It yields a row as soon as it has it.

* **Turns.** Contestants run A B C, then C B A, without garbage collection and on one thread. A ratio is the median,
  with quartiles, over rounds of the time of one over that of another in the same round. Times are processor time, which
  other processes disturb little, and wall time beside it; on CUDA they are those of events.
* **Peak.** One call in a process of its own: VmHWM, set back before the call, less what was resident before it. Inputs
  are left out, gradients that the call makes are counted. On CUDA: what the caching allocator gave out.
* **Warm.** The default allocator of glibc gives every large block back, so that plain code pays for each page of each
  large tensor anew. `warm=True` keeps blocks, as the caching allocator of a GPU does: only warm ratios say something
  about an algorithm.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[2]
WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_ARENA_MAX": "1"}
DEVICE = "MMKD_BENCH_DEVICE"
"""Environment variable that hands the device on to fresh processes."""


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Row:
    """One line of the table. Less is better everywhere; what is reached has a ratio of at most its goal."""

    group: str
    name: str
    ratio: Spread | None = None
    """Time of ours over the reference's; another number where `unit` says so."""
    goal: float | None = None
    memory_ratio: float | None = None
    memory_goal: float | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else a reader may want: seconds, MiB, sizes. JSON."""
    unit: str = "x"
    """`x` for a ratio, else what `ratio` and `goal` are counted in: `us`, `ms`."""
    note: str = ""
    """What it is compared with; why it was not measured or misses its goal."""

    @property
    def met(self) -> bool | None:
        """Whether every goal is reached; None where there is none, or no number."""
        pairs = [(self.ratio and self.ratio.median, self.goal), (self.memory_ratio, self.memory_goal)]
        known = [number <= goal for number, goal in pairs if number is not None and goal is not None]
        return all(known) if known else None


# -- time ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turns:
    """Seconds that each contestant took in each round: a mean of its two turns."""

    seconds: Mapping[str, Sequence[float]]
    """Processor time; on CUDA the time between events."""
    walls: Mapping[str, Sequence[float]]

    def ratio(self, one: str, other: str, wall: bool = False) -> Spread:
        """`one` over `other`, round by round."""
        taken = self.walls if wall else self.seconds
        return Spread.of([a / b for a, b in zip(taken[one], taken[other], strict=True)])

    def extra(self, one: str, other: str) -> Spread:
        """Microseconds by which `one` exceeds `other`, round by round."""
        pairs = zip(self.seconds[one], self.seconds[other], strict=True)
        return Spread.of([(a - b) * 1e6 for a, b in pairs])

    def median(self, name: str) -> float:
        """Seconds of one turn."""
        return statistics.median(self.seconds[name])


Clock = Callable[[Callable[[], Any]], tuple[float, float]]
"""Makes a call and says how long it took: seconds of the processor or the card, and of the wall."""


def turns(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, clock: Clock | None = None
) -> Turns:
    """Time contestants that alternate, each once there and once back per round.

    Args:
        clock: takes the time where a contestant is more than what is to be timed.
    """
    names = list(contestants)
    for _ in range(warmup):
        for name in names:
            contestants[name]()
    clock = clock or (_cuda_clock if device().type == "cuda" else _cpu_clock)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    walls: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            spent = dict.fromkeys(names, (0.0, 0.0))
            for name in (*names, *reversed(names)):
                busy, wall = clock(contestants[name])
                spent[name] = spent[name][0] + busy / 2, spent[name][1] + wall / 2
            for name, (busy, wall) in spent.items():
                seconds[name].append(busy)
                walls[name].append(wall)
    finally:
        if enabled:
            gc.enable()
    return Turns(seconds, walls)


def _cpu_clock(call: Callable[[], object]) -> tuple[float, float]:
    wall, busy = time.perf_counter_ns(), time.process_time_ns()
    call()
    busy, wall = time.process_time_ns() - busy, time.perf_counter_ns() - wall
    return busy / 1e9, wall / 1e9


def _cuda_clock(call: Callable[[], object]) -> tuple[float, float]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    wall = time.perf_counter_ns()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3, (time.perf_counter_ns() - wall) / 1e9


# -- memory, and other tasks in processes of their own --------------------------------------------------------------


def fresh(task: Callable[..., Any], /, *, warm: bool = False, **options: Any) -> Any:
    """What `task(**options)` returns in a process of its own.

    Args:
        task: a function at the top of a module, whose options and result are JSON.
        warm: keep large blocks instead of giving them back.
    """
    return _child("call", task, warm, options)


def peak(prepare: Callable[..., Callable[[], object]], /, *, warm: bool = False, **options: Any) -> float:
    """MiB that one call takes at most, in a process of its own.

    Args:
        prepare: a function at the top of a module that makes the inputs, makes a small call first (which starts
            threads and loads code), and returns the call to be measured.
        warm: keep large blocks instead of giving them back.
    """
    return float(_child("peak", prepare, warm, options))


def held_by(call: Callable[[], object]) -> float:
    """MiB that a call takes at most, here: only of use in a fresh process."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = call()
        torch.cuda.synchronize()
        taken = torch.cuda.max_memory_allocated() - before
        del kept
        return taken / 2**20
    if not Path("/proc/self/clear_refs").exists():
        raise OSError("peak memory is read from /proc/self, which is there on Linux alone")
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    kept = call()
    taken = resident("VmHWM") - before
    del kept
    return taken / 1024


def resident(name: str = "VmRSS") -> int:
    """A line of the process's memory, in KiB: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def _child(kind: str, task: Callable[..., Any], warm: bool, options: Mapping[str, Any]) -> Any:
    module = task.__module__
    if module == "__main__":
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    order = json.dumps({"kind": kind, "module": module, "name": task.__qualname__, "options": dict(options)})
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **(WARM if warm else {})}
    command = [sys.executable, "-m", "model_zoo.bench.measure", "--task", order]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{module}.{task.__qualname__}({dict(options)}) failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _task(order: Mapping[str, Any]) -> Any:
    function = getattr(importlib.import_module(order["module"]), order["name"])
    if order["kind"] == "peak":
        return held_by(function(**order["options"]))
    return function(**order["options"])


# -- where it runs --------------------------------------------------------------------------------------------------


def device() -> torch.device:
    """Where the bench runs now: the CPU unless told otherwise."""
    return torch.device(os.environ.get(DEVICE, "cpu"))


def devices() -> list[str]:
    """What is there to run on."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def one_thread() -> None:
    """One thread for every number that is taken on the CPU."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)


CARDS = {"H200": (650e12, 4.8e12), "H100": (650e12, 3.35e12), "A100": (250e12, 2.0e12)}
"""What a card reaches: bf16 operations and bytes per second (two thirds to four fifths of the peak of the former)."""


def floor(operations: float, traffic: float = 0.0) -> float | None:
    """Seconds below which a card cannot do this much bf16 work; None on the CPU and on cards that are not listed."""
    if device().type != "cuda":
        return None
    name = torch.cuda.get_device_name()
    found = next((speeds for card, speeds in CARDS.items() if card in name), None)
    return max(operations / found[0], traffic / found[1]) if found else None


def environment() -> dict[str, Any]:
    """Facts that go with the numbers."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "device": torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
    }


def processor() -> str:
    """The processor's model, with the widest instructions that torch uses on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor() or platform.machine())}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one task in this process; `fresh` and `peak` start it.")
    parser.add_argument("--task", type=json.loads, required=True)
    given = parser.parse_args()
    one_thread()
    print(json.dumps(_task(given.task)))


if __name__ == "__main__":
    main()
