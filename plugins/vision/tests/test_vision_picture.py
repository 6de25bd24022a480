"""Opened pictures: what each mode becomes, which way is up, and errors that name the file."""

import io

import numpy as np
import pytest
from mmkd_vision import picture
from mmkd_vision.picture import eight_bits, read_picture
from PIL import Image

from mmkd.errors import DataError

RED = (200, 10, 10)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("mode", "becomes"),
    [
        ("RGB", "RGB"), ("L", "RGB"), ("1", "RGB"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB"), ("HSV", "RGB"),
        ("RGBA", "RGBA"), ("LA", "RGBA"), ("PA", "RGBA"), ("RGBa", "RGBA"), ("RGBX", "RGB"),
    ],
)  # fmt: skip
def test_modes(mode: str, becomes: str) -> None:
    image = Image.new(mode, (3, 2))
    assert eight_bits(image).mode == becomes
    assert eight_bits(image).size == (3, 2)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(DataError, match="range is not known"):
        eight_bits(Image.new(mode, (2, 2)))


def test_sixteen_bits_keep_their_high_byte() -> None:
    grey = np.array([[0, 255, 256, 0x7FFF, 0xFFFF]], dtype=np.uint16)
    read = read_picture(encoded(Image.fromarray(grey)))
    assert read.mode == "RGB"
    assert [pixel[0] for pixel in np.asarray(read)[0]] == [0, 0, 1, 127, 255]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1"])
def test_pixels_of_a_png_come_back(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    read = read_picture(encoded(image))
    assert read.tobytes() == image.convert(read.mode).tobytes()
    assert read.info == {}


def test_transparent_colour_of_a_palette_and_of_rgb() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([*RED, 1, 2, 3])
    palette.putpixel((1, 0), 1)
    for key in (0, bytes([0, 255])):
        read = read_picture(encoded(palette, transparency=key))
        assert (read.mode, read.getpixel((0, 0))[3], read.getpixel((1, 0))) == ("RGBA", 0, (1, 2, 3, 255))
    assert read_picture(encoded(Image.new("RGB", (1, 1), RED), transparency=RED)).getpixel((0, 0)) == (*RED, 0)


def test_cmyk_jpeg() -> None:
    read = read_picture(encoded(Image.new("RGB", (8, 8), RED).convert("CMYK"), "JPEG", quality=95))
    assert read.mode == "RGB"
    assert np.abs(np.subtract(read.getpixel((4, 4)), RED)).max() < 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_ends_upright(orientation: int, format: str) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste((0, 0, 0), (0, 0, 16, 8))
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    turn = undo.get(orientation, picture.UPRIGHT.get(orientation))
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[picture.ORIENTATION] = orientation
    read = read_picture(encoded(stored, format, exif=exif))
    assert read.size == (32, 16)
    assert read.getpixel((4, 4))[0] < 64 and min(read.getpixel(at)[0] for at in [(28, 4), (4, 12), (28, 12)]) > 192


def test_first_frame(tmp_path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
        red, _, blue = read_picture(data).convert("RGB").getpixel((0, 0))
        assert red > 200 and blue < 50


def test_the_limit_counts_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (6, 4)))
    monkeypatch.setattr(picture, "PIXELS", 24)
    assert read_picture(data).size == (6, 4)
    monkeypatch.setattr(picture, "PIXELS", 23)
    with pytest.raises(DataError, match="cat: has 6 x 4 pixels, above 23"):
        read_picture(data, "cat")


def test_a_file_is_closed_and_named(tmp_path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(encoded(Image.new("RGB", (3, 3), RED)))
    assert read_picture(path).getpixel((0, 0)) == RED  # a PNG, whatever it is called
    path.unlink()
    with pytest.raises(DataError, match=r"cat.jpg: cannot be read: No such file"):
        read_picture(path)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_picture(tmp_path)
