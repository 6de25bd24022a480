"""Convolution and exit branch; the methods that are nothing but projectors and losses that exist."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.library.projectors.branch import BranchProjector
from mmkd.library.projectors.conv import ConvProjector


def set_up(projector: Any, input: tuple[int, ...], like: tuple[int, ...]) -> Any:
    projector.setup(input=torch.Size(input), like=torch.Size(like))
    return projector


@pytest.mark.parametrize(
    ("input", "like", "kernel"),
    [
        ((8, 8), (8, 8), (1, 1)),
        ((8, 8), (4, 4), (3, 3)),
        ((9, 9), (3, 3), (5, 5)),
        ((7, 9), (5, 9), (3, 1)),
        ((4, 4), (8, 8), (4, 4)),
        ((3, 2), (9, 2), (6, 1)),
        ((5, 5), (7, 5), (3, 1)),
    ],
)
@pytest.mark.parametrize("size", [0, 1, 3])
def test_convolution_meets_the_size(
    input: tuple[int, int], like: tuple[int, int], kernel: tuple[int, int], size: int
) -> None:
    projector = set_up(ConvProjector(), (2, 3, *input), (2, 5, *like))
    assert projector(torch.randn(size, 3, *input)).shape == (size, 5, *like)
    assert projector.layers[0].kernel_size == kernel
    assert len(projector.layers) == 1


def test_convolution_options_and_errors() -> None:
    projector = set_up(ConvProjector(norm="batch", activation="relu", bias=False), (2, 3, 8, 8), (2, 5, 4, 4))
    assert [type(x) for x in projector.layers] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert projector.layers[0].bias is None
    assert projector(torch.randn(2, 3, 8, 8)).min() == 0
    for input, like in (((2, 3, 8, 4), (2, 3, 4, 8)), ((2, 3), (2, 3)), ((2, 3, 8, 8), (2, 3))):
        with pytest.raises(GraphError, match="cannot convolve"):
            set_up(ConvProjector(), input, like)
    with pytest.raises(GraphError, match="setup"):
        ConvProjector()(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize("input", [(6,), (5, 6), (6, 3, 2)], ids=str)
@pytest.mark.parametrize("size", [0, 1, 4])
def test_branch_gives_logits(input: tuple[int, ...], size: int) -> None:
    branch = set_up(BranchProjector(), (2, *input), (2, 7))
    assert branch(torch.randn(size, *input)).shape == (size, 7)


def test_branch_pools_positions() -> None:
    flat = set_up(BranchProjector(depth=0), (2, 6, 3, 2), (2, 7))
    x = torch.randn(2, 6, 3, 2)
    torch.testing.assert_close(flat(x), flat.classifier(x.mean((2, 3))))
    torch.testing.assert_close(flat(x), flat(x.flip(3)))
    torch.testing.assert_close(flat(x), flat(x.flatten(2).mT))
    first = set_up(BranchProjector(pool="first"), (2, 5, 6), (2, 7))
    tokens = torch.randn(2, 5, 6)
    torch.testing.assert_close(first(tokens), first(tokens[:, :1]))
    with pytest.raises(GraphError, match="cannot branch"):
        set_up(BranchProjector(), (2, 6), (2, 5, 7))
    with pytest.raises(GraphError, match="setup"):
        BranchProjector()(x)


class Net(nn.Module):
    """Hidden states of which only the first `useful` features tell the label; the others are large noise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, width), nn.Linear(width, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(image))
        return logits


def build(losses: dict[str, Any], projectors: dict[str, Any], batch: dict[str, Tensor], teacher: nn.Module) -> Any:
    nodes = {"teacher": teacher, "student": Net(4)}
    return mmkd.build(
        {
            "teacher": {"use": "local.net"}, "student": {"use": "local.net"},
            "projectors": projectors, "losses": losses,
        },
        nodes={n: mmkd.wrap(net, inputs=["image"], outputs="logits") for n, net in nodes.items()},
        example=batch,
    )  # fmt: skip


def batch(size: int = 256) -> dict[str, Tensor]:
    image = torch.randn(size, 8, generator=torch.Generator().manual_seed(0))
    return {"image": image, "label": image[:, :3].argmax(1)}


def test_task_aware_filters_leave_noise_out() -> None:
    """TED is a recipe: the teacher's filter learns from its task alone, the student matches what it lets through."""
    torch.manual_seed(0)
    teacher = Net(12)
    with torch.no_grad():
        teacher.body.weight.zero_()
        teacher.body.weight[:3, :3] = torch.eye(3)
        teacher.body.weight[3:, 3:] = 2 * torch.randn(9, 5)  # tells nothing of the label
    projectors = {
        "filter_t": {"use": "core.linear", "input": "teacher/body", "like": "teacher.logits"},
        "task_t": {"use": "core.branch", "depth": 0, "input": "filter_t", "like": "teacher.logits"},
        "filter_s": {"use": "core.linear", "input": "student/body", "like": "teacher.logits"},
    }
    losses = {
        "task": {"use": "core.cross_entropy", "student": "task_t"},
        "filtered": {"use": "core.mse", "student": "filter_s", "teacher": "detach(filter_t)"},
    }
    data = batch()
    graph = build(losses, projectors, data, teacher)
    optimizer = torch.optim.Adam([p for p in graph.parameters() if p.requires_grad], lr=0.03)
    for _ in range(300):
        optimizer.zero_grad()
        graph(data)["loss"].backward()
        optimizer.step()
    weight = graph.projectors["filter_t"].layer.weight.detach() @ teacher.body.weight  # from the image
    assert weight[:, :3].norm() > 2 * weight[:, 3:].norm()
    assert graph(data)["filtered_loss"] < 0.05 * graph.values(data, ["filter_t"])["filter_t"].var()


def test_auxiliary_head_takes_the_loss_and_is_left_behind() -> None:
    """DHKD is a recipe: the binary divergence reaches the body through a head of its own, the main head not at all."""
    torch.manual_seed(0)
    projectors = {"auxiliary": {"use": "core.branch", "depth": 0, "input": "student/body", "like": "teacher.logits"}}
    losses = {"binary": {"use": "core.binary_kl", "student": "auxiliary", "teacher": "teacher.logits"}}
    data = batch(16)
    graph = build(losses, projectors, data, Net(6))
    graph(data)["loss"].backward()
    student = graph.roles["student"].encoder.network
    assert student.head.weight.grad is None
    assert student.body.weight.grad.abs().max() > 0
    owners = {name: graph.owner(name) for name, _ in graph.named_parameters()}
    assert {owners[n] for n in owners if n.startswith("projectors.")} == {"auxiliary"}
    before = student(data["image"])
    del graph.projectors["auxiliary"]
    torch.testing.assert_close(student(data["image"]), before)


class Stages(nn.Module):
    """Two stages, each with BatchNorm before its ReLU."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0])
        self.conv2, self.bn2 = nn.Conv2d(widths[0], widths[1], 3, 2, 1), nn.BatchNorm2d(widths[1])
        self.fc = nn.Linear(widths[1], 3)

    def forward(self, image: Tensor) -> Tensor:
        first = self.bn1(self.conv1(image)).relu()
        logits: Tensor = self.fc(self.bn2(self.conv2(first)).relu().mean((2, 3)))
        return logits


def test_graph_binds_lists_and_the_parameters_of_a_norm() -> None:
    torch.manual_seed(0)
    nets = {"teacher": Stages(4, 6), "student": Stages(3, 5)}
    pair = {"student": ["student/bn1", "student/bn2"], "teacher": ["teacher/bn1", "teacher/bn2"]}
    projectors = {
        "hint1": {"use": "core.conv", "input": "student/bn1", "like": "teacher/bn1"},
        "hint2": {"use": "core.conv", "input": "student/bn1", "like": "teacher/bn2"},
    }
    losses = {
        "review": {"use": "core.review", **pair},
        "fsp": {"use": "core.fsp", "student": ["hint1", "hint2"], "teacher": pair["teacher"]},
        "vid": {"use": "core.vid", "student": "hint2", "teacher": "teacher/bn2"},
        "ft": {"use": "core.ft", "student": "student/bn2", "teacher": "teacher/bn2"},
        "ofd": {"use": "core.ofd", "student": "hint2", "teacher": "teacher/bn2"},
        "given": {
            "use": "core.ofd", "student": "hint2", "teacher": "teacher/bn2", "scale": "teacher/bn2.weight",
            "shift": "teacher/bn2.bias",
        },
        "mgd": {"use": "core.mgd", "student": "hint1", "teacher": "teacher/bn1"},
    }  # fmt: skip
    data = {"image": torch.randn(6, 2, 8, 8)}
    graph = mmkd.build(
        {"teacher": {"use": "local.net"}, "student": {"use": "local.net"}, "projectors": projectors, "losses": losses},
        nodes={n: mmkd.wrap(net, inputs=["image"], outputs="logits") for n, net in nets.items()},
        example=data,
    )
    optimizer = torch.optim.SGD([p for p in graph.parameters() if p.requires_grad], lr=0.05)
    before = graph(data)
    for _ in range(20):
        optimizer.zero_grad()
        graph(data)["loss"].backward()
        optimizer.step()
        graph.update()
    after = graph(data)
    assert after["review_loss"] < before["review_loss"]
    assert after["loss"] < before["loss"]
    own = {name for name, p in graph.losses.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name.split(".")[0] for name in own} == {"review", "vid", "ft", "mgd"}
    assert all(graph.owner(f"losses.{name}") == "auxiliary" for name in own)
    teacher = graph.values(data, ["teacher/bn2"])["teacher/bn2"].transpose(0, 1).flatten(1)
    assert graph.losses["ofd"].mean_negative.tolist() == pytest.approx([c[c < 0].mean().item() for c in teacher])
    assert graph.losses["given"].seen.sum() > 0
