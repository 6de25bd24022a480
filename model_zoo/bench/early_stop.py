"""A teacher that is read at a tap: the pass of the graph, which stops there by itself, against the full one.

The goal is the share of the work down to the tap and 0.02: blocks of the network where all are alike, else the share of
the time that a pass took which was stopped by hand (`HAND`). Taps are compared bit by bit with
those of the full pass before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import mmkd
from mmkd.graph.plan import Plan
from model_zoo.bench.measure import Row, device, turns

GROUP = "Early stop of a teacher"
DEVICES = ("cpu", "cuda")
SLACK = 0.02
HAND = {"layer1": 0.173, "layer2": 0.330, "layer3": 0.594}
"""ResNet-50 stopped by a hook written by hand, over its full pass."""
CASES: dict[str, Mapping[str, float]] = {
    "ViT-S @96": {"blocks.2": 3 / 12, "blocks.5": 6 / 12, "blocks.8": 9 / 12},
    "ResNet-50 @96": HAND,
    "BERT, 8 layers": {"encoder.layer.1": 2 / 8},
}


def rows(short: bool) -> Iterator[Row]:
    for name, taps in CASES.items():
        network, given = _network(name)
        for tap, share in taps.items():
            plan = _plan(network, tap)
            plan.run(given)  # the first pass is a full one
            expected = _read(network, tap, given)
            (value,) = plan.run(given).values()
            if not torch.equal(value, expected):
                raise AssertionError(f"{name}: {tap} of a stopped pass is not that of the full one")

            contestants: dict[str, Callable[[], object]] = {
                "full": partial(_full, network, given),
                "stopped": partial(plan.run, given),
            }
            taken = turns(contestants, 4 if short else 20)
            plan.close()
            numbers = {"share": share, "full_ms": taken.median("full") * 1e3}
            yield Row(GROUP, f"{name}, {tap}", taken.ratio("stopped", "full"), share + SLACK, numbers=numbers)


def _full(network: nn.Module, given: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        network(*given.values())


def _network(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    if "BERT" in name:
        from transformers import BertConfig, BertModel

        config = BertConfig(hidden_size=256, num_hidden_layers=8, num_attention_heads=4, intermediate_size=1024)
        return _ready(BertModel(config, add_pooling_layer=False)), {"input": torch.randint(1000, (4, 64)).to(device())}
    import timm

    made: dict[str, Any] = {"model_name": "resnet50"}
    if "ViT" in name:
        made = {"model_name": "vit_small_patch16_224", "img_size": 96}
    return _ready(timm.create_model(**made, pretrained=False)), {"input": torch.randn(4, 3, 96, 96).to(device())}


def _ready(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False).to(device())


def _plan(network: nn.Module, tap: str) -> Plan:
    loss = {"use": "core.mse", "student": "student.logits", "teacher": "student.logits"}
    recipe = {"student": {}, "teacher": {}, "losses": {"l": loss}, "train": {"device": device().type, "steps": 1}}
    nodes = {"teacher": mmkd.wrap(network, inputs=["input"]), "student": mmkd.wrap(nn.Linear(2, 2), inputs=["small"])}
    graph = mmkd.build(recipe, nodes=nodes, example={"small": torch.randn(2, 2).to(device())})
    return graph.reading([f"teacher/{tap}"])


def _read(network: nn.Module, tap: str, given: Mapping[str, Tensor]) -> Tensor:
    kept: list[Tensor] = []
    hook = network.get_submodule(tap).register_forward_hook(lambda _, args, output: kept.append(output))
    with torch.no_grad():
        network(*given.values())
    hook.remove()
    return kept[0]
