"""Embedded emoji data: complete, consistent, split without leaks, licensed."""

import importlib.util
import sys
from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_args

import numpy as np
import pytest
from mmkd_vision_language import emoji

STYLES = get_args(emoji.Style)
FOLDER = files("mmkd_vision_language.emoji")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """The script that built the data: it owns the rule for near-duplicates."""
    path = Path(__file__).parents[1] / "tools" / "build_emoji.py"
    spec = importlib.util.spec_from_file_location("build_emoji", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def families(builder: ModuleType) -> list[list[dict[str, Any]]]:
    """Near-duplicates, as the fields of each emoji."""
    found: list[list[dict[str, Any]]] = builder.families([vars(e) for e in emoji.load()])
    return found


def test_table() -> None:
    table = emoji.load()
    assert len(table) == 1636
    assert len({e.key for e in table}) == len({e.label for e in table}) == 1636
    assert len({e.category for e in table}) == 8
    assert len({e.subcategory for e in table}) == 95
    assert not {"Flags", "Component"} & {e.category for e in table}
    for e in table:
        assert len(set(e.tags)) == len(e.tags) and e.label not in e.tags
    assert emoji.load() is table
    with pytest.raises(FrozenInstanceError):
        table[0].label = "other"  # type: ignore[misc]


@pytest.mark.parametrize("style", STYLES)
def test_tiles(style: emoji.Style) -> None:
    tiles = emoji.sheet(style)
    assert tiles.shape == (1636, 32, 32, 4) and tiles.dtype == np.uint8
    assert ((tiles[..., 3] > 0).mean(axis=(1, 2)) > 0.02).all(), "an empty tile"
    assert len(np.unique(tiles.reshape(1636, -1), axis=0)) > 1600, "tiles repeat"
    assert emoji.sheet(style) is tiles and not tiles.flags.writeable


def test_unknown_style_names_what_exists() -> None:
    with pytest.raises(ValueError, match="noto, twemoji"):
        emoji.sheet(cast(emoji.Style, "apple"))


@pytest.mark.parametrize("name", ["fold", "random_fold"])
def test_folds_partition(name: str) -> None:
    sizes = Counter(getattr(e, name) for e in emoji.load())
    assert set(sizes) == set(range(5))
    assert sorted(sizes.values()) == [327, 327, 327, 327, 328]


def test_families_never_straddle_folds(families: list[list[dict[str, Any]]]) -> None:
    for members in families:
        assert len({e["fold"] for e in members}) == 1, members


def test_families_hold_near_duplicates(families: list[list[dict[str, Any]]]) -> None:
    number = {e["label"]: n for n, members in enumerate(families) for e in members}
    together = [
        ("man superhero", "woman superhero", "superhero"),
        ("merman", "mermaid", "merperson"),
        ("three o’clock", "twelve-thirty"),
        ("black medium square", "black small square"),
        ("woman running: facing right", "person running"),
        ("backhand index pointing left", "backhand index pointing up"),
        ("black cat", "cat"),
        ("family: man, man, boy", "family: adult, adult, child"),
    ]
    for labels in together:
        assert len({number[label] for label in labels}) == 1, labels
    apart = [("man superhero", "man supervillain"), ("red circle", "blue circle"), ("luggage", "left luggage")]
    for labels in apart:
        assert len({number[label] for label in labels}) == len(labels), labels


def test_equal_pictures_share_a_fold() -> None:
    table = emoji.load()
    for style in STYLES:
        folds = defaultdict(set)
        for e, tile in zip(table, emoji.sheet(style), strict=True):
            folds[tile.tobytes()].add(e.fold)
        assert all(len(found) == 1 for found in folds.values())


def test_folds_are_stratified(families: list[list[dict[str, Any]]]) -> None:
    """In each subcategory no two folds differ by more than its biggest family."""
    strata = defaultdict(list)
    for members in families:
        strata[members[0]["subcategory"]].append(members)
    for subcategory, stratum in strata.items():
        sizes = Counter(dict.fromkeys(range(5), 0))
        for members in stratum:
            sizes[members[0]["fold"]] += len(members)
        assert max(sizes.values()) - min(sizes.values()) <= max(map(len, stratum)), (subcategory, sizes)


def test_small_enough_to_embed() -> None:
    assert sum(len(FOLDER.joinpath(f"{style}.webp").read_bytes()) for style in STYLES) < 3.5e6


def test_licences() -> None:
    text = FOLDER.joinpath("LICENSES.md").read_text(encoding="utf-8")
    for needed in ("Noto Emoji", "Apache License", "Twemoji", "CC-BY-4.0", "Copyright (c) 2017-2019 Miles Johnson"):
        assert needed in text
    assert "Version 2.0, January 2004" in FOLDER.joinpath("LICENSE-Apache-2.0.txt").read_text(encoding="utf-8")
