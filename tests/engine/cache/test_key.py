"""Keys: what makes two caches one, and the names of what does not."""

import pytest
from engine.cache.filled import KEY

from mmkd.engine.cache import Key


def test_the_order_of_fields_says_nothing() -> None:
    assert Key(dict(reversed(KEY.fields.items()))).digest == KEY.digest
    assert len(KEY.digest) == 64


@pytest.mark.parametrize("name", KEY.fields)
def test_each_field_alone_is_told(name: str) -> None:
    other = Key({**KEY.fields, name: "another"})
    assert other != KEY and KEY.differs(other) == other.differs(KEY) == [name]


def test_a_field_that_only_one_has_is_told() -> None:
    assert KEY.differs(Key({**KEY.fields, "more": None})) == ["more"]


def test_equal_numbers_of_other_types_differ() -> None:
    assert Key({"a": 1}).differs(Key({"a": True})) == ["a"]


def test_the_difference_names_the_place_inside_a_field_and_shortens() -> None:
    other = Key({**KEY.fields, "draws": {"seed": 1, "replicas": 2}, "weights": "f" * 200})
    lines = KEY.difference(other)
    assert "draws.seed: 0, not 1" in lines
    assert all(len(line) < 100 for line in lines) and len(lines) == 2


def test_a_key_is_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        Key({"a": float("nan")})
