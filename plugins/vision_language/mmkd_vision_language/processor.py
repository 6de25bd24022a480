"""Image processors of transformers: a picture to a network's fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmkd_language.checkpoint import FILES_ONLY, folder
from mmkd_language.network import quiet
from mmkd_vision.image import rgb
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor

FIELDS = {"image": "pixel_values", "pixel_attention_mask": "pixel_attention_mask", "spatial_shapes": "spatial_shapes"}
"""Our fields of an image, and what transformers calls them; all but the first are of networks for any resolution."""


class ImageProcessor:
    """A network's own image preprocessing.

    Args:
        source: the network (as in `mmkd_language.checkpoint.folder`).
    """

    def __init__(self, source: str) -> None:
        with quiet():
            load: Any = AutoImageProcessor.from_pretrained
            self._own = load(str(folder(source)), **FILES_ONLY)

    def row(self, image: Any) -> dict[str, Tensor]:
        """Fields of one picture, what is transparent laid over white."""
        made = self._own(images=rgb(image), return_tensors="pt")
        return {field: made[name][0] for field, name in FIELDS.items() if name in made}

    def describe(self) -> dict[str, Any]:
        """As `Encoder.preprocessing`."""
        own = self._own
        about: dict[str, Any] = {"channels": "RGB"}
        if own.do_normalize:
            about |= {"mean": list(own.image_mean), "std": list(own.image_std)}
        if own.do_resize:
            about |= {"resize": _size(own.size), "interpolation": Image.Resampling(own.resample).name.lower()}
        size = _size(own.crop_size) if getattr(own, "do_center_crop", False) else about.get("resize")
        about["size"] = size if isinstance(size, list) else None
        return {name: value for name, value in about.items() if value is not None}

    def save(self, folder: Path) -> None:
        """Write it as transformers does."""
        self._own.save_pretrained(str(folder))


def _size(size: Any) -> int | list[int] | None:
    """`[height, width]`, or one number for the short side; None where it is said otherwise."""
    about = {name: value for name, value in dict(size or {}).items() if value is not None}
    if about.keys() == {"height", "width"}:
        return [about["height"], about["width"]]
    return about["shortest_edge"] if about.keys() == {"shortest_edge"} else None
