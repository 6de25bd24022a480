"""Who computes attention: torch, or xformers where a probe on the run's own device shows that it does so rightly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from mmkd.engine.rerouting import Rerouting, attend, first_line, name_of
from mmkd.errors import TrainingError

TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest difference from torch, relative to the largest number there, at which the probe accepts xformers."""


@dataclass(frozen=True)
class Decision:
    """Who computes attention in a run, and why."""

    backend: Literal["sdpa", "xformers"]
    reason: str
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"

    def rerouting(self) -> Rerouting | None:
        """What to enter around the networks' forward pass; None where torch needs no help."""
        return Rerouting(self.dtype) if self.backend == "xformers" else None


def decide(requested: str, device: torch.device | str, dtype: torch.dtype, *, twice: bool = False) -> Decision:
    """Decide it once for a run.

    Args:
        requested: `sdpa` is torch's `scaled_dot_product_attention`; `xformers` is its memory-efficient attention, or an
            error where that does not work; `auto` takes xformers where it works.
        device: where the networks run.
        dtype: in which arithmetic.
        twice: derivatives of derivatives are taken, which no fast kernel has.

    Raises:
        TrainingError: `xformers` was asked for, and does not work here.
    """
    if requested == "sdpa":
        return Decision("sdpa", "asked for", dtype)
    device = torch.device(device)
    fault = "a loss takes derivatives of derivatives, which it has not" if twice else _fault(device, dtype)
    if fault is None:
        return Decision("xformers", f"forward and backward equal torch's on {device.type} in {name_of(dtype)}", dtype)
    if requested == "xformers":
        raise TrainingError(
            f"xformers was asked for, but {fault}", where="train.attention",
            next="train.attention=auto, or pip install 'mmkd[xformers]' on Linux x86-64 with a CUDA device",
        )  # fmt: skip
    return Decision("sdpa", fault, dtype)


def _fault(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why xformers cannot be used here; None where it computes what torch does."""
    try:
        import xformers.ops  # noqa: F401
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("xformers")
        return "xformers is not installed" if missing else f"xformers cannot be imported: {first_line(error)}"
    except Exception as error:
        return f"xformers cannot be imported: {first_line(error)}"
    try:
        return _difference(device, dtype)
    except Exception as error:
        return f"its probe fails on {device.type} in {name_of(dtype)}: {first_line(error)}"


def _difference(device: torch.device, dtype: torch.dtype) -> str | None:
    """What xformers computes otherwise than torch; None where nothing."""
    generator = torch.Generator().manual_seed(0)
    query, key, value, upstream = (
        torch.randn(2, 4, 30, 32, generator=generator).to(device, dtype).requires_grad_(i < 3) for i in range(4)
    )
    padded = torch.ones(2, 1, 1, 30, dtype=torch.bool, device=device)
    padded[1, ..., 20:] = False
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        calls = ((None, False, ""), (None, True, " with a causal mask"), (padded, False, " with a mask"))
        for mask, causal, said in calls:
            out = attend(query, key, value, mask, causal=causal)
            expected = F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)
            pairs = [("output", out, expected)]
            grads = (torch.autograd.grad(o, (query, key, value), upstream) for o in (out, expected))
            pairs += zip(("gradient of queries", "gradient of keys", "gradient of values"), *grads, strict=True)
            for name, found, right in pairs:
                apart = (found - right).abs().max() / right.abs().max()
                if not apart <= TOLERANCE[dtype]:
                    place = f"on {device.type} in {name_of(dtype)}"
                    return f"its {name}{said} is {apart.item():.2g} away from torch's {place}"
    return None
