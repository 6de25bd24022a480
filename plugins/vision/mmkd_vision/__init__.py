"""Plugin `vision`: image encoders and augmentation."""

from __future__ import annotations

import mmkd


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.encoder("timm", "mmkd_vision.timm:TimmEncoder", url="https://github.com/huggingface/pytorch-image-models")
    registry.encoder("convnet", "mmkd_vision.convnet:ConvNet")
    registry.curator("augment", "mmkd_vision.augment:Augment")
