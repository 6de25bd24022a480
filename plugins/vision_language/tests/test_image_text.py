"""Image-text dataset: tables, paths, pictures, and errors that name file and line."""

import json
import pickle
import sys
from pathlib import Path

import pytest
from mmkd_vision import picture
from mmkd_vision_language.image_text import ImageTextDataset
from PIL import Image

from mmkd.errors import DataError

FILES = ("a.png", "b.jpg", "more/c.webp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small pictures, one in a subfolder."""
    (tmp_path / "more").mkdir()
    for name, colour in {"a.png": "red", "b.jpg": "green", "more/c.webp": "blue"}.items():
        Image.new("RGB", (6, 4), colour).save(tmp_path / name)
    return tmp_path


def test_csv(folder: Path) -> None:
    (folder / "captions.csv").write_text('image,text,label\na.png,"red, all of it",3\nmore/c.webp,blue,\n')
    dataset = ImageTextDataset(str(folder))
    assert len(dataset) == 2
    first, second = dataset[0], dataset[1]
    assert (first["key"], first["text"], first["label"]) == ("a.png", "red, all of it", 3)
    assert first["image"].getpixel((0, 0)) == (255, 0, 0)
    assert second["key"] == "more/c.webp" and "label" not in second


@pytest.mark.parametrize("name", ["captions.jsonl", "metadata.jsonl"])
def test_jsonl_with_other_columns(folder: Path, name: str) -> None:
    rows = [{"file_name": "a.png", "caption": "red"}, {"file_name": "b.jpg", "caption": "green"}]
    (folder / name).write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for path in (folder, folder / name):
        dataset = ImageTextDataset(str(path), image_column="file_name", text_column="caption")
        assert [dataset[i]["text"] for i in range(2)] == ["red", "green"]


def test_several_captions_have_keys_of_their_own(folder: Path) -> None:
    (folder / "captions.csv").write_text("image,text\na.png,one\nb.jpg,two\na.png,three\n")
    dataset = ImageTextDataset(str(folder))
    assert [dataset[i]["key"] for i in range(3)] == ["a.png#0", "b.jpg", "a.png#2"]


def test_pictures_without_captions(folder: Path) -> None:
    dataset = ImageTextDataset(str(folder), captions=False)
    assert [dataset[i]["key"] for i in range(3)] == ["a.png", "b.jpg", "more/c.webp"]
    assert "text" not in dataset[0]


def test_upright_and_first_frame(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(folder / "b.jpg", exif=exif)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    dataset = ImageTextDataset(str(folder), captions=False)
    by_key = {dataset[i]["key"]: dataset[i]["image"] for i in range(len(dataset))}
    assert by_key["b.jpg"].size == (4, 6)
    assert by_key["a.gif"].convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,text\na.png,red\nz.png,?\n", r"captions.csv:3: there is no file 'z.png'"),
        ("image,text\n../a.png,red\n", r"captions.csv:2: '../a.png' lies outside"),
        ("image,text\n/etc/hostname,red\n", r"captions.csv:2: '/etc/hostname' lies outside"),
        ("image,caption\na.png,red\n", r"captions.csv:2: column 'text' is missing"),
        ("image,text\na.png,\n", r"captions.csv:2: column 'text' is empty"),
        ("image,text,label\na.png,red,x\n", r"captions.csv:2: label 'x' is no integer"),
        ("image,text\n", "captions.csv: holds no pictures"),
    ],
)
def test_table_errors(folder: Path, table: str, message: str) -> None:
    (folder / "captions.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        ImageTextDataset(str(folder))


def test_link_out_of_the_folder_is_refused(folder: Path) -> None:
    inner = folder / "more"
    (inner / "link.png").symlink_to(folder / "a.png")
    (inner / "captions.csv").write_text("image,text\nlink.png,red\n")
    with pytest.raises(DataError, match="lies outside"):
        ImageTextDataset(str(inner))


@pytest.mark.parametrize("line", ['{"image": "a.png", "text": }', "[1]"])
def test_bad_json_names_its_line(folder: Path, line: str) -> None:
    (folder / "captions.jsonl").write_text('{"image": "a.png", "text": "red"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"captions.jsonl:2: is"):
        ImageTextDataset(str(folder))


def test_folder_errors(folder: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        ImageTextDataset(str(folder / "nowhere"))
    with pytest.raises(DataError, match="no table of captions"):
        ImageTextDataset(str(folder))
    with pytest.raises(DataError, match="is no table"):
        ImageTextDataset(str(folder / "a.png"))
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        ImageTextDataset(str(folder / "empty"), captions=False)


def parquet(path: Path, **columns: object) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def test_parquet_of_paths(folder: Path) -> None:
    parquet(folder / "captions.parquet", image=["a.png", "more/c.webp"], text=["red", "blue"], label=[1, None])
    dataset = ImageTextDataset(str(folder))
    assert [(s["key"], s["text"], s.get("label")) for s in map(dataset.__getitem__, range(2))] == [
        ("a.png", "red", 1), ("more/c.webp", "blue", None),
    ]  # fmt: skip
    assert dataset[0]["image"].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_of_pictures(folder: Path, struct: bool) -> None:
    data = [(folder / name).read_bytes() for name in ("a.png", "more/c.webp")]
    images = [{"bytes": d, "path": None} for d in data] + [{"bytes": None, "path": "b.jpg"}] if struct else data
    path = parquet(folder / "pets.parquet", picture=images, caption=["red", "blue", "green"][: len(images)])
    dataset = ImageTextDataset(path, image_column="picture", text_column="caption")
    keys = [dataset[i]["key"] for i in range(len(dataset))]
    assert keys == ["pets.parquet/0", "pets.parquet/1", "b.jpg"][: len(images)]
    assert dataset[0]["image"].getpixel((0, 0)) == (255, 0, 0)
    assert pickle.loads(pickle.dumps(dataset))[1]["image"].getpixel((0, 0))[2] > 200


def test_parquet_errors(folder: Path) -> None:
    path = parquet(folder / "t.parquet", image=["a.png", "../a.png"], text=["red", "green"])
    with pytest.raises(DataError, match=r"t.parquet: column 'txt' is missing; did you mean 'text'"):
        ImageTextDataset(path, text_column="txt")
    with pytest.raises(DataError, match=r"t.parquet: row 2: '../a.png' lies outside"):
        ImageTextDataset(path)
    parquet(folder / "t.parquet", image=["a.png", None], text=["red", "green"])
    with pytest.raises(DataError, match=r"t.parquet: row 2: column 'image' is empty"):
        ImageTextDataset(path)
    parquet(folder / "t.parquet", image=[1], text=["red"])
    with pytest.raises(DataError, match=r"t.parquet: row 1: column 'image' is no text"):
        ImageTextDataset(path)
    parquet(folder / "t.parquet", image=[b"junk"], text=["red"])
    with pytest.raises(DataError, match=r"t.parquet: row 1: is no picture"):
        ImageTextDataset(path)[0]


def test_parquet_without_pyarrow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "captions.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow[^$]*mmkd-vision-language\[parquet\]"):
        ImageTextDataset(str(folder))


def test_bad_pictures_name_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (6, 4)).save(folder / "tiff.png", "TIFF")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:50])
    dataset = ImageTextDataset(str(folder), captions=False)
    place = {row.image: i for i, row in enumerate(dataset.rows)}
    with pytest.raises(DataError, match=r"tiff.png: is no picture"):
        dataset[place["tiff.png"]]
    with pytest.raises(DataError, match=r"cut.png: cannot be read"):
        dataset[place["cut.png"]]
    monkeypatch.setattr(picture, "PIXELS", 20)
    with pytest.raises(DataError, match=r"a.png: has 6 x 4 pixels"):
        dataset[place["a.png"]]


def test_the_manifest_follows_pictures_and_captions(folder: Path) -> None:
    (folder / "captions.csv").write_text("image,text\n" + "".join(f"{p},a {i}\n" for i, p in enumerate(FILES)))
    dataset = ImageTextDataset(str(folder))
    before = dataset.manifest()
    assert [key for key, _ in before] == [dataset[i]["key"] for i in range(len(dataset))]
    (folder / "captions.csv").write_text("image,text\n" + "".join(f"{p},a {i + 1}\n" for i, p in enumerate(FILES)))
    captions = ImageTextDataset(str(folder)).manifest()
    assert all(a != b for a, b in zip(before, captions, strict=True))
    Image.new("RGB", (3, 3), "blue").save(folder / FILES[0])
    pictures = ImageTextDataset(str(folder)).manifest()
    assert [a == b for a, b in zip(captions, pictures, strict=True)] == [False] + [True] * (len(FILES) - 1)
