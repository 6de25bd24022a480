"""What the bench found, as JSON: one entry for each group of measurements and device, replaced as a whole."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model_zoo.bench.measure import Row, Spread, processor

HERE = Path(__file__).parent
FILE = HERE / "results.json"
ORDER = (
    "overhead", "early_stop", "cache_store", "cache_epoch", "gradient_cache", "precision", "growth", "divergence",
    "similarity", "angle", "peers",
)  # fmt: skip
PACKAGES = ("mmkd", "torch", "timm", "torchdistill", "open_clip_torch", "transformers", "trl", "liger_kernel")


@dataclass(frozen=True)
class Group:
    """A file of measurements, known without importing it."""

    name: str
    title: str
    about: str
    """First paragraph of its docstring."""
    devices: Sequence[str] = ("cpu",)

    @property
    def file(self) -> Path:
        return HERE / f"{self.name}.py"


def groups() -> dict[str, Group]:
    """Every group beside this file, in the order of the table."""
    found = {path.stem: group for path in sorted(HERE.glob("*.py")) if (group := _group(path))}
    known = [name for name in ORDER if name in found]
    return {name: found[name] for name in (*known, *(n for n in found if n not in ORDER))}


def _group(path: Path) -> Group | None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    said: dict[str, Any] = {}
    for line in tree.body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            name = line.targets[0].id
            if name in ("GROUP", "DEVICES"):
                said[name] = ast.literal_eval(line.value)
    if "GROUP" not in said:
        return None
    about = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return Group(path.stem, said["GROUP"], about, said.get("DEVICES", ("cpu",)))


@dataclass
class Entry:
    """Rows of one group on one device, with what they were taken with."""

    group: str
    device: str
    key: str
    """Digest of the processor, the versions, the form (short or full) and the group's own file."""
    seconds: float
    environment: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)


def key(group: Group, device: str, short: bool) -> str:
    """Tells entries apart that are not to be mixed."""
    facts = [group.file.read_text(encoding="utf-8"), device, short, processor(), versions()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of the packages that take part, where they are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(file: Path) -> list[Entry]:
    """Entries of a file; none where there is no file."""
    if not file.is_file():
        return []
    return [Entry(**{**entry, "rows": [row(held) for held in entry["rows"]]}) for entry in json.loads(file.read_text())]


def write(file: Path, entries: Sequence[Entry]) -> None:
    """Write aside and rename, so that a file is always whole."""
    aside = file.with_suffix(".tmp")
    aside.write_text(json.dumps([_plain(entry) for entry in ordered(entries)], indent=1) + "\n")
    aside.replace(file)


def ordered(entries: Sequence[Entry]) -> list[Entry]:
    """In the order of the table, the CPU first."""
    names = list(groups())
    return sorted(entries, key=lambda e: (names.index(e.group) if e.group in names else len(names), e.device))


def row(held: Mapping[str, Any]) -> Row:
    """A row from JSON."""
    return Row(**{**held, "ratio": Spread(*held["ratio"]) if held["ratio"] else None})


def plain(row: Row) -> dict[str, Any]:
    """A row as JSON, numbers to four digits."""
    return {name: _short(value) for name, value in asdict(row).items()}


def _plain(entry: Entry) -> dict[str, Any]:
    return {**asdict(entry), "rows": [plain(row) for row in entry.rows]}


def _short(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.4g}")
        case Mapping():
            return {name: _short(held) for name, held in value.items()}
        case list() | tuple():
            return [_short(held) for held in value]
    return value


def titled(entries: Sequence[Entry]) -> Iterator[tuple[str, Entry]]:
    """Entries with the titles of their groups."""
    known = groups()
    for entry in ordered(entries):
        title = known[entry.group].title if entry.group in known else entry.group
        yield (title if entry.device == "cpu" else f"{title}, {entry.environment['device']}"), entry
