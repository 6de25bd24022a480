"""Any module as a node."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graph.nets import CLASSES, WIDTH, batch, build, mlp
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError


class Returns(nn.Module):
    """Returns what it is told to make of its inputs."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, *inputs: Tensor) -> Any:
        return self.make(*inputs)


X = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("make", "outputs"),
    [
        (lambda x: x, "embedding"),
        (lambda x: (x * 2, x), {"embedding": 1}),
        (lambda x: [x, x * 2], ["embedding", "other"]),
        (lambda x: {"pooled": x}, {"embedding": "pooled"}),
        (lambda x: OrderedDict(pooled=x), {"embedding": "pooled"}),
        (lambda x: SimpleNamespace(pooled=x), {"embedding": "pooled"}),
    ],
)
def test_outputs_are_named(make: Any, outputs: Any) -> None:
    encoder = mmkd.wrap(Returns(make), outputs=outputs)
    assert torch.equal(encoder(image=X)["embedding"], X)
    assert encoder.values()[0] == "embedding"


@pytest.mark.parametrize(
    ("make", "outputs", "message"),
    [
        (lambda x: {"pooled": x}, {"embedding": "pool"}, "returned dict, which has no 'pool'"),
        (lambda x: (x,), ["a", "b"], "returned tuple, which has no tuple index out of range"),
        (lambda x: SimpleNamespace(), {"embedding": "pooled"}, "returned SimpleNamespace, which has no .*'pooled'"),
        (lambda x: x, ["embedding"], r"returned one tensor, not items to be named \['embedding'\]"),
        (lambda x: x, {"embedding": 0}, "returned one tensor"),
    ],
)
def test_outputs_that_are_not_there_are_errors(make: Any, outputs: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        mmkd.wrap(Returns(make), outputs=outputs)(image=X)
    assert "mmkd.wrap(net, outputs=" in str(caught.value)


def test_inputs_come_in_order() -> None:
    encoder = mmkd.wrap(Returns(lambda a, b: a - b), inputs=["left", "right"], outputs="difference")
    assert encoder.inputs() == {"left": True, "right": True}
    assert torch.equal(encoder(right=X, left=2 * X)["difference"], X)
    assert mmkd.wrap(Returns(lambda a: a), inputs="audio").inputs() == {"audio": True}


def test_taps_start_at_the_wrapped_network() -> None:
    network = mlp(WIDTH, 5, CLASSES)
    assert mmkd.wrap(network).network is network
    values = build(nodes={"student": network, "teacher": mlp(WIDTH, CLASSES)}).values(batch(), ["student/0"])
    assert torch.equal(values["student/0"], network[0](batch()["image"]))


def test_one_transform_of_two_networks_runs_once() -> None:
    def transform(sample: mmkd.Sample) -> Tensor:
        return torch.as_tensor(sample["image"])

    a, b = (mmkd.wrap(mlp(WIDTH, CLASSES), transform=transform) for _ in range(2))
    assert a.transform({"image": [1.0]}) == {"image": torch.tensor([1.0])}
    assert a.transform_key() == b.transform_key() is not None
    assert mmkd.wrap(mlp(WIDTH, CLASSES), transform=lambda s: s).transform_key() != a.transform_key()
    plain = mmkd.wrap(mlp(WIDTH, CLASSES))
    assert plain.transform({"image": 1}) == {}
    assert plain.transform_key() is None


def test_an_encoder_is_taken_as_it_is() -> None:
    encoder = mmkd.wrap(mlp(WIDTH, CLASSES), outputs="scores")
    losses = {"mse": {"use": "core.mse", "student": "student.scores", "teacher": "teacher.logits"}}
    graph = build(losses, {"student": encoder, "teacher": mlp(WIDTH, CLASSES)})
    assert graph.nodes["student"] is encoder
