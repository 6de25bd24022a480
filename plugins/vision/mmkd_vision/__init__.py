"""Plugin `vision`: image encoders and augmentation."""

from __future__ import annotations

import mmkd


@mmkd.hookimpl
def mmkd_register(registry: mmkd.Registry) -> None:
    registry.encoder("timm", "mmkd_vision.timm:TimmEncoder", url="https://github.com/huggingface/pytorch-image-models")
    registry.encoder(
        "torchvision", "mmkd_vision.torchvision:TorchvisionEncoder", url="https://pytorch.org/vision/stable/models.html"
    )
    registry.encoder("convnet", "mmkd_vision.convnet:ConvNet")
    registry.curator("augment", "mmkd_vision.augment:Augment")
    registry.curator("crop", "mmkd_vision.crop:RandomCrop")
    registry.curator("patch_mask", "mmkd_vision.patch_mask:PatchMask", paper="CLIP-KD")
    registry.curator("mixup", "mmkd_vision.mix:Mixup", paper="mixup", url="https://arxiv.org/abs/1710.09412")
    registry.curator("cutmix", "mmkd_vision.mix:CutMix", paper="CutMix", url="https://arxiv.org/abs/1905.04899")
    registry.dataset("image_folder", "mmkd_vision.image_folder:ImageFolder")
    registry.recipe("mobilenet_v2", "mmkd_vision:recipes/mobilenet_v2.yaml", paper="MobileNetV2")
    registry.recipe(
        "patient",
        "mmkd_vision:recipes/patient.yaml",
        paper="Patient-Consistent",
        url="https://arxiv.org/abs/2106.05237",
    )
    registry.recipe("efficientnet_lite", "mmkd_vision:recipes/efficientnet_lite.yaml", paper="EfficientNet")
