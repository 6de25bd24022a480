"""BatchNorm of a pretrained network, left as it is while the rest is trained."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze(network: nn.Module) -> None:
    """Keep running statistics, scale and shift of every BatchNorm; call it again after each `train()`."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.requires_grad_(False)
