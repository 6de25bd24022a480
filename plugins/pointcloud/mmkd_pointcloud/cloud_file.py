"""One file, one shape: meshes and clouds in any of the usual forms."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.random import Generator

from mmkd.errors import DataError
from mmkd_pointcloud.cloud import checked, chosen
from mmkd_pointcloud.declared import check_whole

SUFFIXES = frozenset({".ply", ".obj", ".off", ".stl", ".npz"})
"""What can be read, told by the end of the name."""
ROWS = ("normal", "part", "color")
"""Arrays of an npz that have a row for every point."""


def mark(path: Path) -> str | None:
    """sha256 of a file as it is; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def read_cloud(path: Path, points: int | None, key: str) -> dict[str, Any]:
    """Points of a file: drawn evenly from the area of a mesh, or a choice of those of a cloud.

    What is drawn depends on `key` alone. Faces bring `normal` with them.

    Args:
        path: ply, obj, off, stl, or npz with `points` (and `part`, `normal`, `color`) or `vertices` and `faces`.
        points: how many; None takes a cloud as it is, and 1024 of a mesh.
        key: who the shape is.

    Returns:
        `points` `[N, 3]`, and `normal` `[N, 3]`, `part` `[N]`, `color` `[N, C]` where the file has them.

    Raises:
        DataError: it cannot be read, or holds no shape.
    """
    where = str(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=where) from error
    if size == 0:
        raise DataError("is empty (0 bytes)", where=where)
    try:
        fields = _npz(path) if path.suffix.lower() == ".npz" else _mesh(path)
    except DataError as error:
        raise error if error.where else error.at(where) from error.__cause__
    except Exception as error:  # trimesh has no error of its own
        what = f"is no whole {path.suffix[1:].upper()} file: {type(error).__name__}: {error}"
        raise DataError(what, where=where) from error
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    generator = np.random.default_rng(int.from_bytes(digest, "little"))
    if "faces" in fields:
        return from_mesh(fields["vertices"], fields["faces"], points or 1024, generator, where)
    cloud = {"points": checked(fields["points"], where), **{n: v for n, v in fields.items() if n != "points"}}
    if points is None:
        return cloud
    taken = generator.permutation(len(cloud["points"]))[chosen(len(cloud["points"]), points)]
    return {name: value[taken] for name, value in cloud.items()}


def from_mesh(vertices: Any, faces: Any, count: int, generator: Generator, where: str = "") -> dict[str, np.ndarray]:
    """Points spread evenly over the area of triangles, with the normals of their faces.

    Shape: vertices `[V, 3]`, faces `[F, 3]` -> points and normal `[count, 3]`.

    Raises:
        DataError: a vertex is not finite or not there, or the faces have no area.
    """
    vertices, faces = np.asarray(vertices, float), np.asarray(faces)
    if faces.size and not (faces.min() >= 0 and faces.max() < len(vertices)):
        raise DataError(f"a face names vertex {faces.max()} of {len(vertices)}", where=where)
    corners = vertices[faces]
    if not np.isfinite(corners).all():
        raise DataError("a vertex is not finite", where=where)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1) / 2
    if not area.sum() > 0:
        raise DataError(f"its {len(faces)} faces have no area", where=where)
    face = generator.choice(len(faces), count, p=area / area.sum())
    u, v = np.sqrt(generator.random(count)), generator.random(count)
    weights = np.stack([1 - u, u * (1 - v), u * v], 1)
    points = np.einsum("nk,nkd->nd", weights, corners[face])
    normal = cross[face] / (2 * area[face])[:, None]
    return {"points": checked(points, where), "normal": normal.astype(np.float32)}


def _mesh(path: Path) -> dict[str, Any]:
    check_whole(path)
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # of numpy's, about what is refused below
        kind = path.suffix.lower()[1:]
        loaded: Any = trimesh.load(file, file_type=kind, process=False, maintain_order=True, skip_materials=True)
    if isinstance(loaded, trimesh.Scene):
        loaded = loaded.to_geometry()
    if isinstance(loaded, trimesh.PointCloud):
        return {"points": np.asarray(loaded.vertices)}
    faces = np.asarray(getattr(loaded, "faces", np.zeros((0, 3), int)))
    vertices = np.asarray(getattr(loaded, "vertices", np.zeros((0, 3))))
    if len(faces):
        return {"vertices": vertices, "faces": faces}
    if not len(vertices):
        raise DataError("holds no vertices")
    return {"points": vertices}


def _npz(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        fields = {name: file[name] for name in file.files}
    if {"vertices", "faces"} <= fields.keys() and "points" not in fields:
        return {"vertices": fields["vertices"], "faces": fields["faces"]}
    if "points" not in fields:
        raise DataError("has no array 'points'", exists=fields, next="points [N, 3], or vertices and faces")
    kept = {name: fields[name] for name in ("points", *ROWS) if name in fields}
    for name, value in kept.items():
        if value.ndim == 0 or len(value) != len(kept["points"]):
            raise DataError(f"'{name}' has {list(value.shape)} for {len(kept['points'])} points")
    return kept
