"""Strict, safe YAML: plain data only, no duplicate keys, bounded size and depth, `1e-3` is a number.

Reads the core schema of YAML 1.2, so that `on`, `no`, `012` and `12:30` mean what they look like; `20_000` is a
number too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mmkd.errors import RecipeError

MAX_BYTES = 2**20
"""Largest file that is read."""
MAX_DEPTH = 32
"""Deepest nesting of maps and lists."""
MAX_VALUES = 100_000
"""Most values that a file may hold once its aliases are written out."""

_FLOAT = re.compile(
    r"[-+]?(?:(?:\d[\d_]*)?\.\d[\d_]*|\d[\d_]*\.?)(?:[eE][-+]?\d+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_RESOLVERS = [
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"[-+]?(?:0x[\da-fA-F_]+|\d[\d_]*)$"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"<<$"), "<"),
]


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


class _Loader(yaml.SafeLoader):
    """SafeLoader without the types that are not plain data."""

    depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem=f"nests deeper than {MAX_DEPTH} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node

    def integer(self, node: ScalarNode) -> int:
        text = self.construct_scalar(node).replace("_", "")
        return int(text, 16 if "x" in text else 10)

    def refuse(self, node: Node) -> None:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise yaml.MarkedYAMLError(
            problem=f"tag '{tag}' is refused: a recipe holds plain data and cannot run code",
            problem_mark=node.start_mark,
        )


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what either version of YAML would misread, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers, _Loader.yaml_constructors = {}, {}
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag(_name), _pattern, list(_first))
    _Dumper.add_implicit_resolver(_tag(_name), _pattern, list(_first))
for _name, _construct in {
    "null": _Loader.construct_yaml_null,
    "bool": _Loader.construct_yaml_bool,
    "int": _Loader.integer,
    "float": _Loader.construct_yaml_float,
    "str": _Loader.construct_yaml_str,
    "seq": _Loader.construct_yaml_seq,
    "map": _Loader.construct_yaml_map,
}.items():
    _Loader.add_constructor(_tag(_name), _construct)
_Loader.add_constructor(None, _Loader.refuse)


def _measure(node: Node, sizes: dict[int, int | None]) -> int:
    """Number of values below a node with its aliases written out; raises on what must not be built."""
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
        return size
    sizes[id(node)] = None
    children: list[Node] = []
    if isinstance(node, SequenceNode):
        children = node.value
    elif isinstance(node, MappingNode):
        _check_keys(node)
        children = [child for pair in node.value for child in pair]
    size = 1 + sum(_measure(child, sizes) for child in children)
    if size > MAX_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"holds more than {MAX_VALUES} values once aliases are written out", problem_mark=node.start_mark
        )
    sizes[id(node)] = size
    return size


def _check_keys(node: MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.tag not in (_tag("str"), _tag("merge")):
            written = f" '{key.value}'" if isinstance(key, ScalarNode) else ""
            raise yaml.MarkedYAMLError(problem=f"key{written} is not text; quote it", problem_mark=key.start_mark)
        if key.value in lines:
            twice = f"key '{key.value}' is given twice, first in line {lines[key.value]}"
            raise yaml.MarkedYAMLError(problem=twice, problem_mark=key.start_mark)
        lines[key.value] = line


def read(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        RecipeError: there is no such file, or it is not a YAML file that holds plain data; names file and line.
    """
    if not path.is_file():
        what = "is a folder, not a YAML file" if path.is_dir() else "no such file"
        folder = path if path.is_dir() else path.parent
        files = sorted(str(f) for f in folder.glob("*.y*ml")) if folder.is_dir() else []
        raise RecipeError(what, where=str(path), name=str(path), exists=files, next="mmkd list recipe")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"is larger than {MAX_BYTES} bytes, no recipe is", where=str(path))
    try:
        return parse(content.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from None


def parse(text: str, where: str) -> Any:
    """The content of a YAML text; `where` names it in errors.

    Raises:
        RecipeError: the text is not YAML that holds plain data; names the line.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.reader.ReaderError as error:
        raise RecipeError(f"is not text: character {error.character!r} at {error.position}", where=where) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}" if mark else where
        what = error.problem or str(error.context)
        if "'\\t'" in what:
            raise RecipeError("a tab cannot indent", where=place, next="indent with spaces") from None
        context = f" ({error.context})" if error.context and error.problem else ""
        raise RecipeError(what + context, where=place) from None
    except RecursionError:
        raise RecipeError("nests too deeply", where=where) from None
    except ValueError as error:  # a number that Python refuses to build
        raise RecipeError(f"holds a value that cannot be read: {error}", where=where) from None


def dump(data: Any) -> str:
    """Plain data as YAML in block style; keys keep their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100)
