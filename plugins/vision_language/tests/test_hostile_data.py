"""Corrupt and hostile files: each gives a defined result, or one error that names the file; none is slow or large."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmkd_vision.image_folder import ImageFolder
from mmkd_vision_language.image_text import ImageTextDataset
from mmkd_vision_language.webdataset import WebDataset
from PIL import Image

from mmkd.errors import DataError

RED = Image.new("RGB", (32, 16), (200, 10, 10))


def encoded(image: Image.Image = RED, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of any header, whether or not its data agree."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8))


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def frames() -> bytes:
    return encoded(RED, "GIF", save_all=True, append_images=[Image.new("RGB", (32, 16), "blue")])


def clear() -> bytes:
    image = Image.new("P", (32, 16), 0)
    image.putpalette([200, 10, 10])
    return encoded(image, transparency=0)


# name of the file, its bytes, and either the error or (mode, size, first pixel)
PICTURES: dict[str, tuple[str, bytes, Any]] = {
    "truncated png": ("a.png", encoded(noise())[:-200], "a.png: cannot be read"),
    "truncated jpeg": ("a.jpg", encoded(noise(), "JPEG")[:-300], "a.jpg: cannot be read"),
    "truncated webp": ("a.webp", encoded(noise(), "WEBP")[:-100], "a.webp: "),
    "truncated gif": ("a.gif", encoded(noise(), "GIF")[:400], "a.gif: "),
    "header alone": ("a.png", encoded()[:20], "a.png: "),
    "no data": ("a.png", png(4, 4), "a.png: "),
    "wrong checksum": ("a.png", encoded().replace(b"IDAT", b"IDAX"), "a.png: "),
    "data of another size": ("a.png", png(64, 64, chunk(b"IDAT", zlib.compress(b"\0" * 9))), "a.png: "),
    "bomb that Pillow refuses": ("a.png", png(60_000, 60_000), "a.png: has more than 89,478,485 pixels"),
    "bomb below Pillow's refusal": ("a.png", png(10_000, 10_000), "a.png: has 10000 x 10000 pixels, above 89,478,485"),
    "bomb of text": ("a.png", png(1, 1, chunk(b"zTXt", b"k\0\0" + zlib.compress(b" " * (1 << 26)))), "a.png: cannot be read"),
    "no pixels": ("a.png", png(0, 0), "a.png: "),
    "empty": ("a.png", b"", "a.png: is empty"),
    "svg": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"a.png: is no picture .* begins with b.<svg "),
    "html": ("a.jpg", b"<!DOCTYPE html><title>404</title>", r"a.jpg: is no picture .* begins with b'<!DOCTYPE "),
    "tiff": ("a.png", encoded(RED, "TIFF"), "a.png: is no picture of a format that is read"),
    "postscript": ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.png: is no picture"),
    "zip": ("a.png", b"PK\x03\x04" + bytes(90), "a.png: is no picture"),
    "bmp of absurd size": ("a.bmp", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 2**31 - 1, 9, 1, 24, *[0] * 6), "a.bmp: "),
    "wrong extension": ("a.jpg", encoded(), ("RGB", (32, 16), (200, 10, 10))),
    "16-bit grey": ("a.png", encoded(Image.fromarray(np.full((4, 4), 0x80FF, np.uint16))), ("RGB", (4, 4), (128,) * 3)),
    "16-bit colour": ("a.png", png(1, 1, chunk(b"IDAT", zlib.compress(b"\0" + bytes([9, 255] * 3))), depth=16), ("RGB", (1, 1), (9,) * 3)),
    "cmyk jpeg": ("a.jpg", encoded(RED.convert("CMYK"), "JPEG", quality=100), ("RGB", (32, 16), (200, 10, 10))),
    "grey and alpha": ("a.png", encoded(Image.new("LA", (4, 4), (7, 9))), ("RGBA", (4, 4), (7, 7, 7, 9))),
    "one bit": ("a.png", encoded(Image.new("1", (4, 4), 1)), ("RGB", (4, 4), (255,) * 3)),
    "transparent palette": ("a.png", clear(), ("RGBA", (32, 16), (200, 10, 10, 0))),
    "animated gif": ("a.gif", frames(), ("RGB", (32, 16), (200, 10, 10))),
    "turned by exif": ("a.jpg", encoded(RED, "JPEG", quality=100, exif=exif(6)), ("RGB", (16, 32), (200, 10, 10))),
    "exif of no meaning": ("a.jpg", encoded(RED, "JPEG", quality=100, exif=exif(99)), ("RGB", (32, 16), (200, 10, 10))),
    "exif garbage": ("a.jpg", encoded(RED, "JPEG", quality=100, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xfe" * 40), ("RGB", (32, 16), (200, 10, 10))),
    "exif of half an entry": ("a.jpg", encoded(RED, "JPEG", quality=100, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"), ("RGB", (32, 16), (200, 10, 10))),
}  # fmt: skip


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(case: str, tmp_path: Path) -> None:
    name, data, expected = PICTURES[case]
    (tmp_path / name).write_bytes(data)
    dataset = ImageFolder(str(tmp_path), labels=False)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            dataset[0]
        return
    image = dataset[0]["image"]
    assert (image.mode, image.size) == expected[:2]
    assert np.abs(np.subtract(image.getpixel((0, 0)), expected[2])).max() <= 3


# name of the table, its bytes, and either the error or the captions
TABLES: dict[str, tuple[str, bytes, Any]] = {
    "byte-order mark": ("t.csv", b"\xef\xbb\xbfimage,text\na.png,red\n", ["red"]),
    "windows line ends": ("t.csv", b'image,text\r\na.png,"two\r\nlines"\r\n', ["two\r\nlines"]),
    "utf-16": ("t.csv", "image,text\na.png,red\n".encode("utf-16"), r"t.csv: cannot be read: 'utf-8' codec"),
    "missing column": ("t.csv", b"image,txt\na.png,red\n", r"t.csv:2: column 'text' is missing; did you mean 'txt'"),
    "short line": ("t.csv", b"image,text\na.png\n", r"t.csv:2: column 'text' is empty"),
    "long line": ("t.csv", b"image,text\na.png,red,blue\n", r"t.csv:2: has more cells than the header"),
    "NUL in a caption": ("t.csv", b"image,text\na.png,r\0d\n", r"t.csv:2: (holds a NUL|is not CSV: line contains NUL)"),
    "NUL in a path": ("t.jsonl", b'{"image": "a.png\\u0000", "text": "red"}', r"t.jsonl:1: holds a NUL character"),
    "endless cell": ("t.csv", b"image,text\na.png," + b"x" * 200_000, r"t.csv:2: is not CSV: field larger than"),
    "path out of the folder": ("t.csv", b"image,text\n../a.png,red\n", r"t.csv:2: '../a.png' lies outside"),
    "absolute path": ("t.csv", b"image,text\n/etc/hostname,red\n", r"t.csv:2: '/etc/hostname' lies outside"),
    "path too long": ("t.csv", b"image,text\n" + b"a" * 5000 + b".png,red\n", r"t.csv:2: 'a+' is no path: .*too long"),
    "link loop": ("t.csv", b"image,text\nloop.png,red\n", r"t.csv:2: 'loop.png' is no path: .*link"),
    "a folder for a picture": ("t.csv", b"image,text\n.,red\n", r"t.csv:2: there is no file '\.'"),
    "broken line": ("t.jsonl", b'{"image": "a.png", "text": "red"}\n{"image":\n', r"t.jsonl:2: is not JSON"),
    "list for an object": ("t.jsonl", b"[1]\n", r"t.jsonl:1: is list, not an object"),
    "deep nesting": ("t.jsonl", b"[" * 200_000 + b"\n", r"t.jsonl:1: is not JSON"),
    "number for a caption": ("t.jsonl", b'{"image": "a.png", "text": 3}\n', r"t.jsonl:1: column 'text' is no text"),
    "half a label": ("t.jsonl", b'{"image": "a.png", "text": "red", "label": 0.5}\n', r"t.jsonl:1: label 0.5 is no integer"),
    "endless label": ("t.csv", b"image,text,label\na.png,red," + b"9" * 5000, r"t.csv:2: label '9+' is no integer"),
    "empty table": ("t.csv", b"", "t.csv: holds no pictures"),
    "parquet garbage": ("t.parquet", b"PAR1" + bytes(40) + b"PAR1", r"t.parquet: is not Parquet"),
    "empty parquet": ("t.parquet", b"", r"t.parquet: is not Parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_tables(case: str, tmp_path: Path) -> None:
    name, data, expected = TABLES[case]
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / name).write_bytes(data)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            ImageTextDataset(str(tmp_path / name))
        return
    dataset = ImageTextDataset(str(tmp_path / name))
    assert [dataset[i]["text"] for i in range(len(dataset))] == expected


TEXT = {"a.txt": b"red"}

# files of the shard, and either the error or the keys; hostile archives: tests/files/test_hostile_tars.py
SHARDS: dict[str, tuple[dict[str, bytes], Any]] = {
    "healthy": ({"a.png": encoded(), **TEXT}, ["s/a"]),
    "no caption": ({"a.png": encoded()}, r"s.tar: 'a' has no caption: no file .txt[^$]*there is: .png"),
    "no picture": (TEXT, r"s.tar: 'a' has no picture: no file .bmp"),
    "bomb in a picture": ({"a.png": png(60_000, 60_000), **TEXT}, r"s.tar: a.png: has more than 89,478,485 pixels"),
    "broken picture": ({"a.png": encoded(noise())[:-200], **TEXT}, r"s.tar: a.png: cannot be read"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_shards(case: str, tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    files, expected = SHARDS[case]
    dataset = WebDataset(str(write_tar(tmp_path / "s.tar", files)))
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            dataset[0]
    else:
        assert [dataset[i]["key"] for i in range(len(dataset))] == expected
