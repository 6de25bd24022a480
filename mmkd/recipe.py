"""A run, declared: who teaches whom, with which losses, on what data, under which budget."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from mmkd import yaml
from mmkd.errors import MmkdError, PluginError, RecipeError
from mmkd.merge import Layer, blame, flatten, merge, override, plain
from mmkd.registry import Catalogue
from mmkd.spec import (
    Average,
    Component,
    Data,
    Evaluation,
    LossSpec,
    Name,
    Node,
    ProjectorSpec,
    Spec,
    Train,
    check_id,
    weighed_by,
)  # fmt: skip
from mmkd.validation import explain

__all__ = [
    "Average", "Component", "Data", "Evaluation", "LossSpec", "Node", "ProjectorSpec", "Recipe", "Train",
    "json_schema", "load_recipe",
]  # fmt: skip


class Recipe(Spec):
    """A run, declared: who teaches whom, with which losses, on what data, under which budget."""

    name: str | None = None
    """Title of the run."""
    description: str | None = None
    """What the run is for, in a sentence or two."""
    teacher: Node | None = None
    """The network that teaches; `teachers` where there are several."""
    teachers: dict[Name, Node] = pydantic.Field(default_factory=dict)
    """Networks that teach, by name."""
    student: Node | None = None
    """The network that is trained; `students` where there are several."""
    students: dict[Name, Node] = pydantic.Field(default_factory=dict)
    """Networks that are trained, by name."""
    projectors: dict[Name, ProjectorSpec] = pydantic.Field(default_factory=dict)
    """Maps from one space to another, by name; the name is the address of the result."""
    mixers: dict[Name, Component] = pydantic.Field(default_factory=dict)
    """Targets built before the losses (of several teachers, the label, the student itself), by name; likewise."""
    schedules: dict[Name, Component] = pydantic.Field(default_factory=dict)
    """Schedules that weights of losses name, that read values or learn, by name: `weight: alpha`."""
    losses: dict[Name, LossSpec]
    """Losses by name; each is logged as `<name>_loss`."""
    procedure: Component | None = None
    """Training scheme around the graph: stages, generations, blocks; or how a step combines its gradients."""
    data: Data = Data()
    """Datasets, augmentation and batch sizes."""
    train: Train = pydantic.Field(default_factory=Train.model_construct)
    """Budget, optimiser and bookkeeping of the training loop; without it the graph is for a loop of your own."""
    evaluate: list[Evaluation] = pydantic.Field(default_factory=list)
    """Metrics of the trained student, beside the teacher's and the baseline's."""
    baseline: dict[str, Any] | None = None
    """Changes that make the run without a teacher: `losses` replaces the losses, the rest merges."""
    export: Annotated[list[Name], pydantic.Field(min_length=1)] | None = None
    """Networks, projectors and mixers of the exported model; the students unless given."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for one, several in (("teacher", "teachers"), ("student", "students")):
            if getattr(self, one) is not None and getattr(self, several):
                raise RecipeError(f"give '{one}' or '{several}', not both", where=several)
        if not self.student_nodes():
            raise RecipeError("is required", where="student", next="student: {use: ...}; mmkd list encoder")
        if not self.losses:
            raise RecipeError("at least one loss is required", where="losses", next="mmkd list loss")
        seen = {"batch": "the batch"}
        for kind, names in self._names().items():
            for name in names:
                where = kind if kind == name else f"{kind}.{name}"
                if name in seen:
                    raise RecipeError(f"'{name}' already names {seen[name]}", where=where, next="choose another name")
                seen[name] = f"one of the {kind}" if kind != name else f"the {kind}"
        self._check_averages()
        self._check_forms()
        self._check_schedules()
        for i, name in enumerate(self.export or ()):
            if name not in seen or name == "batch" or name in self.schedules:
                exists = [known for known in seen if known != "batch" and known not in self.schedules]
                raise RecipeError(f"nothing is called '{name}'", where=f"export.{i}", name=name, exists=exists)
        titles = [evaluation.title for evaluation in self.evaluate]
        for i, title in enumerate(titles):
            if title in titles[:i]:
                what = f"a second evaluation is called '{title}'"
                raise RecipeError(what, where=f"evaluate.{i}", next="give it a 'name'")
        return self

    def _check_averages(self) -> None:
        students = self.student_nodes()
        for name, node in {**students, **self.teacher_nodes()}.items():
            if node.average is None:
                continue
            where = self.place(name)
            if name in students:
                raise RecipeError(
                    "an averaged network is not trained", where=f"{where}.average", next="write it under teacher(s)"
                )
            if (of := node.average.of) not in students:
                raise RecipeError(f"'{of}' is no student", where=f"{where}.average.of", name=of, exists=students)

    def _check_forms(self) -> None:
        fixes = {"precision": "train.precision=bf16, whose weights stay fp32", "compile": "remove `compile`"}
        for name, node in self.student_nodes().items():
            for key, fix in fixes.items():
                if getattr(node, key) and not node.frozen:
                    what = f"belongs to networks that are not trained, and '{name}' is"
                    raise RecipeError(what, where=f"{self.place(name)}.{key}", next=fix)

    def _check_schedules(self) -> None:
        if "main" in self.schedules:
            raise RecipeError("'main' is the phase of the students", where="schedules.main", next="another name")
        own = [f"{name}_weight" for name, loss in self.losses.items() if isinstance(loss.weight, Component)]
        for name, loss in self.losses.items():
            if isinstance(loss.weight, str) and (named := weighed_by(loss.weight)) not in self.schedules:
                raise RecipeError(
                    f"must be a number, not \"{loss.weight}\": no schedule is called '{named}'",
                    where=f"losses.{name}.weight", name=named,
                    exists=list(self.schedules), next=f"schedules: {{{named}: {{use: ...}}}}",
                )  # fmt: skip
            if loss.phase is not None and loss.phase not in (known := [*self.schedules, *own]):
                raise RecipeError(
                    f"no schedule is called '{loss.phase}'", where=f"losses.{name}.phase", name=loss.phase,
                    exists=known, next="the phase of a loss is the schedule that learns from it",
                )  # fmt: skip

    def place(self, node: str) -> str:
        """Where a network stands in the recipe."""
        several = {**dict.fromkeys(self.teachers, "teachers"), **dict.fromkeys(self.students, "students")}
        return f"{several[node]}.{node}" if node in several else node

    def _absent(self) -> set[str]:
        own_loop = self.train.steps is None and self.train.epochs is None
        return super()._absent() | ({"train"} if own_loop else set())

    def teacher_nodes(self) -> dict[str, Node]:
        """Networks that teach, by name; a single one is called `teacher`."""
        return {"teacher": self.teacher} if self.teacher is not None else dict(self.teachers)

    def left_open(self) -> list[str]:
        """What must still be given, in a recipe that starts from this one or from Python, before it can run."""
        networks = {**self.student_nodes(), **self.teacher_nodes()}
        places = [self.place(name) for name, node in networks.items() if not (node.use or node.average or node.stage)]
        places += ["data.train"] * (self.data.train is None)
        places += [f"data.streams.{name}" for name, stream in self.data.streams.items() if stream.dataset is None]
        return places + ["train.steps"] * (self.train.steps is None and self.train.epochs is None)

    def built_as(self, node: str) -> Node:
        """How a network is built: as the student that it follows, where it is an average."""
        nodes = {**self.student_nodes(), **self.teacher_nodes()}
        spec = nodes[node]
        if spec.average is None:
            return spec
        student = nodes[spec.average.of]
        return student.model_copy(update={"inputs": {**student.inputs, **spec.inputs}})

    def student_nodes(self) -> dict[str, Node]:
        """Networks that are trained, by name; a single one is called `student`."""
        return {"student": self.student} if self.student is not None else dict(self.students)

    def derived(self) -> dict[str, Component]:
        """Projectors and mixers, by name."""
        return {**self.projectors, **self.mixers}

    def exported(self) -> list[str]:
        """Names of the networks, projectors and mixers that the exported model consists of."""
        return list(self.student_nodes()) if self.export is None else list(self.export)

    def baseline_recipe(self) -> Recipe | None:
        """The same run without its teachers, or None where no `baseline` is declared.

        The patch's losses replace the losses and the rest of it merges. Projectors and mixers that read a teacher go
        unless a loss of the baseline reads them; evaluations of what is gone go too, and `export` keeps what is left.
        """
        if self.baseline is None:
            return None
        allowed = [name for name in Recipe.model_fields if name not in ("teacher", "teachers", "baseline")]
        for key in self.baseline:
            if key not in allowed:
                raise RecipeError(
                    f"'{key}' cannot be changed for the baseline", where=f"baseline.{key}", name=key, exists=allowed
                )
        if not self.baseline.get("losses"):
            raise RecipeError("is required", where="baseline.losses", next="losses that need no teacher")
        data = self.to_dict()
        del data["baseline"]
        data.pop("procedure", None)
        gone = set(self.teacher_nodes())
        data = merge(data, {**self.baseline, "teacher": None, "teachers": None, "losses": None})
        data = {key: value for key, value in data.items() if key not in ("teacher", "teachers")}
        data["losses"] = self.baseline["losses"]
        export = data.pop("export", [])
        patched = _validate(data, "baseline.")
        gone |= _orphans(patched, gone)
        for kind in ("projectors", "mixers"):
            data[kind] = {name: spec for name, spec in data.get(kind, {}).items() if name not in gone}
        for node in [data.get("student") or {}, *data.get("students", {}).values()]:
            if inputs := node.get("inputs"):
                node["inputs"] = {own: v for own, v in inputs.items() if own[0] != "/" or not _heads([v]) & gone}
        kept = [not (_heads(e.arguments.values()) & gone) for e in patched.evaluate]
        scored = [{k: v for k, v in e.items() if k != "teacher_score"} for e in data.get("evaluate", [])]
        data["evaluate"] = [e for e, keep in zip(scored, kept, strict=True) if keep]
        weighed = {weighed_by(loss.weight) for loss in patched.losses.values() if isinstance(loss.weight, str)}
        data["schedules"] = {name: spec for name, spec in data.get("schedules", {}).items() if name in weighed}
        data["export"] = [name for name in export if name not in gone] or None
        return _validate(data, "baseline.")

    def patched(self, patch: Mapping[str, Any], where: str = "procedure") -> Recipe:
        """The same recipe with changes, without its procedure and baseline, as a stage of the procedure is.

        `losses` of the patch replace the losses; the rest merges, `null` removes.

        Args:
            where: place in the recipe that the patch comes from, for errors.

        Raises:
            RecipeError: what comes of it is no recipe.
        """
        data = {key: value for key, value in self.to_dict().items() if key not in ("procedure", "baseline")}
        for key in patch:
            if key not in Recipe.model_fields or key == "baseline":
                exists = [name for name in Recipe.model_fields if name != "baseline"]
                raise RecipeError(f"no key '{key}' of a stage", where=f"{where}.{key}", name=key, exists=exists)
        if patch.get("losses"):
            data.pop("losses", None)
        return _validate(merge(data, patch), f"{where}.")

    def _names(self) -> dict[str, list[str]]:
        """Names of networks, projectors, mixers and schedules by the key that gives them."""
        nodes = {"teacher": self.teacher, "student": self.student}
        single = {name: [name] for name, node in nodes.items() if node is not None}
        several = {"teachers": list(self.teachers), "students": list(self.students)}
        derived = {"projectors": list(self.projectors), "mixers": list(self.mixers)}
        return {**single, **several, **derived, "schedules": list(self.schedules)}

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `load_recipe` turns into an equal recipe; defaults are written out."""
        return self.model_dump()

    def to_yaml(self) -> str:
        """The recipe as a YAML file."""
        return yaml.dump(self.to_dict())


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] = (),
    catalogue: Catalogue | None = None,
) -> Recipe:
    """Read, complete and check a recipe.

    Args:
        source: path of a YAML file, id of a registered recipe (`vision_language.emoji`), a map or a recipe.
        overrides: changes such as `train.lr=1e-3` or `losses.kd=null`, applied last and in order.
        catalogue: where registered recipes are looked up; the installed plugins unless given.

    Raises:
        RecipeError: the recipe cannot be run; names the file and the place in it.
    """
    if isinstance(source, Recipe) and not overrides:
        return source
    layers = _layers(source, catalogue)
    data = flatten(layers)
    for text in overrides:
        data, layer = override(data, text)
        layers.append(layer)
    try:
        recipe = _validate(data)
        recipe.baseline_recipe()
    except RecipeError as error:
        raise error.at(blame(layers, error.where)) from None
    return recipe


@contextlib.contextmanager
def blaming(source: object) -> Iterator[None]:
    """Put the file or id that a recipe was read from in front of any error."""
    try:
        yield
    except MmkdError as error:
        label = str(source) if isinstance(source, str | Path) else ""
        if not label or label in str(error):
            raise
        raise error.at(label) from error.__cause__


def json_schema() -> dict[str, Any]:
    """JSON schema of a recipe file, for editors; nothing is required, since a base recipe may give it."""
    schema = Recipe.model_json_schema()
    schema.pop("required", None)
    base = {"type": "string", "description": "Id of a registered recipe to start from: maps merge, the rest replaces."}
    schema["properties"] = {"recipe": base, **schema["properties"]}
    return schema


def _validate(data: Mapping[str, Any], prefix: str = "") -> Recipe:
    """Data as a recipe; errors hold their place in it, below `prefix`."""
    try:
        return Recipe.model_validate(data)
    except pydantic.ValidationError as error:
        complaint = explain(error, data)
    except RecipeError as error:
        complaint = error
    raise RecipeError(
        complaint.what,
        where=prefix + complaint.where,
        name=complaint.nearest or "",
        exists=complaint.exists,
        next=complaint.next,
    )


def _layers(source: str | Path | Mapping[str, Any] | Recipe, catalogue: Catalogue | None) -> list[Layer]:
    """The source's own layer above those of the recipes that it starts from."""
    if isinstance(source, Recipe):
        return [Layer("recipe", source.to_dict())]
    if isinstance(source, Mapping):
        return _chain("recipe", source, catalogue, [])
    if isinstance(source, str) and _is_id(source) and not Path(source).is_file():
        return _chain(source, {"recipe": source}, catalogue, [])
    return _chain(str(source), yaml.read(Path(source)), catalogue, [])


def _is_id(source: str) -> bool:
    return re.fullmatch(r"[a-z][a-z0-9_]*\.(?!ya?ml\Z)[a-z][a-z0-9_]*", source) is not None


def _chain(label: str, content: Any, catalogue: Catalogue | None, seen: list[str]) -> list[Layer]:
    if content is None:
        raise RecipeError("is empty", where=label, next="mmkd list recipe shows recipes to start from")
    if not isinstance(content, Mapping):
        raise RecipeError(f"must be a map of keys, not a {type(content).__name__}", where=label)
    data = plain(content, label)
    base = data.pop("recipe", None)
    if base is None:
        return [Layer(label, data)]
    where = f"{label}: recipe"
    try:
        path = _registered(base, catalogue, where)
    except PluginError as error:
        complaint = RecipeError(error.what, where=where, name=str(base), exists=error.exists, next=error.next)
        raise complaint from error
    if base in seen:
        raise RecipeError(f"starts from itself: {' -> '.join([*seen, base])}", where=where)
    return [*_chain(str(path), yaml.read(path), catalogue, [*seen, base]), Layer(label, data)]


def _registered(id: Any, catalogue: Catalogue | None, where: str) -> Path:
    if not isinstance(id, str):
        raise RecipeError("must be the id of a registered recipe", where=where, next="mmkd list recipe")
    try:
        check_id(id)
    except ValueError as error:
        raise RecipeError(f"{error}, not '{id}'", where=where, next="mmkd list recipe") from None
    if catalogue is None:
        from mmkd.plugins import host

        catalogue = host().catalogue
    return catalogue.get("recipe", id, where=where).source()


def _heads(values: Iterable[Any]) -> set[str]:
    """First names of the value addresses among `values`: `teacher` of `detach(teacher.logits)`, `up` of `up`."""
    texts = [t for v in values for t in (v if isinstance(v, list) else [v]) if isinstance(t, str)]
    matches = (re.fullmatch(r"(?:detach\(\s*)?([a-z][a-z0-9_]*)(?:[./@#].*)?(?:\s*\))?", t.strip()) for t in texts)
    return {match.group(1) for match in matches if match}


def _orphans(recipe: Recipe, gone: set[str]) -> set[str]:
    """Projectors and mixers that read what is gone, directly or through others, and that no loss reads."""
    reads = {name: _heads([*p.arguments.values(), getattr(p, "like", None)]) for name, p in recipe.derived().items()}
    needed = set().union(*(_heads([*s.arguments.values(), s.mask, s.sample_weight]) for s in recipe.losses.values()))
    tainted = set(gone)
    for _ in reads:
        needed |= set().union(*(reads[name] for name in needed & reads.keys()))
        tainted |= {name for name, heads in reads.items() if heads & tainted}
    return (tainted - gone) - needed
