"""What a plugin may declare, and how the catalogue is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest
from torch import Tensor

import mmkd
from mmkd.errors import PluginError, RecipeError
from mmkd.registry import Catalogue, Entry, Registry
from mmkd.signature import construct, options, ports


class Gap(mmkd.Loss):
    """Gap between two values.

    Shape: student, teacher `[B, D]` -> `[B]`.
    """

    def __init__(
        self,
        power: Annotated[float, pydantic.Field(gt=0)] = 1.0,
        copy: bool = False,
        mode: Literal["l1", "l2"] = "l1",
        image: mmkd.Encoder | None = None,
    ) -> None:
        super().__init__()
        self.power, self.copy, self.mode, self.image = power, copy, mode, image

    def forward(self, student: Tensor, teachers: list[Tensor], label: Tensor | None = None) -> Tensor:
        return (student - teachers[0]).abs().mean(-1)


@pytest.fixture
def registry() -> Registry:
    return Registry("toy", "mmkd-toy", "1.0")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package `toypack` with one module and one recipe."""
    folder = tmp_path / "toypack"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('not to be imported')\n")
    (folder / "losses.py").write_text('class Near:\n    r"""Near miss."""\n\nclass Bare:\n    pass\n\nNumber = 3\n')
    (folder / "run.yaml").write_text("# Toy run in a minute.\nteacher: {}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_host_prefixes_ids(registry: Registry) -> None:
    registry.loss("gap", Gap, paper="Gap Paper", needs=["numpy"])
    (entry,) = registry.entries
    assert (entry.id, entry.summary, entry.needs) == ("toy.gap", "Gap between two values.", ("numpy",))


def test_needs_may_be_one_name(registry: Registry) -> None:
    registry.loss("gap", Gap, needs="numpy")
    assert registry.entries[0].needs == ("numpy",)


def test_one_name_may_stand_for_two_kinds(registry: Registry, package: Path) -> None:
    registry.loss("near", "toypack.losses:Near")
    registry.schedule("near", "toypack.losses:Near")
    assert [e.kind for e in Catalogue(registry.entries, {}).find("toy.near")] == ["loss", "schedule"]
    with pytest.raises(PluginError, match=r"loss 'toy\.near' is registered twice"):
        registry.loss("near", "toypack.losses:Near")


def test_lazy_targets_are_read_but_not_imported(registry: Registry, package: Path) -> None:
    registry.loss("near", "toypack.losses:Near")
    registry.loss("bare", "toypack.losses:Bare")
    registry.recipe("run", "toypack:run.yaml")
    assert [e.summary for e in registry.entries] == ["Near miss.", "", "Toy run in a minute."]
    assert registry.entries[2].source() == package / "run.yaml"
    assert "toypack" not in sys.modules


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("loss", "toypack.losses:Far", "that file has no 'Far'"),
        ("loss", "toypack.loses:Near", "which does not exist"),
        ("loss", "toypack.losses", "not of the form 'module:Class'"),
        ("recipe", "toypack:walk.yaml", "which does not exist"),
        ("recipe", "toypack/run.yaml", "not of the form 'module:path/to/recipe.yaml'"),
        ("recipe", Gap, "must be given as 'module:path/to/recipe.yaml'"),
        ("encoder", Gap, "must be a subclass of mmkd.Encoder, not the class Gap"),
        ("loss", Gap(), "must be a subclass of mmkd.Loss"),
    ],
)
def test_what_cannot_be_registered(registry: Registry, package: Path, kind: str, target: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message.replace(".", r"\.")):
        getattr(registry, kind)("thing", target)
    assert registry.entries == []


@pytest.mark.parametrize("name", ["Gap", "gap-loss", "gap.loss", "", "1st", "gap\n", None, 3])
def test_names(registry: Registry, name: Any) -> None:
    with pytest.raises(PluginError, match="must be lower-case"):
        registry.loss(name, Gap)


def test_an_unknown_kind_lists_the_kinds(registry: Registry) -> None:
    with pytest.raises(AttributeError, match="no kind 'los'; there is: encoder"):
        registry.los("gap", Gap)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["use", "weight", "like", "when", "phase", "inputs", "recipe"])
def test_reserved_keys_name_no_option_and_no_port(registry: Registry, name: str) -> None:
    scope: dict[str, Any] = {"mmkd": mmkd}
    exec(
        f"class Option(mmkd.Loss):\n  def __init__(self, {name}=1): ...\n  def forward(self, student): ...\n"
        f"class Port(mmkd.Loss):\n  def forward(self, {name}): ...\n",
        scope,
    )
    with pytest.raises(PluginError, match=f"option '{name}' of 'toy.a' is a reserved key"):
        registry.loss("a", scope["Option"])
    with pytest.raises(PluginError, match=f"port '{name}' of 'toy.b' is a reserved key"):
        registry.loss("b", scope["Port"])


def test_ports_and_options_of_a_loss_share_no_name(registry: Registry) -> None:
    class Both(mmkd.Loss):
        def __init__(self, student: float = 1.0) -> None:
            super().__init__()

        def forward(self, student: Tensor) -> Tensor:
            return student.mean()

    with pytest.raises(PluginError, match=r"'student' of 'toy\.both' is both an option and a port"):
        registry.loss("both", Both)


def test_loading_what_fails_to_import_names_the_component() -> None:
    entry = Entry("loss", "gap", "surely_not_there:Gap", "toy", "mmkd-toy", needs=("surely", "others"))
    with pytest.raises(PluginError, match=r"(?s)loss 'toy\.gap' cannot be imported.*next: pip install surely others"):
        entry.load()


def test_loading_survives_a_module_that_exits(package: Path) -> None:
    (package / "__init__.py").write_text("")
    (package / "quits.py").write_text("import sys\nclass Near: ...\nsys.exit(1)\n")
    with pytest.raises(PluginError, match="cannot be imported: SystemExit: 1"):
        Entry("loss", "near", "toypack.quits:Near", "toy").load()


def test_loading_checks_the_class(package: Path) -> None:
    (package / "__init__.py").write_text("")
    with pytest.raises(PluginError, match=r"must be a subclass of mmkd\.Loss, not 3"):
        Entry("loss", "number", "toypack.losses:Number", "toy").load()


def test_the_catalogue_names_the_nearest() -> None:
    catalogue = Catalogue([Entry("loss", "gap", Gap, "toy"), Entry("metric", "gap", Gap, "other")], {})
    with pytest.raises(PluginError, match=r"losses\.kd\.use: no loss 'toy\.gpa'; did you mean 'toy\.gap'\?"):
        catalogue.get("loss", "toy.gpa", where="losses.kd.use")
    with pytest.raises(PluginError, match=r"'toy\.gap' is a loss, not a metric"):
        catalogue.get("metric", "toy.gap")
    with pytest.raises(PluginError, match=r"no loss 'bar_low\.gap', since no plugin 'bar_low' is installed") as caught:
        catalogue.get("loss", "bar_low.gap")
    assert "pip install mmkd-bar-low" in str(caught.value)
    with pytest.raises(PluginError, match=r"no loss 'toyy\.gap'.*did you mean 'toy\.gap'") as caught:
        catalogue.get("loss", "toyy.gap")
    assert "pip install" not in str(caught.value)


def test_asking_twice_for_a_broken_plugin_gives_the_same_error() -> None:
    catalogue = Catalogue([], {"toy": PluginError("is ill", where="plugin toy")})
    for _ in range(2):
        with pytest.raises(PluginError) as caught:
            catalogue.get("loss", "toy.gap", where="losses.kd")
        assert str(caught.value) == "losses.kd: plugin toy: is ill"


def test_options_and_ports_are_read_from_signatures() -> None:
    assert {name: p.type_name for name, p in options(Gap).items()} == {
        "power": "float (gt=0)",
        "copy": "bool",
        "mode": "Literal['l1', 'l2']",
        "image": "Encoder | None",
    }
    assert {name: (p.type_name, p.required, p.many) for name, p in ports(Gap).items()} == {
        "student": ("Tensor", True, False),
        "teachers": ("list[Tensor]", True, True),
        "label": ("Tensor | None", False, False),
    }
    assert options(Gap)["image"].nested == "encoder"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"power": 0.0}, r"losses\.gap\.power: input should be greater than 0, not 0\.0"),
        ({"power": float("nan")}, r"losses\.gap\.power: input should be a finite number"),
        ({"mode": "l3"}, r"losses\.gap\.mode: input should be 'l1' or 'l2', not 'l3'"),
        ({"copy": "perhaps"}, r"losses\.gap\.copy: input should be a valid boolean"),
        ({"pover": 1.0}, r"losses\.gap\.pover: unknown option 'pover' of Gap; did you mean 'power'\?"),
    ],
)
def test_options_are_validated(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        construct(Gap, given, _no_nested, "losses.gap")


def test_an_option_may_be_called_like_a_method_of_pydantic() -> None:
    assert construct(Gap, {"copy": True}, _no_nested, "losses.gap").copy is True


def test_an_annotation_that_only_the_type_checker_knows_spares_the_others() -> None:
    class Sparse(mmkd.Loss):
        def __init__(self, power: float = 1.0, extra: OnlyForTheTypeChecker = None) -> None:  # type: ignore[name-defined]  # noqa: F821
            super().__init__()

    assert {name: p.type_name for name, p in options(Sparse).items()} == {"power": "float", "extra": "Any"}
    with pytest.raises(RecipeError, match="valid number"):
        construct(Sparse, {"power": "high"}, _no_nested, "losses.sparse")


def _no_nested(kind: str, spec: Any, where: str) -> Any:
    raise AssertionError("nothing is nested here")
