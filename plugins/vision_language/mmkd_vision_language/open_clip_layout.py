"""Where the towers of open_clip keep their blocks and their last tokens."""

from __future__ import annotations

from typing import Any

import torch
from mmkd_language.network import hidden
from torch import nn

SEQUENCES = ("VisionTransformer", "Eva", "Beit", "NaFlexVit")
"""Networks of timm whose `blocks` hand `[B, L, D]` on."""
MAPS = ("ConvNeXt", "FastVit")
"""Networks of timm whose `stages` hand `[B, C, H, W]` on."""


def states(network: Any, side: str) -> list[str]:
    """Tap paths of `hidden.0` to `hidden.n` of a tower; none where its blocks are not regular."""
    modules = dict(network.named_modules())
    tower = "visual" if side == "image" else "text"
    for path in (f"{tower}.transformer", *(["transformer"] if side == "text" else [])):
        blocks = getattr(modules.get(path), "resblocks", None)
        if blocks is not None and modules[path].batch_first:
            return _after(f"{path}.resblocks", len(blocks))
    trunk = modules.get(f"{tower}.trunk")
    for classes, name in ((SEQUENCES, "blocks"), (MAPS, "stages")):
        if type(trunk).__name__ in classes:
            return _after(f"{tower}.trunk.{name}", len(getattr(trunk, name)))
    if side == "image":
        layers = [f"visual.layer{i}" for i in range(1, 5)]
        return [f"{layers[0]}.input", *layers] if set(layers) <= modules.keys() else []
    ids = torch.ones(1, 3, dtype=torch.long, device=next(network.parameters()).device)
    return hidden(network, lambda: network.encode_text(ids), "text.transformer")


def tokens(network: Any, side: str) -> str | None:
    """Tap path of a tower's last tokens, `[B, L, D]` after the final norm, where they are computed."""
    modules = dict(network.named_modules())
    if side == "image":
        if type(modules.get("visual.trunk")).__name__ in SEQUENCES:
            return "visual.trunk.norm"
        visual = network.visual
        pooled_first = getattr(visual, "attn_pool", None) is not None or getattr(visual, "final_ln_after_pool", False)
        return "visual.ln_post" if hasattr(visual, "ln_post") and not pooled_first else None
    if "ln_final" in modules:
        return "ln_final"
    if isinstance(getattr(network.text, "ln_final", None), nn.Module):
        return "text.ln_final" if network.text.cls_emb is None else None
    return "text.transformer.0"


def _after(path: str, count: int) -> list[str]:
    return [f"{path}.0.input", *(f"{path}.{i}" for i in range(count))]
