"""torchdistill's box: KL at temperature 4 and a hint, SGD with momentum.

The hint compares a layer of the teacher with a 1x1 convolution over one of the student's, which here belongs to the
student, so that all three loops run the very same modules.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchdistill.core.distillation import DistillationBox

import mmkd
from mmkd.engine.optimizer import optimizers
from model_zoo.bench.measure import Row, turns
from model_zoo.bench.overhead import steady

LR, MOMENTUM, TEMPERATURE = 1e-3, 0.9, 4.0
FORWARD = "forward_batch_only"


class Hinted(nn.Module):
    """A network and a convolution over what one of its layers returns; `up` is a tap for everybody."""

    def __init__(self, network: nn.Module, layer: str, narrow: int, wide: int) -> None:
        super().__init__()
        self.network, self.up = network, nn.Conv2d(narrow, wide, 1)
        self.kept: Tensor | None = None
        network.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.kept = output

    def forward(self, image: Tensor) -> Tensor:
        logits = self.network(image)
        assert self.kept is not None
        self.up(self.kept)
        self.kept = None
        return logits  # type: ignore[no-any-return]


def plain(width: int, blocks: int) -> nn.Sequential:
    """A small network: convolutions that keep the size, then a classifier."""
    layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU())]
    layers += [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def setting(name: str) -> tuple[nn.Module, nn.Module, str, Tensor]:
    """Teacher, student, the teacher's layer and a batch."""
    torch.manual_seed(0)
    if name == "null":
        return plain(4, 1), Hinted(plain(4, 1), "0", 4, 4), "0", torch.randn(2, 3, 4, 4)
    if name == "micro":
        return plain(32, 3), Hinted(plain(16, 3), "1", 16, 32), "1", torch.randn(4, 3, 16, 16)
    teacher = timm.create_model("resnet18", num_classes=100)
    student = timm.create_model("mobilenetv3_small_050", num_classes=100)
    image = torch.randn(8, 3, 32, 32)
    narrow = _shape(student, "blocks.0", image)
    shapes = {layer: _shape(teacher, layer, image) for layer in ("layer1", "layer2", "layer3", "layer4")}
    layer = next(layer for layer, shape in shapes.items() if shape[2:] == narrow[2:])
    return teacher, Hinted(student, "blocks.0", narrow[1], shapes[layer][1]), layer, image


def _shape(network: nn.Module, layer: str, image: Tensor) -> tuple[int, ...]:
    """Of what a layer returns."""
    network.train(False)
    found: list[tuple[int, ...]] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, out: found.append(tuple(out.shape)))
    with torch.no_grad():
        network(image)
    handle.remove()
    return found[0]


def box(teacher: nn.Module, student: nn.Module, layer: str) -> DistillationBox:
    """torchdistill's own, configured."""
    logits = {"student_module_path": ".", "student_module_io": "output"}
    logits |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    hint = {
        "input": {"is_from_teacher": False, "module_path": "up", "io": "output"},
        "target": {"is_from_teacher": True, "module_path": layer, "io": "output"},
    }
    soft = {"key": "KDLoss", "kwargs": {**logits, "temperature": TEMPERATURE, "alpha": 0.0}}  # without T^2
    terms = {
        "kd": {"criterion": soft, "weight": TEMPERATURE**2},
        "hint": {
            "criterion": {"key": "MSELoss", "kwargs": {}},
            "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": hint},
            "weight": 1.0,
        },
    }
    config = {
        "num_epochs": 1,
        "teacher": {"forward_hook": {"output": [layer]}, "requires_grad": False, "forward_proc": FORWARD},
        "student": {"forward_hook": {"output": ["up"]}, "forward_proc": FORWARD},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
        "optimizer": {"key": "SGD", "kwargs": {"lr": LR, "momentum": MOMENTUM, "fused": True}},
    }
    return DistillationBox(teacher, student, {}, config, torch.device("cpu"), None, False, 1.0)


def contestants(name: str) -> dict[str, Callable[[], Any]]:
    """The loop by hand, ours and torchdistill's, each with networks of its own that begin equal."""
    teacher, student, layer, image = setting(name)
    teacher.requires_grad_(False)
    teacher.train(False)
    student.train()
    copies = [copy.deepcopy((teacher, student)) for _ in range(3)]
    hand_student: Any
    (teacher_a, hand_student), (teacher_b, own_student), (teacher_c, box_student) = copies

    optimizer = torch.optim.SGD(hand_student.parameters(), lr=LR, momentum=MOMENTUM, fused=True)
    seen: dict[str, Tensor] = {}
    teacher_a.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.__setitem__("teacher", out))
    hand_student.up.register_forward_hook(lambda _m, _i, out: seen.__setitem__("student", out))

    def hand() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            target = teacher_a(image)
        logits = hand_student(image)
        soft = F.log_softmax(logits / TEMPERATURE, -1), F.softmax(target / TEMPERATURE, -1)
        loss = TEMPERATURE**2 * F.kl_div(*soft, reduction="batchmean") + F.mse_loss(seen["student"], seen["teacher"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    recipe = {
        "teacher": {},
        "student": {},
        "losses": {
            "kd": {
                "use": "core.kl", "student": "student.logits", "teacher": "teacher.logits", "temperature": TEMPERATURE,
            },
            "hint": {"use": "core.mse", "student": "student/up", "teacher": f"teacher/{layer}"},
        },
        "train": {"steps": 1000, "optimizer": "sgd", "lr": LR, "momentum": MOMENTUM, "weight_decay": 0.0},
    }  # fmt: skip
    batch = {"image": image}
    graph = mmkd.build(recipe, nodes={"teacher": teacher_b, "student": own_student}, example=batch).train()
    made = optimizers(graph, mmkd.load_recipe(recipe).train)
    peer = box(teacher_c, box_student, layer)

    def boxed() -> Tensor:
        loss = peer.forward_process(image, None, None)
        peer.post_forward_process(loss)
        return loss.detach()  # type: ignore[no-any-return]

    return {"hand": hand, "ours": lambda: graph.step(batch, made)["loss"], "torchdistill": boxed}


def rows(short: bool) -> Iterator[Row]:
    for name, rounds in (("null", 50 if short else 200), ("micro", 25 if short else 80)):
        loops = contestants(name)
        same(loops)
        taken = turns(loops, rounds, warmup=20, clock=steady)
        numbers = {f"{who}_us": taken.median(who) * 1e6 for who in loops}
        for who, goal in (("ours", 90.0), ("torchdistill", None)):  # two losses, two taps
            said = "host" if who == "ours" else "torchdistill 1.1.5"
            yield Row("", f"{said} adds to {name} networks", taken.extra(who, "hand"), goal, numbers=numbers, unit="us")
    loops = contestants("resnet18")
    same(loops)
    taken = turns(loops, 6 if short else 60)
    numbers = {f"{who}_ms": taken.median(who) * 1e3 for who in loops}
    for who, goal in (("ours", 1.02), ("torchdistill", None)):
        said = "host" if who == "ours" else "torchdistill 1.1.5"
        yield Row("", f"{said}, ResNet-18 to MobileNetV3 at 32", taken.ratio(who, "hand"), goal, numbers=numbers)


def same(loops: dict[str, Callable[[], Any]]) -> None:
    """Raise where contestants do not begin with the same loss."""
    losses = {name: float(loop()) for name, loop in loops.items()}
    if max(losses.values()) - min(losses.values()) > 1e-4 * max(map(abs, losses.values())):
        raise RuntimeError(f"contestants compute different losses: {losses}")
