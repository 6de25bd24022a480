"""How a step grows with taps, teachers and students.

Sixteen blocks of a transformer teach sixteen others. A tap more, with its loss, may cost 0.3% of the step; a teacher
more its forward pass; a student more no pass of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import mmkd
from mmkd.engine.optimizer import optimizers
from mmkd.graph.training_graph import TrainingGraph
from model_zoo.bench.measure import Row, Spread, device, turns

GROUP = "Growth with taps, teachers, students"
DEVICES = ("cpu", "cuda")
WIDTH, DEPTH, TOKENS = 96, 16, 64


class Blocks(nn.Module):
    """A stack of transformer blocks."""

    def __init__(self, depth: int = DEPTH) -> None:
        super().__init__()
        layer = [nn.TransformerEncoderLayer(WIDTH, 3, 4 * WIDTH, 0.0, batch_first=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)  # type: ignore[no-any-return]


def rows(short: bool) -> Iterator[Row]:
    rounds = 4 if short else 20
    batch = {"x": torch.randn(8, TOKENS, WIDTH).to(device())}
    taps = {f"{n}": step(batch, taps=n) for n in (1, 4, 16)}
    taken = turns(taps, rounds)
    for n in (4, 16):
        ratio = taken.ratio(str(n), "1")
        each = {"per_tap": (ratio.median - 1) / (n - 1)}
        yield Row(GROUP, f"{n} taps, of the step with 1", ratio, 1 + 0.003 * (n - 1), numbers=each)
    graphs = {f"{k}": step(batch, teachers=k) for k in (1, 2, 4)}
    taken = turns({**graphs, "forward": forward(batch)}, rounds)
    share = taken.ratio("forward", "1").median
    for k in (2, 4):
        goal = 1 + (k - 1) * share + 0.02
        yield Row(GROUP, f"{k} teachers, of the step with 1", taken.ratio(str(k), "1"), goal, numbers={"share": share})
    graphs = {f"{k}": step(batch, students=k) for k in (1, 2)}
    taken = turns({**graphs, "forward": forward(batch)}, rounds)
    pairs = zip(taken.seconds["2"], taken.seconds["1"], taken.seconds["forward"], strict=True)
    apart = [two / (2 * one - teacher) for two, one, teacher in pairs]
    note = "of two steps with one student, less one pass of the teacher"
    yield Row(GROUP, "2 students of one teacher", Spread.of(apart), 1.02, numbers={"share": share}, note=note)


def step(batch: dict[str, Tensor], *, taps: int = 1, teachers: int = 1, students: int = 1) -> Callable[[], object]:
    """A training step; every student reads the last `taps` blocks of every teacher."""
    torch.manual_seed(0)
    names = ([f"student{i}" for i in range(students)], [f"teacher{i}" for i in range(teachers)])
    nodes = {name: mmkd.wrap(Blocks(), inputs=["x"]) for group in names for name in group}
    losses = {
        f"{s}_{t}_{i}": {"use": "core.mse", "student": f"{s}/blocks.{i}", "teacher": f"{t}/blocks.{i}"}
        for s in names[0] for t in names[1] for i in range(DEPTH - taps, DEPTH)
    }  # fmt: skip
    recipe = {
        "students": {name: {} for name in names[0]}, "teachers": {name: {} for name in names[1]}, "losses": losses,
        "train": {"steps": 100, "lr": 1e-5, "device": device().type},
    }  # fmt: skip
    graph: TrainingGraph = mmkd.build(recipe, nodes=nodes, example=batch)
    made = optimizers(graph, mmkd.load_recipe(recipe).train)
    return lambda: graph.step(batch, made)


def forward(batch: dict[str, Tensor]) -> Callable[[], object]:
    """The pass of one teacher alone, as the graph makes it."""
    network = Blocks().eval().requires_grad_(False).to(device())
    kept: list[Tensor] = []
    for block in network.blocks:  # a hook, as a tap is one, which keeps torch from its fused layer
        block.register_forward_hook(lambda _, args, output: kept.append(output))

    def call() -> None:
        kept.clear()
        with torch.no_grad():
            network(batch["x"])

    return call
