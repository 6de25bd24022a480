"""Attention of any network, computed by xformers."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Rerouting(TorchFunctionMode):
    """Inside, `scaled_dot_product_attention` is computed by xformers, whoever calls it and from which library.

    What xformers does not take stays with torch, and is counted: `taken` and `left` (by reason).
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.taken, self.left = 0, Counter[str]()
        # the parts of a function that torch hands over whole no longer pass through this mode
        inner = {**vars(F), "scaled_dot_product_attention": self.attention, "has_torch_function": lambda tensors: False}
        whole: Any = F.multi_head_attention_forward
        self._multi_head = types.FunctionType(whole.__code__, inner, whole.__name__, whole.__defaults__)
        self._multi_head.__kwdefaults__ = whole.__kwdefaults__

    def __torch_function__(
        self, func: Callable[..., Any], kinds: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As `torch.nn.functional.scaled_dot_product_attention`."""
        kind = query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
        reason = self._beyond(query, key, value, attn_mask, is_causal, dtype)
        if not reason:
            try:
                out = attend(
                    query.to(dtype), key.to(dtype), value.to(dtype), attn_mask,
                    dropout=dropout_p, causal=is_causal, scale=scale,
                )  # fmt: skip
            except (NotImplementedError, ValueError) as error:
                reason = first_line(error)
            else:
                self.taken += 1
                return out
        self.left[reason] += 1
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )

    def _beyond(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, dtype: torch.dtype
    ) -> str:
        """Why a call is not one for xformers; empty where it is."""
        if dtype != self.dtype:
            return f"in {name_of(dtype)}, where {name_of(self.dtype)} was probed"
        if not query.dim() == key.dim() == value.dim() == 4:
            return "not of four dimensions"
        if query.shape[0] != key.shape[0] or query.shape[1] % key.shape[1]:
            return "batches or heads to be broadcast"
        if causal and (mask is not None or query.shape[2] != key.shape[2]):
            return "causal and masked, or causal and not square"
        if mask is not None and mask.requires_grad:
            return "with a mask that is trained"
        return ""

    def __str__(self) -> str:
        left = "; ".join(f"{count} left to torch ({reason})" for reason, count in self.left.items())
        return f"{self.taken} calls by xformers" + (f"; {left}" if left else "")


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Attention by xformers: `[B, heads, L, D]` in, the same out; keys and values may have fewer heads.

    Raises:
        NotImplementedError, ValueError: xformers has no kernel for such tensors.
    """
    from xformers.ops import LowerTriangularMask, memory_efficient_attention

    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bias, nowhere = (LowerTriangularMask() if causal else None), None
    if mask is not None:
        bias, nowhere = _bias(mask, (*query.shape[:3], key.shape[2]), query.dtype)
    by_place = (t.transpose(1, 2) for t in (query, key, value))  # xformers has places before heads
    out: Tensor = memory_efficient_attention(*by_place, attn_bias=bias, p=dropout, scale=scale).transpose(1, 2)
    return out if nowhere is None else out.masked_fill(nowhere, 0.0)


def _bias(mask: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What is added to the scores, in rows of memory that are multiples of eight; and queries that may look nowhere.

    The lowest number stands for `-inf`, so that a row without any key has no NaN; torch gives zero for such rows.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -torch.inf)
    nowhere = mask.isneginf().all(-1, keepdim=True)
    keys = shape[-1]
    bias = mask.new_empty((*shape[:-1], -(-keys // 8) * 8), dtype=dtype)[..., :keys]
    return bias.copy_(mask.clamp_min(torch.finfo(dtype).min / 2)), nowhere


def name_of(dtype: torch.dtype) -> str:
    """`float32`."""
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
