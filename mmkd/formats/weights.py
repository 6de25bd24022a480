"""Plain weights: the network's own state under its own names, and each projector's in a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from mmkd.formats.portable import Portable


def write_weights(portable: Portable, folder: Path) -> None:
    """`model.safetensors` with the network's state, `projector.<name>.safetensors`, and `shapes.json` for both.

    Names are those of the network that the encoder wraps, so that the class it was made of loads them as they are;
    those of the encoder where it has weights of its own around the network (heads).
    """
    parts = {"model": state_of(portable)}
    parts |= {f"projector.{name}": portable.projectors[i] for i, name in enumerate(portable.projector_names)}
    shapes = {}
    for name, module in parts.items():
        state = {k: v for k, v in module.state_dict().items() if not k.endswith("_extra_state")}
        tensors = {k: v.detach().clone().contiguous() for k, v in state.items()}  # tied weights under every name
        if tensors:
            save_file(tensors, folder / f"{name}.safetensors")
            shapes[f"{name}.safetensors"] = {key: list(value.shape) for key, value in tensors.items()}
    (folder / "shapes.json").write_text(json.dumps(shapes, indent=2) + "\n")


def state_of(portable: Portable) -> nn.Module:
    """The module whose state stands for the network: what the encoder wraps, where that is all there is."""
    encoder = portable.encoder
    inside = {id(p) for p in encoder.network.parameters()}
    return encoder.network if all(id(p) in inside for p in encoder.parameters()) else encoder
