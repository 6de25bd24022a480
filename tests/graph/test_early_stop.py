"""Early stops on modules of other people's making: fast paths of attention, recurrent nets, checkpoints, branches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from graph.nets import CLASSES, KD, WIDTH, batch, build, mlp, reading
from graph.test_tap import counted
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmkd.errors import GraphError

TOKENS = {"image": torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))}


class Attends(nn.Module):
    """Torch's own transformer, whose fast path calls no submodule and nests padded sequences."""

    def __init__(self, padded: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 4)
        self.padded = padded

    def forward(self, image: Tensor) -> Tensor:
        mask = None
        if self.padded:
            mask = torch.zeros(image.shape[:2], dtype=torch.bool)
            mask[:, -1:] = True
        return self.encoder(image, src_key_padding_mask=mask)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("path", ["", ".linear1", ".self_attn.0", ".norm1"])
def test_taps_in_torchs_own_transformer(path: str, padded: bool) -> None:
    network = Attends(padded).eval()
    layers = network.encoder.layers
    kept: list[Any] = []
    handle = layers.get_submodule(f"1{path.removesuffix('.0')}").register_forward_hook(lambda *a: kept.append(a[2]))
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with torch.no_grad():
        network(TOKENS["image"])
    torch.backends.mha.set_fastpath_enabled(before)
    handle.remove()
    plan = reading(network, f"net/encoder.layers.1{path}")
    plan.run(TOKENS)
    calls = counted(list(layers))
    (value,) = plan.run(TOKENS).values()
    assert not value.is_nested
    expected = kept[0][0] if path.endswith(".0") else kept[0]
    assert torch.allclose(value, expected, atol=1e-6)  # layers before it may still take the fast path
    assert sum(calls) == 2
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_a_module_whose_weights_alone_are_used_was_not_reached() -> None:
    with pytest.raises(GraphError, match=r"out_proj' was not reached: its module ran 0 times"):
        reading(Attends().eval(), "net/encoder.layers.1.self_attn.out_proj").run(TOKENS)


def test_a_recurrent_network_stops_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LSTM(8, 3, batch_first=True), nn.GRU(3, 2, batch_first=True)

        def forward(self, image: Tensor) -> Tensor:
            return self.second(self.first(image)[0])[0]

    network = Net()
    plan = reading(network, "net/first.0", "net/first.1.1")
    plan.run(TOKENS)
    calls = counted([network.first, network.second])
    values = plan.run(TOKENS)
    with torch.no_grad():  # another kernel than with
        output, (_, cell) = network.first(TOKENS["image"])
    assert torch.equal(values["net/first.0"], output)
    assert torch.equal(values["net/first.1.1"], cell)
    assert calls == [2, 0]


class Checkpointed(nn.Module):
    def __init__(self, *, again: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = mlp(WIDTH, 8, 8), mlp(8, 8, 8, seed=1), nn.Linear(8, CLASSES)
        self.again = again

    def forward(self, image: Tensor) -> Tensor:
        hidden = image
        for block in (self.first, self.second):
            hidden = checkpoint(block, hidden, use_reentrant=False) if self.again else block(hidden)
        return self.head(hidden)


def test_a_student_that_recomputes_its_blocks_gives_the_same_taps_and_gradients() -> None:
    torch.manual_seed(0)
    plain = Checkpointed(again=False)
    again = Checkpointed(again=True)
    again.load_state_dict(plain.state_dict())
    losses = {"hint": {"use": "core.mse", "student": "student/second.0", "teacher": "teacher/0"}}
    found = []
    for network in (plain, again):
        graph = build(losses, {"student": network, "teacher": mlp(WIDTH, 8, CLASSES)})
        calls = counted([network.head])
        graph(batch())["loss"].backward()
        assert calls == [0]
        found.append([network.first[0].weight.grad, network.second[0].weight.grad])
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


class Branches(nn.Module):
    """Goes another way for small batches: taps in another order, or not all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, image: Tensor) -> Tensor:
        if len(image) == 1:
            return self.last(self.a(image))
        first, second = (self.a, self.b) if len(image) > 4 else (self.b, self.a)
        return self.last(second(first(image)))


def test_the_deepest_tap_may_be_another_one_in_another_branch() -> None:
    network = Branches()
    plan = reading(network, "net/a", "net/b")
    plan.run(batch(8))
    calls = counted([network.last])
    for size, order in ((8, "ab"), (4, "ba"), (8, "ab")):
        image = batch(size)["image"]
        first, second = (network.get_submodule(name) for name in order)
        values = plan.run(batch(size))
        assert torch.equal(values[f"net/{order[0]}"], first(image))
        assert torch.equal(values[f"net/{order[1]}"], second(first(image)))
    assert calls == [0]


def test_a_branch_without_a_tap_takes_the_full_pass_and_says_so_and_harms_nothing() -> None:
    network = Branches()
    plan = reading(network, "net/a", "net/b")
    plan.run(batch(8))
    calls = counted([network.last])
    with pytest.raises(GraphError, match="'net/b' was not reached: its module ran 0 times"):
        plan.run(batch(1))
    assert calls == [1]
    assert torch.equal(plan.run(batch(8))["net/a"], network.a(batch(8)["image"]))


def test_a_stop_leaves_evaluation_of_the_same_network_whole() -> None:
    graph = build({"hint": {"use": "core.mse", "student": "student.logits", "teacher": "teacher/0"}},
                  {"student": mlp(WIDTH, 16), "teacher": mlp(WIDTH, 16, CLASSES)})  # fmt: skip
    teacher, image = graph.nodes["teacher"].net, batch()["image"]
    kept = graph.reading(["teacher.logits", "teacher/1"])
    for _ in range(2):
        graph(batch())
        values = kept.run(batch())
        assert torch.equal(values["teacher.logits"], teacher(image))
        assert torch.equal(values["teacher/1"], teacher[:2](image))
    kept.close()


def test_two_of_eight_layers_of_a_bert() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=8, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    network = transformers.BertModel(config, add_pooling_layer=False).eval()
    given = {"ids": torch.randint(50, (2, 7))}
    with torch.no_grad():
        whole = network(given["ids"], output_hidden_states=True).hidden_states[2]
    plan = reading(network, "net/encoder.layer.2.input", inputs="ids")
    plan.run(given)
    calls = counted(list(network.encoder.layer))
    (value,) = plan.run(given).values()
    assert torch.equal(value, whole)
    assert calls == [1, 1, 0, 0, 0, 0, 0, 0]


# -- growth and what is left out ----------------------------------------------------------------------------------


def test_students_share_a_teachers_pass_and_every_teacher_has_one() -> None:
    names = {"s": 3, "t": 2}
    nodes = {f"{kind}{i}": mlp(WIDTH, 8, CLASSES, seed=i) for kind, many in names.items() for i in range(many)}
    calls = {name: counted([network]) for name, network in nodes.items()}
    losses = {f"{s}_{t}_{v[-1]}": {"use": "core.mse", "student": f"{s}{v}", "teacher": f"{t}{v}"}
              for s in ("s0", "s1", "s2") for t in ("t0", "t1") for v in (".logits", "/0", "/1")}  # fmt: skip
    graph = build(losses, nodes, students={f"s{i}": {} for i in range(3)}, teachers={f"t{i}": {} for i in range(2)})
    for each in calls.values():
        each[0] = 0
    graph(batch())
    assert calls == {name: [1] for name in nodes}


def test_kd_still_trains_beside_a_stopped_teacher() -> None:
    graph = build({**KD, "hint": {"use": "core.mse", "student": "student/0", "teacher": "second/0"}},
                  {"student": mlp(WIDTH, 8, CLASSES), "teacher": mlp(WIDTH, 8, CLASSES, seed=1),
                   "second": mlp(WIDTH, 8, CLASSES, seed=2)}, teachers={"teacher": {}, "second": {}})  # fmt: skip
    calls = counted([graph.nodes["second"].net[2], graph.nodes["teacher"].net[2]])
    graph(batch())["loss"].backward()
    assert calls == [0, 1]
