"""Queries beside what was retrieved for them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from mmkd.engine.data import read
from mmkd.report.markup import Html, join, tag
from mmkd.report.observation import Observation, Pairs

SIDE = 96
"""Longest side of a picture on the page, in pixels."""
FOUND, FOUND_TEXTS = 5, 3
"""Candidates that are shown for a query, pictures or texts."""
TEXT = 140
"""Characters of a text that are shown."""


def retrieval(arms: Mapping[str, Observation], queries: int) -> list[Html]:
    """A grid for every evaluation that compares two values of each sample: rows are queries, evenly spaced."""
    grids = []
    first = next(iter(arms.values()))
    for pairs in first.pairs:
        counterparts = {
            arm: (seen, found) for arm, seen in arms.items() for found in seen.pairs
            if found.name == pairs.name and seen.size == first.size and seen.dataset_name == first.dataset_name
        }  # fmt: skip
        for backward in {"a_to_b": [False], "b_to_a": [True]}.get(pairs.direction, [False, True]):
            grids.append(_grid(pairs.name, counterparts, backward, queries))
    return grids


def _grid(name: str, arms: Mapping[str, tuple[Observation, Pairs]], backward: bool, queries: int) -> Html:
    seen, pairs = next(iter(arms.values()))
    count = min(queries, seen.size)
    places = sorted({round(i * (seen.size - 1) / max(1, count - 1)) for i in range(count)})
    pictures = any(isinstance(read(seen.dataset, 0)[f], Image.Image) for f in _fields(seen, pairs, not backward))
    most = FOUND if pictures else FOUND_TEXTS
    rankings = {arm: _ranking(s, p, backward, places, most) for arm, (s, p) in arms.items()}
    rows = []
    for row, place in enumerate(places):
        found = [
            tag("div", tag("span", arm, class_=f"arm {arm}") if len(arms) > 1 else None,
                tag("ol", [_candidate(s, i, hit, _fields(s, p, not backward)) for i, hit in rankings[arm][row][0]]),
                tag("span", _rank(rankings[arm][row][1]), class_="faint rank"), class_="found")
            for arm, (s, p) in arms.items()
        ]  # fmt: skip
        asked = show(read(seen.dataset, place), _fields(seen, pairs, backward))
        rows.append(tag("div", tag("div", asked, class_="query"), tag("div", found), class_="ask"))
    query, candidate = (pairs.b, pairs.a) if backward else (pairs.a, pairs.b)
    lead = [
        f"{name}: the nearest ", tag("code", candidate), " for each ", tag("code", query), ", among ",
        f"{seen.extent} samples of {seen.dataset_name}. Queries are evenly spaced, not chosen; what matches is ",
        "framed and ticked.",
    ]  # fmt: skip
    return join([tag("p", lead, class_="lead"), tag("div", rows, class_="grid-rows")])


def _fields(seen: Observation, pairs: Pairs, backward: bool) -> list[str]:
    return seen.shown[pairs.b if backward else pairs.a]


def _ranking(
    seen: Observation, pairs: Pairs, backward: bool, places: Sequence[int], most: int
) -> list[tuple[list[tuple[int, bool]], float]]:
    """By query: the nearest candidates with whether they match, and the rank of the first match."""
    a, b = (normalize(seen.rows[address].flatten(1).float(), dim=1) for address in (pairs.a, pairs.b))
    asked, candidates = (b, a) if backward else (a, b)
    groups = _ids(seen, pairs)
    similarity = torch.nan_to_num(asked[list(places)] @ candidates.T, nan=-2.0)
    ranked = []
    for place, scores in zip(places, similarity, strict=True):
        match = groups == groups[place]
        best = scores[match].max()
        order = scores.argsort(descending=True, stable=True)[:most].tolist()
        rank = 1 + int(((scores >= best) & ~match).sum()) if best > -2 else math.nan
        ranked.append(([(i, bool(match[i])) for i in order], rank))
    return ranked


def _ids(seen: Observation, pairs: Pairs) -> Tensor:
    if pairs.group is None:
        return torch.arange(seen.size)
    given = seen.rows[pairs.group]
    ids = given.tolist() if isinstance(given, Tensor) else given
    numbers: dict[Any, int] = {}
    return torch.tensor([numbers.setdefault(id, len(numbers)) for id in ids])


def _rank(rank: float) -> str:
    return "not found" if math.isnan(rank) else f"match at rank {rank}"


def _candidate(seen: Observation, place: int, hit: bool, fields: Sequence[str]) -> Html:
    tick = tag("span", "✓", class_="tick", role="img", aria_label="match") if hit else None
    return tag("li", show(read(seen.dataset, place), fields), tick, class_="hit" if hit else None)


def show(sample: Mapping[str, Any], fields: Sequence[str]) -> Html:
    """The fields of a sample for the page: pictures as small images, text as text, else the key."""
    caption = next((v for v in sample.values() if isinstance(v, str) and v != sample["key"]), str(sample["key"]))
    parts = []
    for name in fields:
        value = sample.get(name)
        if isinstance(value, Image.Image):
            parts.append(tag("img", src=data_uri(value), alt=_cut(caption), title=_cut(caption), loading="lazy"))
        elif isinstance(value, str):
            parts.append(tag("span", _cut(value), title=value if len(value) > TEXT else None, class_="text"))
    return join(parts or [tag("code", _cut(str(sample["key"])))])


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"


def data_uri(image: Image.Image) -> str:
    """A picture inside the page, no larger than it is shown."""
    small = image.convert("RGBA" if image.mode in ("RGBA", "LA", "PA", "P") else "RGB")
    small.thumbnail((SIDE, SIDE))
    out = BytesIO()
    small.save(out, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
