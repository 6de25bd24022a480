"""Opens picture files: few formats, bounded size, upright, in RGB or RGBA."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmkd.errors import DataError
from mmkd_vision.image import has_alpha

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})
PIXELS = 89_478_485
"""The largest picture that is read, where Pillow begins to warn of decompression bombs: a quarter of a GiB in RGB."""

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_picture(source: Path | bytes, where: str = "") -> Image.Image:
    """The picture in a file, or in bytes that were one: its first frame, upright, in `RGB` or `RGBA`.

    The format is told by the content, never by the name. `eight_bits` says what becomes of other modes. EXIF turns the
    picture; damaged EXIF turns nothing. Colour profiles are not applied. What was read keeps no file open and no
    metadata.

    Args:
        where: what to call the picture in an error; the path unless given.

    Raises:
        DataError: it is damaged, cut short, of another format, or has more than `PIXELS` pixels.
    """
    where = where or (str(source) if isinstance(source, Path) else "picture")
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
            return _decode(stream, where)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=where) from error


def mark(path: Path) -> str | None:
    """sha256 of a file as it is; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _decode(stream: BinaryIO, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is refused or settled here
            with Image.open(stream, formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise DataError(f"has {image.width} x {image.height} pixels, above {PIXELS:,}", where=where)
                image.load()
                turn, picture = _turn(image), eight_bits(image)
                picture = picture if turn is None else picture.transpose(turn)
    except DataError as error:
        raise error if error.where else error.at(where) from error.__cause__
    except Image.DecompressionBombError as error:
        raise DataError(f"has more than {PIXELS:,} pixels", where=where) from error
    except UnidentifiedImageError as error:
        stream.seek(0)
        head = stream.read(12)
        what = f"is no picture of a format that is read; it begins with {head!r}" if head else "is empty"
        raise DataError(what, where=where, exists=FORMATS) from error
    except Exception as error:  # what a hostile file makes a decoder raise is not listed anywhere
        raise DataError(f"cannot be read: {error}", where=where) from error
    picture.info = {}
    return picture


def eight_bits(image: Image.Image) -> Image.Image:
    """The image in `RGB`, or in `RGBA` where some of it may be transparent.

    Modes `1`, `L`, `P`, `CMYK`, `YCbCr`, `LAB` and `HSV` become `RGB`; `RGBA`, `LA`, `PA`, and any with a transparent
    colour become `RGBA`. Grey of 16 bits keeps its high byte, as Pillow does with colours of 16 bits.

    Raises:
        DataError: mode `I` or `F`, whose values have no known range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(f"has values of mode '{image.mode}', whose range is not known", next="save it with 8 bits")
    return image.convert("RGBA" if has_alpha(image) else "RGB")


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # EXIF that cannot be parsed does not say which way is up
        return None
