import numpy as np
import pytest
from mmkd_vision.augment import Augment
from numpy.random import default_rng
from PIL import Image

from mmkd.errors import MmkdError

ALL = {
    "flip": 0.5, "scale": (0.8, 1.2), "shift": 0.1, "rotate": 20.0, "brightness": 0.3, "contrast": 0.3,
    "saturation": 0.3, "hue": 0.1, "background": "random", "erase": 0.5,
}  # fmt: skip


def noise(mode="RGB", size=(32, 32)):
    channels = len(Image.new(mode, (1, 1)).getbands())
    array = default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(array.squeeze(), mode if channels > 1 else "L")


def view(image, draw_seed=0, **options):
    augment = Augment(**options)
    return augment.apply({"image": image, "label": 3}, augment.draw(default_rng(draw_seed)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_off_is_identity(mode):
    image = noise(mode)
    changed = view(image)
    assert changed["image"].tobytes() == image.tobytes()
    assert changed["label"] == 3


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_draw_fixes_the_view(mode):
    image, augment = noise(mode, (40, 24)), Augment(**ALL)
    before = image.tobytes()
    for seed in range(20):
        draw = augment.draw(default_rng(seed))
        assert draw == augment.draw(default_rng(seed))
        assert all(type(v) is float for v in draw.values())
        first, again = (augment.apply({"image": image}, draw)["image"] for _ in range(2))
        assert first.tobytes() == again.tobytes()
        assert first.size == image.size
    assert image.tobytes() == before


def test_flip_mirrors_left_to_right():
    image = noise("RGBA")
    assert np.array_equal(np.asarray(view(image, flip=1.0)["image"]), np.asarray(image)[:, ::-1])


def test_flip_comes_as_often_as_asked():
    augment, generator = Augment(flip=0.3), default_rng(0)
    assert abs(np.mean([augment.draw(generator)["flip"] for _ in range(4000)]) - 0.3) < 0.03


def draw_of(**changes):
    return Augment().draw(default_rng(0)) | changes


def moved(image, **changes):
    return np.asarray(Augment().apply({"image": image}, draw_of(**changes))["image"])


def test_shift_is_relative():
    image = noise()
    right = moved(image, shift_x=0.25)
    assert np.array_equal(right[:, 8:], np.asarray(image)[:, :-8])
    assert (right[:, :8] == 255).all()
    down = moved(noise(size=(64, 64)), shift_y=0.25)
    assert np.array_equal(down[16:], np.asarray(noise(size=(64, 64)))[:-16])


@pytest.mark.parametrize(("degrees", "quarters"), [(90.0, 1), (180.0, 2), (-90.0, 3)])
def test_rotation_turns_clockwise_about_the_centre(degrees, quarters):
    image = noise()
    turned, expected = moved(image, rotate=degrees).astype(int), np.rot90(np.asarray(image), -quarters)
    assert np.abs(turned - expected)[1:-1, 1:-1].max() <= 1


def test_scale_magnifies_about_the_centre():
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    image.paste((0, 0, 0), (12, 12, 20, 20))
    dark = [(moved(image, scale=s) < 128).all(-1) for s in (0.5, 1.0, 2.0)]
    assert [d.sum() for d in dark] == [16, 64, 256]
    assert all(np.array_equal(d, d[::-1, ::-1]) for d in dark)


def test_what_moves_in_is_transparent_then_background():
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 255))
    augment = Augment()
    clear = augment.apply({"image": image}, draw_of(shift_x=0.5))["image"]
    assert clear.mode == "RGBA"
    assert clear.getpixel((0, 0))[3] == 0
    assert clear.getpixel((7, 0)) == (10, 20, 30, 255)
    blue = augment.apply({"image": image}, draw_of(shift_x=0.5, red=0.0, green=0.0, blue=1.0))["image"]
    assert blue.getpixel((0, 0)) == (0, 0, 255)
    assert blue.getpixel((7, 0)) == (10, 20, 30)


def test_colour_factors():
    image = Image.new("RGB", (2, 2), (100, 150, 200))

    def colour(**changes):
        return tuple(int(c) for c in moved(image, **changes)[0, 0])

    assert colour(brightness=0.5) == (50, 75, 100)
    assert colour(contrast=0.0) == pytest.approx((128, 128, 128), abs=1)
    grey = colour(saturation=0.0)
    assert grey == pytest.approx((round(0.299 * 100 + 0.587 * 150 + 0.114 * 200),) * 3, abs=1)
    assert colour(hue=1.0) == pytest.approx((100, 150, 200), abs=2)
    third = colour(hue=1 / 3)
    assert third != (100, 150, 200)
    luma = [0.299, 0.587, 0.114]
    assert np.dot(third, luma) == pytest.approx(np.dot((100, 150, 200), luma), abs=2)


def test_jitter_leaves_the_background_alone():
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    changed = Augment().apply({"image": image}, draw_of(brightness=0.5))["image"]
    assert changed.getchannel("A").getextrema() == (0, 0)


def test_erasing_turns_a_patch_grey():
    shares = []
    for seed in range(50):
        changed = np.asarray(view(Image.new("RGB", (64, 64)), seed, erase=1.0)["image"])
        shares.append((changed == 128).all(-1).mean())
    assert 0.04 < min(shares) < 0.1
    assert 0.2 < max(shares) < 0.27


@pytest.mark.parametrize("scale", [(1.2, 0.8), (0, 1)])
def test_a_range_that_is_none_is_refused(scale):
    with pytest.raises(MmkdError, match="to a large one"):
        Augment(scale=scale)
