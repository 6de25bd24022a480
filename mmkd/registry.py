"""What plugins declare: one `Entry` a component, collected by a `Registry`, looked up in a `Catalogue`."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd.errors import PluginError, nearest
from mmkd.isolation import isolated

KINDS = ("encoder", "projector", "mixer", "loss", "schedule", "curator", "procedure", "metric", "dataset", "recipe")
"""Kinds of component that exist today, in the order in which they are always listed."""

RESERVED = frozenset(
    {
        "stage",
        "frozen",
        "use",
        "recipe",
        "inputs",
        "like",
        "weight",
        "when",
        "phase",
        "every",
        "name",
        "cache",
        "average",
        "teacher_score",
        "precision",
        "layout",
        "compile",
    }
)
"""Keys of a recipe that belong to the host and may name neither option nor port."""

FORMULAS = frozenset({"mixer", "loss", "schedule", "procedure", "metric"})
"""Kinds whose components are each a formula or an algorithm of their own; a recipe is a preset of such."""

NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True)
class Entry:
    """One registered component. `target` is a class, or `module:Class` that is imported on first use;
    for a recipe it is `module:path/to/recipe.yaml`. `paper` holds short names, several of them joined by commas."""

    kind: str
    name: str
    target: Any
    plugin: str
    distribution: str = ""
    version: str = ""
    paper: str | None = None
    url: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.plugin}.{self.name}"

    @property
    def papers(self) -> tuple[str, ...]:
        """Short names of the papers that this component is, or is a part, of."""
        return tuple(filter(None, (name.strip() for name in (self.paper or "").split(","))))

    @property
    def counts_as(self) -> str | None:
        """`distinct formula`, or `preset` for a recipe; None for networks, maps, data and what changes them."""
        return "preset" if self.kind == "recipe" else "distinct formula" if self.kind in FORMULAS else None

    @property
    def summary(self) -> str:
        """First line of the component's docstring (of the recipe's comment), read without importing it."""
        if not isinstance(self.target, str):
            lines = (self.target.__doc__ or "").strip().splitlines()
            return lines[0] if lines else ""
        text = self.source().read_text(encoding="utf-8")
        if self.kind == "recipe":
            match = re.match(r"\s*#\s*(.+)", text)
        else:
            qualname = re.escape(self.target.partition(":")[2])
            match = re.search(rf'^class {qualname}\b[^:]*:[^\n]*\n\s+[rR]?"""\s*(.+?)\s*(?:"""|\n)', text, re.M)
        return match.group(1) if match else ""

    def source(self) -> Path:
        """The file that a lazy target lies in, found without importing more than its top-level package."""
        module, _, rest = self.target.partition(":")
        package, *inner = module.split(".")
        folders, file = _places(package)
        if self.kind == "recipe":
            paths = [folder.joinpath(*inner, rest) for folder in folders]
        elif inner:
            stems = [folder.joinpath(*inner) for folder in folders]
            paths = [path for stem in stems for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")]
        else:
            paths = [file] if file else []
        for path in paths:
            if path.is_file():
                return path
        raise PluginError(f"{self.kind} '{self.id}' points at '{self.target}', which does not exist")

    def check(self) -> None:
        """Raise unless the target exists and is of the right kind, as far as can be seen without importing it."""
        if not isinstance(self.target, str):
            self._check_class(self.target)
            return
        if not re.fullmatch(r"[\w.]+:\S+", self.target):
            form = "module:path/to/recipe.yaml" if self.kind == "recipe" else "module:Class"
            raise PluginError(f"{self.kind} '{self.id}' points at '{self.target}', which is not of the form '{form}'")
        text = self.source().read_text(encoding="utf-8")
        name = self.target.partition(":")[2]
        if self.kind != "recipe" and not re.search(rf"\b{re.escape(name)}\b", text):
            raise PluginError(f"{self.kind} '{self.id}' points at '{self.target}', but that file has no '{name}'")

    def load(self) -> type:
        """Import the target and check that it is a component of its kind."""
        target = self.target
        if isinstance(target, str):
            module, _, name = target.partition(":")
            try:
                with isolated():
                    target = getattr(importlib.import_module(module), name)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a module may raise anything, SystemExit included
                reinstall = f"pip install --force-reinstall --no-deps {self.distribution}"
                raise PluginError(
                    f"{self.kind} '{self.id}' cannot be imported: {type(error).__name__}: {error}",
                    next=f"pip install {' '.join(self.needs)}" if self.needs else reinstall,
                ) from error
        self._check_class(target)
        return target  # type: ignore[no-any-return]

    def _check_class(self, target: Any) -> None:
        if self.kind == "recipe":
            raise PluginError(f"recipe '{self.id}' must be given as 'module:path/to/recipe.yaml', not as {target!r}")
        components = sys.modules.get("mmkd.components")  # not imported: then nothing can derive from it either
        base = components.BASES[self.kind] if components else ()
        if not (isinstance(target, type) and issubclass(target, base)):
            shown = f"the class {target.__name__}" if isinstance(target, type) else repr(target)
            raise PluginError(f"{self.kind} '{self.id}' must be a subclass of mmkd.{self.kind.title()}, not {shown}")
        from mmkd.signature import check_names

        check_names(target, self.id)


def _places(package: str) -> tuple[list[Path], Path | None]:
    """Folders of a top-level package and the file of its own code, found without importing it."""
    if module := sys.modules.get(package):
        folders, file = getattr(module, "__path__", ()), getattr(module, "__file__", None)
    else:
        spec = importlib.util.find_spec(package)
        folders, file = (spec.submodule_search_locations or (), spec.origin) if spec else ((), None)
    return [Path(folder) for folder in folders], Path(file) if file else None


@dataclass
class Registry:
    """Collects what one plugin declares. Ids are `<plugin>.<name>`; the prefix is the host's."""

    plugin: str
    distribution: str = ""
    version: str = ""
    entries: list[Entry] = field(default_factory=list)

    def _add(self, kind: str, name: str, target: Any, paper: str | None, url: str | None, needs: Sequence[str]) -> None:
        if not isinstance(name, str) or not NAME.match(name):
            raise PluginError(f"{kind} name {name!r} must be lower-case letters, digits and underscores")
        if any(e.kind == kind and e.name == name for e in self.entries):
            raise PluginError(f"{kind} '{self.plugin}.{name}' is registered twice")
        packages = (needs,) if isinstance(needs, str) else tuple(needs)
        entry = Entry(kind, name, target, self.plugin, self.distribution, self.version, paper, url, packages)
        entry.check()
        self.entries.append(entry)

    if not TYPE_CHECKING:

        def __getattr__(self, kind: str) -> Any:
            raise AttributeError(f"no kind '{kind}'; there is: {', '.join(KINDS)}", name=kind, obj=self)

    def encoder(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a component that wraps a network (`mmkd.Encoder`)."""
        self._add("encoder", name, target, paper, url, needs)

    def projector(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a map from one space to another (`mmkd.Projector`)."""
        self._add("projector", name, target, paper, url, needs)

    def mixer(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a component that builds a target before the loss (`mmkd.Mixer`)."""
        self._add("mixer", name, target, paper, url, needs)

    def loss(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a loss (`mmkd.Loss`)."""
        self._add("loss", name, target, paper, url, needs)

    def schedule(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a function of the step for a number of a recipe (`mmkd.Schedule`)."""
        self._add("schedule", name, target, paper, url, needs)

    def curator(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a component that decides what is trained on (`mmkd.Curator`)."""
        self._add("curator", name, target, paper, url, needs)

    def procedure(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a training scheme around the graph (`mmkd.Procedure`)."""
        self._add("procedure", name, target, paper, url, needs)

    def metric(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register an evaluation (`mmkd.Metric`)."""
        self._add("metric", name, target, paper, url, needs)

    def dataset(
        self, name: str, target: Any, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a source of raw samples (`mmkd.Dataset`)."""
        self._add("dataset", name, target, paper, url, needs)

    def recipe(
        self, name: str, target: str, *, paper: str | None = None, url: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        """Register a packaged recipe, `module:path/to/recipe.yaml`, for others to start from."""
        self._add("recipe", name, target, paper, url, needs)


class Catalogue:
    """Every component of every healthy plugin; asking for one of a broken plugin raises that plugin's error."""

    def __init__(self, entries: Iterable[Entry], broken: dict[str, PluginError]) -> None:
        self._entries = {(e.kind, e.id): e for e in entries}
        self._broken = broken

    def __iter__(self) -> Iterator[Entry]:
        return iter(sorted(self._entries.values(), key=lambda e: (KINDS.index(e.kind), e.id)))

    def select(self, where: Callable[[Entry], bool]) -> list[Entry]:
        return [e for e in self if where(e)]

    def papers(self) -> dict[str, list[Entry]]:
        """Entries by the short name of their paper, in the order of the alphabet; the case of a name does not count."""
        named: dict[str, tuple[str, list[Entry]]] = {}
        for entry in self:
            for name in entry.papers:
                named.setdefault(name.casefold(), (name, []))[1].append(entry)
        return dict(named[key] for key in sorted(named))

    def of_paper(self, name: str) -> list[Entry]:
        """Entries of the paper with this short name, whatever its case, or an error with the nearest name."""
        papers = self.papers()
        if exact := [known for known in papers if known.casefold() == name.strip().casefold()]:
            return papers[exact[0]]
        raise PluginError(f"no component is of a paper '{name}'", name=name, exists=papers, next="mmkd list --papers")

    def get(self, kind: str, id: str, *, where: str = "") -> Entry:
        """The entry of this kind and id, or an error with the nearest id."""
        if entry := self._entries.get((kind, id)):
            return entry
        self._check_plugin(id, where)
        other = [e for e in self if e.id == id]
        plugin = id.partition(".")[0]
        what = f"'{id}' is a {other[0].kind}, not a {kind}" if other else f"no {kind} '{id}'"
        ids, next = [e.id for e in self if e.kind == kind], f"mmkd list {kind}"
        if plugin not in (installed := {e.plugin for e in self}):
            what += f", since no plugin '{plugin}' is installed"
            if nearest(plugin, installed) is None:
                next = f"pip install mmkd-{plugin.replace('_', '-')}, if that is what brings it; or {next}"
        raise PluginError(what, where=where, name=id, exists=ids, next=next)

    def find(self, id: str) -> list[Entry]:
        """All entries with this id, of any kind (`core.linear` is a projector and a schedule)."""
        if found := [e for e in self if e.id == id]:
            return found
        self._check_plugin(id)
        raise PluginError(f"no component '{id}'", name=id, exists=sorted({e.id for e in self}), next="mmkd list")

    def _check_plugin(self, id: str, where: str = "") -> None:
        """Raise the error of the plugin that `id` belongs to, where it has one."""
        if error := self._broken.get(id.partition(".")[0]):
            again = copy.copy(error)
            raise (again.at(where) if where else again) from error
