"""Contact sheet: one row a query, one block a column, frames around hits alone."""

import numpy as np
from mmkd_vision_language.picture import HIT, ROW, sheet
from numpy.typing import NDArray
from PIL import Image, ImageColor


def _picture(colour: str) -> Image.Image:
    return Image.new("RGBA", (32, 32), colour)


def _where(page: Image.Image, colour: str) -> NDArray[np.bool_]:
    return (np.asarray(page) == ImageColor.getrgb(colour)).all(-1)


def test_layout() -> None:
    page = sheet(["one", "two"], {"left": [[_picture("red")], [_picture("blue")]], "right": [[_picture("lime")]] * 2})
    red, blue, lime = (np.argwhere(_where(page, colour)) for colour in ("red", "blue", "lime"))
    assert blue[:, 0].min() - red[:, 0].min() == ROW
    assert lime[:, 1].min() > red[:, 1].max()
    assert not _where(page, HIT).any()


def test_hits_are_framed() -> None:
    columns = {"": [[_picture("red"), _picture("blue")]]}
    page = sheet(["one"], columns, {"": [[False, True]]})
    frame, blue = np.argwhere(_where(page, HIT)), np.argwhere(_where(page, "blue"))
    assert (frame.min(0) < blue.min(0)).all() and (frame.max(0) > blue.max(0)).all()
    assert (frame[:, 1].min() > np.argwhere(_where(page, "red"))[:, 1].max()).all()


def test_long_query_stays_in_its_row() -> None:
    page = sheet(["a query of very many words " * 9], {"": [[_picture("red")]]})
    assert page.height < 3 * ROW


def test_rows_of_different_length() -> None:
    assert sheet(["one", "two"], {"": [[], [_picture("red")]]}).width > 0
