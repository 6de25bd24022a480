"""Methods that only plugins bring: a queue of negatives, a learnt critic, a modality nobody has heard of."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fixtures.installed import installed, lay_out
from graph.nets import CLASSES, WIDTH, batch, build, made, mlp
from safetensors.torch import load_file
from torch import nn

import mmkd
from mmkd import plugins
from mmkd.graph.training_graph import TrainingGraph

PORTS = {"student": "student.logits", "teacher": "teacher.logits"}


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path) -> Iterator[None]:
    with installed(tmp_path / "site", "queue", "wcritic", "smell"):
        yield


def queue(**options: Any) -> TrainingGraph:
    return build({"nce": {"use": "queue.info_nce", **PORTS, **options}})


def test_they_are_found_by_pip_alone() -> None:
    entries = {(e.kind, e.id): e.distribution for e in plugins.host().catalogue}
    assert entries["loss", "queue.info_nce"] == "mmkd-queue"
    assert entries["loss", "wcritic.distance"] == "mmkd-wcritic"
    assert entries["encoder", "smell.nose"] == entries["curator", "smell.breeze"] == "mmkd-smell"


# -- a queue ----------------------------------------------------------------------------------------------------


def test_the_queue_fills_with_whole_batches_in_order() -> None:
    graph = queue(size=20)
    optimizers, loss = made(graph), graph.losses["nce"]
    assert loss.queue.shape == (20, CLASSES)
    assert loss.seen == 0
    assert torch.equal(graph(batch())["loss"], torch.tensor(0.0))  # nothing to tell the sample from
    graph._updates.forget()
    for step in range(3):
        given = batch(8, seed=step)
        halves = [{name: value[i : i + 4] for name, value in given.items()} for i in (0, 4)]
        graph.step(halves if step == 1 else given, optimizers)
        assert loss.seen == 8 * (step + 1)
    assert loss.queue.norm(dim=1) == pytest.approx(torch.ones(20))
    teacher = graph.nodes["teacher"].net
    torch.testing.assert_close(loss.queue[8:16], F.normalize(teacher(batch(8, seed=1)["image"])))
    torch.testing.assert_close(loss.queue[:4], F.normalize(teacher(batch(8, seed=2)["image"]))[4:])


def test_training_against_the_queue_brings_student_and_teacher_together() -> None:
    graph = queue(size=64, temperature=0.2)
    optimizers = made(graph, lr=1e-2)

    def agreement() -> float:
        values = graph.values(batch(64, seed=99), PORTS.values())
        return float(F.cosine_similarity(*values.values()).mean().detach())

    before = agreement()
    for step in range(80):
        graph.step(batch(16, seed=step), optimizers)
    assert agreement() > before + 0.5


# -- a critic ---------------------------------------------------------------------------------------------------


def test_the_critic_learns_to_separate_and_the_student_to_follow() -> None:
    torch.manual_seed(0)
    nodes = {"student": mlp(WIDTH, 8, CLASSES, seed=2), "teacher": nn.Sequential(mlp(WIDTH, CLASSES, seed=3))}
    with torch.no_grad():
        nodes["teacher"][0][0].bias += 1.5
    graph = build({"far": {"use": "wcritic.distance", **PORTS, "steps": 2, "lr": 3e-3}}, nodes)

    def gap() -> float:
        means = [network(batch(256)["image"]).mean(0) for network in nodes.values()]
        return (means[0] - means[1]).norm().item()

    optimizers, before = made(graph, lr=1e-12), gap()
    losses = [graph.step(batch(32), optimizers)["loss"].item() for _ in range(30)]
    assert losses[-1] > losses[0] + 1.0  # the student stands still: the critic tells them apart
    assert gap() == pytest.approx(before, rel=1e-3)
    optimizers = made(graph, lr=5e-3, weight_decay=0.0)
    for step in range(40):
        out = graph.step(batch(32, seed=step), optimizers)
    assert out["loss"].item() < losses[-1] - 0.3
    assert gap() < 0.7 * before


# -- state ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["queue.info_nce", "wcritic.distance"])
def test_what_a_loss_learns_goes_through_the_state(use: str) -> None:
    losses = {"own": {"use": use, **PORTS}}
    graph, twin = build(losses), build(losses)
    optimizers = made(graph)
    for step in range(3):
        graph.step(batch(seed=step), optimizers)
    state = {key: value.clone() for key, value in graph.state_dict().items()}
    own = {key for key in state if key.startswith("losses.own.")}
    assert own == ({"losses.own.queue", "losses.own.seen"} if use == "queue.info_nce" else
                   {f"losses.own.critic.network.{i}.{n}" for i in (0, 2) for n in ("weight", "bias")})  # fmt: skip
    twin.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(twin(batch())["loss"], graph(batch())["loss"])
    same = made(twin)
    for name, optimizer in optimizers.items():
        same[name].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        out, again = graph.step(batch(seed=step), optimizers), twin.step(batch(seed=step), same)
        assert torch.equal(out["loss"], again["loss"])
    for ours, theirs in zip(graph.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


# -- a modality -------------------------------------------------------------------------------------------------

SMELL: dict[str, Any] = {
    "teacher": {"use": "smell.nose", "width": 32},
    "student": {"use": "smell.nose", "width": 8},
    "projectors": {"up": {"use": "core.linear", "input": "student.embedding", "like": "teacher.embedding"}},
    "losses": {
        "ce": {"use": "core.cross_entropy", "student": "student.logits"},
        "hint": {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"},
    },
    "data": {"train": {"use": "smell.bouquets"}, "curators": [{"use": "smell.breeze"}], "batch_size": 16},
    "train": {"steps": 60, "lr": 1e-2},
}


def test_the_host_knows_no_modality() -> None:
    torch.manual_seed(0)
    graph = mmkd.build(SMELL)
    dataset = plugins.host().catalogue.get("dataset", "smell.bouquets").load()()
    given = graph.collate([dataset[i] for i in range(len(dataset))])
    assert given["student"]["smell"].shape == given["smell"].shape == (64, 12)
    assert not torch.equal(given["student"]["smell"], given["smell"])
    optimizers = made(graph, lr=1e-2)
    losses = [graph.step(given, optimizers)["loss"].item() for _ in range(60)]
    assert losses[-1] < 0.4 * losses[0]


def test_a_run_in_a_fresh_process_needs_nothing_but_the_plugin(tmp_path: Path) -> None:
    path = os.pathsep.join([*lay_out(tmp_path / "fresh", "smell"), *sys.path])
    code = f"""if True:
        import mmkd
        mmkd.distill({SMELL!r} | {{"train": {{"steps": 5, "lr": 0.01}}}}, output_dir="run")
        model = mmkd.from_pretrained("run")
        sample = {{"key": "x", "smell": [0.5] * 12}}
        print(tuple(model.values(model.collate([sample]), ["student.logits"])["student.logits"].shape))
    """
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(1, 4)"


@pytest.mark.parametrize(
    "loss",
    [
        {"use": "core.mse", "student": "up", "teacher": "teacher.embedding"},
        {"use": "queue.info_nce", "student": "up", "teacher": "teacher.embedding"},
        {"use": "wcritic.distance", "student": "up", "teacher": "teacher.embedding"},
    ],
    ids=lambda loss: loss["use"],
)
def test_a_killed_run_resumes_bit_for_bit(
    loss: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    train = {"steps": 9, "lr": 1e-2, "checkpoint_every": 4, "device": "cpu"}
    recipe = {**SMELL, "losses": {"extra": loss}, "train": train}
    call = plugins.Host.call

    def killing(self: plugins.Host, hook: str, **arguments: Any) -> None:
        if hook == "mmkd_step_end" and arguments["step"] == 6:
            raise Killed
        call(self, hook, **arguments)

    mmkd.distill(recipe, output_dir=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(plugins.Host, "call", killing)
        with pytest.raises(Killed):
            mmkd.distill(recipe, output_dir=tmp_path / "cut")
    mmkd.distill(recipe, output_dir=tmp_path / "cut", resume=True)
    for name in ("checkpoint-9/graph.safetensors", "checkpoint-9/state.safetensors", "student/model.safetensors"):
        whole, cut = (load_file(tmp_path / run / name) for run in ("whole", "cut"))
        assert whole.keys() == cut.keys()
        assert [key for key in whole if not torch.equal(whole[key], cut[key])] == []
    exported = load_file(tmp_path / "whole" / "student" / "model.safetensors")
    assert all(key.startswith("nodes.student.") for key in exported)  # no critic, queue or projector
