"""Taps: what they mean, that they cost no more than they must, and that they leave no trace."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from graph.nets import WIDTH, batch, mlp, reading
from torch import Tensor, nn

import mmkd
from mmkd.errors import GraphError
from mmkd.graph.tap import StopForward, Tap, Weight, locate


def run(plan: Any, given: Any) -> dict[str, Tensor]:
    """Values of a plan once it has learnt what is overwritten."""
    plan.run(given)
    values: dict[str, Tensor] = plan.run(given)
    return values


# -- names ------------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Names that could be read in more than one way."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Identity()
        self.block = nn.ModuleDict({"0": nn.Identity(), "weight": nn.Identity()})
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.rnn = nn.LSTM(WIDTH, 3, batch_first=True)
        self.register_buffer("scale", torch.ones(2))

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(self.block["weight"](self.block["0"](self.input(image))))


@pytest.mark.parametrize(
    ("path", "module", "select"),
    [
        ("block.0", "block.0", ()),  # a module, not an item of the container
        ("block.weight", "block.weight", ()),  # a module, not a parameter
        ("linear", "linear", ()),
        ("linear.input", "linear", ("input",)),
        ("linear.input.1", "linear", ("input", "1")),
        ("rnn.1.0", "rnn", ("1", "0")),
        ("rnn.-1", "rnn", ("-1",)),
        ("input", "input", ()),  # a module called input
        ("input.input", "input", ("input",)),
        ("0", "", ("0",)),  # of the network's own output
    ],
)
def test_the_longest_prefix_that_is_a_module_wins(path: str, module: str, select: tuple[str, ...]) -> None:
    network = Odd()
    found = locate(network, path, 0, "key", "")
    assert isinstance(found, Tap)
    assert found.module is network.get_submodule(module)
    assert found.select == select


@pytest.mark.parametrize("path", ["linear.weight", "linear.bias", "rnn.weight_ih_l0", "scale"])
def test_a_parameter_or_buffer_is_read_where_it_lies(path: str) -> None:
    network = Odd()
    found = locate(network, path, 0, "key", "")
    assert isinstance(found, Weight)
    network.double()  # a buffer is then another tensor
    module, _, name = path.rpartition(".")
    assert found.read() is getattr(network.get_submodule(module), name)
    assert found.read().dtype == torch.float64


@pytest.mark.parametrize("path", ["linaer", "linear.wieght", "linear.0.weight", "linear.--1", "linear.²", "block.2.x"])
def test_a_typo_names_the_nearest_and_its_place(path: str) -> None:
    with pytest.raises(GraphError, match=f"no module, input or parameter '{path}'") as caught:
        locate(Odd(), path, 0, "key", "losses.hint.student")
    assert caught.value.where == "losses.hint.student"
    assert {"linear", "block.0", "rnn"} <= set(caught.value.exists)
    if path == "linaer":
        assert caught.value.nearest == "linear"


def test_tuples_are_read_by_index_and_tensors_are_not() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(WIDTH, 3, batch_first=True)

        def forward(self, image: Tensor) -> Tensor:
            return self.rnn(image[:, None])[0]

    network, given = Net(), batch()
    values = run(reading(network, "net/rnn.0", "net/rnn.1.0", "net/rnn.1.-1", "net/rnn.input"), given)
    with torch.no_grad():  # another kernel than with
        output, (hidden, cell) = network.rnn(given["image"][:, None])
    expected = {"rnn.0": output, "rnn.1.0": hidden, "rnn.1.-1": cell, "rnn.input": given["image"][:, None]}
    for name, value in expected.items():
        assert torch.equal(values[f"net/{name}"], value)
    for path, message in [
        ("rnn", "gives tuple of 2, not a tensor"),
        ("rnn.1", "gives tuple of 2, not a tensor"),
        ("rnn.2", "has no item 2"),
        ("rnn.0.1", "has no item 1: the module gives Tensor"),
        ("0", "has no item 0: the module gives Tensor"),
    ]:
        with pytest.raises(GraphError, match=message):
            reading(network, f"net/{path}").run(given)


class Twice(nn.Module):
    """One layer, called twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.alias = self.layer
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.alias(self.layer(image).relu()))


def test_calls_are_told_apart() -> None:
    network, given = Twice(), batch()
    first = network.layer(given["image"])
    values = run(reading(network, "net/layer#1", "net/layer#2", "net/layer.input#2"), given)
    assert torch.equal(values["net/layer#1"], first)
    assert torch.equal(values["net/layer.input#2"], first.relu())
    assert torch.equal(values["net/layer#2"], network.layer(first.relu()))


@pytest.mark.parametrize("address", ["net/layer", "net/alias", "net/layer.input"])
def test_a_module_that_runs_twice_needs_a_number(address: str) -> None:
    with pytest.raises(GraphError, match="runs 2 times in one pass") as caught:
        reading(Twice(), address).run(batch())
    assert caught.value.exists == (f"{address}#1", f"{address}#2")


def test_a_call_that_never_comes_is_an_error() -> None:
    with pytest.raises(GraphError, match="'net/layer#3' was not reached: its module ran 2 times"):
        reading(Twice(), "net/layer#3").run(batch())


# -- stopping ---------------------------------------------------------------------------------------------------


def counted(modules: Any) -> list[int]:
    """How often each module runs from now on."""
    calls = [0] * len(modules)
    for i, module in enumerate(modules):
        module.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    return calls


@pytest.mark.parametrize(
    ("name", "blocks", "taps", "ran"),
    [
        ("test_vit", lambda n: list(n.blocks), ["blocks.1"], 2),
        ("test_vit", lambda n: list(n.blocks), ["blocks.2", "blocks.0"], 3),
        ("test_vit", lambda n: list(n.blocks), ["blocks.1.mlp.input"], 2),
        ("test_vit", lambda n: list(n.blocks), ["patch_embed"], 0),
        ("test_resnet", lambda n: [n.layer1, n.layer2, n.layer3, n.layer4], ["layer2"], 2),
        ("test_resnet", lambda n: [n.layer1, n.layer2, n.layer3, n.layer4], ["layer3.0.bn1", "layer1"], 3),
        ("resnet18", lambda n: [n.layer1, n.layer2, n.layer3, n.layer4], ["layer3.0.conv1"], 3),
    ],
)
def test_a_pass_stops_at_its_deepest_tap_with_the_same_bits(
    name: str, blocks: Callable[[nn.Module], list[nn.Module]], taps: list[str], ran: int
) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    size = network.pretrained_cfg["input_size"][-1] if "vit" in name else 64
    given = {"image": torch.randn(2, 3, size, size)}
    whole: dict[str, Tensor] = {}
    for tap in taps:
        path = tap.removesuffix(".input")

        def keep(_: nn.Module, args: tuple[Tensor, ...], output: Tensor, tap: str = tap) -> None:
            whole[tap] = (args[0] if tap.endswith(".input") else output).clone()

        network.get_submodule(path).register_forward_hook(keep)
    with torch.no_grad():
        network(given["image"])
    plan = reading(network, *(f"net/{tap}" for tap in taps))
    plan.run(given)
    calls = counted(blocks(network))
    values = plan.run(given)
    assert sum(calls) == ran
    assert max(calls) <= 1
    for tap in taps:
        assert torch.equal(values[f"net/{tap}"], whole[tap])


def test_a_published_value_or_batch_norm_in_training_needs_the_full_pass() -> None:
    network = nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    both = reading(network, "net/0", "net.logits")
    assert not both.runs[0].stops_early
    tapped = reading(network, "net/0", trained=True)
    encoder = tapped.runs[0].node.encoder.train()
    assert not tapped.runs[0].stops_early
    run(tapped, batch())
    assert network[1].num_batches_tracked == 2
    encoder.eval()
    assert tapped.runs[0].stops_early


def test_a_network_cannot_swallow_the_stop() -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, 4), nn.Linear(4, 4)

        def forward(self, image: Tensor) -> Tensor:
            try:
                hidden = self.first(image)
            except Exception:
                hidden = torch.zeros(len(image), 4)
            return self.second(hidden)

    assert not issubclass(StopForward, Exception)
    network, given = Careful(), batch()
    plan = reading(network, "net/first")
    plan.run(given)
    calls = counted([network.second])
    assert torch.equal(plan.run(given)["net/first"], network.first(given["image"]))
    assert calls == [0]


def test_a_stopped_pass_closes_contexts_and_frees_what_it_made() -> None:
    made: list[weakref.ref[Tensor]] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, 4), nn.Linear(4, 4)

        def forward(self, image: Tensor) -> Tensor:
            aside = image * 2
            made.append(weakref.ref(aside))
            with torch.autocast("cpu", torch.bfloat16):
                return self.second(self.first(image)) + aside.sum()

    plan, given = reading(Net(), "net/first", trained=True), batch()
    gc.disable()
    try:
        values = run(plan, given)
        assert values["net/first"].dtype == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")
        assert torch.is_grad_enabled()
        assert all(reference() is None for reference in made)
        values["net/first"].float().sum().backward()
    finally:
        gc.enable()
    assert plan.runs[0].node.encoder.network.first.weight.grad is not None


# -- traces -----------------------------------------------------------------------------------------------------


def test_hooks_sleep_outside_the_hosts_own_calls() -> None:
    network, given = mlp(WIDTH, 5, 3), batch()
    expected = network(given["image"])
    plan = reading(network, "net/0")
    run(plan, given)
    assert torch.equal(network(given["image"]), expected)
    other = reading(network, "net/2")
    run(other, given)
    assert torch.equal(plan.run(given)["net/0"], network[0](given["image"]))
    for each in (plan, other):
        each.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_an_error_in_the_network_leaves_nothing_behind() -> None:
    class Fails(nn.Module):
        broken = False

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, 4), nn.Linear(4, 4)

        def forward(self, image: Tensor) -> Tensor:
            hidden = self.first(image)
            if self.broken:
                raise ValueError("broken")
            return self.second(hidden)

    network, given = Fails(), batch()
    plan = reading(network, "net/first", "net/second")
    run(plan, given)
    network.broken = True
    with pytest.raises(ValueError, match="broken"):
        plan.run(given)
    recorder = plan.runs[0].recorder
    assert not recorder.on
    assert not recorder._seen
    network.broken = False
    expected = network.first(given["image"])
    assert torch.equal(plan.run(given)["net/first"], expected)


def test_the_encoder_publishes_everything_outside_the_hosts_own_calls() -> None:
    class Towers(mmkd.Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[frozenset[str] | None] = []

        def values(self) -> list[str]:
            return ["a", "b"]

        def forward(self, image: Tensor) -> dict[str, Tensor]:
            self.calls.append(self.wanted)
            return {name: image for name in self.values() if self.wants(name)}

    encoder = Towers()
    plan = reading(encoder, "net.a")
    plan.run(batch())
    assert encoder.calls == [{"a"}]
    assert encoder(batch()["image"]).keys() == {"a", "b"}


def test_a_copy_of_a_tapped_network_has_hooks_of_its_own() -> None:
    network, given = mlp(WIDTH, 5, 3), batch()
    plan = reading(network, "net/0")
    run(plan, given)
    twin = copy.deepcopy(network)
    pickle.loads(pickle.dumps(network))
    with torch.no_grad():
        twin[0].weight.zero_()
    assert torch.equal(twin(given["image"]), twin[2](twin[0].bias.relu()).expand(len(given["image"]), -1))
    twins = copy.deepcopy(plan)
    assert torch.equal(twins.run(given)["net/0"], plan.run(given)["net/0"])
    assert twins.runs[0].recorder is not plan.runs[0].recorder


# -- writing in place -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [False, True])
def test_a_tap_that_is_overwritten_in_place_keeps_the_value_of_its_moment(trained: bool) -> None:
    network = nn.Sequential(nn.Linear(WIDTH, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    given = batch()
    plan = reading(network, "net/0", "net/1.input", "net/2", trained=trained)
    values = plan.run(given)
    expected = network[0](given["image"])
    assert (expected < 0).any()
    for _ in range(2):
        assert torch.equal(values["net/0"], expected)
        assert torch.equal(values["net/1.input"], expected)
        values = plan.run(given)
    assert [tap.clone for tap in plan.runs[0].recorder.taps] == [True, True, False]
    if trained:
        values["net/0"].sum().backward()
        assert torch.allclose(network[0].bias.grad, torch.full((5,), float(len(given["image"]))))


def test_writing_through_a_view_counts() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(WIDTH, 4)

        def forward(self, image: Tensor) -> Tensor:
            hidden = self.first(image)
            hidden[:, :2] = 0
            return hidden

    network, given = Net(), batch()
    values = run(reading(network, "net/first", "net.logits"), given)
    assert torch.equal(values["net/first"], network.first(given["image"]))
    assert not values["net.logits"][:, :2].any()


def test_a_branch_that_the_first_pass_did_not_take_is_an_error() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, 4), nn.Linear(4, 4)

        def forward(self, image: Tensor) -> Tensor:
            hidden = self.first(image)
            if len(image) < 8:
                hidden.mul_(0)
            return self.second(hidden)

    plan = reading(Net(), "net/first", "net.logits")
    plan.run(batch(8))
    with pytest.raises(GraphError, match="'net/first' was overwritten in place after it was read") as caught:
        plan.run(batch(4))
    assert "example batch" in str(caught.value)


def test_networks_that_use_inference_mode_can_be_tapped() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(WIDTH, 4)

        @torch.inference_mode()
        def forward(self, image: Tensor) -> Tensor:
            return self.first(image) * 2

    network, given = Net(), batch()
    values = run(reading(network, "net/first", "net.logits"), given)
    assert torch.equal(values["net/first"] * 2, values["net.logits"])
