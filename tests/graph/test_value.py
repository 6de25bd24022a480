"""The grammar of values."""

from __future__ import annotations

import pytest

from mmkd.errors import GraphError
from mmkd.graph.value import Address, parse


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("student.logits", Address("student", name="logits")),
        ("teacher.image.embedding", Address("teacher", name="image.embedding")),
        ("student.hidden.-1", Address("student", name="hidden.-1")),
        ("student/layer3.1.conv2", Address("student", path="layer3.1.conv2")),
        ("student/blocks.0.input", Address("student", path="blocks.0.input")),
        ("student/rnn.0", Address("student", path="rnn.0")),
        ("student/head#2", Address("student", path="head", call=2)),
        ("student@weak.logits", Address("student", name="logits", view="weak")),
        ("student@weak/head#12", Address("student", path="head", view="weak", call=12)),
        ("batch.label", Address("batch", name="label")),
        ("batch@meta.label", Address("batch", name="label", view="meta")),
        ("up", Address("up")),
        ("detach(up)", Address("up", detached=True)),
        ("detach(peer@weak/a.b#3)", Address("peer", path="a.b", view="weak", call=3, detached=True)),
    ],
)
def test_reads_and_writes_an_address(text: str, address: Address) -> None:
    assert parse(text) == address
    assert str(parse(text)) == text
    assert parse(f"  {text} ") == address


def test_blanks_inside_detach_do_not_count() -> None:
    assert str(parse("detach( teacher.logits )")) == "detach(teacher.logits)"


def test_detach_changes_neither_the_key_nor_the_run() -> None:
    plain, detached = parse("student@weak.logits"), parse("detach(student@weak.logits)")
    assert plain.key == detached.key == "student@weak.logits"
    assert plain.run == detached.run == "student@weak"
    assert parse("student.logits").run == "student"


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "student.", "student/", "/layer", "Student.logits", "1st.logits", "student@.logits",
        "student@Weak.logits", "student.logits#2", "up#2", "student/head#0", "student/head#-1", "student/head#",
        "student.lo gits", "a/b/c", "detach(student.logits", "detach()", "student@a@b.x", "grad(student.logits)",
    ],
)  # fmt: skip
def test_refuses_what_is_not_of_the_grammar(text: str) -> None:
    with pytest.raises(GraphError, match="not a value") as caught:
        parse(text, "losses.kd.student")
    assert caught.value.where == "losses.kd.student"
    assert "node/module.path" in caught.value.exists


def test_a_value_is_text() -> None:
    with pytest.raises(GraphError, match="written as text, not 3"):
        parse(3)
