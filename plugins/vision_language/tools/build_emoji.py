"""Rebuilds the emoji data embedded in `mmkd_vision_language/emoji` from three pinned npm packages.

    python tools/build_emoji.py            rebuild and write
    python tools/build_emoji.py --check    rebuild in memory, compare with what is committed, exit 1 on a difference

Joins the pictures of Noto Emoji and Twemoji with English labels and tags on the hexcode (less `-FE0F`). Kept: every
emoji that both styles draw and that is neither a flag nor a component (skin tone, hair). Table and sheets are in CLDR
emoji order, the order of an emoji keyboard. Apple's and Facebook's drawings are proprietary and are never read.

Two fixed 5-fold splits are stored; both come from SHA-256 of seed and hexcode, so they depend on no random generator:

`random_fold`  plain: emoji ranked by hash, rank modulo 5.
`fold`         honest: near-duplicates share a fold (see `family`), stratified by subcategory.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

EMBEDDED = Path(__file__).resolve().parents[1] / "mmkd_vision_language" / "emoji"
VERSION = "1"
TILE = 32
COLUMNS = 41
FOLDS = 5
SEED = 0
EXPECTED = 1636

IGNORED = frozenset(
    [
        "person",
        "man",
        "woman",
        "people",
        "men",
        "women",
        "adult",
        "child",
        "boy",
        "girl",
        "and",
        "large",
        "medium",
        "small",
        "left",
        "right",
        "up",
        "down",
        "upwards",
        "downwards",
        "leftwards",
        "rightwards",
        "facing",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirty",
        "o’clock",
    ]
)
SAME = {"princess": "prince", "older": "old", "mrs": "santa", "mx": "santa"}
PERSON_BASES = {"1F468", "1F469", "1F9D1", "1F9D2"}  # man, woman, person, child: too general to be the base of a family

Row = dict[str, Any]


@dataclass(frozen=True)
class Package:
    """npm package at a pinned version, with the licence and attribution of what is taken from it."""

    name: str
    version: str
    sha256: str
    licence: str
    attribution: str

    @property
    def vendor(self) -> str:
        """Name of the vendor inside an emoji-datasource package: `google` in `emoji-datasource-google`."""
        return self.name.rpartition("-")[2]

    def fetch(self, work: Path) -> Path:
        """Returns the verified tarball in `work`, downloaded with `npm pack` if it is not there yet."""
        path = work / f"{self.name}-{self.version}.tgz"
        if not path.exists():
            print(f"npm pack {self.name}@{self.version}")
            subprocess.run(["npm", "pack", f"{self.name}@{self.version}", "--silent"], cwd=work, check=True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            sys.exit(f"{path}: sha256 is {digest}, pinned is {self.sha256}. Delete the file to download it again.")
        print(f"verified {path.name}")
        return path


NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "Apache-2.0",
    "Noto Emoji v2.048, Google LLC; pictures repackaged by Cal Henderson (emoji-data, MIT)",
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "CC-BY-4.0",
    "Twemoji v16.0.1, Twitter, Inc and other contributors (jdecked fork); pictures repackaged by Cal Henderson "
    "(emoji-data, MIT)",
)
EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    "MIT",
    "emojibase-data, Miles Johnson; English labels and tags",
)
PACKAGES = (NOTO, TWEMOJI, EMOJIBASE)
STYLES = {"noto": NOTO, "twemoji": TWEMOJI}


def hexcode(code: str) -> str:
    """Normal form of a hexcode on which the packages agree: upper case, no variation selector."""
    return code.upper().replace("-FE0F", "")


def read(tarball: Path, members: Sequence[str]) -> dict[str, bytes]:
    """Contents of the named members of an npm tarball, in one pass."""
    wanted, found = {f"package/{m}": m for m in members}, {}
    with tarfile.open(tarball) as tar:
        for info in tar:
            if info.name in wanted and (member := tar.extractfile(info)):
                found[wanted[info.name]] = member.read()
    if missing := set(members) - set(found):
        sys.exit(f"{tarball}: lacks {', '.join(sorted(missing)[:5])}")
    return found


def join(drawn: Mapping[str, Sequence[Row]], described: Sequence[Row]) -> list[Row]:
    """Table of the emoji that every style draws and emojibase describes, in CLDR order."""
    texts = {hexcode(e["hexcode"]): e for e in described}
    images = {
        style: {hexcode(e["unified"]): e["image"] for e in entries if e[f"has_img_{STYLES[style].vendor}"]}
        for style, entries in drawn.items()
    }
    rows = []
    for entry in sorted(drawn["noto"], key=lambda e: int(e["sort_order"])):
        key = hexcode(entry["unified"])
        complete = key in texts and all(key in image for image in images.values())
        if entry["category"] in ("Flags", "Component") or not complete:
            continue
        label = texts[key]["label"]
        tags = dict.fromkeys(t for t in texts[key].get("tags", ()) if t.casefold() != label.casefold())
        row = {"key": key, "label": label, "tags": list(tags)}
        row |= {"category": entry["category"], "subcategory": entry["subcategory"]}
        rows.append(row | {"image": {style: image[key] for style, image in images.items()}})
    return rows


def family(row: Row, table: Mapping[str, Row]) -> tuple[str, str]:
    """Family of near-duplicates that an emoji belongs to: category and stem of the label.

    A ZWJ sequence first stands for its base ("man detective" for "detective", "black cat" for "cat"), unless the base
    is a plain person. The stem is the label less words for person, size, direction and clock time: men and women of one
    role, all families, small and large squares, mirrored hands and the 24 clock faces are one family each. Families by
    colour, by digit or by breed are told apart by what the picture shows, and stay apart.
    """
    base, _, joined = row["key"].partition("-200D-")
    origin = table.get(base, row) if joined and base not in PERSON_BASES else row
    words = [SAME.get(w, w) for w in re.findall(r"[^\s,:.-]+", origin["label"].casefold())]
    return origin["category"], " ".join(dict.fromkeys(w for w in words if w not in IGNORED))


def families(rows: Sequence[Row]) -> list[list[Row]]:
    """Emoji grouped by `family`, in order of the table."""
    table, found = {row["key"]: row for row in rows}, defaultdict(list)
    for row in rows:
        found[family(row, table)].append(row)
    return list(found.values())


def rank(key: str) -> str:
    """Position of an emoji in the seeded pseudo-random order."""
    return hashlib.sha256(f"{SEED}:{key}".encode()).hexdigest()


def split(rows: Sequence[Row]) -> None:
    """Adds `fold` and `random_fold` to every row.

    Subcategories are dealt one after another, the one with the biggest family first; inside one, families go, biggest
    first, to the fold with the fewest emoji of that subcategory, then with the fewest emoji in all. A family counts for
    the subcategory of its first member.
    """
    for position, row in enumerate(sorted(rows, key=lambda r: rank(r["key"]))):
        row["random_fold"] = position % FOLDS

    groups = families(rows)
    strata: dict[str, list[list[Row]]] = defaultdict(list)
    for members in groups:
        strata[members[0]["subcategory"]].append(members)
    filled: Counter[int] = Counter()
    for _, stratum in sorted(strata.items(), key=lambda s: (-max(map(len, s[1])), s[0])):
        here: Counter[int] = Counter()
        for members in sorted(stratum, key=lambda m: (-len(m), rank(m[0]["key"]))):
            fold = min(range(FOLDS), key=lambda f: (here[f], filled[f], f))
            here[fold] += len(members)
            filled[fold] += len(members)
            for row in members:
                row["fold"] = fold
    shared = [members for members in groups if len(members) > 1]
    print(f"{len(rows)} emoji in {len(groups)} families, {sum(map(len, shared))} of them in {len(shared)} of 2 or more")
    print(f"fold sizes {[filled[fold] for fold in range(FOLDS)]}")


def draw(pictures: Sequence[bytes]) -> Image.Image:
    """Sheet of 32x32 tiles from 64x64 PNGs.

    Each pixel is the mean of 2x2 pixels in premultiplied alpha (Pillow converts RGBA to RGBa around `resize`), so
    colour hidden in transparent pixels does not bleed into edges. At exactly half the size BOX is aligned with the
    pixels and, unlike LANCZOS, cannot ring: flat areas stay flat, and lossless WebP packs them better. Colour under
    alpha 0 is set to 0.
    """
    height = -(-len(pictures) // COLUMNS) * TILE
    sheet = Image.new("RGBA", (COLUMNS * TILE, height))
    for n, picture in enumerate(pictures):
        with Image.open(io.BytesIO(picture)) as image:
            tile = image.convert("RGBA").resize((TILE, TILE), Image.Resampling.BOX)
        pixels = np.array(tile)
        pixels[pixels[..., 3] == 0] = 0
        sheet.paste(Image.fromarray(pixels), (n % COLUMNS * TILE, n // COLUMNS * TILE))
    return sheet


def webp(sheet: Image.Image) -> bytes:
    """Lossless WebP file of a sheet, at the slowest and smallest setting."""
    file = io.BytesIO()
    sheet.save(file, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return file.getvalue()


def document(rows: Sequence[Row]) -> str:
    """`emoji.json`: header and one emoji a line."""
    fields = ("key", "label", "tags", "category", "subcategory", "fold", "random_fold")
    sources = [vars(p) for p in PACKAGES]
    head = {"version": VERSION, "tile": TILE, "columns": COLUMNS, "order": "CLDR", "seed": SEED, "sources": sources}
    lines = [json.dumps({f: row[f] for f in fields}, ensure_ascii=False) for row in rows]
    return json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "emoji": [\n' + ",\n".join(lines) + "\n]}\n"


def licences(repackaging: str, texts: str) -> str:
    """`LICENSES.md`: who made what, under which licence, and the licence texts that must travel with it."""
    return f"""# Licences of the embedded emoji data

The pictures were scaled from 64x64 to 32x32 pixels and laid out in sheets; nothing else was changed.
Neither Google, Twitter nor the other authors endorse this project or its use of their work.

| file | work | authors | licence |
|---|---|---|---|
| `noto.webp` | Noto Emoji v2.048 | Google LLC | Apache License 2.0 |
| `twemoji.webp` | Twemoji v16.0.1 | Twitter, Inc and other contributors; fork by jdecked and contributors | CC-BY-4.0 |
| `emoji.json`: label, tags | {EMOJIBASE.name} {EMOJIBASE.version} | Miles Johnson | MIT |
| `emoji.json`: key, category, subcategory | emoji-data {NOTO.version} | Cal Henderson | MIT |

## Noto Emoji

Copyright Google LLC. Licensed under the Apache License, Version 2.0; the full text is in `LICENSE-Apache-2.0.txt`
beside this file. The pictures are distributed on an "AS IS" basis, without warranties or conditions of any kind.

## Twemoji

Twemoji graphics, copyright Twitter, Inc and other contributors, are licensed under the Creative Commons Attribution 4.0
International Public License (CC-BY-4.0): https://creativecommons.org/licenses/by/4.0/legalcode. Source:
https://github.com/jdecked/twemoji. Changed: scaled and tiled, as said above. The licence gives no warranties.

## {EMOJIBASE.name}

{texts.strip()}

## emoji-data ({NOTO.name}, {TWEMOJI.name})

{repackaging.strip()}
"""


def build(work: Path) -> tuple[dict[str, str], dict[str, Image.Image]]:
    """Text files and sheets, by file name."""
    tarballs = {package: package.fetch(work) for package in PACKAGES}
    drawn = {s: json.loads(read(tarballs[p], ["emoji.json"])["emoji.json"]) for s, p in STYLES.items()}
    described = read(tarballs[EMOJIBASE], ["en/data.json", "LICENSE"])
    rows = join(drawn, json.loads(described["en/data.json"]))
    if len(rows) != EXPECTED:
        sys.exit(f"joined {len(rows)} emoji, expected {EXPECTED}")
    split(rows)
    sheets = {}
    for style, package in STYLES.items():
        print(f"drawing {style}")
        names = [f"img/{package.vendor}/64/{row['image'][style]}" for row in rows]
        pictures = read(tarballs[package], names)
        sheets[f"{style}.webp"] = draw([pictures[name] for name in names])
    repackaging = read(tarballs[NOTO], ["LICENSE"])["LICENSE"].decode()
    return {
        "emoji.json": document(rows),
        "LICENSES.md": licences(repackaging, described["LICENSE"].decode()),
    }, sheets


def check(texts: Mapping[str, str], sheets: Mapping[str, Image.Image]) -> list[str]:
    """Names of the committed files that are missing or differ: text by content, sheets by decoded pixels."""
    different = []
    for name, text in texts.items():
        path = EMBEDDED / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            different.append(name)
    for name, sheet in sheets.items():
        path = EMBEDDED / name
        if not path.exists() or not np.array_equal(np.asarray(Image.open(path).convert("RGBA")), np.asarray(sheet)):
            different.append(name)
    return different


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, help="folder for the npm tarballs, re-used if there (default: temporary)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the committed data differ")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        texts, sheets = build(work)
    if options.check:
        different = check(texts, sheets)
        sys.exit(f"differ from a fresh build: {', '.join(different)}" if different else print("committed data match"))
    EMBEDDED.mkdir(parents=True, exist_ok=True)
    files = {name: text.encode() for name, text in texts.items()} | {name: webp(s) for name, s in sheets.items()}
    print(f"Pillow {PIL.__version__}")
    for name, content in files.items():
        (EMBEDDED / name).write_bytes(content)
        print(f"{hashlib.sha256(content).hexdigest()}  {name}  {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
