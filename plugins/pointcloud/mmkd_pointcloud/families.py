"""Families of things made of simple surfaces with named parts; up is z."""

from __future__ import annotations

from collections.abc import Callable

from numpy.random import Generator

from mmkd_pointcloud.surface import Ball, Box, Ring, Surface, Tube, Vector

Parts = list[tuple[str, Surface]]
UP: Vector = (0.0, 0.0, 1.0)


def _legs(w: float, d: float, h: float, r: float) -> Parts:
    corners = [(x, y) for x in (-w / 2 + r, w / 2 - r) for y in (-d / 2 + r, d / 2 - r)]
    return [("leg", Tube((x, y, 0), (x, y, h), r)) for x, y in corners]


def table(g: Generator) -> Parts:
    w, d, h, t = g.uniform(1.2, 2.2), g.uniform(0.8, 1.2), g.uniform(0.6, 1.0), g.uniform(0.05, 0.12)
    return [("top", Box((0, 0, h), (w, d, t))), *_legs(w, d, h, g.uniform(0.04, 0.09))]


def round_table(g: Generator) -> Parts:
    r, h = g.uniform(0.5, 0.9), g.uniform(0.6, 1.0)
    foot = Tube((0, 0, 0), (0, 0, 0.06), g.uniform(0.25, 0.45))
    return [("top", Tube((0, 0, h), (0, 0, h + 0.08), r)), ("pole", Tube((0, 0, 0), (0, 0, h), 0.07)), ("base", foot)]


def chair(g: Generator) -> Parts:
    w, h, back = g.uniform(0.45, 0.65), g.uniform(0.4, 0.6), g.uniform(0.4, 0.8)
    t = g.uniform(0.05, 0.1)
    rest = Box((0, w / 2, h + back / 2), (w, t, back))
    return [("seat", Box((0, 0, h), (w, w, t))), ("back", rest), *_legs(w, w, h, g.uniform(0.025, 0.05))]


def armchair(g: Generator) -> Parts:
    w, h, back = g.uniform(0.7, 0.9), g.uniform(0.35, 0.45), g.uniform(0.35, 0.6)
    arms: Parts = [("arm", Box((s * w / 2, 0, h + 0.1), (0.12, w, h * 0.9))) for s in (-1, 1)]
    rest = Box((0, w / 2, h + back / 2), (w, 0.15, back))
    return [("seat", Box((0, 0, h), (w, w, 0.2))), ("back", rest), *arms, *_legs(w, w, h - 0.1, 0.04)]


def stool(g: Generator) -> Parts:
    r, h = g.uniform(0.2, 0.3), g.uniform(0.5, 0.9)
    seat = Tube((0, 0, h), (0, 0, h + g.uniform(0.05, 0.1)), r)
    return [("seat", seat), *_legs(1.5 * r, 1.5 * r, h, g.uniform(0.02, 0.04))]


def bench(g: Generator) -> Parts:
    w, d, h = g.uniform(1.3, 2.2), g.uniform(0.3, 0.45), g.uniform(0.35, 0.5)
    sides: Parts = [("leg", Box((s * (w / 2 - 0.15), 0, h / 2), (0.08, d, h))) for s in (-1, 1)]
    return [("seat", Box((0, 0, h), (w, d, g.uniform(0.06, 0.1)))), *sides]


def bed(g: Generator) -> Parts:
    w, d, h = g.uniform(0.9, 1.6), g.uniform(1.9, 2.2), g.uniform(0.3, 0.5)
    board = Box((0, d / 2, h + 0.2), (w, 0.08, g.uniform(0.6, 1.0)))
    pillows: Parts = [("pillow", Ball((0, d / 2 - 0.35, h + 0.2), (w * 0.3, 0.2, 0.1)))]
    return [("mattress", Box((0, 0, h), (w, d, 0.25))), ("headboard", board), *pillows, *_legs(w, d, h, 0.05)]


def bookcase(g: Generator) -> Parts:
    w, d, h, n = g.uniform(0.7, 1.2), g.uniform(0.25, 0.4), g.uniform(1.4, 2.2), int(g.integers(3, 6))
    sides: Parts = [("side", Box((s * w / 2, 0, h / 2), (0.05, d, h))) for s in (-1, 1)]
    return [*sides, *[("board", Box((0, 0, h * i / n), (w, d, 0.04))) for i in range(n + 1)]]


def lamp(g: Generator) -> Parts:
    h, r = g.uniform(0.7, 1.5), g.uniform(0.2, 0.35)
    shade = Tube((0, 0, h), (0, 0, h + g.uniform(0.25, 0.4)), r, r * g.uniform(0.4, 0.8), open=True)
    foot = Tube((0, 0, 0), (0, 0, 0.05), g.uniform(0.15, 0.28))
    return [("shade", shade), ("pole", Tube((0, 0, 0), (0, 0, h + 0.1), 0.025)), ("base", foot)]


def mug(g: Generator) -> Parts:
    r, h = g.uniform(0.3, 0.4), g.uniform(0.7, 1.0)
    handle = Ring((r, 0, h / 2), (0, 1, 0), h * 0.28, 0.05, 0.5, 0.5)
    return [
        ("body", Tube((0, 0, 0), (0, 0, h), r, open=True)),
        ("handle", handle),
        ("body", Tube((0, 0, 0), (0, 0, 0.02), r)),
    ]


def bucket(g: Generator) -> Parts:
    r, h = g.uniform(0.35, 0.5), g.uniform(0.7, 1.0)
    body = Tube((0, 0, 0), (0, 0, h), r * 0.75, r, open=True)
    return [("body", body), ("handle", Ring((0, 0, h), (0, 1, 0), r, 0.025, 0.5, 0.75))]


def bottle(g: Generator) -> Parts:
    r, h, n = g.uniform(0.22, 0.32), g.uniform(0.7, 1.0), g.uniform(0.2, 0.4)
    top = h + 0.15 + n
    shoulder = Tube((0, 0, h), (0, 0, h + 0.15), r, 0.09, open=True)
    cap = Tube((0, 0, top), (0, 0, top + 0.1), 0.11)
    return [
        ("body", Tube((0, 0, 0), (0, 0, h), r)), ("body", shoulder),
        ("neck", Tube((0, 0, h + 0.15), (0, 0, top), 0.09)), ("cap", cap),
    ]  # fmt: skip


def vase(g: Generator) -> Parts:
    r, h = g.uniform(0.3, 0.45), g.uniform(0.35, 0.6)
    neck = Tube((0, 0, 1.7 * h), (0, 0, 2.4 * h), r * 0.4, r * g.uniform(0.6, 0.9), open=True)
    return [("body", Ball((0, 0, h), (r, r, h), high=0.85)), ("neck", neck)]


def goblet(g: Generator) -> Parts:
    r, h = g.uniform(0.25, 0.4), g.uniform(0.4, 0.8)
    cup = Ball((0, 0, h + 0.45), (r, r, 0.45), high=g.uniform(0.1, 0.4))
    foot = Tube((0, 0, 0), (0, 0, 0.04), r * 0.9)
    return [("cup", cup), ("stem", Tube((0, 0, 0), (0, 0, h), 0.04)), ("base", foot)]


def teapot(g: Generator) -> Parts:
    r, h = g.uniform(0.45, 0.6), g.uniform(0.35, 0.5)
    spout = Tube((-r * 0.8, 0, h * 0.8), (-r * 1.7, 0, h * 1.7), 0.1, 0.05)
    handle = Ring((r * 0.95, 0, h), (0, 1, 0), h * 0.6, 0.05, 0.5, 0.5)
    lid = Ball((0, 0, 1.95 * h), (0.12, 0.12, 0.1))
    return [("body", Ball((0, 0, h), (r, r, h))), ("spout", spout), ("handle", handle), ("lid", lid)]


def rocket(g: Generator) -> Parts:
    r, h = g.uniform(0.18, 0.28), g.uniform(1.1, 1.8)
    fins: Parts = [
        ("fin", Box((r * 1.5, 0, 0.2), (r * 1.4, 0.04, 0.45))), ("fin", Box((-r * 1.5, 0, 0.2), (r * 1.4, 0.04, 0.45))),
        ("fin", Box((0, r * 1.5, 0.2), (0.04, r * 1.4, 0.45))), ("fin", Box((0, -r * 1.5, 0.2), (0.04, r * 1.4, 0.45))),
    ]  # fmt: skip
    nose = Tube((0, 0, h), (0, 0, h + g.uniform(0.3, 0.6)), r, 0.01)
    return [("body", Tube((0, 0, 0), (0, 0, h), r)), ("nose", nose), *fins]


def airplane(g: Generator) -> Parts:
    r, long, span = g.uniform(0.12, 0.18), g.uniform(1.6, 2.2), g.uniform(1.6, 2.4)
    return [
        ("body", Tube((0, -long / 2, 0), (0, long / 2, 0), r)), ("nose", Ball((0, -long / 2, 0), (r, 2 * r, r))),
        ("wing", Box((0, g.uniform(-0.2, 0.1), 0), (span, g.uniform(0.25, 0.45), 0.05))),
        ("tail", Box((0, long / 2 - 0.1, 0), (span * 0.35, 0.2, 0.04))),
        ("tail", Box((0, long / 2 - 0.1, 0.2), (0.04, 0.22, 0.4))),
    ]  # fmt: skip


def car(g: Generator) -> Parts:
    w, d, h = g.uniform(0.7, 0.9), g.uniform(1.6, 2.2), g.uniform(0.3, 0.45)
    r = g.uniform(0.16, 0.22)
    spots = [(x, y) for x in (-w / 2, w / 2) for y in (-d * 0.3, d * 0.3)]
    wheels: Parts = [("wheel", Tube((x - 0.06, y, r), (x + 0.06, y, r), r)) for x, y in spots]
    cabin = Box((0, d * 0.05, r + h + 0.15), (w * 0.85, d * g.uniform(0.4, 0.6), 0.32))
    return [("body", Box((0, 0, r + h / 2), (w, d, h))), ("cabin", cabin), *wheels]


def wagon(g: Generator) -> Parts:
    w, d, h, r = g.uniform(0.6, 0.8), g.uniform(1.0, 1.4), g.uniform(0.3, 0.5), g.uniform(0.18, 0.26)
    spots = [(x, y) for x in (-w / 2, w / 2) for y in (-d * 0.35, d * 0.35)]
    wheels: Parts = [("wheel", Tube((x - 0.05, y, r), (x + 0.05, y, r), r)) for x, y in spots]
    pull = Tube((0, -d / 2, r + 0.1), (0, -d / 2 - g.uniform(0.5, 0.9), r + 0.6), 0.03)
    return [("body", Box((0, 0, r + h / 2), (w, d, h))), ("handle", pull), *wheels]


def hammer(g: Generator) -> Parts:
    h, w = g.uniform(1.0, 1.6), g.uniform(0.4, 0.7)
    head = Tube((-w / 2, 0, h), (w / 2, 0, h), g.uniform(0.09, 0.16))
    return [("head", head), ("handle", Tube((0, 0, 0), (0, 0, h), g.uniform(0.04, 0.06)))]


def axe(g: Generator) -> Parts:
    h, w = g.uniform(1.0, 1.6), g.uniform(0.35, 0.5)
    blade = Box((w / 2, 0, h - 0.15), (w, 0.05, g.uniform(0.35, 0.55)))
    return [("blade", blade), ("handle", Tube((0, 0, 0), (0, 0, h), g.uniform(0.035, 0.055)))]


def sword(g: Generator) -> Parts:
    h, w = g.uniform(1.3, 2.0), g.uniform(0.1, 0.18)
    guard = Box((0, 0, 0.35), (g.uniform(0.4, 0.6), 0.08, 0.06))
    return [
        ("blade", Box((0, 0, 0.35 + h / 2), (w, 0.03, h))),
        ("guard", guard),
        ("handle", Tube((0, 0, 0), (0, 0, 0.35), 0.04)),
    ]


def dumbbell(g: Generator) -> Parts:
    w, r = g.uniform(0.7, 1.1), g.uniform(0.22, 0.34)
    ends: Parts = [("weight", Tube((s * w / 2, 0, 0), (s * (w / 2 + 0.3), 0, 0), r)) for s in (-1, 1)]
    return [("bar", Tube((-w / 2, 0, 0), (w / 2, 0, 0), g.uniform(0.05, 0.08))), *ends]


def barbell(g: Generator) -> Parts:
    w, r = g.uniform(2.2, 2.8), g.uniform(0.25, 0.4)
    ends: Parts = [("weight", Tube((s * w * 0.38, 0, 0), (s * (w * 0.38 + 0.08), 0, 0), r)) for s in (-1, 1)]
    return [("bar", Tube((-w / 2, 0, 0), (w / 2, 0, 0), 0.03)), *ends]


def umbrella(g: Generator) -> Parts:
    r, h = g.uniform(0.6, 0.9), g.uniform(1.1, 1.5)
    canopy = Ball((0, 0, h - 0.25), (r, r, g.uniform(0.3, 0.5)), low=0.0)
    hook = Ring((0.1, 0, 0), (0, 1, 0), 0.1, 0.025, 0.5, 0.0)
    return [("canopy", canopy), ("pole", Tube((0, 0, 0), (0, 0, h + 0.1), 0.025)), ("handle", hook)]


def tree(g: Generator) -> Parts:
    h, r = g.uniform(0.6, 1.0), g.uniform(0.4, 0.65)
    return [
        ("trunk", Tube((0, 0, 0), (0, 0, h), g.uniform(0.08, 0.14))),
        ("crown", Ball((0, 0, h + r * 0.8), (r, r, r))),
    ]


def fir(g: Generator) -> Parts:
    h, n = g.uniform(0.2, 0.4), int(g.integers(2, 5))
    cones: Parts = [
        ("crown", Tube((0, 0, h + 0.4 * i), (0, 0, h + 0.4 * i + 0.6), 0.6 - 0.4 * i / n, 0.02)) for i in range(n)
    ]
    return [("trunk", Tube((0, 0, 0), (0, 0, h + 0.1), 0.08)), *cones]


def mushroom(g: Generator) -> Parts:
    h, r = g.uniform(0.4, 0.8), g.uniform(0.4, 0.6)
    cap = Ball((0, 0, h), (r, r, g.uniform(0.25, 0.45)), low=-0.05)
    return [("stem", Tube((0, 0, 0), (0, 0, h), g.uniform(0.1, 0.18), 0.1)), ("cap", cap)]


def snowman(g: Generator) -> Parts:
    r = g.uniform(0.4, 0.5)
    top = r * 3.6
    hat = Tube((0, 0, top), (0, 0, top + g.uniform(0.2, 0.4)), 0.18)
    return [
        ("body", Ball((0, 0, r), (r, r, r))), ("body", Ball((0, 0, r * 2.3), (r * 0.75,) * 3)),
        ("head", Ball((0, 0, r * 3.3), (r * 0.5,) * 3)), ("hat", hat),
        ("hat", Tube((0, 0, top), (0, 0, top + 0.03), 0.3)),
    ]  # fmt: skip


def house(g: Generator) -> Parts:
    w, d, h = g.uniform(0.9, 1.3), g.uniform(1.0, 1.6), g.uniform(0.6, 1.0)
    roof = Tube((0, 0, h), (0, 0, h + g.uniform(0.4, 0.7)), 0.75 * max(w, d), 0.02)
    chimney = Box((w * 0.3, d * 0.2, h + 0.35), (0.15, 0.15, 0.6))
    return [("wall", Box((0, 0, h / 2), (w, d, h))), ("roof", roof), ("chimney", chimney)]


def ladder(g: Generator) -> Parts:
    w, h, n = g.uniform(0.4, 0.6), g.uniform(1.6, 2.4), int(g.integers(5, 9))
    rails: Parts = [("rail", Tube((s * w / 2, 0, 0), (s * w / 2, 0, h), 0.03)) for s in (-1, 1)]
    heights = [h * (i + 0.5) / n for i in range(n)]
    return [*rails, *[("rung", Tube((-w / 2, 0, z), (w / 2, 0, z), 0.025)) for z in heights]]


def ice_cream(g: Generator) -> Parts:
    h, r = g.uniform(0.7, 1.0), g.uniform(0.22, 0.3)
    scoops: Parts = [("scoop", Ball((0, 0, h + 0.6 * r + 1.1 * r * i), (r,) * 3)) for i in range(int(g.integers(1, 3)))]
    return [("cone", Tube((0, 0, 0), (0, 0, h), 0.02, r)), *scoops]


FAMILIES: dict[str, Callable[[Generator], Parts]] = {
    function.__name__.replace("_", " "): function
    for function in (
        table, round_table, chair, armchair, stool, bench, bed, bookcase, lamp, mug, bucket, bottle, vase, goblet,
        teapot, rocket, airplane, car, wagon, hammer, axe, sword, dumbbell, barbell, umbrella, tree, fir, mushroom,
        snowman, house, ladder, ice_cream,
    )
}  # fmt: skip
"""Each family by its name."""

PARTS: dict[str, tuple[str, ...]] = {
    "table": ("top", "leg"), "round table": ("top", "pole", "base"), "chair": ("seat", "back", "leg"),
    "armchair": ("seat", "back", "arm", "leg"), "stool": ("seat", "leg"), "bench": ("seat", "leg"),
    "bed": ("mattress", "headboard", "pillow", "leg"), "bookcase": ("side", "board"),
    "lamp": ("shade", "pole", "base"), "mug": ("body", "handle"), "bucket": ("body", "handle"),
    "bottle": ("body", "neck", "cap"), "vase": ("body", "neck"), "goblet": ("cup", "stem", "base"),
    "teapot": ("body", "spout", "handle", "lid"), "rocket": ("body", "nose", "fin"),
    "airplane": ("body", "nose", "wing", "tail"), "car": ("body", "cabin", "wheel"),
    "wagon": ("body", "handle", "wheel"), "hammer": ("head", "handle"), "axe": ("blade", "handle"),
    "sword": ("blade", "guard", "handle"), "dumbbell": ("bar", "weight"), "barbell": ("bar", "weight"),
    "umbrella": ("canopy", "pole", "handle"), "tree": ("trunk", "crown"), "fir": ("trunk", "crown"),
    "mushroom": ("stem", "cap"), "snowman": ("body", "head", "hat"), "house": ("wall", "roof", "chimney"),
    "ladder": ("rail", "rung"), "ice cream": ("cone", "scoop"),
}  # fmt: skip
"""Names of the parts of each family."""

PART_NAMES: tuple[str, ...] = tuple(dict.fromkeys(part for parts in PARTS.values() for part in parts))
"""All parts; a label is a place in this list, the same part in every family that has it."""
