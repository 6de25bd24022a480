"""Any PIL image as the RGB picture that a person would see on a white page."""

from __future__ import annotations

from typing import Any

from PIL import Image

from mmkd.errors import DataError

WHITE = (255, 255, 255)


def has_alpha(image: Image.Image) -> bool:
    """Whether some of the image may be transparent, be it a channel or a colour of the palette."""
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def rgb(image: Any, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """The image in RGB, what is transparent laid over `background`.

    Raises:
        DataError: it is no PIL image, or has more than 8 bits a channel, where a conversion would clip.
    """
    if not isinstance(image, Image.Image):
        raise DataError(f"image is {type(image).__name__}, not a PIL image", next="PIL.Image.fromarray or Image.open")
    if image.mode == "RGB" and not image.info:
        return image
    if image.mode.startswith(("I", "F")):
        raise DataError(f"image of mode '{image.mode}' has more than 8 bits a channel", next="scale it to 8 bits first")
    if not has_alpha(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    page = Image.new("RGB", layer.size, background)
    page.paste(layer, mask=layer.getchannel("A"))
    return page
