"""`mmkd search` on a run of one step."""

import json
from pathlib import Path

import pytest
from mmkd_vision_language.emoji_dataset import EmojiDataset
from PIL import Image

import mmkd
from mmkd.cli import main

RECIPE = {
    "name": "tiny",
    "student": {
        "use": "vision_language.dual_tower",
        "image": {"use": "vision.convnet", "widths": [4], "blocks": 0},
        "text": {"use": "language.transformer", "layers": 1, "dim": 8, "heads": 2},
        "dim": 6,
    },
    "losses": {
        "contrastive": {
            "use": "core.info_nce",
            "student": "student.image.embedding",
            "teacher": "student.text.embedding",
        }
    },
    "data": {
        "train": {"use": "vision_language.emoji"},
        "eval": {"held_out": {"use": "vision_language.emoji", "split": "held_out"}},
        "batch_size": 8,
    },
    "train": {"steps": 1, "device": "cpu"},
    "evaluate": [{"use": "core.retrieval", "a": "student.image.embedding", "b": "student.text.embedding"}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dual tower, trained for one step."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    mmkd.distill(RECIPE, output_dir=folder)
    return folder


def _search(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["search", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_json_ranks_held_out_pictures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _search(capsys, run, "a sad cat", "a boat", "--top", 3, "--json")
    found = json.loads(out)
    assert code == 0
    assert [(f["query"], f["rank"]) for f in found] == [(q, r) for q in ("a sad cat", "a boat") for r in (1, 2, 3)]
    assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    assert all(f["key"].startswith("noto/") for f in found)


def test_scores_are_those_of_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _search(capsys, run, "a boat", "--top", 1, "--json")
    best = json.loads(out)[0]
    emoji = EmojiDataset(split="held_out")
    sample = next(emoji[i] for i in range(len(emoji)) if emoji[i]["key"] == best["key"])
    model = mmkd.from_pretrained(run)
    batch = model.collate([{**sample, "text": "a boat"}])
    image, text = model.values(batch, ["student.image.embedding", "student.text.embedding"]).values()
    assert float((image * text).sum() / image.norm() / text.norm()) == pytest.approx(best["score"], abs=1e-3)


def test_folder_and_picture(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(pictures / f"{colour}.png")
    sheet = tmp_path / "sheet.png"
    code, out, _ = _search(capsys, run, "a boat", "--images", pictures, "--picture", sheet)
    assert code == 0
    assert "red.png" in out and "blue.png" in out
    with Image.open(sheet) as written:
        assert written.width > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "/nowhere"], "/nowhere: does not exist"),
        (["--text-value", "student.text.embeding"], "did you mean 'student.text.embedding'"),
        (["--text-value", "student.text.hidden.0"], "is no embedding"),
        (["--image-value", "student.image.tokens"], "is no embedding"),
        (["--picture", "sheet.nonsense"], "sheet.nonsense: cannot be written"),
    ],
)
def test_errors(run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, _, err = _search(capsys, run, "a boat", *arguments)
    assert code == 1 and message in err


def test_run_without_retrieval_says_what_to_name(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    alone = tmp_path / "a" / "b" / "alone"
    alone.parent.mkdir(parents=True)
    (run / "student").rename(alone)
    try:
        code, _, err = _search(capsys, alone, "a boat")
        assert code == 1 and "--image-value" in err
    finally:
        alone.rename(run / "student")
