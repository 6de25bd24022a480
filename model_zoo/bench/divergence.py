"""A divergence over a vocabulary from hidden states and heads, beside the same loss on logits and its peers.

`core.linear_divergence` as it comes and fused, random float32 values of width 256 and 32,000 words; one call is the
loss and its gradients in the student's hidden states and head. The reference makes all logits, as TRL's
`generalized_jsd_loss` has it. Liger and TRL take part where they are installed; all get the same values and must agree.
Peaks are of one call in a fresh process, after one of 64 tokens, or of 2,048 where that compiles it.

On CUDA: bf16, 4,096 tokens, 128,256 words, widths 2,048 and 4,096, and the time over the arithmetic floor of the card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.library.losses.divergences import JensenShannon
from mmkd.library.losses.kl import KLDivergence
from mmkd.library.losses.linear_divergence import LinearDivergence
from model_zoo.bench.measure import Row, Spread, device, floor, fresh, peak, turns

GROUP = "Divergences without logits"
DEVICES = ("cpu", "cuda")
BETA = {"kl": 0.0, "jsd": 0.5}
GOAL = {"kl": 0.85, "jsd": 0.6}
TOKENS, MANY = 1024, {"kl": 8192, "jsd": 4096}
PEERS = {"liger": "liger_kernel", "liger_compiled": "liger_kernel", "trl": "trl"}
"""The package each is in."""


class Shape(NamedTuple):
    """Of what is compared."""

    words: int
    student: int
    teacher: int


SHAPE = {"cpu": Shape(32_000, 256, 256), "cuda": Shape(128_256, 2048, 4096)}
Given = list[Tensor]
"""Student `[N, D]`, its head `[V, D]`, teacher `[N, E]`, its head `[V, E]`."""


def values(tokens: int) -> Given:
    torch.manual_seed(0)
    words, *widths = SHAPE[device().type]
    dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
    made = []
    for width in widths:
        made += [torch.randn(tokens, width, device=device()), torch.randn(words, width, device=device()) * width**-0.5]
    return [value.to(dtype).requires_grad_(k < 2) for k, value in enumerate(made)]


def naive(divergence: str, given: Given) -> Tensor:
    """Mean over tokens, from all logits, with no more passes over them than TRL makes."""
    student, head, teacher, other = given
    log_q, log_p = ((h @ w.T).float().log_softmax(-1) for h, w in ((student, head), (teacher, other)))
    if divergence == "kl":
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum() / len(student)
    beta = torch.tensor(BETA[divergence], device=student.device)
    log_m = torch.stack([log_q + (1 - beta).log(), log_p + beta.log()]).logsumexp(0)
    parts = [F.kl_div(log_m, each, reduction="none", log_target=True) for each in (log_p, log_q)]
    return (beta * parts[0] + (1 - beta) * parts[1]).sum() / len(student)


def plain(divergence: str, given: Given) -> Tensor:
    """`core.kl` or `core.jsd` of all logits."""
    loss = {"kl": KLDivergence, "jsd": JensenShannon}[divergence]()
    made: Tensor = loss(given[0] @ given[1].T, given[2] @ given[3].T).mean()
    return made


def liger(divergence: str, compiled: bool) -> Callable[[Given], Tensor]:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[divergence], compiled=compiled
    )  # fmt: skip

    def both(given: Given) -> Tensor:
        made = loss(*given, torch.zeros(len(given[0]), dtype=torch.long, device=given[0].device))
        value: Tensor = made[0] if isinstance(made, tuple) else made
        return value

    return both


def trl(divergence: str, given: Given) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    made: Tensor = ChunkedDivergenceFunction.apply(
        given[0], given[1], None, given[2], given[3], None, BETA[divergence]
    )[0].mean()  # fmt: skip
    return made


def contestant(who: str, divergence: Any, given: Given) -> Callable[[], list[Tensor]]:
    """Loss and gradients once."""
    own = LinearDivergence(divergence, fused=who == "ours_fused")
    loss: Callable[[Given], Tensor]
    if who.startswith("liger"):
        loss = liger(divergence, who == "liger_compiled")
    elif who.startswith("ours"):
        loss = lambda given: own(*given).mean()  # noqa: E731
    else:
        form = {"naive": naive, "plain": plain, "trl": trl}[who]
        loss = lambda given: form(divergence, given)  # noqa: E731

    def both() -> list[Tensor]:
        value = loss(given)
        return [value.detach(), *torch.autograd.grad(value, given[:2])]

    return both


def times(divergence: str, names: list[str], tokens: int, rounds: int) -> dict[str, Any]:
    """Ratios over the naive form and over compiled Liger, seconds, and how far results are apart."""
    given = values(tokens)
    loops = {name: contestant(name, divergence, given) for name in names}
    first = loops["naive"]()
    apart = max(
        float((a.float() - b.float()).norm() / b.float().norm())
        for name in names[1:] for a, b in zip(loops[name](), first, strict=True)
    )  # fmt: skip
    if apart > (3e-2 if device().type == "cuda" else 1e-4):
        raise RuntimeError(f"losses or gradients differ by {apart:.1e}")
    del first
    taken = turns(loops, rounds, 0)
    others = ["naive", *(["liger_compiled"] if "liger_compiled" in names else [])]
    ratios = {other: {name: taken.ratio(name, other) for name in names if name != other} for other in others}
    return {"over": ratios, "seconds": {name: taken.median(name) for name in names}, "apart": float(f"{apart:.1e}")}


def prepare(who: str, divergence: str, tokens: int) -> Callable[[], object]:
    """One call, after one on a chunk or two."""
    contestant(who, divergence, values(2048 if who in ("ours_fused", "liger_compiled") else 64))()
    return contestant(who, divergence, values(tokens))


def rows(short: bool) -> Iterator[Row]:
    cuda = device().type == "cuda"
    peers = [name for name, package in PEERS.items() if find_spec(package)]
    for divergence in ("kl", "jsd"):
        tokens = 4096 if cuda else TOKENS
        names = ["naive", "ours", "ours_fused", *(n for n in peers if not short or n == "liger_compiled")]
        names += [] if short else ["plain"]
        warm = fresh(times, warm=True, divergence=divergence, names=names, tokens=tokens, rounds=1 if short else 5)
        numbers: dict[str, Any] = {"seconds": warm["seconds"], "apart": warm["apart"]}
        numbers["over_naive"] = {name: spread[0] for name, spread in warm["over"]["naive"].items()}
        if not short and not cuda:
            default = fresh(times, divergence=divergence, names=["naive", "ours"], tokens=tokens, rounds=2)
            numbers["default_over_naive"] = default["over"]["naive"]["ours"][0]
        yield from _timed(divergence.upper(), tokens, warm, numbers, GOAL[divergence])
        yield from _peaks(divergence, "liger_compiled" in peers, short)


def _timed(name: str, tokens: int, warm: dict[str, Any], numbers: dict[str, Any], goal: float) -> Iterator[Row]:
    words, student, teacher = SHAPE[device().type]
    least = floor(2 * tokens * words * (3 * student + teacher))
    for who, said in {"ours": name, "ours_fused": f"{name} fused"}.items():
        note = "" if least is None else f"{warm['seconds'][who] / least:.2f} times the floor"
        ratio = Spread(*warm["over"]["naive"][who])
        yield Row(GROUP, f"{said}, {tokens}, warm", ratio, goal, numbers=numbers if who == "ours" else {}, note=note)
    if "liger_compiled" in warm["over"]:
        for who, said in {"ours": name, "ours_fused": f"{name} fused"}.items():
            ratio = Spread(*warm["over"]["liger_compiled"][who])
            yield Row(GROUP, f"{said} over compiled Liger, {tokens}, warm", ratio, 1.0)
    else:
        note = "Liger is not installed; make .venv-bench/.ready installs the peers"
        yield Row(GROUP, f"{name} over compiled Liger, {tokens}, warm", note=note)


def _peaks(divergence: str, beside_liger: bool, short: bool) -> Iterator[Row]:
    tokens = 4096 if short else MANY[divergence]
    if short and divergence == "jsd":
        return
    who = ["naive", "ours", "ours_fused", *(["liger_compiled"] if beside_liger and not short else [])]
    mib = {name: round(peak(prepare, who=name, divergence=divergence, tokens=tokens), 1) for name in who}
    numbers = {f"{name}_mib": taken for name, taken in mib.items()}
    for name, said in {"ours": divergence.upper(), "ours_fused": f"{divergence.upper()} fused"}.items():
        over = mib[name] / mib["naive"]
        yield Row(GROUP, f"{said}, {tokens}, peak", memory_ratio=over, memory_goal=1 / 8, numbers=numbers)
        if "liger_compiled" in mib:
            over = mib[name] / mib["liger_compiled"]
            yield Row(GROUP, f"{said} over compiled Liger, {tokens}, peak", memory_ratio=over, memory_goal=1 / 2)
