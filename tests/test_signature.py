"""Options and ports, read from signatures; options checked against their annotations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from torch import Tensor

import mmkd
from mmkd.errors import PluginError, RecipeError
from mmkd.signature import check_names, construct, options, ports, validate

if False:  # for the type checker only, as plugins do it too
    from somewhere import Unknown


class Example(mmkd.Loss):
    """Options and ports of every kind."""

    def __init__(
        self,
        temperature: Annotated[float, Field(gt=0)],
        kind: Literal["soft", "hard"] = "soft",
        layers: list[int] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        flag: bool = False,
        copy: str = "",
        schema: int = 0,
        later: Unknown = None,
        encoder: mmkd.Encoder | None = None,
        anything: Any = None,
        untyped=None,
    ) -> None:
        super().__init__()
        self.given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}

    def forward(
        self, student: list[Tensor], teacher: Tensor, label: Tensor | None = None, other: Unknown = None
    ) -> Tensor:
        return student[0]


def make(**given: Any) -> Example:
    def build(kind: str, spec: Any, where: str) -> Any:
        raise AssertionError(f"{where} is no nested component")

    return construct(Example, {"temperature": 1.0, **given}, build, "losses.kd")  # type: ignore[no-any-return]


def test_options_and_ports_are_the_parameters() -> None:
    assert list(options(Example))[:3] == ["temperature", "kind", "layers"]
    assert [name for name, option in options(Example).items() if option.required] == ["temperature"]
    assert options(Example)["kind"].default == "soft"
    assert options(Example)["temperature"].type_name == "float (gt=0)"
    assert [(name, port.required, port.many) for name, port in ports(Example).items()] == [
        ("student", True, True),
        ("teacher", True, False),
        ("label", False, False),
        ("other", False, False),
    ]


def test_a_component_without_options_or_ports_has_none() -> None:
    class Bare(mmkd.Dataset):
        pass

    assert options(Bare) == {}
    assert ports(Bare) == {}


def test_only_what_was_given_is_passed_on_converted() -> None:
    assert validate(Example, {"temperature": 2, "betas": [0.8, 0.9]}, "x") == {"temperature": 2.0, "betas": (0.8, 0.9)}
    made = make(copy="yes", schema=3, later=object, anything=[1], untyped="u")
    assert made.given["copy"] == "yes"
    assert made.given["schema"] == 3
    assert made.given["later"] is object
    assert made.given["kind"] == "soft"


@pytest.mark.parametrize(
    ("given", "where", "message"),
    [
        ({"temperature": -1.0}, "temperature", "should be greater than 0, not -1.0"),
        ({"temperature": float("nan")}, "temperature", "finite number"),
        ({"temperature": float("inf")}, "temperature", "finite number"),
        ({"temperature": "warm"}, "temperature", "valid number.*not 'warm'"),
        ({"kind": "sotf"}, "kind", "should be 'soft' or 'hard', not 'sotf'"),
        ({"layers": [1, "two"]}, "layers.1", "valid integer"),
        ({"layers": [1.5]}, "layers.0", "valid integer"),
        ({"betas": [0.9]}, "betas.1", "is required"),
        ({"betas": [0.9, float("nan")]}, "betas.1", "finite number"),
        ({"flag": 7}, "flag", "boolean"),
        ({"encoder": 3}, "encoder", "instance of Encoder"),
    ],
)
def test_wrong_values_name_their_place(given: dict[str, Any], where: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        make(**given)
    assert caught.value.where == f"losses.kd.{where}"


def test_unknown_and_missing_options_are_named() -> None:
    with pytest.raises(RecipeError, match=r"unknown option 'temprature'.*did you mean 'temperature'") as caught:
        make(temprature=1.0)
    assert caught.value.where == "losses.kd.temprature"
    with pytest.raises(RecipeError, match="is required") as caught:
        construct(Example, {}, lambda *_: None, "losses.kd")
    assert caught.value.where == "losses.kd.temperature"


def test_what_init_raises_is_placed() -> None:
    class Refuses(mmkd.Loss):
        def __init__(self, first: int = 0) -> None:
            raise ValueError("first must be even") if first else RecipeError("is odd", where="first")

    with pytest.raises(RecipeError, match=r"^losses\.kd: Refuses refused its options: first must be even"):
        construct(Refuses, {"first": 1}, lambda *_: None, "losses.kd")
    with pytest.raises(RecipeError, match=r"^losses\.kd: first: is odd"):
        construct(Refuses, {}, lambda *_: None, "losses.kd")


class Tower(mmkd.Encoder):
    """Made of others."""

    def __init__(self, image: mmkd.Encoder, more: list[mmkd.Encoder] | None = None) -> None:
        super().__init__()
        self.image, self.more = image, more


def test_nested_components_are_built_first_and_know_their_place() -> None:
    asked = []

    def build(kind: str, spec: Any, where: str) -> mmkd.Encoder:
        asked.append((kind, spec["use"], where))
        return mmkd.Encoder()

    given = {"image": {"use": "vision.timm"}, "more": [{"use": "a.b"}, {"use": "c.d"}]}
    made = construct(Tower, given, build, "student")
    assert [type(e) for e in (made.image, *made.more)] == [mmkd.Encoder] * 3
    assert asked == [
        ("encoder", "vision.timm", "student.image"),
        ("encoder", "a.b", "student.more.0"),
        ("encoder", "c.d", "student.more.1"),
    ]
    assert options(Tower)["image"].nested == options(Tower)["more"].nested == "encoder"
    assert construct(Tower, {"image": mmkd.Encoder()}, build, "student").more is None
    with pytest.raises(RecipeError, match="instance of Encoder"):
        construct(Tower, {"image": {"uze": "vision.timm"}}, build, "student")


def loss_with(option: str = "", port: str = "student") -> type:
    scope: dict[str, Any] = {"mmkd": mmkd}
    init = f"def __init__(self, {option}=0):\n        super().__init__()" if option else "pass"
    exec(f"class Made(mmkd.Loss):\n    {init}\n    def forward(self, {port}):\n        return {port}", scope)
    made: type = scope["Made"]
    return made


@pytest.mark.parametrize("name", ["use", "weight", "when", "phase", "inputs", "like", "recipe"])
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(PluginError, match=f"option '{name}' of 'a.b' is a reserved key"):
        check_names(loss_with(option=name), "a.b")
    with pytest.raises(PluginError, match=f"port '{name}' of 'a.b' is a reserved key"):
        check_names(loss_with(port=name), "a.b")


@pytest.mark.parametrize("name", ["mask", "sample_weight"])
def test_mask_and_sample_weight_are_ports_or_nothing(name: str) -> None:
    check_names(loss_with(port=name), "a.b")
    with pytest.raises(PluginError, match=f"option '{name}' of 'a.b' is a reserved key"):
        check_names(loss_with(option=name), "a.b")


def test_an_option_may_not_be_a_port_too() -> None:
    with pytest.raises(PluginError, match=r"'student' of 'a\.b' is both an option and a port"):
        check_names(loss_with(option="student"), "a.b")


def test_encoders_keep_their_ports_apart_from_their_options() -> None:
    class Reads(mmkd.Encoder):
        def __init__(self, image: str = "") -> None:
            super().__init__()

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return {"embedding": image}

    check_names(Reads, "a.b")
    assert Reads().inputs() == {"image": True}


def test_options_that_take_maps_as_they_are() -> None:
    class Taker:
        def __init__(
            self, a: dict[str, int], b: dict[str, Any] | None, c: list[dict[str, Any]], d: float, e: list[float]
        ) -> None: ...

    assert [name for name, parameter in options(Taker).items() if parameter.maps] == ["a", "b", "c"]
