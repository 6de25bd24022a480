import numpy as np
import pytest
from mmkd_vision.image import rgb
from PIL import Image

from mmkd.errors import DataError

RED = (200, 10, 10)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_opaque_colours_survive(mode):
    pixel = rgb(Image.new("RGB", (4, 4), RED).convert(mode)).getpixel((1, 1))
    assert np.abs(np.subtract(pixel, RED)).max() <= 32  # the web palette of P is coarse


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_becomes_three_equal_channels(mode):
    image = rgb(Image.new("L", (4, 4), 255).convert(mode))
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_alpha_is_laid_over_the_background():
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert rgb(half).getpixel((0, 0)) == (127, 127, 127)
    assert rgb(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), (1, 2, 3)).getpixel((0, 0)) == (1, 2, 3)


def test_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 2), 0)
    image.putpalette([9, 9, 9] + [0] * 765)
    image.info["transparency"] = 0
    assert rgb(image).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("image", [Image.new("I;16", (2, 2)), Image.new("F", (2, 2)), np.zeros((2, 2, 3))])
def test_what_would_be_clipped_is_refused(image):
    with pytest.raises(DataError):
        rgb(image)
