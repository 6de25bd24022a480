"""A divergence over a vocabulary from hidden states and heads, beside the same loss on logits: time and peak memory.

    python model_zoo/bench/divergence.py --json divergence.json

One call is the loss and its gradients with respect to hidden states and head, float32, one thread, random values. The
two take turns (plain, chunked, chunked, plain) without garbage collection; times are processor time, `ratio` is the
median and the quartiles over rounds of chunked / plain. The default allocator of glibc returns every large block, so
that plain code pays for each page of each `[N, V]` anew; `warm` keeps them, as the caching allocator of a GPU does,
and only its ratios say something of the algorithm. Memory is the peak of one call in a process of its own (VmHWM, set
back before it) less what the process held before: without inputs, with gradients.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmkd import Loss
from mmkd.library.losses.divergences import JensenShannon
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.linear_divergence import LinearDivergence

WARM = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_ARENA_MAX": "1",
}
SHAPES = [(1024, 32_000, 256), (2048, 32_000, 256)]
"""Tokens, vocabulary, width."""
PLAIN: dict[str, Callable[[], Loss]] = {"kl": KLDivergence, "jsd": JensenShannon}


def values(tokens: int, vocabulary: int, width: int) -> list[Tensor]:
    """Student, its head, teacher, its head."""
    torch.manual_seed(0)
    made = [torch.randn(rows, width) for rows in (tokens, vocabulary) * 2]
    for head in made[1::2]:
        head.mul_(width**-0.5)
    return [made[0].requires_grad_(), made[1].requires_grad_(), *made[2:]]


def loss_of(way: str, divergence: Any, chunk: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The loss of every token."""
    if way == "chunked":
        loss = LinearDivergence(divergence, chunk=chunk)
        return lambda student, head, teacher, other: loss(student, head, teacher, other)
    plain = PLAIN[divergence]()
    return lambda student, head, teacher, other: plain(student @ head.T, teacher @ other.T)


def call(way: str, divergence: str, chunk: int | None, given: Sequence[Tensor]) -> list[Tensor]:
    """Loss and gradients once."""
    loss = loss_of(way, divergence, chunk)(*given).mean()
    return [loss.detach(), *torch.autograd.grad(loss, list(given[:2]))]


def timed(divergence: str, shape: Sequence[int], chunk: int | None, rounds: int) -> dict[str, Any]:
    """Seconds of both and their ratio, and how far results are apart."""
    given = values(*shape)
    plain, chunked = (call(way, divergence, chunk, given) for way in ("plain", "chunked"))
    apart = max(float((a - b).norm() / a.norm()) for a, b in zip(plain, chunked, strict=True))
    del plain, chunked
    spent: dict[str, list[float]] = {"plain": [], "chunked": []}
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        taken = dict.fromkeys(spent, 0.0)
        for way in ("plain", "chunked", "chunked", "plain"):
            start = time.process_time()
            call(way, divergence, chunk, given)
            taken[way] += (time.process_time() - start) / 2
        for way, seconds in taken.items():
            spent[way].append(seconds)
    gc.enable()
    ratios = [a / b for a, b in zip(spent["chunked"], spent["plain"], strict=True)]
    return {
        **{f"{way}_seconds": round(statistics.median(seconds), 4) for way, seconds in spent.items()},
        "ratio": [round(number, 3) for number in statistics.quantiles(ratios, n=4)],
        "relative_difference": float(f"{apart:.1e}"),
    }


def peak(way: str, divergence: str, shape: Sequence[int], chunk: int | None) -> dict[str, Any]:
    """MiB that one call takes."""
    given = values(*shape)
    call(
        way, divergence, chunk, [value[:8].detach().requires_grad_(value.requires_grad) for value in given]
    )  # starts threads
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    kept = call(way, divergence, chunk, given)
    return {"mib": round((resident("VmHWM") - before) / 1024, 1), "kept": len(kept)}


def resident(name: str) -> int:
    """A line of the process's memory, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def fresh(task: dict[str, Any], warm: bool) -> dict[str, Any]:
    """What a task gives in a process of its own."""
    environment = {**os.environ, **(WARM if warm else {})}
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    return json.loads(subprocess.check_output(command, env=environment, text=True))  # type: ignore[no-any-return]


def run(task: dict[str, Any]) -> dict[str, Any]:
    """A task, here."""
    kind = task.pop("kind")
    return timed(**task) if kind == "time" else peak(**task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="the first shape alone")
    parser.add_argument("--chunk", type=int, action="append", help="tokens at a time besides the default; repeatable")
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.task:
        print(json.dumps(run(given.task)))
        return
    rows = []
    where = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    where |= {"threads": "1", "rounds": str(given.rounds)}
    print(f"{'tokens':>6} {'loss':<5}{'chunk':>8} {'warm':>22} {'default':>22} {'MiB':>7} {'plain':>7}", flush=True)
    for shape in SHAPES[:1] if given.short else SHAPES:
        for divergence in PLAIN:
            whole = fresh(
                {"kind": "peak", "way": "plain", "divergence": divergence, "shape": shape, "chunk": None}, False
            )
            for chunk in (None, *(given.chunk or ())):
                task = {"divergence": divergence, "shape": shape, "chunk": chunk}
                row: dict[str, Any] = dict(zip(("tokens", "vocabulary", "width"), shape, strict=True))
                row |= {"divergence": divergence, "chunk": chunk}
                for name in ("warm", "default"):
                    row[name] = fresh({"kind": "time", "rounds": given.rounds, **task}, name == "warm")
                row["peak_mib"] = fresh({"kind": "peak", "way": "chunked", **task}, False)["mib"]
                row["plain_peak_mib"] = whole["mib"]
                rows.append(row)
                if given.json:
                    given.json.write_text(json.dumps({"environment": where, "rows": rows}, indent=2) + "\n")
                warm, default = ("{1} [{0}, {2}]".format(*row[name]["ratio"]) for name in ("warm", "default"))
                print(
                    f"{shape[0]:>6} {divergence:<5}{chunk or 'default':>8} {warm:>22} {default:>22} "
                    f"{row['peak_mib']:>7} {row['plain_peak_mib']:>7}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
